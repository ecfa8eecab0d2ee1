"""What is asked of an ensemble: a tape for every seed, and for every inversion of a picture."""

from itertools import pairwise

import pytest
import torch
from conftest import bends

from ddattr.attribution.asked import Asked
from ddattr.attribution.replay import inversion_spread
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDIM, DDPM
from ddattr.ensemble.ensemble import Ensemble

SHAPE, STEPS = (1, 8, 8), 6
PICTURES = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def ensemble() -> Ensemble:
    return Ensemble(bends(4))


def tapes(asked: Asked, ensemble, process, numbers=(0, 1, 2, 3, 4), sampler=DDPM):
    return asked.tapes(torch.tensor(numbers), ensemble, process, sampler(STEPS).reverse(process), SHAPE)


def pictures(inversions: int = 1, seed: int = 0) -> Asked:
    return Asked(torch.arange(5), [f"{i}.png" for i in range(5)], PICTURES, inversions, seed)


def test_seeds_have_the_tapes_of_their_generation(ensemble, process):
    asked = Asked(torch.tensor([3, 8]))
    (tape,), reverse = tapes(asked, ensemble, process, [8])
    assert torch.equal(tape, noise_tape([8], STEPS, SHAPE))
    assert reverse == DDPM(STEPS).reverse(process)
    assert asked.replayed
    assert asked.given(torch.tensor([8])) is None


def test_pictures_are_replayed_where_they_are_inverted():
    assert pictures().replayed
    assert not pictures(inversions=0).replayed
    assert torch.equal(pictures(0).given(torch.tensor([2, 4])), PICTURES[[2, 4]])


@pytest.mark.parametrize("inversions", [1, 3])
def test_every_inversion_leads_to_the_picture_on_noise_of_its_own(ensemble, process, inversions):
    found, reverse = tapes(pictures(inversions), ensemble, process)
    assert len(found) == inversions
    for tape in found:
        made = ensemble.replay(ensemble.uniform[None], tape, reverse)[0]
        torch.testing.assert_close(made, PICTURES, rtol=0, atol=1e-4)
    for one, other in pairwise(found):
        assert (one[0] - other[0]).abs().mean() > 0.5


def test_a_picture_s_tape_depends_on_no_other_picture_and_on_the_seed(ensemble, process):
    (together,), _ = tapes(pictures(), ensemble, process)
    (alone,), _ = tapes(pictures(), ensemble, process, [3])
    torch.testing.assert_close(together[:, 3:4], alone)
    (other,), _ = tapes(pictures(seed=1), ensemble, process)
    assert (other[0] - together[0]).abs().mean() > 0.5


def test_a_sampler_without_noise_has_no_tape_for_a_picture(ensemble, process):
    with pytest.raises(ValueError, match=r"adds no noise.*Set sampler=ddpm\."):
        tapes(pictures(), ensemble, process, sampler=DDIM)


def test_the_spread_is_0_of_equal_inversions_and_does_not_depend_on_the_scale():
    pulls = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(inversion_spread(pulls[:1].expand(3, -1, -1)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(inversion_spread(5 * pulls), inversion_spread(pulls))
    assert inversion_spread(pulls[:1]).isnan().all()


def test_the_spread_of_pure_noise_is_1_and_of_a_signal_its_share():
    """Of s + noise of deviation d, with s of size 1: d / sqrt(1 + d^2). 10^5 units: to 0.01."""
    draw = torch.Generator().manual_seed(0)
    signal, noise = torch.randn(100_000, 1, generator=draw), torch.randn(3, 100_000, 1, generator=draw)
    assert float(inversion_spread(noise)) == pytest.approx(1, abs=0.01)
    assert float(inversion_spread(signal + 0.5 * noise)) == pytest.approx(0.5 / 1.25**0.5, abs=0.01)
