"""What models say of the queries: one linear step, where the first order is exact and everything can be written out."""

from collections import deque

import pytest
import torch
from additive import SEEDS, SHAPE, asked
from conftest import LinearDenoiser

from ddattr.attribution.jacobian import first_order
from ddattr.attribution.loss import residual_gram
from ddattr.codebook import Codebook, contrast
from ddattr.diffusion.inversion import inverted
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDIM, trajectory
from ddattr.ensemble.ensemble import Ensemble
from ddattr.validation.queries import Queries

CODEWORDS = Codebook(40, 8, 3).codewords(torch.arange(40))


@pytest.fixture
def ensemble(make_linear) -> Ensemble:
    return make_linear(8, dtype=torch.float32)


@pytest.fixture
def networks(ensemble) -> list:
    return list(ensemble.members)


@pytest.fixture
def make_queries(make_process, ensemble):
    def make(**sizes) -> Queries:
        return asked(make_process(timestep_spacing="trailing"), ensemble, **sizes)

    return make


@pytest.fixture
def queries(make_queries) -> Queries:
    return make_queries()


def step_of(queries, network: LinearDenoiser) -> torch.Tensor:
    """The one step, written out: x0 = a z1 + b (A z1 + b') + c z0."""
    start, end = noise_tape(SEEDS, 1, SHAPE).flatten(2)
    (step,) = queries.reverse
    return (step.a * start + step.b * (start @ network.a.T + network.b) + step.c * end).reshape(-1, *SHAPE)


def test_kinds_of_queries_are_where_they_stand_among_all(make_queries):
    queries = make_queries()
    assert queries.names == {"generated": SEEDS, "real": [0, 1]}
    where = queries.kinds()
    assert torch.equal(queries.pictures[where["generated"]], queries.factual)
    assert torch.equal(queries.pictures[where["real"]], queries.real)
    assert list(make_queries(real=0).kinds()) == ["generated"]


def test_the_pictures_of_a_model_are_the_step_s(queries, networks):
    for network in networks:
        torch.testing.assert_close(queries.drawn_by([network]), step_of(queries, network))


def test_the_picture_of_several_is_the_mean_of_theirs(queries, networks):
    """One step is linear in the weights."""
    alone = torch.stack([step_of(queries, network) for network in networks])
    torch.testing.assert_close(queries.drawn_by(networks[:3]), alone[:3].mean(0))
    torch.testing.assert_close(queries.drawn_by(networks), queries.factual)


def test_distances_are_those_of_each_model_s_own_picture_to_the_factual(queries, networks):
    found = queries.distances(networks)
    for network, row in zip(networks, found, strict=True):
        apart = step_of(queries, network) - queries.factual
        torch.testing.assert_close(row, torch.stack([x.norm() for x in apart]).double(), rtol=1e-5, atol=1e-5)
    whole = Ensemble(networks)
    assert (queries.drawn_by(list(whole.members)) - queries.factual).abs().max() < 1e-5


def mean_loss(queries, network, times, noise) -> torch.Tensor:
    """A model's loss on all queries, draw by draw."""
    count = len(queries.pictures)
    each = [
        queries.process.loss(network, queries.pictures, z.expand_as(queries.pictures), t.expand(count))
        for t, z in zip(times, noise, strict=True)
    ]
    return torch.stack(each).mean(0).double()


def test_losses_are_each_model_s_own_on_all_queries_at_the_fresh_draws(queries, networks):
    found = queries.losses(networks)
    assert found.shape == (8, 5)
    for network, row in zip(networks, found, strict=True):
        torch.testing.assert_close(row, mean_loss(queries, network, *queries.fresh), rtol=1e-5, atol=1e-6)
        apart = (row - mean_loss(queries, network, queries.times, queries.noise)).abs()
        assert (apart > 1e-3).all()


def test_a_model_s_loss_is_the_diagonal_of_its_ensemble_s_gram_at_the_fresh_draws(queries, ensemble, networks):
    gram = residual_gram(ensemble, queries.process, queries.pictures, *queries.fresh)
    torch.testing.assert_close(queries.losses(networks), gram.diagonal(dim1=1, dim2=2).T)


def test_the_gram_that_scores_are_made_of_is_at_the_draws_of_scores(queries, ensemble, networks):
    diagonal = queries.gram(ensemble).diagonal(dim1=1, dim2=2)
    for network, own in zip(networks, diagonal.T, strict=True):
        expected = mean_loss(queries, network, queries.times, queries.noise)
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)


def test_fresh_draws_are_twice_as_many_of_other_noise_and_have_an_address(make_queries):
    queries = make_queries(draws=4)
    times, noise = queries.fresh
    assert len(queries.times) == len(queries.noise) == 4
    assert len(times) == len(noise) == 8
    assert ((2 * queries.times).sum() - times.sum()).abs() <= 4  # over the same stretch, to a half of a timestep each
    assert not torch.isclose(queries.noise.flatten()[:, None], noise.flatten()).any()
    assert torch.equal(make_queries(draws=4, real=0).fresh[1], noise)
    assert torch.equal(make_queries(draws=8).fresh[1][:8], noise)


def test_models_are_compared_on_the_same_noise_whatever_they_are_asked_with(make_queries, networks):
    """A query's loss depends on no other query."""
    few, many = make_queries(real=1), make_queries(real=5)
    torch.testing.assert_close(few.losses(networks), many.losses(networks)[:, :4])


def test_the_jacobian_of_one_step_is_the_members_pictures_less_their_mean(queries, networks):
    alone = torch.stack([step_of(queries, network) for network in networks])
    for members_per_step in (None, 1, 8, 100):  # more than there are: all
        torch.testing.assert_close(queries.jacobian(networks, members_per_step), alone - alone.mean(0))


def test_more_members_a_step_than_there_are_are_all_of_them(make_queries, networks):
    queries = make_queries(steps=4)
    exact = queries.jacobian(networks[:3], None)
    torch.testing.assert_close(queries.jacobian(networks[:3], 100), exact)
    assert not torch.allclose(queries.jacobian(networks[:3], 1), exact)


def test_pictures_without_a_tape_are_made_again_on_one_of_their_own(make_queries, ensemble):
    """What is made is near the picture, and moves with the weights as the Jacobian says: finite differences."""
    queries = make_queries(real=3, steps=6)
    made, response = queries.replayed(ensemble, queries.real, None)
    assert made.shape == queries.real.shape
    assert response.shape == (8, *queries.real.shape)
    torch.testing.assert_close(response.sum(0), torch.zeros_like(made), atol=1e-4, rtol=0)
    tape = inverted(
        lambda x, t: ensemble.outputs(x, t).mean(0),
        queries.process,
        queries.reverse,
        queries.real,
        noise_tape(range(3), 6, SHAPE),
    )
    step, w = 1e-2, contrast(CODEWORDS[:2])
    ends = [
        deque(trajectory(ensemble.weighted(ensemble.uniform + sign * step * w), queries.reverse, tape), 1)[0]
        for sign in (1, -1)
    ]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), first_order(response, w), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(queries.replayed(ensemble, queries.real[:1], 20)[0], made[:1])  # more than there are


def test_a_sampler_without_noise_changes_nothing_for_pictures_without_a_tape(make_queries, ensemble):
    """They are replayed by ancestral sampling of as many steps."""
    queries = make_queries(real=3, steps=6)
    made, _ = queries.replayed(ensemble, queries.real, 2)
    queries.reverse = DDIM(6).reverse(queries.process)
    torch.testing.assert_close(queries.replayed(ensemble, queries.real, 2)[0], made)
