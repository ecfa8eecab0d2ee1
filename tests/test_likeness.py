"""Are samples like the data: 0 for the data, 1 for noise; and the rate at which real pictures are flagged."""

import pytest
import torch
from scipy.stats import binom

from ddattr.data.sources.digits import digits
from ddattr.ensemble.likeness import nearest, unlikeness, unusual

DIGITS = digits().images
HALF, OTHER = DIGITS[::2], DIGITS[1::2]


def noise(count: int, seed: int = 0, shape: tuple[int, ...] = (1, 8, 8)) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [32, 128])
def test_pictures_of_the_data_are_at_0_and_noise_is_at_1(count):
    """In four draws each: the noise of Frechet distances of 32 pictures is a few hundredths."""
    for seed in range(4):
        assert abs(unlikeness(OTHER[seed::5][:count], HALF, seed)) < 0.1
        assert abs(unlikeness(noise(count, seed).clamp(-1, 1), HALF, seed) - 1) < 0.1


def test_the_more_noise_the_farther():
    mixed = [unlikeness((OTHER[:128] + s * noise(128)).clamp(-1, 1), HALF, 0) for s in (0, 0.5, 1, 2, 4)]
    assert mixed == sorted(mixed)
    assert mixed[1] < 0.2
    assert mixed[3] > 0.5


def test_right_cells_with_noise_between_neighbours_are_not_alike():
    """Pictures of 32 x 32 whose means over cells are the data's: only their contrast tells."""
    large = torch.nn.functional.interpolate(DIGITS, scale_factor=4)
    checks = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    assert unlikeness(large[1::2][:64], large[::2], 0) < 0.1
    assert unlikeness((large[1::2][:64] * 0.2 + 0.8 * checks), large[::2], 0) > 0.5


def test_one_picture_over_and_over_is_not_like_the_data():
    assert unlikeness(OTHER[:1].expand(128, -1, -1, -1), HALF, 0) > 0.2


def test_equal_numbers_are_compared_and_the_same_seed_says_the_same():
    assert unlikeness(OTHER[:64], HALF, 3) == unlikeness(OTHER[:64], HALF, 3)
    few = HALF[:40]
    assert unlikeness(OTHER, few, 0) == unlikeness(OTHER[:20], few, 0)


def test_the_nearest_is_found_and_is_not_the_picture_itself():
    found = nearest(HALF[:50], HALF, torch.arange(50))
    distance = torch.cdist(HALF[:50].flatten(1), HALF.flatten(1)) + torch.eye(50, len(HALF)) * 1e9
    torch.testing.assert_close(found, distance.amin(1), rtol=1e-5, atol=1e-4)
    assert (nearest(HALF[:50], HALF) == 0).all()


@pytest.mark.parametrize("held_out", [OTHER[:400], OTHER[:0]])
def test_one_real_picture_in_a_hundred_is_unusual_and_noise_is(held_out):
    """Digits that neither are the data nor held out; false alarm 1e-6: the 99th percentile itself is of 400 pictures,
    or of the data's own neighbours, and off by no more than a factor of 4."""
    fresh = OTHER[400:]
    distance, flagged = unusual(fresh, HALF, held_out)
    torch.testing.assert_close(distance, nearest(fresh, HALF))
    assert flagged.sum() <= binom.isf(1e-6, len(fresh), 0.04)
    assert unusual(noise(50).clamp(-1, 1), HALF, held_out)[1].all()
    assert not unusual(HALF[:50], HALF, held_out)[1].any()
