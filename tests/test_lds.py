"""The linear datamodelling score: parity with scipy and dattri, an interval that covers, and the law of its size."""

import math

import pytest
import torch
from scipy import stats

from ddattr.attribution.agreement import bootstrap_mean, pearson, spearman
from ddattr.attribution.datamodel import subset_means
from ddattr.validation.lds import joint_interval, law, lds, lds_resamples, noise_ratio, percentiles


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def halves(count: int, units: int, seed: int = 0) -> torch.Tensor:
    """Random halves of the units."""
    order = torch.rand(count, units, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return torch.zeros(count, units, dtype=torch.bool).scatter_(1, order[:, : units // 2], True)


def of_pearson(correlation: float) -> float:
    """Spearman's correlation of normal variables that have this Pearson's. Source: Pearson 1907."""
    return 6 / math.pi * math.asin(correlation / 2)


@pytest.fixture
def case():
    """Scores of 12 units on 3 queries, targets that owe themselves to them in part, and 10 halves."""
    scores, subsets = randn(12, 3), halves(10, 12)
    return scores, subsets.double() @ scores + 2 * randn(10, 3, seed=1), subsets


def test_it_is_scipy_s_correlation_of_the_sums(case):
    scores, targets, subsets = case
    for q, found in enumerate(lds(*case)):
        sums = [scores[subset, q].sum() for subset in subsets]
        assert found.item() == pytest.approx(stats.spearmanr(sums, targets[:, q]).statistic)


def test_it_is_dattri_s(case):
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


def test_a_side_that_does_not_vary_has_no_score(case):
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


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_a_joint_interval_is_of_its_correlation_s_mean_and_by_the_bootstrap_of_rows_and_columns(correlation):
    """Around the mean; of no rank where Pearson's is asked for."""
    x, y = randn(20, 6), randn(20, 6, seed=1) + randn(20, 6)
    mean, low, high = joint_interval(x, y.exp(), 0, 300, correlation=correlation)
    assert mean == pytest.approx(correlation(x, y.exp()).mean().item())
    assert low < mean < high
    again = joint_interval(x, y, 0, 300, correlation=correlation)
    assert (again == pytest.approx((mean, low, high))) == (correlation is spearman)


def interval(scores, targets, subsets, seed=0, resamples=500, level=0.95) -> tuple[float, float, float]:
    """As the tables have it."""
    found = lds_resamples(scores, targets, subsets, seed, resamples)
    return lds(scores, targets, subsets).nanmean().item(), *percentiles(found, level)


def test_the_interval_of_the_score_is_the_joint_one_of_the_sums(case):
    scores, targets, subsets = case
    sums = subsets.double() @ scores
    for seed, resamples, level in ((0, 500, 0.95), (3, 50, 0.5)):
        assert interval(*case, seed, resamples, level) == joint_interval(sums, targets, seed, resamples, level)
        assert interval(*case, seed, resamples, level) == joint_interval(
            sums, targets, seed, resamples, level, spearman
        )


def test_an_interval_over_queries_alone_does_not_cover_what_the_joint_one_does():
    """60 draws of 25 units whose scores and truths are the same on all 8 queries but for a little noise: of correlation
    0.5 over units that are drawn once for all queries. A nominal 0.95 covers that often, less 4 standard errors of
    0.028; over queries alone it covers less than half, and by chance more in fewer than 1 of 10^6."""
    joint, alone, truth = 0, 0, 0.5 / 1.01
    for seed in range(60):
        one, noise = randn(25, 1, seed=4 * seed), randn(25, 1, seed=4 * seed + 1)
        x = one + 0.1 * randn(25, 8, seed=4 * seed + 2)
        y = 0.5 * one + 0.75**0.5 * noise + 0.1 * randn(25, 8, seed=4 * seed + 3)
        _, low, high = joint_interval(x, y, seed, 100, correlation=pearson)
        joint += low <= truth <= high
        _, low, high = bootstrap_mean(pearson(x, y), seed, 200)
        alone += low <= truth <= high
    assert joint / 60 > 0.95 - 4 * 0.028
    assert alone / 60 < 0.5


def test_the_interval_covers_the_score():
    """50 draws of 16 queries and 24 subsets of a score whose mean over all of them is known to 0.002. Resampling both
    at once is conservative (Owen 2007): a nominal 0.95 covers at least that, less 4 standard errors of 0.031."""
    truth, covered = of_pearson(0.5), 0
    for seed in range(50):
        scores, subsets = randn(30, 16, seed=3 * seed), halves(24, 30, seed=seed)
        sums = subsets.double() @ scores
        spread = (30 / 4 * 30 / 29 * scores.var(0)) ** 0.5
        targets = sums + spread * 3**0.5 * randn(24, 16, seed=3 * seed + 1)
        _, low, high = interval(scores, targets, subsets, seed, resamples=100)
        covered += low <= truth <= high
    assert covered / 50 > 0.95 - 4 * 0.031


def test_the_interval_narrows_with_subsets_and_with_queries():
    widths = []
    for subsets, queries in ((8, 8), (32, 8), (32, 32)):
        scores, masks = randn(30, queries), halves(subsets, 30)
        targets = masks.double() @ scores + 4 * randn(subsets, queries, seed=1)
        mean, low, high = interval(scores, targets, masks, resamples=200)
        assert -1 <= low < mean < high <= 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_the_interval_is_around_the_mean_score_has_an_address_and_a_level(case):
    assert interval(*case)[0] == pytest.approx(lds(*case).mean().item())
    assert interval(*case, seed=5) == interval(*case, seed=5)
    assert interval(*case, seed=5)[1:] != interval(*case, seed=5 + 2**32)[1:]
    narrow, wide = (interval(*case, level=level) for level in (0.5, 0.99))
    assert wide[1] < narrow[1] < narrow[2] < wide[2]


def test_a_query_without_a_score_is_left_out_of_the_mean(case):
    scores, targets, subsets = case
    one_less = torch.cat([scores, torch.zeros(12, 1, dtype=torch.float64)], 1)
    found = interval(one_less, torch.cat([targets, targets[:, :1]], 1), subsets)
    assert found[0] == pytest.approx(lds(*case).mean().item())
    assert all(math.isfinite(number) for number in found)


def test_four_subsets_have_no_interval(case):
    scores, targets, subsets = case
    with pytest.raises(ValueError, match=r"^lds: 4 subsets, expected at least 5 .* Set validation.halves higher\.$"):
        interval(scores, targets[:4], subsets[:4])
