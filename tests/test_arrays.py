"""Arrays that NumPy has saved, as a source."""

import io
import zipfile

import numpy as np
import pytest
import torch
from conftest import refused

from ddattr.data.pictures import digests_of
from ddattr.data.sources.arrays import arrays

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (12, 6, 5), np.uint8)
FIRST = DRAW.integers(0, 256, (12, 3, 6, 5), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ddattr"


def saved(tmp_path, array: np.ndarray, kind: str = "npy", **more) -> str:
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, array)
    else:
        (np.savez_compressed if kind == "compressed.npz" else np.savez)(path, images=array, **more)
    return str(path)


def floats(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).float() / 127.5 - 1


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed.npz"])
@pytest.mark.parametrize(
    ("array", "expected"), [(GREY, GREY[:, None]), (FIRST, FIRST), (FIRST.transpose(0, 2, 3, 1), FIRST)]
)
def test_bytes_of_any_layout_are_pictures_of_channels_first(tmp_path, array, expected, kind):
    source = arrays(saved(tmp_path, np.ascontiguousarray(array), kind))
    assert torch.equal(source.images[:], floats(expected))
    assert np.array_equal(source.images.digests, digests_of(expected))
    assert source.labels is None


def test_bytes_of_an_npy_stay_where_they_are(tmp_path, cache):
    path = saved(tmp_path, FIRST)
    source = arrays(path)
    base = source.images._stored
    while not isinstance(base, np.memmap):
        base = base.base
    assert str(base.filename) == path
    assert sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) < FIRST.nbytes
    assert np.array_equal(arrays(path).images.digests, source.images.digests)


def test_a_file_that_has_changed_is_fingerprinted_again(tmp_path):
    before = arrays(saved(tmp_path, FIRST)).images.digests
    after = arrays(saved(tmp_path, FIRST[::-1].copy())).images.digests
    assert np.array_equal(before[::-1], after)


@pytest.mark.parametrize("kind", ["npy", "npz"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_from_0_to_1_become_the_bytes_that_they_were(tmp_path, dtype, kind):
    source = arrays(saved(tmp_path, (FIRST / 255).astype(dtype), kind))
    assert torch.equal(source.images[:], floats(FIRST))


@pytest.mark.parametrize(
    ("array", "span"),
    [
        (FIRST / 127.5 - 1, "float64 from -1 to 1"),
        (FIRST.astype(np.float32), "float32 from 0 to 255"),
        (FIRST.astype(np.int64), "int64 from 0 to 255"),
        (np.full((2, 4, 4), np.nan), "float64 from nan to nan"),
        (np.ones((2, 4, 4), bool), "bool from 1 to 1"),
    ],
)
def test_values_of_another_range_are_refused_with_it(tmp_path, array, span):
    with pytest.raises(ValueError, match=rf"^data: .*x\.npy has {span}, expected uint8, or floats from 0 to 1\."):
        arrays(saved(tmp_path, array))


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
def test_channels_that_may_be_first_or_last_are_asked_for(tmp_path, layout):
    array = DRAW.integers(0, 256, (4, 3, 8, 3), np.uint8)
    path = saved(tmp_path, array)
    with pytest.raises(ValueError, match=r"4 x 3 x 8 x 3, .* first or last\. Set data\.source\.layout=CHW or HWC\.$"):
        arrays(path)
    expected = array if layout == "CHW" else array.transpose(0, 3, 1, 2)
    assert torch.equal(arrays(path, layout=layout).images[:], floats(np.ascontiguousarray(expected)))


@pytest.mark.parametrize("shape", [(), (5,), (5, 6), (5, 4, 6, 6), (5, 1, 2, 3, 4), (0, 8, 8)])
def test_arrays_that_are_no_pictures_are_refused_with_their_shape(tmp_path, shape):
    with pytest.raises(ValueError, match=r"^data: .* has an array of .*, expected pictures x H x W"):
        arrays(saved(tmp_path, np.zeros(shape, np.uint8)))


def test_a_layout_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"layout=HWC, expected CHW of an array of 12 x 3 x 6 x 5"):
        arrays(saved(tmp_path, FIRST), layout="HWC")


def test_arrays_saved_column_by_column_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"saved column by column.*Save numpy\.ascontiguousarray"):
        arrays(saved(tmp_path, np.asfortranarray(FIRST)))


def test_nothing_pickled_is_read(tmp_path):
    """It would be executed."""

    class Bad:
        def __reduce__(self):
            return exec, ("raise SystemExit('executed')",)

    held = np.empty((2, 4, 4), object)
    held[:] = Bad()
    np.save(tmp_path / "x.npy", held, allow_pickle=True)
    with pytest.raises(ValueError, match="has pickled objects, expected numbers: nothing pickled is read"):
        arrays(str(tmp_path / "x.npy"))
    path = saved(tmp_path, FIRST, "npz", labels=np.array([Bad()] * 12, object))
    with pytest.raises(ValueError, match="has pickled objects"):
        arrays(path)


def test_labels_are_those_of_the_npz_or_of_a_second_file(tmp_path):
    numbers, words = np.arange(12) % 5, np.array(list("zyxzyxzyxzyx"))
    source = arrays(saved(tmp_path, FIRST, "npz", labels=numbers, words=words, column=numbers[:, None]))
    assert source.labels.tolist() == numbers.tolist()
    assert source.label_names is None
    named = arrays(str(tmp_path / "x.npz"), label_name="words")
    assert [named.label_names[label] for label in named.labels] == words.tolist()
    assert named.label_names == ["x", "y", "z"]
    assert torch.equal(arrays(str(tmp_path / "x.npz"), label_name="column").labels, source.labels)
    np.save(tmp_path / "labels.npy", numbers.astype(np.uint8))
    assert torch.equal(arrays(saved(tmp_path, FIRST), str(tmp_path / "labels.npy")).labels, source.labels)


def test_an_npz_s_arrays_go_by_names(tmp_path):
    path = saved(tmp_path, FIRST, "npz", x_train=GREY)
    assert arrays(path, image_name="x_train").images.shape == (12, 1, 6, 5)
    with pytest.raises(ValueError, match=r"has arrays images, x_train, expected pictures\. Set data\.source\.image"):
        arrays(path, image_name="pictures")


@pytest.mark.parametrize(
    ("labels", "said"),
    [(np.arange(11), "labels of 11, expected 12"), (np.ones(12), "labels of float64, expected whole")],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, said):
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(ValueError, match=f"^data: .*labels.npy has {said}"):
        arrays(saved(tmp_path, FIRST), str(tmp_path / "labels.npy"))


def test_a_file_cut_short_or_foreign_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    saved(tmp_path, FIRST)
    whole = path.read_bytes()
    for content in (b"", b"GIF89a", whole[:50], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^data: .*x\.npy (is no array of NumPy's|is cut short)[^\n]*$"):
            arrays(str(path))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("images.npy", whole[:-1])
    with pytest.raises(ValueError, match=r"^data: .*x\.npz is cut short"):
        arrays(str(tmp_path / "x.npz"))


def test_a_command_plans_arrays_and_refuses_those_that_are_none(tmp_path, ddattr):
    content = io.BytesIO()
    np.savez(content, images=FIRST[:, :, :4, :4], labels=np.arange(12))
    (tmp_path / "x.npz").write_bytes(content.getvalue())
    said = ddattr("plan", "data=arrays", "data.source.path=x.npz", "data.holdout=0", "tracking=none")
    assert said.status == 0, said.err
    assert "12 pictures of 3x4x4, units by label" in said.out
    refused(ddattr("plan", "data=arrays", "data.source.path=no.npy"), "no.npy is missing", "data.source.path")
