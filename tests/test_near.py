"""Near-duplicates: what a person would call the same picture, and what not."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ddattr.data.near import Near, components, near_duplicates, within
from ddattr.data.pictures import Pictures
from ddattr.data.similarity import PIXELS

SIDE = 32


def scene(seed: int) -> Image.Image:
    """A few shapes of random colours on a random ground."""
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", (SIDE, SIDE), tuple(draw.integers(0, 256, 3).tolist()))
    for _ in range(5):
        x, y, size = draw.integers(0, SIDE - 8), draw.integers(0, SIDE - 8), draw.integers(6, 18)
        box = [int(x), int(y), int(x + size), int(y + size)]
        colour = tuple(draw.integers(0, 256, 3).tolist())
        (ImageDraw.Draw(image).ellipse if draw.random() < 0.5 else ImageDraw.Draw(image).rectangle)(box, fill=colour)
    return image


def heart(colour: str) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse([4, 6, 16, 18], fill=colour)
    draw.ellipse([15, 6, 27, 18], fill=colour)
    draw.polygon([(5, 15), (26, 15), (16, 28)], fill=colour)
    return image


def jpeg(image: Image.Image, quality: int = 95) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resized(image: Image.Image) -> Image.Image:
    return image.resize((24, 24), Image.Resampling.BICUBIC).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def stacked(*images: Image.Image) -> Pictures:
    return Pictures(np.stack([np.asarray(image).transpose(2, 0, 1) for image in images]))


CHANGES = {"copy": lambda image: image, "jpeg": jpeg, "resized": resized}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change):
    """Of 20 scenes, each with its copy."""
    scenes = [scene(seed) for seed in range(20)]
    near = near_duplicates(stacked(*scenes, *map(CHANGES[change], scenes)))
    assert near.pairs.tolist() == [[place, place + 20] for place in range(20)]
    assert (near.bits <= 6).all()
    assert change != "copy" or (near.bits == 0).all()


def test_most_copies_of_low_quality_are_found_and_nothing_else():
    """17 of these 20 at JPEG's 75, 13 at 40: flat colours have hashes that a little noise turns."""
    scenes = [scene(seed) for seed in range(20)]
    for quality, found in ((75, 15), (40, 10)):
        near = near_duplicates(stacked(*scenes, *(jpeg(image, quality) for image in scenes)))
        assert (near.pairs[:, 1] == near.pairs[:, 0] + 20).all()
        assert len(near.pairs) >= found


def test_hearts_of_two_colours_are_two_pictures():
    """Their hashes, which see no colour, may well be one."""
    images = stacked(heart("red"), heart("blue"), heart("lime"), jpeg(heart("red")))
    assert near_duplicates(images).pairs.tolist() == [[0, 3]]


def test_bytes_and_floats_have_the_same_near_duplicates():
    images = stacked(*(scene(seed % 7) for seed in range(10)), heart("red"))
    one, other = near_duplicates(images), near_duplicates(images[:])
    assert torch.equal(one.pairs, other.pairs)
    assert torch.equal(one.bits, other.bits)


def test_order_changes_no_pair():
    images = [scene(seed % 6) for seed in range(9)]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    pairs = {tuple(sorted(pair)) for pair in near_duplicates(stacked(*images)).pairs.tolist()}
    shuffled = near_duplicates(stacked(*(images[place] for place in order.tolist()))).pairs
    assert {tuple(sorted(order[pair].tolist())) for pair in shuffled} == pairs
    assert (shuffled[:, 0] < shuffled[:, 1]).all()


@pytest.mark.parametrize("count", [0, 1])
def test_few_pictures_have_none(count):
    images = Pictures(np.zeros((count, 1, 8, 8), np.uint8))
    assert near_duplicates(images).pairs.shape == (0, 2)
    assert len(components(near_duplicates(images), count)) == count


def test_within_a_share_of_the_median_distance_points_are_near():
    """Two heaps far apart, each of a point and one a little beside it."""
    points = torch.tensor([[0.0, 0], [10, 0], [0, 0.3], [10, 1.5]])
    median = torch.pdist(points).median()
    assert within(points).pairs.tolist() == [[0, 2]]
    assert within(points, float(1.5 / median) + 1e-6).pairs.tolist() == [[0, 2], [1, 3]]


def test_features_find_copies_as_hashes_do():
    scenes = [scene(seed) for seed in range(12)]
    points = PIXELS.points(stacked(*scenes, *map(resized, scenes)))
    assert within(points, 0.3).pairs.tolist() == [[place, place + 12] for place in range(12)]


def test_components_join_chains():
    near = Near(torch.tensor([[0, 3], [3, 5], [1, 2]]), torch.zeros(3).long())
    of = components(near, 7)
    expected = torch.tensor([0, 1, 1, 0, 2, 0, 3])
    assert torch.equal(of[:, None] == of, expected[:, None] == expected)
