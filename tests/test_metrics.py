"""Metrics: parity with scipy, dattri and scikit-learn, what is perfect, and what noise and chance leave of it."""

import math

import numpy as np
import pytest
import torch
from conftest import halves, of_pearson
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import ndcg_score

from ddattr.attribution.agreement import pearson, spearman
from ddattr.attribution.datamodel import subset_means
from ddattr.validation.metrics import ceiling, group_scores, law, lds, ndcg, noise_ratio, reliability, top_one


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def case():
    """Scores of 12 units on 3 queries, targets that owe themselves to them in part, and 10 halves."""
    scores, subsets = randn(12, 3), halves(10, 12)
    return scores, subsets.double() @ scores + 2 * randn(10, 3, seed=1), subsets


# -- lds and its law


def test_the_lds_is_scipy_s_correlation_of_the_sums(case):
    scores, targets, subsets = case
    for q, found in enumerate(lds(*case)):
        sums = [scores[subset, q].sum() for subset in subsets]
        assert found.item() == pytest.approx(stats.spearmanr(sums, targets[:, q]).statistic)


def test_the_lds_is_dattri_s(case):
    metric = pytest.importorskip("dattri.metric")
    scores, targets, subsets = case
    indices = torch.stack([subset.nonzero()[:, 0] for subset in subsets])
    torch.testing.assert_close(lds(*case), metric.lds(scores, (targets, indices))[0])


def test_additive_targets_are_predicted_perfectly(case):
    scores, _, subsets = case
    sums = subsets.double() @ scores
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(lds(scores, sums.exp(), subsets), ones)
    torch.testing.assert_close(lds(scores, -sums, subsets), -ones)


def test_the_same_for_all_units_added_to_a_score_changes_nothing(case):
    """Halves are of one size."""
    scores, targets, subsets = case
    torch.testing.assert_close(lds(3 * scores - 7, targets, subsets), lds(*case))


def test_the_order_of_units_subsets_and_queries_changes_nothing(case):
    scores, targets, subsets = case
    unit, subset, query = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (12, 10, 3))
    permuted = lds(scores[unit][:, query], targets[subset][:, query], subsets[subset][:, unit])
    torch.testing.assert_close(permuted, lds(*case)[query])


def test_a_side_that_does_not_vary_has_no_lds(case):
    scores, targets, subsets = case
    assert lds(torch.zeros_like(scores), targets, subsets).isnan().all()
    assert lds(scores, torch.ones_like(targets), subsets).isnan().all()


@pytest.mark.parametrize(
    ("units", "members", "noise", "seeds"),
    [
        (40, 40, 0.0, math.inf),
        (40, 160, 1.0, math.inf),
        (80, 20, 0.0, math.inf),
        (40, 80, 3.0, math.inf),
        (40, 160, 1.0, 1),
        (40, 80, 3.0, 3),
        (40, 40, 0.0, 2),
    ],
)
def test_means_over_subsets_reach_what_the_law_says(units, members, noise, seeds):
    """300 queries of additive effects, each estimated from `members` half-data models with seed noise and held against
    what 300 fresh halves give, in the mean over `seeds` seeds. Within 4 standard errors of the mean over queries,
    false-alarm rate 6e-5, and 0.01 for subsets being halves exactly."""
    effects, trained, fresh = randn(units, 300), halves(members, units), halves(300, units, seed=1)
    signal = trained.double() @ effects
    spread = (noise * units / 4) ** 0.5  # an effect of variance 1 that is in or out has variance 1/4
    outputs = signal + spread * randn(members, 300, seed=2)
    targets = fresh.double() @ effects + spread / seeds**0.5 * randn(300, 300, seed=3)
    reached = lds(subset_means(outputs, trained.T), targets, fresh)
    error = 4 * reached.std().item() / 300**0.5
    expected = law(float(units), float(members), noise, float(seeds))
    assert reached.mean().item() == pytest.approx(of_pearson(expected), abs=error + 0.01)


def test_the_law_has_its_limits():
    assert law(100.0, 1e12) == pytest.approx(1)
    assert law(100.0, 100.0) == pytest.approx(0.5**0.5)
    assert law(100.0, 100.0, 1.0) == law(200.0, 100.0) == law(100.0, 50.0)
    assert law(100.0, 1e-12) == pytest.approx(0, abs=1e-6)


def test_with_members_without_end_the_law_is_the_target_s_own_ceiling():
    """The root of its reliability, R / (R + kappa); targets without noise, or of seeds without end, have none."""
    for noise, seeds in ((1.0, 1.0), (3.0, 2.0), (0.5, 8.0)):
        assert law(100.0, 1e12, noise, seeds) == pytest.approx((seeds / (seeds + noise)) ** 0.5)
        assert law(100.0, 50.0, noise, seeds) == pytest.approx(law(100.0, 50.0, noise) * law(100.0, 1e12, noise, seeds))
        assert law(100.0, 50.0, noise, seeds) < law(100.0, 50.0, noise, 2 * seeds) < law(100.0, 50.0, noise)
    assert law(100.0, 50.0, 3.0) == law(100.0, 50.0, 3.0, math.inf)
    assert law(100.0, 50.0, 0.0, 1.0) == law(100.0, 50.0)


def test_the_noise_ratio_is_the_two_way_analysis_of_variance_s():
    """F = (seeds x variance of the means) / (mean square that neither subset nor seed explains), so that kappa =
    seeds / (F - 1). Where no seed has a main effect, that is scipy's one-way F but for its degrees of freedom."""
    targets = 3 * randn(1, 12, 3) + randn(4, 12, 3, seed=1)
    targets = targets - targets.mean(1, keepdim=True)
    moved = targets + torch.tensor([5.0, -2.0, 0.0, 40.0]).double()[:, None, None]
    for q, found in enumerate(noise_ratio(moved)):
        f = stats.f_oneway(*targets[:, :, q].T.numpy()).statistic * (3 * 11) / (12 * 3)
        assert f > 1
        assert found.item() == pytest.approx(4 / (f - 1))


def test_a_constant_for_all_subsets_of_a_seed_does_not_change_the_noise_ratio():
    """No correlation over subsets sees it."""
    targets = 2 * randn(1, 12, 3) + randn(4, 12, 3, seed=1)
    found = noise_ratio(targets)
    assert found.isfinite().all()
    for seed in range(4):
        moved = targets.clone()
        moved[seed] += torch.tensor([1.0, -30.0, 1000.0])
        torch.testing.assert_close(noise_ratio(moved), found)
    torch.testing.assert_close(noise_ratio(7 - 3 * targets), found)


@pytest.mark.parametrize("main", [0.0, 10.0])
@pytest.mark.parametrize("kappa", [0.25, 1.0, 4.0])
def test_the_noise_ratio_finds_the_noise(kappa, main):
    """5 seeds of 20,000 subsets, with and without main effects of the seeds. The variance between is known to
    sqrt(2 / 20000) of (1 + kappa / 5), that within to sqrt(2 / 80000): 4 standard errors of the ratio, false-alarm
    rate 6e-5."""
    targets = randn(1, 20_000, 1) + kappa**0.5 * randn(5, 20_000, 1, seed=1) + main * randn(5, 1, 1, seed=2)
    error = ((1 + kappa / 5) ** 2 / 10_000 + (1 + kappa / 5) ** 2 / 40_000) ** 0.5
    assert noise_ratio(targets).item() == pytest.approx(kappa, rel=4 * error)


def test_of_nothing_but_noise_the_noise_ratio_is_infinite_as_often_as_f_is_below_1():
    """4,000 queries of 3 seeds and only 4 subsets, where degrees of freedom tell: F(3, 6) < 1 within 4 standard errors
    of 0.008, false-alarm rate 6e-5; F(3, 8), of the one-way analysis, would be 0.02 away."""
    share = noise_ratio(randn(3, 4, 4000)).isinf().double().mean().item()
    assert share == pytest.approx(stats.f(3, 6).cdf(1), abs=4 * 0.008)


def test_the_noise_ratio_of_nothing_but_signal_or_nothing_but_noise():
    signal = randn(1, 10, 2)
    assert noise_ratio(signal.expand(3, -1, -1)).tolist() == pytest.approx([0, 0], abs=1e-12)
    swapped = torch.stack([signal[0], -signal[0]])  # every subset's mean is the same
    assert noise_ratio(swapped).isinf().all()
    assert noise_ratio(signal).isnan().all()


# -- reliability and the ceiling


@pytest.mark.parametrize(
    ("correlation", "by_scipy"), [(spearman, stats.spearmanr), (pearson, stats.pearsonr)], ids=["spearman", "pearson"]
)
@pytest.mark.parametrize("count", [2, 4])
def test_reliability_is_the_mean_correlation_over_queries_and_pairs_of_seeds_stepped_up(count, correlation, by_scipy):
    """Against scipy: first the mean, then the step, for one value a truth."""
    replicates = randn(20, 3) + randn(count, 20, 3, seed=1)
    pairs = [(a, b) for a in range(count) for b in range(a)]
    each = [by_scipy(replicates[a, :, q], replicates[b, :, q]).statistic for a, b in pairs for q in range(3)]
    r = sum(each) / len(each)
    found = reliability(replicates, correlation)
    assert isinstance(found, float)
    assert found == pytest.approx(count * r / (1 + (count - 1) * r))
    assert ceiling(replicates, correlation) == pytest.approx(found**0.5)
    stepped = [
        count * r / (1 + (count - 1) * r) for r in (sum(each[q::3]) / len(pairs) for q in range(3))
    ]  # query by query
    assert abs(found - sum(stepped) / 3) > 1e-4


def test_reliability_is_by_ranks_unless_told_otherwise():
    replicates = (randn(20, 3) + randn(3, 20, 3, seed=1)).exp()
    assert reliability(replicates) == reliability(replicates, spearman) == pytest.approx(reliability(replicates.log()))
    assert reliability(replicates, pearson) != pytest.approx(reliability(replicates.log(), pearson), abs=1e-3)
    assert ceiling(replicates) == ceiling(replicates, spearman) != ceiling(replicates, pearson)


@pytest.mark.parametrize(("correlation", "bias"), [(pearson, 0.0), (spearman, 0.01)], ids=["pearson", "spearman"])
@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_reliability_is_how_far_two_means_agree(seeds, correlation, bias):
    """Two sets of seeds over 4,000 units, signal and noise of equal size; correlations within 4.7 of their standard
    errors of 0.016, and the stepping up, which is exact for Pearson's, errs by less than 0.01 for Spearman's."""
    signal = randn(4000, 1)
    one, other = (signal + randn(seeds, 4000, 1, seed=s) for s in (1, 2))
    agreed = correlation(one.mean(0), other.mean(0)).item()
    assert reliability(one, correlation) == pytest.approx(agreed, abs=4.7 * 0.016 + bias)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_ceiling_is_how_far_the_signal_itself_agrees_with_the_mean_of_the_seeds(seeds):
    """4,000 units, signal and noise of equal size. The signal's correlation is known to 0.016 at most, and so is that
    of the seeds, of which the root's error is no larger: within 4.7 of the two together."""
    signal = randn(4000, 1)
    replicates = signal + randn(seeds, 4000, 1, seed=1)
    reached = pearson(signal, replicates.mean(0)).item()
    assert reached == pytest.approx((seeds / (seeds + 1)) ** 0.5, abs=4.7 * 0.016)
    assert ceiling(replicates, pearson) == pytest.approx(reached, abs=4.7 * 0.016 * 2**0.5)


def test_a_noisy_query_weighs_as_much_as_its_correlation_and_not_as_its_step():
    """Stepping up query by query would give a query of correlation near -1 / (R - 1) any weight at all: here two seeds
    of three agree, and oppose the third, so that its mean correlation is -1/3 and its own reliability -1."""
    perfect = randn(1, 10, 3).expand(3, -1, -1)
    opposed = randn(1, 10, 1, seed=1) * torch.tensor([1.0, 1.0, -1.0]).double()[:, None, None]
    assert reliability(opposed) == -1
    r = (3 * 1 - 1 / 3) / 4
    assert reliability(torch.cat([perfect, opposed], 2)) == pytest.approx(3 * r / (1 + 2 * r))


def test_identical_seeds_are_perfectly_reliable_and_one_seed_says_nothing():
    once = randn(1, 10, 2)
    assert reliability(once.expand(3, -1, -1)) == pytest.approx(1)
    assert ceiling(once.expand(3, -1, -1)) == pytest.approx(1)
    assert math.isnan(reliability(once))
    assert math.isnan(ceiling(once))


def test_seeds_that_oppose_each_other_have_a_ceiling_of_0():
    once = randn(1, 10, 2)
    opposed = torch.cat([once, -once])
    assert reliability(opposed) == -1
    assert ceiling(opposed) == 0


@given(st.integers(2, 5), st.integers(3, 6), st.integers(0, 10**6), st.sampled_from([pearson, spearman]))
def test_reliability_is_a_correlation(seeds, units, seed, correlation):
    """Between -1 and 1, whatever the seeds say; its root is a ceiling between 0 and 1."""
    replicates = randn(seeds, units, 2, seed=seed)
    assert abs(reliability(replicates, correlation)) <= 1 + 1e-12
    assert ceiling(replicates, correlation) == pytest.approx(max(0, reliability(replicates, correlation)) ** 0.5)


def test_a_seed_that_does_not_vary_on_a_query_is_left_out_of_the_mean():
    """Of one query the pair of the other two seeds remains, of the other query all three."""
    replicates = randn(1, 10, 2) + randn(3, 10, 2, seed=1)
    replicates[1, :, 0] = 7.0
    pairs = [(0, 2, 0), (0, 1, 1), (0, 2, 1), (1, 2, 1)]
    r = sum(stats.spearmanr(replicates[a, :, q], replicates[b, :, q]).statistic for a, b, q in pairs) / 4
    assert reliability(replicates) == pytest.approx(3 * r / (1 + 2 * r))


@pytest.mark.parametrize("seeds", [2, 3])
def test_where_no_seed_varies_there_is_no_reliability(seeds):
    constant = torch.ones(seeds, 10, 2, dtype=torch.float64)
    assert math.isnan(reliability(constant))
    assert math.isnan(ceiling(constant))


# -- groups


def test_a_group_s_score_is_the_sum_of_its_units_in_order_of_the_groups_numbers():
    scores, group_of = randn(9, 2), torch.tensor([7, 2, 2, 40, 7, 7, 2, 40, 2])
    expected = [sum(scores[i] for i in range(9) if group_of[i] == g) for g in (2, 7, 40)]
    torch.testing.assert_close(group_scores(scores, group_of), torch.stack(expected))


def test_the_order_of_units_changes_no_group():
    scores, group_of = randn(9, 2), torch.arange(9) % 3
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(group_scores(scores[order], group_of[order]), group_scores(scores, group_of))


def test_groups_of_one_unit_are_the_units():
    scores = randn(9, 2)
    assert torch.equal(group_scores(scores, torch.arange(9)), scores)


def test_wanted_groups_are_those_of_all():
    scores, group_of = randn(9, 2), torch.tensor([7, 2, 2, 40, 7, 7, 2, 40, 2])
    assert torch.equal(group_scores(scores, group_of, [2, 40]), group_scores(scores, group_of)[[0, 2]])


def test_top_one_is_1_where_both_name_the_same_group():
    scores, effect = randn(5, 40), randn(5, 40, seed=1)
    expected = [float(np.argmax(scores[:, q]) == np.argmax(effect[:, q])) for q in range(40)]
    assert top_one(scores, effect).tolist() == expected
    assert 0 < sum(expected) < 40
    assert (top_one(effect.exp(), effect) == 1).all()


def test_top_one_of_chance_is_one_in_the_number_of_groups():
    """10,000 queries, 5 groups: within 4 standard errors of 0.004, false-alarm rate 6e-5."""
    assert abs(top_one(randn(5, 10_000), randn(5, 10_000, seed=1)).mean() - 0.2) < 4 * 0.004


@given(groups=st.integers(2, 9), k=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_ndcg_is_scikit_learn_s(groups, k, seed):
    """Whose gains may not be negative."""
    scores, effect = randn(groups, 4, seed=seed), randn(groups, 4, seed=seed + 1)
    for q, found in enumerate(ndcg(scores, effect, k)):
        gain = effect[:, q].clamp_min(0)
        if gain.any():
            expected = ndcg_score(gain[None].numpy(), scores[:, q][None].numpy(), k=k)
            assert found.item() == pytest.approx(expected)
        else:
            assert found.isnan()


@given(groups=st.integers(2, 9), seed=st.integers(0, 10**6))
def test_the_best_order_of_groups_has_ndcg_1_and_no_order_more(groups, seed):
    effect = randn(groups, 4, seed=seed)
    effect[0] = 1.0
    torch.testing.assert_close(ndcg(effect.exp(), effect), torch.ones(4, dtype=torch.float64))
    found = ndcg(randn(groups, 4, seed=seed + 1), effect)
    assert (found >= 0).all()
    assert (found <= 1 + 1e-12).all()


def test_ndcg_discounts_by_the_logarithm_of_the_rank():
    effect = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    found = [ndcg(torch.arange(4.0)[:, None].roll(shift, 0), effect).item() for shift in range(1, 5)]
    assert found == pytest.approx([1, 1 / math.log2(3), 0.5, 0])


def test_a_group_that_helps_when_removed_gains_nothing():
    """A negative effect counts as none."""
    scores, effect = randn(5, 3), randn(5, 3, seed=1)
    effect[0] = 1.0
    assert torch.equal(ndcg(scores, effect), ndcg(scores, effect.clamp_min(0)))


def test_where_no_group_has_an_effect_there_is_no_ndcg():
    assert ndcg(randn(5, 3), -randn(5, 3).abs()).isnan().all()
