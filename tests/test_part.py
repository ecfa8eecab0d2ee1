"""Part of an ensemble: all members are the ensemble itself, and some are an ensemble of their own."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ddattr.attribution.background import Background
from ddattr.attribution.influence import nearness, pull
from ddattr.attribution.loss import loss_change
from ddattr.attribution.posterior import measured
from ddattr.attribution.significance import set_significance
from ddattr.codebook import Codebook
from ddattr.validation.part import Part

CODE = Codebook(40, 12, 5)
WORDS = CODE.codewords(torch.arange(40))
ROUNDED = {"rtol": 1e-5, "atol": 1e-6}  # contrasts are float32


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DISTANCE = 1 + torch.rand(40, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_all_members_are_the_ensemble(share):
    """Words of constant weight: scores, posterior and the null's deviation are those that `attribute` has."""
    along, part = randn(12, 40, 3), Part(torch.arange(12), WORDS)
    answers, score, expected = measured(along, Background(WORDS, nearness(DISTANCE), share), CODE, DISTANCE)
    found = part.measured(along, DISTANCE, share)
    torch.testing.assert_close(found.plain, pull(along, WORDS))
    torch.testing.assert_close(found.discounted, score)
    torch.testing.assert_close(found.posterior, expected)
    torch.testing.assert_close(found.deviation, (answers.var(0) * CODE.contrast_variance).sqrt())


@given(size=st.integers(3, 11), order=st.integers(0, 3))
def test_a_plain_contrast_is_what_those_that_saw_a_unit_have_more_than_those_that_did_not(size, order):
    """As often as a unit is seen on average, 5 of 12: effects that are equal are scored alike, whoever saw the unit."""
    part = Part.draw(size, WORDS, seed=0, order=order)
    along = randn(12, 40, 3)[part.members]
    found, words = part.measured(along, DISTANCE, 0.0), WORDS[:, part.members]
    for unit, word in enumerate(words):
        if word.all() or not word.any():
            assert all((values[unit] == 0).all() for values in found)
        else:
            expected = 5 / 12 * (along[word, unit].mean(0) - along[~word, unit].mean(0))
            torch.testing.assert_close(found.plain[unit], expected, **ROUNDED)
            torch.testing.assert_close(found.discounted[unit], found.plain[unit], **ROUNDED)
    assert all(values.isfinite().all() for values in found)


def test_units_of_equal_effect_are_scored_equally_however_many_saw_them():
    """Members answer on every unit's own direction with 1 if they saw it."""
    part = Part.draw(5, WORDS, seed=0)
    along = WORDS[:, part.members].T.double()[..., None].expand(-1, -1, 3)
    found, told = part.measured(along, DISTANCE, 0.0), part.told[:, 0]
    assert len(part.seen[told].unique()) > 2
    torch.testing.assert_close(
        found.plain[told], torch.full((int(told.sum()), 3), 5 / 12, dtype=torch.float64), **ROUNDED
    )


def some_sets() -> torch.Tensor:
    """Of three queries: the nearest unit, the five nearest, and seven others; padded."""
    order = DISTANCE.argsort(0).T
    sets = torch.full((3, 3, 7), -1)
    sets[0, :, :1], sets[1, :, :5], sets[2] = order[:, :1], order[:, :5], order[:, 20:27]
    return sets


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_sets_of_all_members_have_the_z_that_attribute_has(share):
    """Codewords being distinct included: of 792 it shows."""
    along, near = randn(12, 40, 3), nearness(DISTANCE)
    answers = Background(WORDS, near, share).discount_sets(near * along, some_sets())
    _, expected, _ = set_significance(some_sets(), answers, CODE, draws=3)
    part = Part(torch.arange(12), WORDS)
    found = part.z_of_sets(along, DISTANCE, share, some_sets(), CODE.capacity)
    torch.testing.assert_close(found, expected, **ROUNDED)
    assert not torch.allclose(part.z_of_sets(along, DISTANCE, share, some_sets(), 10**9), expected, **ROUNDED)


@pytest.mark.parametrize("size", [5, 8])
def test_a_set_s_pull_is_the_sum_of_its_units_each_by_its_nearness(size):
    """Of units that were seen by different numbers of members, each on the scale of its own."""
    part, near = Part.draw(size, WORDS, seed=0), nearness(DISTANCE)
    along = randn(12, 40, 3)[part.members]
    measured, sets = part.measured(near * along, DISTANCE, 0.0), some_sets()
    found = part.z_of_sets(along, DISTANCE, 0.0, sets, 10**12)
    for s, q in itertools.product(range(3), range(3)):
        units = sets[s, q][sets[s, q] >= 0]
        assert s == 0 or len(part.seen[units].unique()) > 1
        deviation = measured.deviation[units, q].square().sum().sqrt()
        torch.testing.assert_close(found[s, q], measured.plain[units, q].sum() / deviation, **ROUNDED)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("size", [5, 8, 12])
def test_a_set_of_one_unit_has_the_unit_s_z(size, share):
    part, along = Part.draw(size, WORDS, seed=0), randn(12, 40, 3)
    along = along[part.members]
    sets = torch.arange(40)[:, None, None].expand(-1, 3, 1)
    measured = part.measured(along, DISTANCE, share)
    expected = (measured.discounted / measured.deviation).nan_to_num(0)
    capacity = 10**12  # of one unit the words need not be distinct from any
    assert (expected == 0).any() == bool((~part.told).any())
    torch.testing.assert_close(part.z_of_sets(along, DISTANCE, share, sets, capacity), expected, **ROUNDED)


def test_a_unit_that_the_part_cannot_tell_adds_nothing_to_a_set():
    """Whether all of the part saw it, or none."""
    part, along = Part(torch.tensor([2, 6, 8]), WORDS), randn(3, 40, 3)
    told, all_saw, none_saw = (which[:, 0].nonzero()[:2, 0] for which in (part.told, part.seen == 3, part.seen == 0))
    for untold in (all_saw[:1], none_saw[:1]):
        sets = torch.stack([torch.cat([told, torch.tensor([-1])]), torch.cat([told, untold])])
        one, other = part.z_of_sets(along, DISTANCE, 0.5, sets[:, None].expand(-1, 3, -1), CODE.capacity)
        assert (one != 0).all()
        torch.testing.assert_close(one, other)
        alone = part.z_of_sets(along, DISTANCE, 0.5, untold[:, None, None].expand(-1, 3, -1), CODE.capacity)
        assert (alone == 0).all()


def test_z_of_a_set_has_mean_0_and_varies_by_1_when_codewords_are_drawn_anew():
    """Fixed members that know of no unit, 300 codebooks, part of them: at a false-alarm rate of 1e-4 each."""
    along, z = randn(12, 40, 3, seed=9), []
    for seed in range(300):
        part = Part.draw(9, Codebook(40, 12, 5, seed).codewords(torch.arange(40)), seed=0)
        z.append(part.z_of_sets(along[part.members], DISTANCE, 0.5, some_sets(), CODE.capacity)[:, 0])
    mean, spread = torch.stack(z).mean(0), torch.stack(z).var(0)
    low, high = stats.chi2.ppf([5e-5 / 3, 1 - 5e-5 / 3], 299) / 299
    assert ((spread > low) & (spread < high)).all()
    assert (mean.abs() < stats.norm.isf(5e-5 / 3) / 300**0.5).all()


def test_the_loss_of_all_members_is_the_ensemble_s_but_for_what_fewer_members_lose():
    """The same for all units at constant weight; so that the order of units is the exact change's."""
    residual = randn(3, 12, 20)
    gram = residual @ residual.mT / 20
    found, exact = Part(torch.arange(12), WORDS).loss_change(gram), loss_change(gram, WORDS)
    torch.testing.assert_close(found - found.mean(0), exact - exact.mean(0))


@pytest.mark.parametrize("members", [[0, 2, 3, 4, 8, 10], [1, 5, 7]])
def test_the_loss_of_a_unit_without_influence_is_0_in_the_mean_over_all_words_of_as_many_ones(members):
    residual = randn(2, len(members), 20)
    gram, size = residual @ residual.mT / 20, len(members)
    for ones in range(1, size):
        chosen = itertools.combinations(range(size), ones)
        words = torch.stack([torch.tensor([k in those for k in range(size)]) for those in chosen])
        part = Part(torch.arange(size), words)
        mean = part.loss_change(gram).mean(0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), **ROUNDED)
        assert (loss_change(gram, words).mean(0) > 1e-3).all()  # what is taken off


def test_the_loss_does_not_change_by_a_unit_that_the_part_cannot_tell():
    """All of them saw it, or none did."""
    part, residual = Part(torch.tensor([2, 6, 8]), WORDS), randn(2, 3, 20)
    change, told = part.loss_change(residual @ residual.mT / 20), part.told[:, 0]
    assert {0, 3} < set(part.seen[:, 0].tolist())
    assert (change[~told] == 0).all()
    assert (change[told] != 0).all()


@given(size=st.integers(3, 11))
def test_orders_are_nested_and_their_members_distinct(size):
    small, large = (Part.draw(m, WORDS, seed=3, order=1).members for m in (size, size + 1))
    assert len(small.unique()) == size
    assert set(small.tolist()) < set(large.tolist()) <= set(range(12))
    other = [Part.draw(size, WORDS, seed=3, order=order).members.tolist() for order in range(6)]
    assert len({tuple(members) for members in other}) > 1


def test_the_order_of_members_changes_nothing():
    along, shuffled = randn(12, 40, 3), torch.tensor([7, 2, 9, 0, 11])
    one, other = (
        Part(members, WORDS).measured(along[members], DISTANCE, 0.5) for members in (shuffled, shuffled.sort().values)
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


def test_the_deviation_is_that_over_all_words_of_as_many_ones():
    """Had the unit never mattered, any of these members might have seen it: all ways are tried."""
    part, along = Part(torch.tensor([0, 2, 3, 4, 8, 10, 11]), WORDS), randn(7, 40, 3, seed=2)
    found, ones = part.measured(along, DISTANCE, 0.0), WORDS[:, part.members].sum(1).tolist()
    assert set(ones) >= {1, 2, 3, 4}
    for unit in part.told[:, 0].nonzero()[:, 0].tolist():
        unseen = list(itertools.combinations(range(7), 7 - ones[unit]))
        pulls = torch.stack([along[:, unit].mean(0) - along[list(those), unit].mean(0) for those in unseen])
        usual = 7 * 5 / 12
        torch.testing.assert_close(found.deviation[unit], usual / ones[unit] * pulls.std(0, correction=0))


def test_units_that_the_part_cannot_tell_are_no_background():
    """All of them saw it, or none did: however near or far it is, no other unit's score moves."""
    part, along = Part(torch.tensor([0, 1, 2, 3]), WORDS), randn(4, 40, 3)
    told = part.told[:, 0]
    assert 0 < (~told).sum() < 10
    at = [torch.where(told[:, None], DISTANCE, far) for far in (3.0, 4.0)]  # beyond the median, which sets the scale
    one, other = (part.measured(along, distance, 0.5) for distance in at)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)
    inside = Background(part.words, nearness(at[0]), 0.5).discount(along)  # as if what stands for their words were one
    assert not torch.allclose(pull(inside, part.words)[told], one.discounted[told])
