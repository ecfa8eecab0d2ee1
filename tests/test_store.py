"""Decoded pictures on disk: one store a signature, made once, whole or absent."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ddattr.data.pictures import digests_of
from ddattr.data.store import cache_folder, digested, stored

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), np.uint8)


def write(to) -> dict:
    for picture in PICTURES:
        to.add(picture)
    return {"said": "so"}


def entries(path) -> list:
    return [entry.name for entry in (path / "pictures").iterdir()]


def test_pictures_come_back_with_their_notes_and_are_made_once(tmp_path):
    calls = []
    for _ in range(3):
        kept, notes = stored(tmp_path, ["x", 1], lambda to: calls.append(1) or write(to))
        assert torch.equal(kept[:], torch.from_numpy(PICTURES).float() / 127.5 - 1)
        assert np.array_equal(kept.digests, digests_of(PICTURES))
        assert notes == {"said": "so"}
    assert calls == [1]


def test_another_signature_is_another_store(tmp_path):
    for signature in (["x"], ["y"], ["x", None], [["x"]]):
        stored(tmp_path, signature, write)
    assert len(entries(tmp_path)) == 4


def test_of_two_processes_at_once_one_store_is_left(tmp_path):
    """The second begins and ends while the first is at work."""

    def slow(to) -> dict:
        stored(tmp_path, ["x"], write)
        return write(to)

    kept = stored(tmp_path, ["x"], slow).pictures
    assert torch.equal(kept[:], torch.from_numpy(PICTURES).float() / 127.5 - 1)
    assert len(entries(tmp_path)) == 1
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: stored(tmp_path, ["y"], write), range(8)))
    assert all(np.array_equal(kept.digests, digests_of(PICTURES)) for kept, _ in found)
    assert len(entries(tmp_path)) == 2


def test_what_fails_halfway_leaves_nothing(tmp_path):
    def fail(to) -> dict:
        to.add(PICTURES[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, ["x"], fail)
    assert entries(tmp_path) == []
    assert len(stored(tmp_path, ["x"], write).pictures) == 5


def test_no_pictures_are_a_store_as_well(tmp_path):
    for _ in range(2):
        assert len(stored(tmp_path, ["x"], lambda to: {}).pictures) == 0


def test_pictures_that_stay_where_they_are_are_read_once(tmp_path):
    """Whatever the blocks are; afterwards only their digests are."""
    for size in (1, 2, 5):
        blocks = (PICTURES[start : start + size] for start in range(0, 5, size))
        kept = digested(tmp_path, ["x", size], PICTURES, blocks)
        assert np.array_equal(kept.digests, digests_of(PICTURES))
    assert np.array_equal(digested(tmp_path, ["x", 1], PICTURES, iter(())).digests, digests_of(PICTURES))
    assert not (tmp_path / "pictures").exists()


def test_the_cache_is_where_it_is_said_or_the_user_s(tmp_path, monkeypatch):
    assert cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder(None) == tmp_path / "x" / "ddattr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "ddattr"
