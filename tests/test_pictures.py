"""Pictures kept as bytes index as the scaled tensor does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddattr.data import pictures as module
from ddattr.data.pictures import Pictures, at, blocks, content_of, digests_of, scaled

BYTES = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 6), np.uint8)
FLOATS = torch.from_numpy(BYTES).float() / 127.5 - 1
INDICES = [
    7,
    slice(None),
    slice(3, 15, 4),
    torch.tensor(5),
    torch.tensor([4, 4, 0, 19]),
    torch.tensor([[1, 2], [3, 4]]),
    torch.arange(20) % 3 == 0,
    torch.zeros(20, dtype=torch.bool),
    torch.tensor([], dtype=torch.long),
]


@pytest.fixture(params=["memory", "file", "view"])
def pictures(request, tmp_path) -> Pictures:
    if request.param == "memory":
        return Pictures(BYTES)
    if request.param == "view":  # channels last
        return Pictures(np.ascontiguousarray(BYTES.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    BYTES.tofile(tmp_path / "pixels")
    return Pictures(np.memmap(tmp_path / "pixels", np.uint8, "r", shape=BYTES.shape))


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_bytes_index_as_the_scaled_tensor_does(pictures, index):
    assert torch.equal(pictures[index], FLOATS[index])
    assert (pictures.shape, len(pictures)) == (tuple(FLOATS.shape), 20)
    assert all(torch.equal(one, other) for one, other in zip(pictures, FLOATS, strict=True))


@pytest.mark.parametrize("index", [slice(3, 15, 4), torch.tensor([4, 4, 0, 19]), torch.arange(20) % 3 == 0], ids=str)
def test_a_part_of_a_part_is_what_it_is_of_a_tensor(pictures, index):
    part = at(at(pictures, torch.arange(20).flip(0)), index)
    assert torch.equal(part[:], FLOATS.flip(0)[index])
    assert torch.equal(part[1:], FLOATS.flip(0)[index][1:])
    assert np.array_equal(part.digests, digests_of(BYTES)[::-1][np.arange(20)[index]])
    assert torch.equal(at(FLOATS, index), FLOATS[index])


def test_a_byte_is_scaled_from_minus_1_to_1():
    every = scaled(torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)).flatten()
    assert every[[0, 255]].tolist() == [-1, 1]
    assert torch.equal(((every + 1) * 127.5).round().byte(), torch.arange(256, dtype=torch.uint8))


@given(st.integers(1, 300))
def test_blocks_are_all_pictures_in_order(size):
    before, module._BLOCK = module._BLOCK, size
    try:
        for images in (Pictures(BYTES), FLOATS):
            parts = list(blocks(images))
            assert torch.equal(torch.cat(parts), FLOATS)
            assert all(part.numel() <= max(size, 72) for part in parts)
    finally:
        module._BLOCK = before


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_digests_are_equal_exactly_when_contents_are(names):
    held = BYTES[names]
    digests = Pictures(held).digests
    same = (digests[:, None] == digests).all(2)
    assert np.array_equal(same, (held[:, None] == held).reshape(len(held), len(held), -1).all(2))


@pytest.mark.parametrize("place", [0, 333, BYTES.size - 1])
def test_what_a_fingerprint_is_made_of_changes_with_a_byte_and_with_the_order(place):
    other = BYTES.copy()
    other.flat[place] ^= 1
    assert content_of(Pictures(other)) != content_of(Pictures(BYTES))
    assert content_of(at(Pictures(BYTES), torch.arange(20).flip(0))) != content_of(Pictures(BYTES))
    assert content_of(at(Pictures(BYTES), slice(None))) == content_of(Pictures(BYTES))


def test_nothing_is_read_until_it_is_indexed():
    class Untouched(np.ndarray):
        def __getitem__(self, index):
            raise AssertionError("read")

    held = Pictures(BYTES.view(Untouched), digests_of(BYTES))
    part = at(held.to("cpu"), torch.arange(5))
    assert (len(part), part.shape[1:]) == (5, (3, 4, 6))
    with pytest.raises(AssertionError, match="read"):
        _ = part[0]


def resident() -> int:
    """Megabytes of mapped files that count as this process's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what is resident")
def test_pages_of_a_mapped_file_are_given_back(tmp_path):
    """Of 64 MB that are read no more than a block stays; what is read again is the same."""
    np.random.default_rng(0).integers(0, 256, 1 << 26, np.uint8).tofile(tmp_path / "pixels")
    stored = np.memmap(tmp_path / "pixels", np.uint8, "r", shape=(1 << 14, 1, 64, 64))
    pictures = Pictures(stored, np.zeros((1 << 14, 16), np.uint8))
    before = resident()
    first = [block.double().sum() for block in blocks(pictures)]
    assert resident() - before < 32
    assert [block.double().sum() for block in blocks(pictures)] == first
