"""What members denoise a picture to: closed forms, and that it is exact in the weights."""

import pytest
import torch

from ddattr.attribution import denoising
from ddattr.attribution.denoising import denoised, distinctive
from ddattr.attribution.influence import Response, displacement_scores, projections, pull, similarity
from ddattr.attribution.loss import loss_draws
from ddattr.codebook import Codebook, ablation
from ddattr.diffusion.noise import noise_tape
from ddattr.ensemble.ensemble import Ensemble

SMALL, LARGE = (1, 2, 2), (1, 8, 8)
CODE = Codebook(6, 4, 2)


@pytest.fixture
def pictures():
    return noise_tape([3, 5, 8], 0, LARGE)[0]


def test_linear_denoisers_have_a_closed_form(make_linear, process):
    """f_k(x_t) = A_k (sqrt(abar) x + sqrt(1 - abar) z) + b_k, averaged over the draws by hand."""
    ensemble, x = make_linear(4), noise_tape([0, 3], 0, SMALL)[0].double()
    times, noise = loss_draws(5, process, SMALL, 0)
    found = denoised(ensemble, process, x, times, noise)
    bar = process.alphas_cumprod[times][:, None, None]
    noisy = bar.sqrt() * x.flatten(1) + (1 - bar).sqrt() * noise.flatten(1)[:, None]  # (draws, q, pixels)
    estimates = torch.stack([noisy.mean(0) @ member.a.T + member.b for member in ensemble.members])
    torch.testing.assert_close(found.flatten(2), estimates.mean(0) - estimates)


def test_an_ablation_is_exact_in_it(make_unets, process, pictures):
    """No first order: the ensemble without a unit denoises to exactly this much else."""
    ensemble, codewords = Ensemble(make_unets(4)).double(), CODE.codewords(torch.arange(6))
    x, (times, noise) = pictures.double(), loss_draws(3, process, LARGE, 1)

    def estimate(weights):
        total = 0
        for t, z in zip(times, noise, strict=True):
            noisy = process.scheduler.add_noise(x, z.double().expand_as(x), t.expand(len(x)))
            total = total + ensemble.weighted(weights)(noisy, int(t)) / len(times)
        return total

    moved = Response(denoised(ensemble, process, x, times, noise)).displacement(codewords)
    expected = estimate(ensemble.uniform[None].double()) - estimate(ablation(codewords).double())
    torch.testing.assert_close(moved, expected)


@pytest.fixture
def asked():
    """What five members say of three queries, and six units' images, at distances 1 to 18 from them."""
    response, units = noise_tape(range(15), 0, LARGE)[0].reshape(5, 3, *LARGE), noise_tape(range(6), 0, LARGE)[0]
    return response, units, torch.arange(18, 0, -1.0).reshape(6, 3)


def test_along_the_units_own_a_member_is_asked_about_its_image_less_those_of_units_like_the_query(asked):
    """The definition, in double precision, for any response: half as far as units count in a set."""
    response, units, distance = asked
    near = similarity(distance)[..., None, None, None] ** 4
    own = units[:, None].double() - (near * units[:, None]).sum(0) / near.sum(0)
    length = own.flatten(2).norm(dim=2)
    found = distinctive(response, units, distance)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.einsum("nqchw,uqchw->nuq", response.double(), own) / length)


def test_that_a_unit_is_itself_among_those_like_the_query_changes_nothing(asked):
    """Its own image drops out of its direction, but for the length: the mean of the others gives the same."""
    response, units, distance = asked
    found, near = distinctive(response, units, distance), similarity(distance)[..., None, None, None] ** 4
    for unit in range(6):
        others = torch.arange(6) != unit
        own = units[unit].double() - (near * units[:, None])[others].sum(0) / near[others].sum(0)
        own = torch.nn.functional.normalize(own.flatten(1), dim=1)
        torch.testing.assert_close(found[:, unit], torch.einsum("nqp,qp->nq", response.flatten(2).double(), own))


def test_what_all_units_have_in_common_is_nobody_s_own(asked):
    """Neither are scales of images and distances; a unit that is the mean, or the only one, says nothing."""
    response, units, distance = asked
    found = distinctive(response, units, distance)
    torch.testing.assert_close(distinctive(response, units + 3 * units[0], distance), found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(distinctive(response, 1e-3 * units, 7 * distance), found, rtol=1e-4, atol=1e-5)
    assert (distinctive(response, units[:1], distance[:1]) == 0).all()
    assert (distinctive(response, units[:1].expand(6, -1, -1, -1), distance) == 0).all()
    equal = torch.ones(7, 3)
    middle = torch.cat([units, units.mean(0, keepdim=True)])  # of a seventh unit only rounding is left
    assert (distinctive(response, middle, equal)[:, 6] == 0).all()
    torch.testing.assert_close(
        distinctive(response, middle, equal)[:, :6], distinctive(response, units, equal[:6]), rtol=1e-4, atol=1e-5
    )


def test_its_pull_is_that_of_any_displacement(make_unets, process, pictures):
    response = denoised(Ensemble(make_unets(4)), process, pictures, *loss_draws(3, process, LARGE, 1))
    codewords, units = CODE.codewords(torch.arange(6)), noise_tape(range(20, 26), 0, LARGE)[0]
    expected = displacement_scores(Response(response).displacement(codewords), pictures, units)["pull"]
    torch.testing.assert_close(pull(projections(response, pictures, units), codewords), expected, rtol=1e-4, atol=1e-6)


def test_it_sums_to_0_over_members_and_identical_ones_say_nothing(make_unets, process, pictures):
    draws = loss_draws(3, process, LARGE, 1)
    found = denoised(Ensemble(make_unets(3)), process, pictures, *draws)
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found.sum(0), torch.zeros_like(found[0]), rtol=0, atol=1e-6)
    same = denoised(Ensemble(make_unets(1) * 3), process, pictures, *draws)
    torch.testing.assert_close(same, torch.zeros_like(same), rtol=0, atol=1e-7)


def test_a_picture_depends_neither_on_its_neighbours_nor_on_the_batch(make_unets, process, pictures):
    draws = loss_draws(3, process, LARGE, 1)
    together = denoised(Ensemble(make_unets(3)), process, pictures, *draws)
    alone = [denoised(Ensemble(make_unets(3), batch=1), process, one[None], *draws) for one in pictures]
    torch.testing.assert_close(torch.cat(alone, 1), together, rtol=0, atol=1e-6)


def test_of_many_units_it_is_the_same_in_single_precision(monkeypatch):
    """Within 1e-5 of the deviation of a unit's answers over members, pictures of 3 x 32 x 32; 0 where it was 0."""
    members, units = torch.randn(64, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 300
    response = members - members.mean(0)
    images = torch.rand(units, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    distance = torch.rand(units, 4, generator=torch.Generator().manual_seed(2)) + 1
    double = distinctive(response, images, distance)
    alone = distinctive(response, images[:1], distance[:1])
    monkeypatch.setattr(denoising, "_DOUBLE", 0)
    single = distinctive(response, images, distance)
    assert single.dtype is torch.float32
    moved = (single.double() - double).abs() / double.std(0)
    assert 0 < moved.max() < 1e-5
    assert (alone == 0).all()
    assert (distinctive(response, images[:1], distance[:1]) == 0).all()


def test_of_many_units_it_is_the_same_where_all_are_nearly_alike(monkeypatch):
    """Units that differ by a hundredth of their length: digits would cancel."""
    draw = torch.Generator().manual_seed(0)
    response = torch.randn(64, 2, 3, 32, 32, generator=draw)
    response -= response.mean(0)
    images = torch.rand(1, 3, 32, 32, generator=draw) + 0.006 * torch.randn(300, 3, 32, 32, generator=draw)
    distance = torch.rand(300, 2, generator=draw) + 1
    double = distinctive(response, images, distance)
    monkeypatch.setattr(denoising, "_DOUBLE", 0)
    single = distinctive(response, images, distance).double()
    assert 0 < ((single - double).abs() / double.std(0)).max() < 1e-5
