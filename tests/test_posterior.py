"""Expected pull: better than what was measured and than similarity, an average of the two, and nothing of nothing."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import isotonic_regression
from sklearn.isotonic import IsotonicRegression

from ddattr.attribution.posterior import _falling, _placed, posterior


def drawn(units=1000, queries=3, slope=3.0, spread=2.0, seed=0):
    """Pulls of known truth: mean slope e^-d, spread the same, measured with a deviation of each pair's own."""
    g = torch.Generator().manual_seed(seed)
    distance = 3 * torch.rand(units, queries, generator=g, dtype=torch.float64)
    deviation = 0.5 + torch.rand(units, queries, generator=g, dtype=torch.float64)
    near = (-distance).exp()
    truth = (slope * near + spread * near * torch.randn(near.shape, generator=g, dtype=torch.float64)) * deviation
    return truth, truth + deviation * torch.randn(near.shape, generator=g, dtype=torch.float64), deviation, distance


def error(estimate, truth, deviation):
    return ((estimate - truth) / deviation).square().mean()


@pytest.mark.parametrize("seed", range(5))
def test_it_is_nearer_to_the_truth_than_the_score_and_than_the_prior(seed):
    truth, score, deviation, distance = drawn(seed=seed)
    prior = 3 * (-distance).exp() * deviation  # what nobody knows: the mean the truth was drawn with
    reached = error(posterior(score, deviation, distance), truth, deviation)
    assert reached < 0.85 * error(prior, truth, deviation)
    assert reached < 0.6 * error(score, truth, deviation)


def test_it_is_as_good_as_with_the_prior_known():
    truth, score, deviation, distance = drawn(units=20_000)
    near = (-distance).exp()
    kept = 4 * near.square() / (4 * near.square() + 1)
    best = 3 * near * deviation + kept * (score - 3 * near * deviation)
    oracle = error(best, truth, deviation)
    assert oracle < error(posterior(score, deviation, distance), truth, deviation) < 1.03 * oracle


def test_units_at_the_same_distance_are_shrunk_to_their_mean_by_their_own_spread():
    """Three distances, means and variances that fall: no fit is needed, and the closed form is that of Robbins."""
    g = torch.Generator().manual_seed(0)
    distance = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).repeat_interleave(50)[:, None]
    mean = torch.tensor([4.0, 2.0, 0.0], dtype=torch.float64).repeat_interleave(50)[:, None]
    spread = torch.tensor([3.0, 2.0, 0.1], dtype=torch.float64).repeat_interleave(50)[:, None]
    z = mean + spread * torch.randn(150, 1, generator=g, dtype=torch.float64)
    deviation = 0.5 + torch.rand(150, 1, generator=g, dtype=torch.float64)
    expected = []
    for group in z.split(50):
        more = (group.var(correction=0) - 1).clamp_min(0)
        expected.append(group.mean() + more / (1 + more) * (group - group.mean()))
    slope = slope_of(posterior(z * deviation, deviation, distance), torch.cat(expected) * deviation)
    assert 0.98 < slope <= 1  # of effects far above their noise


def slope_of(found, guess):
    """How far a guess was shrunk: by one number, up to rounding."""
    slope = (found * guess).sum() / guess.square().sum()
    torch.testing.assert_close(found, slope * guess)
    return slope.item()


@pytest.mark.parametrize("units", [100, 400])
def test_without_effects_the_mean_of_the_five_largest_is_within_noise_of_nothing(units):
    """Of measurements with a deviation of 1, five have a mean with one of 0.45. That of the five largest guesses is
    0.18 (0.15 of 400 units), with a deviation of 0.17 over queries: of 40 below 0.3, false-alarm rate below 1e-4. It
    would be 0.53 were it not scaled."""
    _, score, one, distance = drawn(units=units, queries=40, slope=0.0, spread=0.0)
    largest = posterior(score / one, torch.ones_like(one), distance).topk(5, 0).values
    assert 0 < largest.mean() < 0.3


@pytest.mark.parametrize(("slope", "spread"), [(1.0, 0.5), (3.0, 2.0), (0.0, 2.0), (2.0, 0.0)])
def test_truths_are_on_average_what_is_expected(slope, spread):
    """Their slope on it is 1 over all units and queries, where there are effects; shrunk too far by 0.15 at most."""
    truth, score, deviation, distance = drawn(units=400, queries=40, slope=slope, spread=spread)
    expected, truth = posterior(score, deviation, distance) / deviation, truth / deviation
    assert 0.97 < (expected * truth).sum() / expected.square().sum() < 1.15


@pytest.mark.parametrize("seed", range(3))
def test_it_is_shrunk_as_stein_s_estimate_has_it_from_derivatives(seed):
    """By finite differences of the fixed point, its weights included, of one unit after another."""
    _, score, deviation, distance = drawn(units=60, queries=1, slope=1.0, spread=0.5, seed=seed)
    z, near = (score / deviation)[:, 0].numpy(), distance[:, 0].argsort().numpy()

    def guess(z):
        variance = np.zeros(60)
        for _ in range(100):
            mean = isotonic_regression(z[near], weights=1 / (1 + variance), increasing=False).x
            variance = isotonic_regression((z[near] - mean) ** 2 - 1, increasing=False).x.clip(0)
        found = np.empty(60)
        found[near] = mean + variance / (1 + variance) * (z[near] - mean)
        return found

    steps = 1e-5 * np.eye(60)
    divergence = sum((guess(z + step)[i] - guess(z - step)[i]) / 2e-5 for i, step in enumerate(steps))
    of = guess(z)
    found, error = (of @ z - divergence) / (of @ of), (of @ of) ** -0.5
    expected = min(1.0, stats.truncnorm.mean(-found / error, np.inf, loc=found, scale=error))
    slope = slope_of(posterior(score, deviation, distance) / deviation, torch.from_numpy(of)[:, None])
    assert slope == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_mean_and_variance_are_those_that_agree_with_each_other(seed):
    """By scipy's isotonic regression, until they do: the mean weighs 1 / (1 + variance), the variance is about it."""
    _, score, deviation, distance = drawn(units=100, queries=1, seed=seed)
    order = distance[:, 0].argsort()
    z, variance = (score / deviation)[order, 0].numpy(), np.zeros(100)
    for _ in range(200):
        mean = isotonic_regression(z, weights=1 / (1 + variance), increasing=False).x
        variance = isotonic_regression((z - mean) ** 2 - 1, increasing=False).x.clip(0)
    expected = torch.from_numpy(mean + variance / (1 + variance) * (z - mean))
    assert 0.5 < slope_of((posterior(score, deviation, distance) / deviation)[order, 0], expected) <= 1


def test_a_fit_among_ties_is_scikit_learn_s():
    """Places that several units have, and weights: to the bit where there are no ties."""
    g = torch.Generator().manual_seed(0)
    for places in (7, 200):
        place = torch.randint(places, (200,), generator=g) if places == 7 else torch.randperm(200, generator=g)
        values, weight = (torch.rand(200, generator=g, dtype=torch.float64) for _ in range(2))
        fit = IsotonicRegression(increasing=False).fit_transform(place.double(), values, sample_weight=weight)
        found, expected = _falling(place.unique(return_inverse=True)[1], values, weight), torch.from_numpy(fit)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
        assert places == 7 or torch.equal(found, expected)


def test_bins_of_distance_come_near_to_the_fit_of_every_distance_as_there_are_more():
    """In the mean square over five draws, which falls by a root of the number of bins; as good as no bins at all."""
    moved, missed = {64: 0.0, 512: 0.0, 2048: 0.0}, dict.fromkeys((64, 512, 2048, 4000), 0.0)
    for seed in range(5):
        truth, *known = drawn(units=4000, seed=seed)
        whole = posterior(*known, places=4000)
        assert torch.equal(whole, posterior(*known))
        for places in missed:
            found = posterior(*known, places=places)
            missed[places] += error(found, truth, known[1]).item()
            if places in moved:
                moved[places] += error(found, whole, known[1]).item()
    assert moved[512] < 0.5 * moved[64]
    assert 0 < moved[2048] < 0.5 * moved[512]
    assert all(missed[places] < 1.01 * missed[4000] for places in missed)


def test_the_nearest_have_places_of_their_own_and_ties_share_theirs():
    distance = torch.tensor([5.0, 1, 3, 3, 9, 7, 8, 6, 6, 6, 2], dtype=torch.float64)
    assert _placed(distance, 9).tolist() == [3, 0, 2, 2, 7, 5, 6, 4, 4, 4, 1]  # as many as there are
    assert _placed(distance, 4).tolist() == [2, 0, 2, 2, 3, 3, 3, 2, 2, 2, 1]  # 1 | 2 | 3 3 5 6 6 6 | 7 8 9
    for most in range(2, 9):
        placed = _placed(distance, most)[distance.argsort(stable=True)]
        assert placed.diff().ge(0).all()
        assert len(placed.unique()) == placed[-1] + 1 <= most
        assert placed[: most // 2].tolist() == list(range(most // 2)) or most > 4


def test_without_influence_it_expects_next_to_nothing():
    truth, score, deviation, distance = drawn(slope=0.0, spread=0.0)
    assert error(posterior(score, deviation, distance), truth, deviation) < 0.02


@pytest.mark.parametrize("effect", [0.0, 1.0, 3.0])
def test_the_nearest_unit_is_no_worse_for_being_in_its_own_prior(effect):
    """It is the first of a falling fit: hardly shrunk by what is farther."""
    truth, score, deviation, distance = drawn(units=100, queries=300, slope=effect, spread=effect / 2)
    first = distance.argmin(0, keepdim=True)
    truth, score, deviation, expected = (
        x.gather(0, first) for x in (truth, score, deviation, posterior(score, deviation, distance))
    )
    assert error(expected, truth, deviation) < error(score, truth, deviation) + 0.1


def test_where_pulls_are_far_above_their_noise_it_is_the_score():
    _, score, deviation, distance = drawn(slope=0.0, spread=1000.0)
    near = distance < 1
    assert torch.allclose(posterior(score, deviation, distance)[near], score[near], rtol=1e-3, atol=1)


def test_of_equal_measurements_the_nearer_is_expected_to_be_more():
    _, score, _, distance = drawn()
    same = torch.full_like(score, 0.5)
    score[::10], one = same[::10], torch.ones_like(score)  # a tenth of the units measured the same
    expected, order = posterior(score, one, distance)[::10], distance[::10].argsort(0)
    falling = expected.gather(0, order)
    assert (falling[:10].mean(0) > falling[-10:].mean(0) + 0.4).all()


@pytest.mark.parametrize("change", ["scale", "monotone", "units", "queries"])
def test_it_does_not_depend_on_what_it_should_not(change):
    _, score, deviation, distance = drawn()
    expected = posterior(score, deviation, distance)
    if change == "scale":
        found = posterior(7 * score, 7 * deviation, distance) / 7
    elif change == "monotone":
        found = posterior(score, deviation, 1e-14 * distance.exp())
    else:
        dimension = ["units", "queries"].index(change)
        order = torch.randperm(score.shape[dimension], generator=torch.Generator().manual_seed(1))
        moved = [x.index_select(dimension, order) for x in (score, deviation, distance)]
        found = posterior(*moved).index_select(dimension, order.argsort())
    torch.testing.assert_close(found, expected)


def test_a_query_does_not_depend_on_the_others():
    _, score, deviation, distance = drawn()
    alone = posterior(score[:, :1], deviation[:, :1], distance[:, :1])
    assert torch.equal(posterior(score, deviation, distance)[:, :1], alone)


def test_single_precision_and_distances_a_rounding_apart_are_taken_too():
    _, score, deviation, distance = drawn(units=50)
    distance[-1] = torch.nextafter(distance.max(0).values, torch.tensor(torch.inf, dtype=torch.float64))
    found = posterior(score, deviation, distance)
    assert found.isfinite().all()
    single = posterior(score.float(), deviation.float(), distance.argsort(0).argsort(0).float())
    torch.testing.assert_close(single.double(), found, rtol=1e-3, atol=1e-3)


def test_a_pair_without_a_direction_gets_nothing():
    _, score, deviation, distance = drawn()
    deviation[3, 2] = 0
    expected = posterior(score, deviation, distance)
    assert expected[3, 2] == 0
    assert expected.isfinite().all()
    assert not posterior(torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3, 2)).any()


def test_a_unit_alone_has_no_likes_and_is_shrunk_to_nothing():
    """By James and Stein's 1 - 1 / z^2, and what the error of that leaves above 0."""
    found = posterior(torch.tensor([[2.0]]), torch.ones(1, 1), torch.ones(1, 1))
    assert found.item() == pytest.approx(2 * stats.truncnorm.mean(-1.5, np.inf, loc=0.75, scale=0.5), rel=1e-5)


@pytest.mark.parametrize("name", ["score", "deviation", "distance"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(name, value):
    values = dict(zip(("score", "deviation", "distance"), drawn()[1:], strict=True))
    values[name][0, 0] = value
    with pytest.raises(ValueError, match=f"{name} has NaN or infinity"):
        posterior(**values)
