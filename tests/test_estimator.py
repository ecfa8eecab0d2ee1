"""The estimator: what is reported is its pieces put together; of some members it is an ensemble of their own."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ddattr.attribution.estimator import Estimate, Estimator, draw_members
from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import pull, similarity
from ddattr.attribution.loss import loss_change
from ddattr.attribution.posterior import posterior
from ddattr.attribution.significance import null_deviation, pull_significance, set_significance
from ddattr.codebook import Codebook

CODE = Codebook(40, 12, 5)
CODEWORDS = CODE.codewords(torch.arange(40))
ROUNDED = {"rtol": 1e-5, "atol": 1e-6}  # contrasts are float32


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DISTANCE = 1 + torch.rand(40, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
ENSEMBLE, PLAIN = (Estimator(CODEWORDS, similarity(DISTANCE), share) for share in (0.5, 0.0))
SHARES = pytest.mark.parametrize("whole", [PLAIN, ENSEMBLE], ids=["plain", "gls"])


def assert_same(one: Estimate, other: Estimate) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


def some(size: int, whole: Estimator = ENSEMBLE, order: int = 0) -> tuple[Estimator, torch.Tensor]:
    """An estimator of members that are drawn, and which they are."""
    members = draw_members(size, 12, seed=0, order=order)
    return whole.of_members(members), members


# -- of all members


@SHARES
def test_it_is_leave_one_out_gls_then_pull_then_the_posterior(whole):
    """Codewords of constant weight: the scale is 1, and everybody is identifiable."""
    answers, found = randn(12, 40, 3), whole.estimate(randn(12, 40, 3))
    adjusted = LeaveOneOutGLS(CODEWORDS, similarity(DISTANCE), whole.share).adjust(answers)
    score, deviation = pull(adjusted, CODEWORDS), null_deviation(adjusted, CODEWORDS)
    expected = Estimate(adjusted, pull(answers, CODEWORDS), score, deviation, posterior(score, deviation, DISTANCE))
    assert_same(found, expected)
    torch.testing.assert_close(found.deviation, (adjusted.var(0) * CODE.contrast_variance).sqrt())
    assert whole.identifiable.all()
    assert torch.equal(whole.contrastable, CODEWORDS)


@SHARES
def test_it_tests_units_as_significance_does(whole):
    answers = randn(12, 40, 3)
    found = whole.estimate(answers)
    z, p = whole.test(found.adjusted)
    expected = pull_significance(found.adjusted, CODEWORDS, CODEWORDS)
    assert torch.equal(z, expected[0])
    assert torch.equal(p, expected[1])
    torch.testing.assert_close(found.z, z)


@SHARES
def test_it_tests_sets_of_units_each_by_its_similarity_as_significance_does(whole):
    answers, near = randn(12, 40, 3), similarity(DISTANCE)
    found = whole.test_sets(answers, some_sets(), CODE)
    adjusted = LeaveOneOutGLS(CODEWORDS, near, whole.share).adjust_sets(near * answers, some_sets())
    for a, b in zip(found, set_significance(some_sets(), adjusted, CODE), strict=True):
        assert torch.equal(a, b)


@SHARES
def test_all_members_are_the_ensemble(whole):
    """Exactly: there is one estimator, and it is of whatever members it is given."""
    part, answers, residual = whole.of_members(torch.arange(12)), randn(12, 40, 3), randn(3, 12, 20)
    gram = residual @ residual.mT / 20
    for one, other in zip(part.estimate(answers), whole.estimate(answers), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(part.loss_change(gram), whole.loss_change(gram))
    sets = some_sets(), CODE.capacity
    assert torch.equal(part.z_of_sets(answers, *sets), whole.z_of_sets(answers, *sets))


@given(st.sampled_from([(40, 12, 5), (3, 3, 1), (100, 64, 28), (10, 9, 4), (1, 5, 2)]), st.integers(0, 3))
def test_of_constant_weight_nothing_is_scaled(code, seed):
    """To the last bit, whether the estimator is the whole one or its own part: 1 times a score is the score."""
    codebook = Codebook(*code, seed)
    codewords = codebook.codewords(torch.arange(codebook.units))
    answers = randn(codebook.members, codebook.units, 2, seed=seed)
    whole = Estimator(codewords, torch.ones(codebook.units, 2))
    for estimator in (whole, whole.of_members(torch.arange(codebook.members))):
        assert torch.equal(estimator.pull(answers), pull(answers, codewords))
        assert torch.equal(estimator.deviation(answers), null_deviation(answers, codewords))


def test_of_pictures_it_goes_by_their_distance():
    answers, expected = randn(12, 40, 3), Estimator(CODEWORDS, similarity(DISTANCE), 0.3)
    assert_same(Estimator.of_distance(CODEWORDS, DISTANCE, 0.3).estimate(answers), expected.estimate(answers))


def test_its_scores_have_the_names_of_tables():
    found = ENSEMBLE.estimate(randn(12, 40, 3))
    named = found.named("jvp")
    assert list(named) == ["jvp", "jvp_gls", "jvp_posterior"]
    for score, expected in zip(named.values(), (found.plain, found.pull, found.posterior), strict=True):
        assert score is expected


def test_where_the_null_does_not_vary_z_is_0():
    found = ENSEMBLE.estimate(torch.zeros(12, 40, 3, dtype=torch.float64))
    assert (found.z == 0).all()
    assert (found.pull == 0).all()


# -- of some members


@given(size=st.integers(3, 11), order=st.integers(0, 3))
def test_a_plain_contrast_is_what_those_that_saw_a_unit_have_more_than_those_that_did_not(size, order):
    """As often as a unit is seen on average, 5 of 12: effects that are equal are scored alike, whoever saw the unit."""
    part, members = some(size, PLAIN, order)
    answers = randn(12, 40, 3)[members]
    found, codewords = part.estimate(answers), CODEWORDS[:, members]
    for unit, word in enumerate(codewords):
        if word.all() or not word.any():
            assert all((values[unit] == 0).all() for values in found[1:])
        else:
            expected = 5 / 12 * (answers[word, unit].mean(0) - answers[~word, unit].mean(0))
            torch.testing.assert_close(found.plain[unit], expected, **ROUNDED)
            torch.testing.assert_close(found.pull[unit], found.plain[unit], **ROUNDED)
    assert all(values.isfinite().all() for values in found)


def test_units_of_equal_effect_are_scored_equally_however_many_saw_them():
    """Members answer on every unit's own direction with 1 if they saw it."""
    part, members = some(5, PLAIN)
    answers = CODEWORDS[:, members].T.double()[..., None].expand(-1, -1, 3)
    found, identifiable = part.estimate(answers), part.identifiable[:, 0]
    assert len(part.seen[identifiable].unique()) > 2
    expected = torch.full((int(identifiable.sum()), 3), 5 / 12, dtype=torch.float64)
    torch.testing.assert_close(found.plain[identifiable], expected, **ROUNDED)


def some_sets() -> torch.Tensor:
    """Of three queries: the nearest unit, the five nearest, and seven others; padded."""
    order = DISTANCE.argsort(0).T
    sets = torch.full((3, 3, 7), -1)
    sets[0, :, :1], sets[1, :, :5], sets[2] = order[:, :1], order[:, :5], order[:, 20:27]
    return sets


@SHARES
def test_sets_of_all_members_have_the_z_that_attribute_has(whole):
    """Codewords being distinct included: of 792 it shows."""
    answers = randn(12, 40, 3)
    _, expected, _ = whole.test_sets(answers, some_sets(), CODE)
    torch.testing.assert_close(whole.z_of_sets(answers, some_sets(), CODE.capacity), expected, **ROUNDED)
    assert not torch.allclose(whole.z_of_sets(answers, some_sets(), 10**9), expected, **ROUNDED)


@pytest.mark.parametrize("size", [5, 8])
def test_a_set_s_pull_is_the_sum_of_its_units_each_by_its_similarity(size):
    """Of units that were seen by different numbers of members, each on the scale of its own."""
    part, members = some(size, PLAIN)
    answers = randn(12, 40, 3)[members]
    estimate, sets = part.estimate(similarity(DISTANCE) * answers), some_sets()
    found = part.z_of_sets(answers, sets, 10**12)
    for s, q in itertools.product(range(3), range(3)):
        units = sets[s, q][sets[s, q] >= 0]
        assert s == 0 or len(part.seen[units].unique()) > 1
        deviation = estimate.deviation[units, q].square().sum().sqrt()
        torch.testing.assert_close(found[s, q], estimate.plain[units, q].sum() / deviation, **ROUNDED)


@SHARES
@pytest.mark.parametrize("size", [5, 8, 12])
def test_a_set_of_one_unit_has_the_unit_s_z(size, whole):
    part, members = some(size, whole)
    answers = randn(12, 40, 3)[members]
    sets = torch.arange(40)[:, None, None].expand(-1, 3, 1)
    estimate = part.estimate(answers)
    expected = (estimate.pull / estimate.deviation).nan_to_num(0)
    capacity = 10**12  # of one unit the codewords need not be distinct from any
    assert (expected == 0).any() == bool((~part.identifiable).any())
    torch.testing.assert_close(part.z_of_sets(answers, sets, capacity), expected, **ROUNDED)
    torch.testing.assert_close(estimate.z, expected)


def test_a_unit_that_the_members_cannot_identify_adds_nothing_to_a_set():
    """Whether all of them saw it, or none."""
    part, answers = ENSEMBLE.of_members(torch.tensor([2, 6, 8])), randn(3, 40, 3)
    known, all_saw, none_saw = (
        which[:, 0].nonzero()[:2, 0] for which in (part.identifiable, part.seen == 3, part.seen == 0)
    )
    for unknown in (all_saw[:1], none_saw[:1]):
        sets = torch.stack([torch.cat([known, torch.tensor([-1])]), torch.cat([known, unknown])])
        one, other = part.z_of_sets(answers, sets[:, None].expand(-1, 3, -1), CODE.capacity)
        assert (one != 0).all()
        torch.testing.assert_close(one, other)
        alone = part.z_of_sets(answers, unknown[:, None, None].expand(-1, 3, -1), CODE.capacity)
        assert (alone == 0).all()


def test_z_of_a_set_has_mean_0_and_varies_by_1_when_codewords_are_drawn_anew():
    """Fixed members that know of no unit, 300 codebooks, some of them: at a false-alarm rate of 1e-4 each."""
    answers, members, z = randn(12, 40, 3, seed=9), draw_members(9, 12, seed=0), []
    for seed in range(300):
        codewords = Codebook(40, 12, 5, seed).codewords(torch.arange(40))
        part = Estimator(codewords, similarity(DISTANCE), 0.5).of_members(members)
        z.append(part.z_of_sets(answers[members], some_sets(), CODE.capacity)[:, 0])
    mean, spread = torch.stack(z).mean(0), torch.stack(z).var(0)
    low, high = stats.chi2.ppf([5e-5 / 3, 1 - 5e-5 / 3], 299) / 299
    assert ((spread > low) & (spread < high)).all()
    assert (mean.abs() < stats.norm.isf(5e-5 / 3) / 300**0.5).all()


def test_the_loss_of_all_members_is_the_ensemble_s_but_for_what_fewer_members_lose():
    """The same for all units at constant weight; so that the order of units is the exact change's."""
    residual = randn(3, 12, 20)
    gram = residual @ residual.mT / 20
    found, exact = ENSEMBLE.loss_change(gram), loss_change(gram, CODEWORDS)
    torch.testing.assert_close(found - found.mean(0), exact - exact.mean(0))


@pytest.mark.parametrize("members", [[0, 2, 3, 4, 8, 10], [1, 5, 7]])
def test_the_loss_of_a_unit_without_influence_is_0_in_the_mean_over_all_codewords_of_as_many_ones(members):
    residual = randn(2, len(members), 20)
    gram, size = residual @ residual.mT / 20, len(members)
    for ones in range(1, size):
        chosen = itertools.combinations(range(size), ones)
        codewords = torch.stack([torch.tensor([k in those for k in range(size)]) for those in chosen])
        mean = Estimator(codewords, torch.ones(len(codewords), 2)).loss_change(gram).mean(0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), **ROUNDED)
        assert (loss_change(gram, codewords).mean(0) > 1e-3).all()  # what is taken off


def test_the_loss_does_not_change_by_a_unit_that_the_members_cannot_identify():
    """All of them saw it, or none did."""
    part, residual = ENSEMBLE.of_members(torch.tensor([2, 6, 8])), randn(2, 3, 20)
    change, identifiable = part.loss_change(residual @ residual.mT / 20), part.identifiable[:, 0]
    assert {0, 3} < set(part.seen[:, 0].tolist())
    assert (change[~identifiable] == 0).all()
    assert (change[identifiable] != 0).all()


@given(size=st.integers(3, 11))
def test_orders_are_nested_and_their_members_distinct(size):
    small, large = (draw_members(m, 12, seed=3, order=1) for m in (size, size + 1))
    assert len(small.unique()) == size
    assert set(small.tolist()) < set(large.tolist()) <= set(range(12))
    other = [draw_members(size, 12, seed=3, order=order).tolist() for order in range(6)]
    assert len({tuple(members) for members in other}) > 1


def test_the_order_of_members_changes_nothing():
    answers, shuffled = randn(12, 40, 3), torch.tensor([7, 2, 9, 0, 11])
    one, other = (
        ENSEMBLE.of_members(members).estimate(answers[members]) for members in (shuffled, shuffled.sort().values)
    )
    for a, b in zip(one[1:], other[1:], strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(one.adjusted[shuffled.argsort()], other.adjusted)


def test_members_of_members_are_members():
    """The scale is the whole ensemble's: it does not matter by how many steps one came there."""
    answers, first, then = randn(12, 40, 3), torch.tensor([0, 2, 3, 4, 8, 10, 11]), torch.tensor([1, 2, 5, 6])
    straight, by_steps = ENSEMBLE.of_members(first[then]), ENSEMBLE.of_members(first).of_members(then)
    assert_same(by_steps.estimate(answers[first[then]]), straight.estimate(answers[first[then]]))


def test_the_deviation_is_that_over_all_codewords_of_as_many_ones():
    """Had the unit never mattered, any of these members might have seen it: all ways are tried."""
    members = torch.tensor([0, 2, 3, 4, 8, 10, 11])
    part, answers = PLAIN.of_members(members), randn(7, 40, 3, seed=2)
    found, ones = part.estimate(answers), CODEWORDS[:, members].sum(1).tolist()
    assert set(ones) >= {1, 2, 3, 4}
    for unit in part.identifiable[:, 0].nonzero()[:, 0].tolist():
        unseen = list(itertools.combinations(range(7), 7 - ones[unit]))
        pulls = torch.stack([answers[:, unit].mean(0) - answers[list(those), unit].mean(0) for those in unseen])
        usual = 7 * 5 / 12
        torch.testing.assert_close(found.deviation[unit], usual / ones[unit] * pulls.std(0, correction=0))


def test_units_that_the_members_cannot_identify_are_not_discounted():
    """All of them saw it, or none did: however near or far it is, no other unit's score moves."""
    members, answers = torch.tensor([0, 1, 2, 3]), randn(4, 40, 3)
    identifiable = ENSEMBLE.of_members(members).identifiable
    assert 0 < (~identifiable).sum() < 10
    at = [torch.where(identifiable, DISTANCE, far) for far in (3.0, 4.0)]  # beyond the median, which sets the scale
    parts = [Estimator(CODEWORDS, similarity(distance), 0.5).of_members(members) for distance in at]
    one, other = (part.estimate(answers) for part in parts)
    assert_same(one, other)
    # as if what stands for their codewords were one
    inside = pull(LeaveOneOutGLS(parts[0].contrastable, similarity(at[0]), 0.5).adjust(answers), parts[0].contrastable)
    known = identifiable[:, 0]
    assert not torch.allclose(inside[known], one.pull[known])
