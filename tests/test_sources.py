"""Where pictures come from: the digits that ship with scikit-learn, and IDX files that tests write."""

import gzip
import struct

import numpy as np
import pytest
import torch

from ddattr.data.sources.digits import digits
from ddattr.data.sources.first import first
from ddattr.data.sources.idx import idx


def write_idx(path, array: np.ndarray, kind: int = 8) -> str:
    """An array of bytes in IDX format, gzipped when the path says so."""
    content = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


def test_digits_are_1797_labelled_pictures_between_minus_1_and_1():
    images, labels, *_ = digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    assert labels.dtype == torch.int64
    assert sorted(labels.unique().tolist()) == list(range(10))
    assert len(labels) == 1797


def test_digits_are_the_same_every_time():
    assert torch.equal(digits().images, digits().images)


@pytest.mark.parametrize("name", ["x-idx3-ubyte", "x-idx3-ubyte.gz"])
def test_idx_files_come_back_as_they_were_written(tmp_path, pictures, name):
    labels = np.arange(7, dtype=np.uint8)
    images, read, *_ = idx(write_idx(tmp_path / name, pictures), write_idx(tmp_path / f"labels-{name}", labels))
    assert images.shape == (7, 1, 5, 3)
    assert images.dtype == torch.float32
    assert np.array_equal(((images[:, 0].double() + 1) * 127.5).round().numpy(), pictures)
    assert read.tolist() == labels.tolist()
    assert read.dtype == torch.int64


def test_idx_spans_minus_1_to_1_exactly(tmp_path):
    images, labels, *_ = idx(write_idx(tmp_path / "x", np.array([[[0, 255]]], np.uint8)))
    assert images.flatten().tolist() == [-1, 1]
    assert labels is None


def test_smaller_pictures_are_means_of_squares_of_pixels(tmp_path):
    pictures = np.random.default_rng(1).integers(0, 256, (4, 6, 6), np.uint8)
    path = write_idx(tmp_path / "x", pictures)
    squares = pictures.reshape(4, 3, 2, 3, 2).mean((2, 4)) / 127.5 - 1
    torch.testing.assert_close(idx(path, size=3).images[:, 0], torch.from_numpy(squares).float())
    assert torch.equal(idx(path, size=6).images, idx(path).images)


@pytest.mark.parametrize("size", [0, 4, 12])
def test_a_size_that_divides_no_side_is_refused(tmp_path, size):
    path = write_idx(tmp_path / "x", np.zeros((4, 6, 6), np.uint8))
    with pytest.raises(ValueError, match=f"size={size}, expected a divisor of 6 x 6 pixels"):
        idx(path, size=size)


@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_a_file_cut_short_is_refused(tmp_path, pictures, name):
    whole = write_idx(tmp_path / "whole", pictures)
    content = (tmp_path / "whole").read_bytes()[:-1]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ValueError, match="it is cut short"):
        idx(str(tmp_path / name))
    assert len(idx(whole).images) == 7


def test_a_header_cut_short_is_refused(tmp_path, pictures):
    content = (tmp_path / "x").read_bytes() if write_idx(tmp_path / "x", pictures) else b""
    for kept in (0, 3, 4, 9):
        (tmp_path / "x").write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r"^data: "):
            idx(str(tmp_path / "x"))


def test_a_gzip_stream_cut_short_is_refused(tmp_path, pictures):
    write_idx(tmp_path / "x.gz", pictures)
    content = (tmp_path / "x.gz").read_bytes()
    (tmp_path / "x.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"^data: "):
        idx(str(tmp_path / "x.gz"))


def test_a_folder_is_told_to_be_one(tmp_path):
    with pytest.raises(ValueError, match=r"^data: .* is a folder, expected a file in IDX format"):
        idx(str(tmp_path))


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    """As a user who is not root would see it."""
    path = tmp_path / "images"
    path.touch()

    def read(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.read_bytes", read)
    with pytest.raises(ValueError, match=r"^data: .*images: Permission denied\. Check its permissions"):
        idx(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data: .*absent is missing"):
        idx(str(tmp_path / "absent"))


def test_a_foreign_file_is_refused(tmp_path, pictures):
    (tmp_path / "x").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match="no IDX file of unsigned bytes"):
        idx(str(tmp_path / "x"))
    with pytest.raises(ValueError, match="no IDX file of unsigned bytes"):
        idx(write_idx(tmp_path / "floats", pictures, kind=13))


def test_labels_given_as_pictures_are_refused(tmp_path):
    labels = write_idx(tmp_path / "labels", np.arange(7, dtype=np.uint8))
    with pytest.raises(ValueError, match="an array of 1 dimensions, expected 3"):
        idx(labels)


def test_pictures_given_as_labels_are_refused(tmp_path, pictures):
    images = write_idx(tmp_path / "images", pictures)
    with pytest.raises(ValueError, match=r"^data: "):
        idx(images, images)


def test_labels_of_other_pictures_are_refused(tmp_path, pictures):
    images = write_idx(tmp_path / "images", pictures)
    with pytest.raises(ValueError, match="7 pictures but 6 labels"):
        idx(images, write_idx(tmp_path / "labels", np.arange(6, dtype=np.uint8)))


@pytest.mark.parametrize("count", [1, 5, 1797])
def test_the_first_pictures_keep_their_labels(count):
    whole = digits()
    part = first(whole, count)
    assert torch.equal(part.images, whole.images[:count])
    assert torch.equal(part.labels, whole.labels[:count])


@pytest.mark.parametrize("count", [-1, 0, 1798])
def test_a_count_that_the_source_does_not_have_is_refused(count):
    with pytest.raises(ValueError, match=r"count=.*expected 1 to 1797"):
        first(digits(), count)
