"""Data sets that the library `datasets` opens: folders that the tests make, without a network."""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refused
from PIL import Image

datasets = pytest.importorskip("datasets")
from ddattr.data.datamodule import UnitDataModule  # noqa: E402
from ddattr.data.sources.folder import folder  # noqa: E402
from ddattr.data.sources.hub import hub  # noqa: E402
from ddattr.data.tables import unit_table  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
LABELS = [place % 3 for place in range(12)]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def dataset(**more):
    """Twelve pictures of three classes."""
    features = {"img": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog", "eel"])}
    features |= {name: datasets.Value("int64" if isinstance(of[0], int) else "string") for name, of in more.items()}
    rows = {"img": [{"bytes": png(pixels), "path": None} for pixels in PIXELS], "kind": LABELS, **more}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def parquet(root: Path, **more) -> Path:
    root.mkdir()
    dataset(**more).to_parquet(root / "train.parquet")
    return root


def imagefolder(root: Path) -> Path:
    for place, pixels in enumerate(PIXELS):
        path = root / ["cat", "dog", "eel"][LABELS[place]] / f"{place:02d} ü.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels))
    return root


def on_disk(root: Path) -> Path:
    dataset().save_to_disk(root)
    return root


def split_on_disk(root: Path) -> Path:
    datasets.DatasetDict({"train": dataset(), "test": dataset().select(range(3))}).save_to_disk(root)
    return root


def file(root: Path) -> Path:
    return parquet(root) / "train.parquet"


EXPECTED = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1


@pytest.mark.parametrize("make", [parquet, on_disk, split_on_disk, file])
def test_pictures_and_classes_of_any_folder_come_in_order(tmp_path, make):
    source = hub(str(make(tmp_path / "x")))
    assert torch.equal(source.images[:], EXPECTED)
    assert source.labels.tolist() == LABELS
    assert source.label_names == ["cat", "dog", "eel"]
    assert source.table["file"].tolist() == [f"row {place}" for place in range(12)]
    assert unit_table(UnitDataModule(source, "label"))["name"].tolist() == ["cat", "dog", "eel"]


def test_an_image_folder_is_what_folder_makes_of_it(tmp_path):
    root = imagefolder(tmp_path / "x")
    one, other = hub(str(root)), folder(str(root))
    assert sorted(one.table["file"]) == other.table["file"].tolist()
    place = [one.table["file"].tolist().index(name) for name in other.table["file"]]
    assert torch.equal(one.images[torch.tensor(place)], other.images[:])
    assert [one.label_names[one.labels[at]] for at in place] == [other.label_names[label] for label in other.labels]


def test_a_picture_that_has_changed_in_an_image_folder_is_read_again(tmp_path):
    root = imagefolder(tmp_path / "x")
    before = hub(str(root))
    name = before.table["file"][3]
    (root / name).write_bytes(png(255 - PIXELS[0]))
    after = hub(str(root))
    changed = (before.images[:] != after.images[:]).flatten(1).any(1)
    assert changed.nonzero().tolist() == [[after.table["file"].tolist().index(name)]]


def test_columns_are_text_and_labels_may_be(tmp_path):
    who = ["b", "a", "b", "c"] * 3
    root = parquet(tmp_path / "x", who=who, year=list(range(12)))
    source = hub(str(root), label="who", columns=["kind", "year"])
    assert [source.label_names[label] for label in source.labels] == who
    assert source.label_names == ["a", "b", "c"]
    assert source.table["year"].tolist() == [str(year) for year in range(12)]
    assert UnitDataModule(source, "kind").units == 3
    assert hub(str(root), label="year").labels.tolist() == list(range(12))


def test_bytes_that_are_not_said_to_be_pictures_are_pictures_when_named(tmp_path):
    """As other programs write parquet: bytes, or bytes and a path."""
    (tmp_path / "x").mkdir()
    content = [png(pixels) for pixels in PIXELS]
    rows = pd.DataFrame(
        {"raw": content, "both": [{"bytes": held, "path": "x.png"} for held in content], "n": range(12)}
    )
    rows.to_parquet(tmp_path / "x" / "train.parquet")
    for column in ("raw", "both"):
        assert torch.equal(hub(str(tmp_path / "x"), image=column).images[:], EXPECTED)
    with pytest.raises(ValueError, match=r"^data: column n of .* has no pictures: [^\n]*Set data\.source\.image\.$"):
        hub(str(tmp_path / "x"), image="n")
    with pytest.raises(ValueError, match=r"has none for columns of pictures, expected one\. Set data\.source\.image"):
        hub(str(tmp_path / "x"))


def test_pictures_are_made_as_those_of_a_folder_are(tmp_path):
    source = hub(str(parquet(tmp_path / "x")), size=4, channels=1)
    assert source.images.shape == (12, 1, 4, 4)
    assert source.frame.height == 4


def test_a_picture_that_cannot_be_read_is_named_or_left_out(tmp_path):
    content = [{"bytes": png(pixels), "path": None} for pixels in PIXELS]
    content[2], content[5] = {"bytes": b"x", "path": None}, None
    held = datasets.Dataset.from_dict({"img": content}, features=datasets.Features({"img": datasets.Image()}))
    held.save_to_disk(tmp_path / "x")
    source = hub(str(tmp_path / "x"))
    assert source.broken == [("row 2", "it is no picture, or damaged"), ("row 5", "it is empty")]
    with pytest.raises(ValueError, match=r"^data: row 2 cannot be read: it is no picture"):
        UnitDataModule(source)
    assert source.table["file"].tolist() == [f"row {place}" for place in range(12) if place not in (2, 5)]
    assert torch.equal(source.images[:], EXPECTED[torch.tensor([p for p in range(12) if p not in (2, 5)])])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "valid"}, r"split=valid, expected one of test, train\. Set data\.source\.split"),
        ({"image": "picture"}, r"image=picture, expected a column of img, kind\. Set data\.source\.image"),
        ({"label": "artist"}, r"label=artist, expected a column of img, kind\. Set data\.source\.label"),
        ({"columns": ["artist"]}, r"columns=artist, expected a column of img, kind\. Set data\.source\.columns"),
    ],
)
def test_what_a_data_set_does_not_have_is_refused(tmp_path, options, said):
    with pytest.raises(ValueError, match=f"^data: {said}"):
        hub(str(split_on_disk(tmp_path / "x")), **options)


def test_pictures_without_a_label_are_refused(tmp_path):
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"img": [{"bytes": png(pixels), "path": None} for pixels in PIXELS], "kind": [-1] * 12}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "x")
    with pytest.raises(ValueError, match=r"^data: label=kind has pictures without one"):
        hub(str(tmp_path / "x"))


def test_without_a_network_one_line_says_so(ddattr):
    refused(ddattr("plan", "data=hub", "data.source.path=someone/pictures"), "data: someone/pictures cannot be opened")


def test_without_the_library_one_line_says_how_to_install_it(monkeypatch, ddattr):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(ddattr("plan", "data=hub", "data.source.path=x"), "pip install 'ddattr[hub]'")


def test_a_command_plans_a_data_set(tmp_path, ddattr):
    parquet(tmp_path / "x")
    said = ddattr("plan", "data=hub", "data.source.path=x", "data.units=label", "data.holdout=0", "tracking=none")
    assert said.status == 0, said.err
    assert "12 pictures of 3x8x8, units by label" in said.out
