"""Codewords: an exact combinatorial design, so every law is exact."""

import hashlib
import itertools
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chi2

from ddattr.attribution.significance import benjamini_hochberg
from ddattr.codebook import (
    ORTHOGONAL,
    Codebook,
    ablation,
    contrast,
    default_weight,
    encode,
    fewest_units,
    smallest,
    smallest_orthogonal,
)
from ddattr.hadamard import exists

SEEDS = st.sampled_from([0, 1, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)


WIDE = [Codebook(200, 68, 34), Codebook(200, 256, 114, 2**64 - 1), Codebook(40, 1024, 455, 3)]  # ranks past 64 bits


@st.composite
def codebooks(draw, members: int = 300, units: int = 200) -> Codebook:
    n = draw(st.integers(2, min(members, 64)) | st.integers(2, members))
    h = draw(st.integers(1, n - 1))
    return Codebook(draw(st.integers(1, min(units, comb(n, h)))), n, h, draw(SEEDS))


def everyone(codebook: Codebook) -> torch.Tensor:
    return codebook.codewords(torch.arange(codebook.units))


def words(bits: torch.Tensor | np.ndarray) -> list[int]:
    """Codewords as integers."""
    return [sum(1 << k for k, bit in enumerate(row) if bit) for row in bits.tolist()]


@pytest.mark.parametrize(
    ("arguments", "units", "sample"),
    [
        ((1797, 18, 8, 0), "642c71e6d01b2b08", "791a428862edf4c3"),
        ((100, 64, 28, 0), "83160f24cd75fee9", "4408b4567c1bbf6e"),
        ((5000, 64, 32, 2**64 - 1), "33ff3b14c66a95f7", "25017339689f3488"),
        ((300, 33, 7, 5), "cffadbbf13bef5e0", "1bc70e8bb70e350c"),
        ((200, 256, 114, 0), "4fde5058ac96beaa", "96eb5cd6c9656278"),
    ],
)
def test_codewords_are_those_that_trained_runs_have(arguments, units, sample):
    """Hashes of the bits: another codeword would make every trained member another unit's."""

    def digest(bits: torch.Tensor) -> str:
        return hashlib.sha256(np.packbits(bits.numpy()).tobytes()).hexdigest()[:16]

    codebook = Codebook(*arguments)
    drawn = everyone(codebook), codebook.sample_phantoms(500, 3)
    assert [digest(bits) for bits in drawn] == [units, sample]


@given(codebooks())
def test_codewords_are_distinct_and_of_constant_weight(codebook):
    bits = everyone(codebook)
    assert bits.shape == (codebook.units, codebook.members)
    assert (bits.sum(1) == codebook.weight).all()
    assert len(set(words(bits))) == codebook.units


@given(codebooks(), st.data())
def test_a_codeword_does_not_depend_on_which_others_are_asked(codebook, data):
    chosen = data.draw(st.lists(st.integers(0, codebook.units - 1), min_size=1, max_size=6))
    assert torch.equal(codebook.codewords(torch.tensor(chosen)), everyone(codebook)[chosen])
    assert torch.equal(codebook.codewords(torch.tensor(chosen)[:, None]), everyone(codebook)[chosen][:, None])
    assert torch.equal(codebook.codewords(torch.tensor(chosen[0])), everyone(codebook)[chosen[0]])


@given(codebooks())
def test_the_same_arguments_make_the_same_codebook(codebook):
    again = Codebook(codebook.units, codebook.members, codebook.weight, codebook.seed)
    assert torch.equal(everyone(codebook), everyone(again))


@given(codebooks(), st.integers(1, 5))
def test_more_units_leave_the_first_codewords_alone(codebook, more):
    assume(codebook.units + more <= codebook.capacity)
    larger = Codebook(codebook.units + more, codebook.members, codebook.weight, codebook.seed)
    assert torch.equal(everyone(codebook), everyone(larger)[: codebook.units])


def test_seeds_that_share_their_low_32_bits_differ():
    assert not torch.equal(everyone(Codebook(50, 12, 5, 5)), everyone(Codebook(50, 12, 5, 5 + 2**32)))


@given(codebooks(members=9, units=130))
def test_units_and_phantoms_partition_all_words(codebook):
    phantoms = codebook.phantom_codewords(torch.arange(codebook.phantoms))
    together = words(everyone(codebook)) + words(phantoms)
    expected = {sum(1 << k for k in ones) for ones in itertools.combinations(range(codebook.members), codebook.weight)}
    assert len(together) == len(expected)
    assert set(together) == expected


@pytest.mark.parametrize("codebook", WIDE, ids=lambda codebook: f"n={codebook.members}")
def test_phantoms_beyond_64_bits_are_distinct_of_constant_weight_and_no_units(codebook):
    first = codebook.phantom_codewords(torch.tensor([0, 1, 2**63 - 1]))
    bits = torch.cat([everyone(codebook), first, codebook.sample_phantoms(100, seed=99)])
    assert (bits.sum(1) == codebook.weight).all()
    assert len(set(words(bits))) == len(bits)


@pytest.mark.parametrize("codebook", WIDE[:2], ids=lambda codebook: f"n={codebook.members}")
def test_columns_of_units_and_of_phantoms_are_uniform_beyond_64_bits(codebook):
    """Chi-square with n - 1 degrees of freedom, both tails; false-alarm rate 1e-3 for each of the 4 cases."""
    n, p = codebook.members, codebook.weight / codebook.members
    larger = Codebook(2000, n, codebook.weight, codebook.seed)
    for bits in (everyone(larger), larger.sample_phantoms(2000)):
        excess = (bits.sum(0).double() - 2000 * p).square().sum() / (2000 * p * (1 - p)) * (n - 1) / n
        assert 5e-4 < chi2(n - 1).cdf(float(excess)) < 1 - 5e-4


@given(codebooks(members=9, units=60), st.integers(1, 150), SEEDS)
def test_sample_phantoms_are_distinct_and_no_units(codebook, count, seed):
    sample = words(codebook.sample_phantoms(count, seed))
    assert len(set(sample)) == len(sample) == min(count, codebook.phantoms)
    assert set(words(everyone(codebook))).isdisjoint(sample)


def test_sample_phantoms_depends_on_the_seed():
    codebook = Codebook(100, 64, 28)
    first, again, other = (codebook.sample_phantoms(50, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@given(codebooks(members=20, units=40))
def test_subset_contains_and_balance_agree(codebook):
    bits = everyone(codebook)
    for member in range(codebook.members):
        assert torch.equal(codebook.subset(member), bits[:, member])
    assert codebook.contains(codebook.units - 1, 0) == bool(bits[-1, 0])
    assert torch.equal(codebook.balance, bits.sum(0))
    assert codebook.balance.sum() == codebook.units * codebook.weight


def test_balance_streams_more_than_one_block():
    codebook = Codebook((1 << 16) + 17, 20, 9)
    assert torch.equal(codebook.balance, everyone(codebook).sum(0))


@given(codebooks())
def test_ablation_is_uniform_over_the_members_that_never_saw_the_unit(codebook):
    bits, weights = everyone(codebook), ablation(everyone(codebook))
    assert torch.equal(weights > 0, ~bits)
    torch.testing.assert_close(weights.sum(1), torch.ones(codebook.units))
    torch.testing.assert_close(weights.amax(1), torch.full((codebook.units,), 1 / (codebook.members - codebook.weight)))
    assert torch.equal(codebook.ablation(0), weights[0])


@given(codebooks())
def test_contrast_sums_to_0_and_has_the_stated_length(codebook):
    weights = contrast(everyone(codebook)).double()
    torch.testing.assert_close(weights.sum(1), torch.zeros(codebook.units).double(), atol=1e-6, rtol=0)
    expected = torch.full((codebook.units,), codebook.contrast_variance).double()
    torch.testing.assert_close(weights.square().sum(1), expected, rtol=1e-5, atol=0)
    assert torch.equal(codebook.contrast(0), contrast(everyone(codebook))[0])


def test_complementary_codewords_have_opposite_contrasts():
    bits = everyone(Codebook(20, 6, 3))
    torch.testing.assert_close(contrast(bits), -contrast(~bits))


@given(codebooks(members=14, units=40), st.data())
def test_survivors_saw_none_of_the_units(codebook, data):
    chosen = data.draw(st.lists(st.integers(0, codebook.units - 1), min_size=1, max_size=4))
    expected = [not any(codebook.contains(unit, member) for unit in chosen) for member in range(codebook.members)]
    assert codebook.survivors(torch.tensor(chosen)).tolist() == expected


@given(codebooks(members=20, units=40))
def test_distance_equals_brute_force(codebook):
    assume(codebook.units > 1)
    pairs = itertools.combinations(words(everyone(codebook)), 2)
    assert codebook.distance() == min((a ^ b).bit_count() for a, b in pairs)


def test_distance_across_blocks_equals_brute_force():
    codebook = Codebook(2100, 32, 4, seed=1)
    bits = everyone(codebook).float()
    hamming = 2 * (codebook.weight - bits @ bits.T)
    assert codebook.distance() == hamming[~torch.eye(2100, dtype=torch.bool)].min()


def test_distance_of_many_units_is_taken_over_a_sample():
    """Any 20,000 of the 20,349 words of 21 bits with 5 ones hold a pair at distance 2."""
    assert Codebook(20_300, 21, 5).distance() == 2


@pytest.mark.parametrize("level", [1.0, 0.05])
@pytest.mark.parametrize("units", [1, 2, 3, 10, 924, 1797, 60_000, 10**9])
def test_smallest_suffices_and_one_member_less_does_not(units, level):
    members = smallest(units, level)
    codebook = Codebook(units, members, default_weight(members))
    assert codebook.smallest_q() <= level
    for fewer in range(2, members):
        assert units > comb(fewer, w := default_weight(fewer)) or Codebook(units, fewer, w).smallest_q() > level


@given(st.integers(2, 1024))
def test_default_weight_is_possible_and_below_half_wherever_it_can_be(members):
    assert 1 <= default_weight(members) < members
    assert 2 * default_weight(members) < members or members == 2


@given(codebooks(members=40))
def test_fewest_units_are_those_of_which_every_member_sees_one(codebook):
    fewest = fewest_units(codebook)
    whole = Codebook(codebook.capacity, codebook.members, codebook.weight, codebook.seed)
    assert whole.codewords(torch.arange(fewest)).any(0).all()
    assert not whole.codewords(torch.arange(fewest - 1)).any(0).all()


def test_a_member_that_would_see_nothing_is_refused_with_the_number_that_works():
    fewest = fewest_units(Codebook(1, 18, 8))
    for units in (0, 1, fewest - 1):
        with pytest.raises(ValueError, match=rf"with {units} units some .* expected {fewest} units or more"):
            encode(units, 18)
    assert encode(fewest, 18).balance.min() > 0


@given(codebooks(members=9, units=60))
def test_smallest_q_is_that_of_one_unit_beyond_all_phantoms(codebook):
    p = torch.ones(codebook.units)
    p[0] = 1 / (1 + codebook.phantoms)
    assert codebook.smallest_q() == pytest.approx(benjamini_hochberg(p)[0].item())


@pytest.mark.parametrize(("members", "weight"), [(14, 6), (18, 8), (24, 11), (64, 28)])
def test_the_weight_grows_with_the_members_unless_it_is_given(members, weight):
    assert encode(100, members) == Codebook(100, members, weight)
    assert encode(100, members, 4, 7) == Codebook(100, members, 4, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"units": 1797, "members": 12, "weight": 6},
            "codebook: 1797 units need 1797 distinct codewords, but members=12 weight=6 allows 924. "
            f"Set codebook.members to {smallest(1797)} or more.",
        ),
        ({"units": 1, "members": 1, "weight": 1}, "codebook: members=1, expected 2 to 1024. Set codebook.members."),
        (
            {"units": 1, "members": 1025, "weight": 1},
            "codebook: members=1025, expected 2 to 1024. Set codebook.members.",
        ),
        (
            {"units": 1, "members": 4, "weight": 0},
            "codebook: weight=0, expected 1 to 3: with 0 no member sees a unit, with 4 none can be removed. "
            "Set codebook.weight.",
        ),
        (
            {"units": 1, "members": 4, "weight": 4},
            "codebook: weight=4, expected 1 to 3: with 0 no member sees a unit, with 4 none can be removed. "
            "Set codebook.weight.",
        ),
        ({"units": 0, "members": 4, "weight": 2}, "codebook: units=0, expected at least 1. Check data."),
        (
            {"units": 1, "members": 4, "weight": 2, "seed": -1},
            "codebook: seed=-1, expected 0 to 2^64 - 1. Set codebook.seed.",
        ),
        (
            {"units": 1, "members": 4, "weight": 2, "seed": 2**64},
            f"codebook: seed={2**64}, expected 0 to 2^64 - 1. Set codebook.seed.",
        ),
    ],
)
def test_an_impossible_codebook_is_refused_with_what_to_change(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared below
        Codebook(**arguments)
    assert str(error.value) == message


def test_the_advised_number_of_members_is_right():
    assert smallest(1797) == 14
    Codebook(1797, smallest(1797), default_weight(smallest(1797)))


def test_more_units_than_1024_members_can_tell_apart_are_refused():
    assert smallest(2**64) == 69
    with pytest.raises(ValueError, match="need more than 1024 members"):
        smallest(2**1024)


@pytest.mark.parametrize("unit", [-1, 5])
def test_a_unit_outside_the_codebook_is_refused(unit):
    with pytest.raises(ValueError, match=f"unit {unit} does not exist: units are 0 to 4"):
        Codebook(5, 6, 2).codewords(torch.tensor([0, unit]))


@pytest.mark.parametrize("phantom", [-1, 10])
def test_a_phantom_outside_the_codebook_is_refused(phantom):
    with pytest.raises(ValueError, match="10 phantoms"):
        Codebook(5, 6, 2).phantom_codewords(torch.tensor([phantom]))


@pytest.mark.parametrize("member", [-1, 6, True])
def test_a_member_outside_the_codebook_is_refused(member):
    codebook = Codebook(5, 6, 2)
    for ask in (codebook.check_member, codebook.subset, lambda member: codebook.contains(0, member)):
        with pytest.raises(ValueError, match=f"member={member} does not exist: members are 0 to 5. Set member."):
            ask(member)


def test_distance_needs_two_units():
    with pytest.raises(ValueError, match="a distance needs 2 units"):
        Codebook(1, 6, 2).distance()


# -- orthogonal words

SIZES = st.sampled_from([(10, 12), (18, 20), (9, 24), (30, 64), (62, 64), (60, 128)])


@given(SIZES, SEEDS)
def test_orthogonal_words_are_orthogonal_balanced_and_those_of_no_unit_too(size, seed):
    units, n = size
    code = Codebook(units, n, n // 2, seed, ORTHOGONAL)
    phantoms = code.sample_phantoms(10**6)
    assert len(phantoms) == code.phantoms == n - 1 - units
    signs = torch.cat([everyone(code), phantoms]).long() * 2 - 1
    assert torch.equal(signs @ signs.T, n * torch.eye(n - 1, dtype=torch.long))
    assert (signs.sum(1) == 0).all()
    assert code.distance() == n // 2


@given(SIZES, SEEDS)
def test_orthogonal_words_have_an_address(size, seed):
    """A unit's does not depend on how many there are, and another seed draws others."""
    units, n = size
    code = Codebook(units, n, n // 2, seed, ORTHOGONAL)
    fewer = Codebook(units - 5, n, n // 2, seed, ORTHOGONAL)
    assert torch.equal(everyone(fewer), everyone(code)[: units - 5])
    assert torch.equal(fewer.phantom_codewords(torch.arange(5)), everyone(code)[units - 5 :])
    assert torch.equal(torch.stack([code.subset(k) for k in range(n)]).T, everyone(code))
    assert not torch.equal(everyone(Codebook(units, n, n // 2, seed ^ 1, ORTHOGONAL)), everyone(code))


def test_every_member_sees_half_of_the_units_or_so():
    """Over 200 seeds a member's share is a half in the mean, with a fair coin's variance: each within 4.5 standard
    errors (64 members and one variance, a false alarm in 2,000)."""
    balance = torch.stack([Codebook(30, 64, 32, seed, ORTHOGONAL).balance for seed in range(200)]).double()
    assert ((balance.mean(0) - 15).abs() < 4.5 * (7.5 / 200) ** 0.5).all()
    assert abs(balance.var(1).mean() - 7.5 * 64 / 63) < 0.5


def test_any_two_units_are_as_often_together_and_rows_complements_and_places_are_drawn():
    """2,000 seeds: member 0 sees both of two units in a quarter of them, and each in half, within 4 standard errors."""
    seen = torch.stack([Codebook(6, 12, 6, seed, ORTHOGONAL).subset(0)[:2] for seed in range(2000)])
    assert abs(seen.all(1).double().mean() - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5
    assert ((seen.double().mean(0) - 0.5).abs() < 4 * (0.25 / 2000) ** 0.5).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((63, 64), ["63 units, expected 62 or fewer", "no degree of freedom", "Set codebook.members to 68"]),
        ((30, 52), ["members=52, expected 48 or 56 with design=orthogonal"]),
        ((30, 18), ["members=18, expected 32 with design=orthogonal", "Set codebook.members."]),
        ((30, 64, 28), ["weight=28, expected 32 with design=orthogonal", "Set codebook.weight to null."]),
        ((2, 4), ["with 2 units 1 of members=4 would train on nothing", "codebook.seed"]),
    ],
)
def test_what_is_no_weighing_design_is_refused_in_one_line(arguments, words):
    with pytest.raises(ValueError, match=r"^codebook: [^\n]*$") as refusal:
        encode(*arguments, design=ORTHOGONAL)
    assert all(said in str(refusal.value) for said in words), refusal.value


def test_a_design_of_another_name_is_refused():
    with pytest.raises(ValueError, match=r"codebook\.json: design=paley, expected random or orthogonal\."):
        Codebook.of_record({"N": 5, "n": 8, "h": 4, "design": "paley"})


def test_a_record_without_a_design_is_of_random_words():
    assert Codebook.of_record({"N": 30, "n": 18, "h": 8, "seed": 3}) == Codebook(30, 18, 8, 3)
    record = {"N": 10, "n": 16, "h": 8, "seed": 3, "design": "orthogonal"}
    assert Codebook.of_record(record) == encode(10, 16, seed=3, design=ORTHOGONAL)


@pytest.mark.parametrize(("units", "freedom"), [(1, 1), (6, 1), (30, 8), (43, 8), (1015, 8)])
def test_the_fewest_members_leave_the_degrees_of_freedom_that_are_wanted(units, freedom):
    members = smallest_orthogonal(units, freedom)
    assert members - 1 - units >= freedom
    assert not [n for n in range(units + 1 + freedom, members) if n > 2 and exists(n)]
    assert smallest_orthogonal(1020, 8) is None
