"""What models say of the queries: one linear step, where the first order is exact and everything can be written out."""

from collections import deque

import pytest
import torch
from conftest import LinearDenoiser
from ddattr.validation.lds import lds
from ddattr.validation.measurement import Measurement

from ddattr.attribution.influence import Response
from ddattr.attribution.jacobian import first_order
from ddattr.attribution.loss import residual_gram
from ddattr.codebook import Codebook, contrast
from ddattr.diffusion.inversion import inverted
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDIM, DDPM, trajectory
from ddattr.ensemble.ensemble import Ensemble

SHAPE, SEEDS = (1, 2, 2), [4, 0, 9]
CODEWORDS = Codebook(40, 8, 3).codewords(torch.arange(40))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def ensemble(make_linear) -> Ensemble:
    return make_linear(8, dtype=torch.float32)


@pytest.fixture
def networks(ensemble) -> list:
    return list(ensemble.members)


@pytest.fixture
def make_measured(make_process, ensemble):
    """Measurement of three generated queries, on a sampler that steps from the last timestep to the picture at once."""

    def make(real: int = 2, steps: int = 1, draws: int = 4) -> Measurement:
        process = make_process(timestep_spacing="trailing")
        reverse = DDPM(steps).reverse(process)
        factual = ensemble.pictures(ensemble.uniform[None], SEEDS, reverse, SHAPE)[0]
        return Measurement(process, reverse, SEEDS, factual, randn(8, *SHAPE)[:real], draws, seed=0)

    return make


@pytest.fixture
def measured(make_measured) -> Measurement:
    return make_measured()


def step_of(measured, network: LinearDenoiser) -> torch.Tensor:
    """The one step, written out: x0 = a z1 + b (A z1 + b') + c z0."""
    start, end = noise_tape(SEEDS, 1, SHAPE).flatten(2)
    (step,) = measured.reverse
    return (step.a * start + step.b * (start @ network.a.T + network.b) + step.c * end).reshape(-1, *SHAPE)


def test_kinds_of_queries_are_where_they_stand_among_all(make_measured):
    measured = make_measured()
    assert measured.names == {"generated": SEEDS, "real": [0, 1]}
    where = measured.kinds()
    assert torch.equal(measured.asked[where["generated"]], measured.factual)
    assert torch.equal(measured.asked[where["real"]], measured.real)
    assert list(make_measured(real=0).kinds()) == ["generated"]


def test_the_pictures_of_a_model_are_the_step_s(measured, networks):
    for network in networks:
        torch.testing.assert_close(measured.pictures([network]), step_of(measured, network))


def test_the_picture_of_several_is_the_mean_of_theirs(measured, networks):
    """One step is linear in the weights."""
    alone = torch.stack([step_of(measured, network) for network in networks])
    torch.testing.assert_close(measured.pictures(networks[:3]), alone[:3].mean(0))
    torch.testing.assert_close(measured.pictures(networks), measured.factual)


def test_distances_are_those_of_each_model_s_own_picture_to_the_factual(measured, networks):
    found = measured.distances(networks)
    for network, row in zip(networks, found, strict=True):
        apart = step_of(measured, network) - measured.factual
        torch.testing.assert_close(row, torch.stack([x.norm() for x in apart]).double(), rtol=1e-5, atol=1e-5)
    whole = Ensemble(networks)
    assert (measured.pictures(list(whole.members)) - measured.factual).abs().max() < 1e-5


def mean_loss(measured, network, times, noise) -> torch.Tensor:
    """A model's loss on all queries, draw by draw."""
    count = len(measured.asked)
    each = [
        measured.process.loss(network, measured.asked, z.expand_as(measured.asked), t.expand(count))
        for t, z in zip(times, noise, strict=True)
    ]
    return torch.stack(each).mean(0).double()


def test_losses_are_each_model_s_own_on_all_queries_at_the_fresh_draws(measured, networks):
    found = measured.losses(networks)
    assert found.shape == (8, 5)
    for network, row in zip(networks, found, strict=True):
        torch.testing.assert_close(row, mean_loss(measured, network, *measured.fresh), rtol=1e-5, atol=1e-6)
        apart = (row - mean_loss(measured, network, measured.times, measured.noise)).abs()
        assert (apart > 1e-3).all()


def test_a_model_s_loss_is_the_diagonal_of_its_ensemble_s_gram_at_the_fresh_draws(measured, ensemble, networks):
    gram = residual_gram(ensemble, measured.process, measured.asked, *measured.fresh)
    torch.testing.assert_close(measured.losses(networks), gram.diagonal(dim1=1, dim2=2).T)


def test_the_gram_that_scores_are_made_of_is_at_the_draws_of_scores(measured, ensemble, networks):
    diagonal = measured.gram(ensemble).diagonal(dim1=1, dim2=2)
    for network, own in zip(networks, diagonal.T, strict=True):
        expected = mean_loss(measured, network, measured.times, measured.noise)
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)


def test_fresh_draws_are_twice_as_many_of_other_noise_and_have_an_address(make_measured):
    measured = make_measured(draws=4)
    times, noise = measured.fresh
    assert len(measured.times) == len(measured.noise) == 4
    assert len(times) == len(noise) == 8
    assert ((2 * measured.times).sum() - times.sum()).abs() <= 4  # over the same stretch, to a half of a timestep each
    assert not torch.isclose(measured.noise.flatten()[:, None], noise.flatten()).any()
    assert torch.equal(make_measured(draws=4, real=0).fresh[1], noise)
    assert torch.equal(make_measured(draws=8).fresh[1][:8], noise)


def test_models_are_compared_on_the_same_noise_whatever_they_are_asked_with(make_measured, networks):
    """A query's loss depends on no other query."""
    few, many = make_measured(real=1), make_measured(real=5)
    torch.testing.assert_close(few.losses(networks), many.losses(networks)[:, :4])


def test_the_jacobian_of_one_step_is_the_members_pictures_less_their_mean(measured, networks):
    alone = torch.stack([step_of(measured, network) for network in networks])
    for members_per_step in (None, 1, 8, 100):  # more than there are: all
        torch.testing.assert_close(measured.jacobian(networks, members_per_step), alone - alone.mean(0))


def test_more_members_a_step_than_there_are_are_all_of_them(make_measured, networks):
    measured = make_measured(steps=4)
    exact = measured.jacobian(networks[:3], None)
    torch.testing.assert_close(measured.jacobian(networks[:3], 100), exact)
    assert not torch.allclose(measured.jacobian(networks[:3], 1), exact)


def test_ablations_of_one_step_are_the_first_order(measured, ensemble, networks):
    """And the mean picture of those that never saw the unit, less the factual."""
    found = measured.ablations(ensemble, CODEWORDS)
    first = Response(measured.jacobian(networks, None)).displacement(CODEWORDS)
    torch.testing.assert_close(found, first, rtol=1e-4, atol=1e-5)
    alone = torch.stack([step_of(measured, network) for network in networks])
    expected = torch.stack([alone[~word].mean(0) - measured.factual for word in CODEWORDS])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_of_one_step_the_sets_scores_add_up_to_their_exact_displacement(measured, ensemble, networks):
    """So that their self LDS is 1."""
    response = measured.jacobian(networks, None)
    removed, _, exact, first = measured.reweighted(ensemble, response, CODEWORDS, randn(40, *SHAPE, seed=1), 30)
    torch.testing.assert_close(removed.float() @ first, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lds(first, exact, removed), torch.ones(3, dtype=torch.float64), rtol=0, atol=0.02)


@pytest.mark.parametrize(("units", "size"), [(2, 2), (3, 3), (8, 3), (40, 3), (56, 3)])
def test_sets_are_of_three_units_whose_contrasts_are_summed_however_many_units_there_are(
    measured, ensemble, networks, units, size
):
    codewords = Codebook(units, 8, 3).codewords(torch.arange(units))
    response = measured.jacobian(networks, None)
    removed, weights, _, _ = measured.reweighted(ensemble, response, codewords, randn(units, *SHAPE, seed=1), 20)
    assert removed.shape == (20, units)
    assert (removed.sum(1) == size).all()
    assert len({tuple(mask.tolist()) for mask in removed}) > (5 if units > 3 else 0)
    for mask, row in zip(removed, weights, strict=True):
        torch.testing.assert_close(row, 1 / 8 + sum(contrast(codewords[i]) for i in mask.nonzero()[:, 0]))
    torch.testing.assert_close(weights.sum(1), torch.ones(20))


def test_weights_move_by_the_length_of_three_contrasts(measured, ensemble, networks):
    """Contrasts are orthogonal on average: three are as long as root 3 times one."""
    codewords = Codebook(56, 8, 3).codewords(torch.arange(56))
    _, weights, _, _ = measured.reweighted(
        ensemble, measured.jacobian(networks, None), codewords, randn(56, *SHAPE, seed=1), 200
    )
    moved = (weights - 1 / 8).square().sum(1).mean()
    one = contrast(codewords).square().sum(1).mean()
    assert moved / one == pytest.approx(3, rel=0.25)


def test_the_direction_is_that_to_the_nearest_unit(measured, ensemble, networks):
    """Removing three units of eight, along the direction from each picture to the image next to it."""
    images = randn(8, *SHAPE, seed=1)
    codewords = Codebook(8, 8, 3).codewords(torch.arange(8))
    removed, _, exact, first = measured.reweighted(ensemble, measured.jacobian(networks, None), codewords, images, 20)
    moved = measured.ablations(ensemble, codewords)  # of one step they add up
    for q, picture in enumerate(measured.factual):
        near = min(images, key=lambda image: (image - picture).norm())
        along = (moved[:, q] * (near - picture)).flatten(1).sum(1) / (near - picture).norm()
        torch.testing.assert_close(first[:, q], -along, rtol=1e-4, atol=1e-5)
        for mask, row in zip(removed, exact, strict=True):
            torch.testing.assert_close(row[q], -along[mask].sum(), rtol=1e-4, atol=1e-5)


def test_sets_have_an_address_and_the_response_does_not_move_the_exact_ones(measured, ensemble, networks):
    response, images = measured.jacobian(networks, None), randn(40, *SHAPE, seed=1)
    one = measured.reweighted(ensemble, response, CODEWORDS, images, 10)
    other = measured.reweighted(ensemble, 2 * response, CODEWORDS, images, 20)
    assert torch.equal(other[0][:10], one[0])
    torch.testing.assert_close(other[2][:10], one[2])
    torch.testing.assert_close(other[3], 2 * one[3])


def test_of_one_step_a_set_s_pull_is_that_of_its_exact_displacement(measured, ensemble, networks):
    response, images = measured.jacobian(networks, None), randn(40, *SHAPE, seed=1)
    removed = torch.arange(40) % 9 == 0
    weights = ensemble.uniform + contrast(CODEWORDS[removed]).sum(0)
    for q in range(3):
        moved = ensemble.pictures(weights[None], SEEDS, measured.reverse, SHAPE)[0, q] - measured.factual[q]
        first, exact = measured.set_pull(removed, moved, q, response, CODEWORDS, images)
        assert first == pytest.approx(exact, rel=1e-4, abs=1e-5)
        toward = images[removed].mean(0) - measured.factual[q]
        assert exact == pytest.approx(-float((moved * toward).sum() / toward.norm()), rel=1e-4, abs=1e-5)


def test_a_set_of_one_unit_has_that_unit_s_pull(measured, networks):
    """Positive when removal moves the picture away from it."""
    response, images = measured.jacobian(networks, None), randn(40, *SHAPE, seed=1)
    removed = torch.arange(40) == 7
    moved = first_order(response, contrast(CODEWORDS[removed]))[0]
    away = measured.factual[0] - images[7]
    first, exact = measured.set_pull(removed, moved[0], 0, response, CODEWORDS, images)
    assert first == pytest.approx(exact, rel=1e-4)
    assert measured.set_pull(removed, away, 0, response, CODEWORDS, images)[1] == pytest.approx(
        float(away.norm()), rel=1e-5
    )


def test_over_many_steps_the_first_order_predicts_the_sign_and_not_the_size(make_measured, ensemble, networks):
    """So that the exactness above is the sampler's, not the test's."""
    measured = make_measured(steps=20)
    assert measured.reverse != DDIM(1).reverse(measured.process)
    first = Response(measured.jacobian(networks, None)).displacement(CODEWORDS)
    exact = measured.ablations(ensemble, CODEWORDS)
    assert torch.nn.functional.cosine_similarity(first.flatten(2), exact.flatten(2), dim=2).median() > 0.8
    assert not torch.allclose(first, exact, rtol=0.01, atol=1e-3)


def test_pictures_without_a_tape_are_made_again_on_one_of_their_own(make_measured, ensemble):
    """What is made is near the picture, and moves with the weights as the Jacobian says: finite differences."""
    measured = make_measured(real=3, steps=6)
    made, response = measured.replayed(ensemble, measured.real, None)
    assert made.shape == measured.real.shape
    assert response.shape == (8, *measured.real.shape)
    torch.testing.assert_close(response.sum(0), torch.zeros_like(made), atol=1e-4, rtol=0)
    tape = inverted(
        lambda x, t: ensemble.outputs(x, t).mean(0),
        measured.process,
        measured.reverse,
        measured.real,
        noise_tape(range(3), 6, SHAPE),
    )
    step, w = 1e-2, contrast(CODEWORDS[:2])
    ends = [
        deque(trajectory(ensemble.weighted(ensemble.uniform + sign * step * w), measured.reverse, tape), 1)[0]
        for sign in (1, -1)
    ]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), first_order(response, w), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(measured.replayed(ensemble, measured.real[:1], 20)[0], made[:1])  # more than there are


def test_a_sampler_without_noise_changes_nothing_for_pictures_without_a_tape(make_measured, ensemble):
    """They are replayed by ancestral sampling of as many steps."""
    measured = make_measured(real=3, steps=6)
    made, _ = measured.replayed(ensemble, measured.real, 2)
    measured.reverse = DDIM(6).reverse(measured.process)
    torch.testing.assert_close(measured.replayed(ensemble, measured.real, 2)[0], made)
