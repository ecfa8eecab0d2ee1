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


def test_the_nearest_are_found_and_are_not_the_picture_itself():
    found, place = nearest(HALF[:50], HALF, 4, but=torch.arange(50))
    distance = torch.cdist(HALF[:50].flatten(1), HALF.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    distance[torch.arange(50), torch.arange(50)] = torch.inf
    assert torch.equal(found, distance.topk(4, 1, largest=False).values)
    assert torch.equal(found, distance.gather(1, place))
    assert (nearest(HALF[:50], HALF)[0] == 0).all()
    assert nearest(HALF[:1], HALF[:1], but=torch.tensor([0]))[0].tolist() == [[torch.inf]]


def test_blocks_of_the_data_have_the_nearest_of_all(monkeypatch):
    """A copy at the very end of the data among them, at 0 however long pictures are."""
    monkeypatch.setattr("ddattr.data.pictures._BLOCK", 64 * 7)
    data = torch.cat([HALF[:100] + 100, HALF[3:4] + 100.01])
    found, place = nearest(data[[3, 100]], data, 2)
    assert place.tolist() == [[3, 100], [100, 3]]
    assert found[:, 0].tolist() == [0, 0]
    whole = torch.cdist(data[[3, 100]].flatten(1), data.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(found, whole.topk(2, 1, largest=False).values)


@pytest.mark.parametrize("held_out", [OTHER[:400], OTHER[:0]])
def test_one_real_picture_in_a_hundred_is_unusual_and_noise_is(held_out):
    """Digits that neither are the data nor held out; false alarm 1e-6: the 99th percentile itself is of 400 pictures,
    or of the data's own neighbours, and off by no more than a factor of 4."""

    def flagged(pictures: torch.Tensor) -> torch.Tensor:
        return unusual(nearest(pictures, HALF)[0][:, 0], HALF, held_out)

    fresh = OTHER[400:]
    assert flagged(fresh).sum() <= binom.isf(1e-6, len(fresh), 0.04)
    assert flagged(noise(50).clamp(-1, 1)).all()
    assert not flagged(HALF[:50]).any()


def test_fewer_real_pictures_of_more_data_are_asked(monkeypatch):
    """At most so many pairs, as long as 200 pictures are left, which say the same but for a quantile's noise."""
    asked = []
    whole = nearest(OTHER, HALF)[0][:, 0]
    monkeypatch.setattr("ddattr.ensemble.likeness._PAIRS", 300 * len(HALF))
    monkeypatch.setattr(
        "ddattr.ensemble.likeness.nearest", lambda some, *a, **k: asked.append(len(some)) or nearest(some, *a, **k)
    )
    found = unusual(whole, HALF, OTHER[:0])
    assert asked == [300]
    assert found.sum() <= binom.isf(1e-6, len(OTHER), 0.04)
    monkeypatch.setattr("ddattr.ensemble.likeness._PAIRS", 1)
    unusual(whole, HALF, OTHER[:0])
    assert asked == [300, 200]
