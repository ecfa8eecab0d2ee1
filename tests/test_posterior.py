"""Expected pull: better than what was measured and than similarity, and nothing but an average of the two."""

import pytest
import torch

from ddattr.attribution.posterior import posterior


def drawn(units=1000, queries=3, slope=3.0, spread=2.0, seed=0):
    """Pulls of known truth: mean slope e^-d, spread the same, measured with deviations of a size per query."""
    g = torch.Generator().manual_seed(seed)
    distance = 3 * torch.rand(units, queries, generator=g, dtype=torch.float64)
    deviation = (0.5 + torch.rand(1, queries, generator=g, dtype=torch.float64)).expand(units, queries)
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


def test_without_influence_it_expects_next_to_nothing():
    truth, score, deviation, distance = drawn(slope=0.0, spread=0.0)
    assert error(posterior(score, deviation, distance), truth, deviation) < 0.02


def test_where_pulls_are_far_above_their_noise_it_is_the_score():
    _, score, deviation, distance = drawn(slope=0.0, spread=1000.0)
    near = distance < 1
    assert torch.allclose(posterior(score, deviation, distance)[near], score[near], rtol=1e-3, atol=1)


def test_it_falls_with_the_distance_where_the_measurements_are_equal():
    _, score, deviation, distance = drawn()
    expected = posterior(score, deviation, distance) / deviation
    shrunk = expected - posterior(score + 1e-3 * deviation, deviation, distance) / deviation
    assert (shrunk < 1e-9).all()  # more measured, more expected
    flat = posterior(torch.ones_like(score), torch.ones_like(score), distance)
    assert (flat.flatten()[distance.flatten().argsort()].diff() < 1e-9).all()


@pytest.mark.parametrize("change", ["scale", "monotone", "units", "queries"])
def test_it_does_not_depend_on_what_it_should_not(change):
    _, score, deviation, distance = drawn()
    expected = posterior(score, deviation, distance)
    if change == "scale":
        found = posterior(7 * score, 7 * deviation, distance) / 7
    elif change == "monotone":
        found = posterior(score, deviation, distance.exp())
    else:
        dimension = ["units", "queries"].index(change)
        order = torch.randperm(score.shape[dimension], generator=torch.Generator().manual_seed(1))
        moved = [x.index_select(dimension, order) for x in (score, deviation, distance)]
        found = posterior(*moved).index_select(dimension, order.argsort())
    torch.testing.assert_close(found, expected)


def test_a_pair_without_a_direction_gets_nothing():
    _, score, deviation, distance = drawn()
    deviation = deviation.clone()
    deviation[3, 2] = 0
    expected = posterior(score, deviation, distance)
    assert expected[3, 2] == 0
    assert expected.isfinite().all()
    assert not posterior(torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3, 2)).any()


def test_a_query_does_not_depend_on_the_others():
    _, score, deviation, distance = drawn()
    alone = posterior(score[:, :1], deviation[:, :1], distance[:, :1])
    assert torch.equal(posterior(score, deviation, distance)[:, :1], alone)
