"""A folder of image files as a source: which are found, in what order, what is said of those that cannot be read."""

import locale
import os
import random
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import environment, refused
from PIL import Image

from ddattr.data import decoded
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.sources.folder import folder, found
from ddattr.data.tables import unit_table

NOBODY = 65534


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ddattr"


@pytest.fixture
def tree(tmp_path) -> Path:
    """Twelve RGB pictures of 8 x 8, six in each of two folders."""
    return made(tmp_path / "pictures", [f"{top}/{place}.png" for top in ("a", "b") for place in range(6)])


def made(root: Path, names: list[str]) -> Path:
    """Pictures of noise, no two of them alike."""
    for name in names:
        save(root / name)
    return root


def save(path: Path, size: tuple[int, int] = (8, 8), kind: str | None = None, seed: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng([seed] if seed is not None else list(str(path).encode("utf-8", "surrogateescape")))
    Image.fromarray(draw.integers(0, 256, (*size[::-1], 3), np.uint8)).save(path, kind)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not read everything; as oneself, who is none such but for root."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody may look into."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        (Path(name) / "cache").mkdir()
        os.chmod(Path(name) / "cache", 0o777)
        yield Path(name)


def names(source) -> list[str]:
    return source.table["file"].tolist()


def test_pictures_are_the_files_and_the_first_folder_is_the_label(tree):
    source = folder(str(tree))
    assert names(source) == [f"{top}/{place}.png" for top in "ab" for place in range(6)]
    assert source.labels.tolist() == [0] * 6 + [1] * 6
    assert source.label_names == ["a", "b"]
    for place, name in enumerate(names(source)):
        pixels = np.asarray(Image.open(tree / name)).transpose(2, 0, 1)
        assert torch.equal(source.images[place], torch.from_numpy(pixels.copy()).float() / 127.5 - 1)


def test_pictures_in_one_place_have_no_labels(tmp_path):
    assert folder(str(made(tmp_path / "x", ["1.png", "2.png"]))).labels is None
    assert folder(str(made(tmp_path / "y", ["a/1.png", "a/2.png"]))).labels is None


def test_a_table_knows_the_whole_way_and_the_label_the_first_step(tmp_path):
    source = folder(str(made(tmp_path / "x", ["a/b/1.png", "a/c/1.png", "top.png"])))
    assert source.table["folder"].tolist() == ["a/b", "a/c", ""]
    assert [source.label_names[label] for label in source.labels] == ["a", "a", ""]


def test_names_with_spaces_and_of_other_scripts_are_kept(tmp_path):
    odd = ["a b/ü ö.png", "日本/猫.png", "עברית/א.png", "emoji/🐱.PNG", "x/='\"[,]${y}.jpeg"]
    assert names(folder(str(made(tmp_path / "x", odd)))) == sorted(odd)


def test_a_name_is_the_same_however_its_accents_are_written(tmp_path):
    """Composed or not, as one file system and another would have it."""
    forms = {}
    for form in ("NFC", "NFD"):
        wanted = [unicodedata.normalize(form, name) for name in ("é/ü.png", "e/z.png", "f/å.png")]
        forms[form] = names(folder(str(made(tmp_path / form, wanted))))
    assert forms["NFC"] == forms["NFD"] == ["e/z.png", "f/å.png", "é/ü.png"]


def test_two_files_of_one_name_are_refused(tmp_path):
    made(tmp_path / "x", [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")])
    with pytest.raises(ValueError, match=r"^data: .*\.png and .*\.png have one name in composed Unicode"):
        folder(str(tmp_path / "x"))


def test_a_name_that_is_no_text_is_escaped(tmp_path):
    made(tmp_path / "x", [os.fsdecode(b"\xff.png"), "a.png"])
    assert names(folder(str(tmp_path / "x"))) == ["\\xff.png", "a.png"]


def test_hidden_files_and_other_kinds_are_passed_over(tree):
    before = names(folder(str(tree)))
    for name in (".DS_Store", "a/.DS_Store", "a/._0.png", ".git/x.png", "b/notes.txt", "b/Thumbs.db", "b/png"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"x")
    source = folder(str(tree))
    assert names(source) == before
    assert source.broken == []


def test_links_are_followed_but_not_in_circles(tree):
    save(tree.parent / "elsewhere" / "far.png")
    (tree / "a" / "back").symlink_to(tree, target_is_directory=True)
    (tree / "a" / "itself").symlink_to("itself")
    (tree / "b" / "other").symlink_to(tree.parent / "elsewhere", target_is_directory=True)
    (tree / "b" / "linked.png").symlink_to(tree / "a" / "0.png")
    assert set(names(folder(str(tree)))) == {
        *(f"{top}/{place}.png" for top in "ab" for place in range(6)),
        "b/other/far.png",
        "b/linked.png",
    }


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def text(path: Path) -> None:
    path.write_text("not a picture")


def bomb(path: Path) -> None:
    from test_decode import claimed

    path.write_bytes(claimed(30_000, 30_000))


def nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


BROKEN = {
    empty: "it is empty",
    cut: "it is damaged",
    text: "it is no picture",
    bomb: "it is too large",
    nowhere: "no such file",
}


@pytest.mark.parametrize("harm", BROKEN, ids=lambda harm: harm.__name__)
def test_a_broken_file_is_an_error_with_its_path_or_left_out_and_counted(tree, harm):
    whole = folder(str(tree))
    harm(tree / "a" / "3.png")
    source = folder(str(tree))
    with pytest.raises(ValueError, match=rf"^data: a/3\.png cannot be read: {BROKEN[harm]}.*data\.on_error=skip$"):
        UnitDataModule(source)
    data = UnitDataModule(source, on_error="skip")
    assert [name for name, _ in data.source.broken] == ["a/3.png"]
    assert names(source) == [name for name in names(whole) if name != "a/3.png"]
    kept = torch.tensor([place for place in range(12) if place != 3])
    assert torch.equal(source.images[:], whole.images[kept])
    assert torch.equal(source.labels, whole.labels[kept])


def test_a_command_refuses_a_broken_file_in_one_line_or_counts_it(tree, ddattr):
    (tree / "a" / "3.png").write_bytes(b"")
    (tree / "b" / "1.png").write_bytes(b"x")
    words = ["plan", "data=folder", f"data.source.path={tree}", "tracking=none", "data.clusters=4", "data.holdout=0"]
    refused(ddattr(*words), "a/3.png cannot be read: it is empty (and 1 more)", "data.on_error=skip")
    said = ddattr(*words, "data.on_error=skip")
    assert said.status == 0, said.err
    assert "2 files that cannot be read" in said.out
    assert "10 pictures of 3x8x8" in said.out


def test_a_file_that_may_not_be_read_is_named(shared):
    made(shared / "x", ["a.png", "b.png"])
    (shared / "x" / "b.png").chmod(0)
    with unprivileged():
        source = folder(str(shared / "x"), cache=str(shared / "cache"))
    assert names(source) == ["a.png"]
    assert source.broken == [("b.png", "permission denied")]


def test_a_folder_that_may_not_be_read_is_named(shared):
    made(shared / "x", ["a.png", "b/b.png"])
    (shared / "x" / "b").chmod(0)
    with unprivileged():
        source = folder(str(shared / "x"), cache=str(shared / "cache"))
    (shared / "x" / "b").chmod(0o700)
    assert names(source) == ["a.png"]
    assert source.broken == [("b", "permission denied")]
    with pytest.raises(ValueError, match=r"^data: b cannot be read: permission denied"):
        UnitDataModule(source)


def test_a_cache_that_cannot_be_written_is_named_in_one_line(tree, shared, ddattr):
    (shared / "cache").chmod(0o555)
    save(shared / "x" / "a.png")
    with (
        unprivileged(),
        pytest.raises(ValueError, match=r"^data: the cache .*permission denied\. Set data\.source\.cache"),
    ):
        folder(str(shared / "x"), cache=str(shared / "cache" / "new"))
    (shared / "file").touch()
    said = ddattr("plan", "data=folder", f"data.source.path={tree}", f"data.source.cache={shared / 'file'}")
    refused(said, f"the cache {shared / 'file'}/pictures cannot be used: not a directory", "data.source.cache")


@pytest.mark.parametrize("order", [1, 2, "reversed"])
def test_the_order_is_not_the_file_system_s(tree, monkeypatch, order):
    expected, scan = [file.name for file in found(tree)[0]], os.scandir

    def shuffled(path):
        entries = list(scan(path))
        return reversed(entries) if order == "reversed" else random.Random(order).sample(entries, len(entries))

    monkeypatch.setattr(os, "scandir", shuffled)
    assert [file.name for file in found(tree)[0]] == expected == sorted(expected)


def test_the_order_is_not_the_locale_s(tmp_path):
    root = made(tmp_path / "x", ["I.png", "i.png", "\u0131.png", "İ.png", "Z.png", "ä.png", "a.png"])
    expected = [file.name for file in found(root)[0]]
    before = locale.setlocale(locale.LC_ALL)
    for name in ("C", "C.UTF-8", "tr_TR.UTF-8", "en_US.UTF-8"):
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:  # not installed here
            continue
        assert [file.name for file in found(root)[0]] == expected == sorted(expected)
    locale.setlocale(locale.LC_ALL, before)


def test_where_the_system_knows_no_unicode_names_are_the_same(tmp_path):
    made(tmp_path / "x", ["ä/\u0131.png", "z/I.png"])
    say = "from ddattr.data.sources.folder import *; print(ascii([file.name for file in found(Path('x'))[0]]))"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    path = [str(Path(decoded.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    child = environment(tmp_path) | plain | {"PYTHONPATH": os.pathsep.join(path)}
    said = subprocess.run([sys.executable, "-c", say], cwd=tmp_path, env=child, capture_output=True, text=True)
    assert said.stdout.strip() == ascii(["z/I.png", "ä/\u0131.png"]), said.stderr


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("absent", r"absent is missing, expected a folder of pictures\. Set data\.source\.path"),
        ("pictures/a/0.png", r"0\.png is a file, expected a folder"),
        ("bare", r"bare has no image file \(.*\.png.*\) in it or below"),
    ],
)
def test_what_is_no_folder_of_pictures_is_refused(tree, path, said):
    (tree.parent / "bare").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=f"^data: .*{said}"):
        folder(str(tree.parent / path))


def test_a_folder_of_broken_files_alone_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.png").touch()
    with pytest.raises(ValueError, match=r"has no picture that can be read\. The first, a\.png: it is empty"):
        folder(str(tmp_path / "x"))


def test_grey_files_are_grey_and_one_in_colour_makes_all_rgb(tmp_path):
    for name, mode in (("1.png", "L"), ("2.png", "LA"), ("3.png", "1")):
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.new(mode, (8, 8)).save(tmp_path / "x" / name)
    assert folder(str(tmp_path / "x")).images.shape == (3, 1, 8, 8)
    assert folder(str(tmp_path / "x"), channels=3).images.shape == (3, 3, 8, 8)
    save(tmp_path / "x" / "4.png")
    assert folder(str(tmp_path / "x")).images.shape == (4, 3, 8, 8)
    assert folder(str(tmp_path / "x"), channels=1).images.shape == (4, 1, 8, 8)


@pytest.mark.parametrize(("sides", "side"), [((19, 30), 16), ((64, 200), 32), ((5, 9), 4), ((8, 8), 8)])
def test_a_size_that_nobody_gave_is_that_of_the_smallest_side(tmp_path, sides, side):
    save(tmp_path / "x" / "1.png", sides)
    save(tmp_path / "x" / "2.png", (300, 200))
    assert folder(str(tmp_path / "x")).images.shape == (2, 3, side, side)
    assert folder(str(tmp_path / "x"), size=12).images.shape == (2, 3, 12, 12)


def test_what_was_done_to_pictures_is_noted(tmp_path):
    save(tmp_path / "x" / "1.png", (16, 32))
    save(tmp_path / "x" / "2.png", (20, 16))
    save(tmp_path / "x" / "3.png", (16, 16))
    Image.new("RGBA", (16, 16)).save(tmp_path / "x" / "4.png")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x" / "5.gif", save_all=True, append_images=frames[1:])
    assert folder(str(tmp_path / "x"), background=0).notes == [
        "no squares: 2 of 5 pictures (width / height 0.50 to 1.25); their middle is taken",
        "made 16 x 16; set data.source.size for another",
        "transparent: 1 of 5 pictures; black is behind them",
        "animated: 1 of 5 pictures; the first frame is taken",
    ]
    stretched = folder(str(tmp_path / "x"), size=16, fit="stretch").notes
    assert stretched[0].endswith("they are stretched")
    assert "white is behind them" in stretched[1]


def test_columns_are_joined_by_file_whatever_their_order(tree):
    rows = pd.DataFrame({"artist": list("xyz") * 4, "file": names(folder(str(tree)))})
    rows.sample(frac=1, random_state=0).to_csv(tree / "pictures.csv", index=False)
    source = folder(str(tree))
    assert source.table["artist"].tolist() == list("xyz") * 4
    assert source.label_names == ["a", "b"]
    data = UnitDataModule(source, "artist", sets=["folder"])
    assert data.units == 3
    assert torch.equal(data.unit_of, torch.arange(12) % 3)
    table = unit_table(data)
    assert table["name"].tolist() == ["x", "y", "z"]
    assert table["files"].tolist() == [names(source)[unit::3] for unit in range(3)]


def test_a_column_of_labels_takes_the_place_of_the_first_folder(tree):
    rows = pd.DataFrame({"file": names(folder(str(tree))), "label": ["0" * (place % 3 + 1) for place in range(12)]})
    rows.to_csv(tree.parent / "other.csv", index=False)
    source = folder(str(tree), columns=str(tree.parent / "other.csv"))
    assert source.label_names == ["0", "00", "000"]
    assert torch.equal(source.labels, torch.arange(12) % 3)
    assert unit_table(UnitDataModule(source, "folder"))["name"].tolist() == ["a", "b"]
    assert unit_table(UnitDataModule(source, "label"))["name"].tolist() == ["0", "00", "000"]


def test_a_row_is_found_by_its_name_in_any_form(tmp_path):
    made(tmp_path / "x", [unicodedata.normalize("NFC", "é.png")])
    (tmp_path / "x" / "pictures.csv").write_text(unicodedata.normalize("NFD", "file,who\n./é.png,me\n"))
    assert folder(str(tmp_path / "x")).table["who"].tolist() == ["me"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("file,who\na/0.png,x\n", r"a/1\.png has no row in .*pictures\.csv, expected one for every picture"),
        ("file,who\n{all}c/9.png,x\n", r"has a row of c/9\.png, which is no picture of the folder"),
        ("file,who\n{all}a/0.png,x\n", r"has several rows of a/0\.png, expected one"),
        ("name,who\n", r"has columns name, who, expected one named file"),
        ("", r"is no CSV: "),
        ('file,who\n"', r"is no CSV: "),
    ],
)
def test_a_table_that_does_not_fit_is_refused_in_one_line(tree, rows, said):
    known = "".join(f"{name},x\n" for name in names(folder(str(tree))))
    (tree / "pictures.csv").write_text(rows.replace("{all}", known))
    with pytest.raises(ValueError, match=f"^data: [^\n]*{said}[^\n]*$"):
        folder(str(tree))


def test_a_row_of_a_broken_file_is_no_mistake(tree):
    (tree / "pictures.csv").write_text("file,who\n" + "".join(f"{name},x\n" for name in names(folder(str(tree)))))
    (tree / "a" / "0.png").write_bytes(b"")
    assert len(UnitDataModule(folder(str(tree)), on_error="skip").images) == 11


def test_a_table_that_is_missing_is_named(tree):
    with pytest.raises(
        FileNotFoundError, match=r"no\.csv is missing, expected a CSV of pictures\. Set data\.source\.col"
    ):
        folder(str(tree), columns="no.csv")


def test_names_are_kept_in_the_units_table(tree):
    table = unit_table(UnitDataModule(folder(str(tree)), "image"))
    assert table["name"].tolist() == names(folder(str(tree)))
    assert table["files"].tolist() == [[name] for name in table["name"]]
    assert table["label"].tolist() == ["a"] * 6 + ["b"] * 6


@pytest.fixture
def count(monkeypatch) -> list:
    """Pictures that are decoded."""
    done, read = [], decoded.picture
    monkeypatch.setattr(decoded, "picture", lambda encoded, frame: done.append(encoded) or read(encoded, frame))
    return done


def test_pictures_are_decoded_once(tree, count, cache):
    first = folder(str(tree))
    assert len(count) == 12
    again = folder(str(tree))
    assert len(count) == 12
    assert torch.equal(first.images[:], again.images[:])
    assert (names(again), again.frame, again.notes) == (names(first), first.frame, first.notes)
    assert len(list((cache / "pictures").iterdir())) == 1


def test_pictures_are_decoded_again_when_a_file_has_changed(tree, count):
    before = folder(str(tree)).images[:]
    save(tree / "a" / "2.png", seed=7)
    os.utime(tree / "a" / "2.png", (1, 1))
    after = folder(str(tree)).images[:]
    assert len(count) == 24
    assert (before != after).flatten(1).any(1).nonzero().tolist() == [[2]]


def test_every_size_is_kept_for_itself(tree, count, cache):
    for options in ({"size": 4}, {"size": 8}, {"channels": 1}, {"background": 0}, {"fit": "stretch"}, {"size": 4}):
        folder(str(tree), **options)
    assert len(count) == 5 * 12
    assert len(list((cache / "pictures").iterdir())) == 5


def test_units_are_folders_where_there_are_ten_and_else_clusters(tmp_path):
    many = folder(str(made(tmp_path / "x", [f"{place:02d}/{n}.png" for place in range(10) for n in range(2)])))
    assert UnitDataModule(many, None).kind == "folder"
    few = folder(str(made(tmp_path / "y", [f"{place}/{n}.png" for place in range(9) for n in range(2)])))
    assert UnitDataModule(few, None, None).kind == "cluster"
