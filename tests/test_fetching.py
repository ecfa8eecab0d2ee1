"""Data sets that are fetched: from packages that the tests make, by clients that stand in for npm and apt."""

import base64
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import composed, refused
from PIL import Image

from ddattr.data.fetching import fashion as fashion_module
from ddattr.data.fetching.artists import ARTISTS
from ddattr.data.fetching.emoji import emoji
from ddattr.data.fetching.fashion import fashion
from ddattr.data.fetching.whole import whole
from ddattr.data.tables import unit_table
from ddattr.stages.run import Run
from ddattr.stages.saved import read, text

NAMES = {"1f44b": "waving-hand", "2764": "red-heart", "1f448": "pointing-left", "1f449": "pointing-right"}
PEOPLE, SMILEYS = ("People & Body", "hand-fingers-open"), ("Smileys & Emotion", "heart")
NPM = """#!/bin/sh
case "$FAIL" in ?*) echo "npm error code $FAIL" >&2; exit 1;; esac
cp "{folder}/$(echo "$2" | tr / -)".tgz . && echo done
"""
APT = '#!/bin/sh\ncase "$FAIL" in ?*) echo "E: $FAIL" >&2; exit 100;; esac\ntouch "$2"_1_all.deb\n'
DPKG = '#!/bin/sh\nmkdir -p "$3" && cp -r {folder}/usr "$3"\n'


def entry(code: str, kind: tuple[str, str], order: int, **more) -> dict:
    category, subcategory = kind
    return {"unified": code.upper(), "short_name": "x", "category": category, "subcategory": subcategory} | {
        "sort_order": order,
        **more,
    }


EMOJI = [
    entry("1f449", PEOPLE, 4),
    entry("1f448", PEOPLE, 3),
    entry("2764-fe0f", SMILEYS, 1),
    entry("1f1e6", ("Flags", "country-flag"), 9),
    entry(
        "1f44b",
        PEOPLE,
        2,
        skin_variations={"1F3FB": {"unified": "1F44B-1F3FB"}, "1F3FB-1F3FF": {"unified": "1F44B-1F3FB-1F3FF"}},
    ),
]


def drawing(shade: int) -> bytes:
    """A file of 64 x 64 pixels, half transparent."""
    content = io.BytesIO()
    Image.new("RGBA", (64, 64), (shade, 9, 9, 128)).save(content, "png")
    return content.getvalue()


def pack(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """A tarball as npm has it, and its checksum where the product looks for it."""
    package = ARTISTS[name].package
    path = folder / f"{package.name.replace('/', '-')}@{package.version}.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for file, content in files.items():
            entry = tarfile.TarInfo(f"package/{file}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(script.format(folder=folder))
    (folder / name).chmod(0o755)


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Path:
    """A folder of packages of four emoji, by four artists, and on PATH an npm that knows it.

    The second artist drew no heart, and the third alone the one that points to the left.
    """
    folder = tmp_path / "registry"
    folder.mkdir()
    program(folder, "npm", NPM)
    codes = ["1f44b", "1f44b-1f3fb", "2764-fe0f", "1f449", "1f1e6"]
    for shade, (name, missing) in enumerate({"noto": "", "twemoji": "2764-fe0f"}.items()):
        place = ARTISTS[name].folder.removeprefix("package/")
        pictures = {f"{place}{code}.png": drawing(50 * shade + i) for i, code in enumerate(codes) if code != missing}
        pack(folder, name, {"emoji.json": json.dumps(EMOJI).encode(), **pictures})
    square = '<rect width="8" height="16" fill="#f00"/>'
    icons = {"icons": {name: {"body": square} for name in NAMES.values() if name != "pointing-right"}}
    icons |= {"width": 16, "height": 16, "aliases": {"pointing-right": {"parent": "pointing-left", "hFlip": True}}}
    files = {"icons.json": icons, "chars.json": NAMES | {"1f44b-1f3fb": "waving-hand"}}
    pack(folder, "openmoji", {name: json.dumps(content).encode() for name, content in files.items()})
    for name in ("noto", "twemoji", "openmoji"):
        package = ARTISTS[name].package
        content = (folder / f"{package.name.replace('/', '-')}@{package.version}.tgz").read_bytes()
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
        monkeypatch.setitem(ARTISTS, name, ARTISTS[name]._replace(package=package._replace(integrity=integrity)))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_every_picture_has_a_row_and_every_row_a_picture(registry, tmp_path, capsys):
    emoji(str(tmp_path / "emoji"))
    table = pd.read_csv(tmp_path / "emoji" / "pictures.csv", keep_default_na=False)
    files = {path.relative_to(tmp_path / "emoji").as_posix() for path in (tmp_path / "emoji").rglob("*.png")}
    assert list(table) == ["file", "artist", "category", "subcategory", "emoji", "tone", "caption"]
    assert len(table) == len(files) == 8
    assert set(table.file) == files
    assert (table.file == table.artist + "/" + table.subcategory + "/" + table.emoji + ".png").all()
    assert set(table.category) == {"people-body", "smileys-emotion"}
    assert set(table.caption) == {"waving hand", "red heart", "pointing right"}
    assert {pixels(tmp_path / "emoji" / file).shape for file in files} == {(64, 64, 4)}
    assert "twemoji: Twemoji, Twitter and other contributors, CC-BY-4.0" in capsys.readouterr().out


def test_what_one_artist_alone_drew_is_left_out(registry, tmp_path):
    emoji(str(tmp_path / "emoji"))
    table = pd.read_csv(tmp_path / "emoji" / "pictures.csv")
    assert table.groupby("emoji").artist.apply(sorted).to_dict() == {
        "waving-hand": ["noto", "openmoji", "twemoji"],
        "red-heart": ["noto", "openmoji"],
        "pointing-right": ["noto", "openmoji", "twemoji"],
    }


@pytest.mark.parametrize(("experiment", "side"), [("emoji", 16), ("emoji_32", 32)])
def test_the_experiment_takes_what_was_fetched(registry, tmp_path, experiment, side):
    emoji(str(tmp_path / "emoji"))
    places = f"data.source.path={tmp_path / 'emoji'}", f"data.source.cache={tmp_path / 'cache'}"
    data = Run(composed(f"experiment={experiment}", *places, "data.holdout=0")).data
    assert data.shape == (3, side, side)
    assert set(unit_table(data).name) == {
        *(f"{name}/hand-fingers-open" for name in ("noto", "twemoji", "openmoji")),
        *(f"{name}/heart" for name in ("noto", "openmoji")),
    }
    assert {"artist", "category", "subcategory"} <= set(data.partitions())


def test_faces_are_the_emoji_that_are_faces(registry, tmp_path):
    emoji(str(tmp_path / "emoji"))
    places = f"data.source.path={tmp_path / 'emoji'}", f"data.source.cache={tmp_path / 'cache'}"
    with pytest.raises(
        ValueError, match=r"^data: only\.subcategory=face-affection, expected some of hand-fingers-open, "
    ):
        _ = Run(composed("experiment=emoji_faces", *places)).data
    some = "~data.only", "+data.only={subcategory: [heart]}", "data.holdout=0"
    assert set(Run(composed("experiment=emoji_faces", *places, *some)).data.kept.table["subcategory"]) == {"heart"}


def test_a_base_sees_one_artist_and_its_adapters_the_others(registry, tmp_path):
    emoji(str(tmp_path / "emoji"))
    places = f"data.source.path={tmp_path / 'emoji'}", f"data.source.cache={tmp_path / 'cache'}", "data.holdout=0"
    base = Run(composed("experiment=emoji_base", *places)).data
    others = Run(composed("experiment=emoji_artists", *places, "data.only.subcategory=[hand-fingers-open]")).data
    assert set(base.kept.table["artist"]) == {"noto"}
    assert set(others.kept.table["artist"]) == {"openmoji", "twemoji"}


def test_skin_tones_come_when_asked_for(registry, tmp_path):
    emoji(str(tmp_path / "emoji"), artists=["noto", "twemoji"], tones=True)
    table = pd.read_csv(tmp_path / "emoji" / "pictures.csv", keep_default_na=False)
    toned = table[table.tone != ""]
    assert toned.file.tolist() == [f"{name}/hand-fingers-open/waving-hand-light.png" for name in ("noto", "twemoji")]
    assert set(toned.emoji) == {"waving-hand"}
    assert set(toned.caption) == {"waving hand, light skin tone"}


def test_an_icon_that_mirrors_another_is_its_mirror_image(registry, tmp_path):
    emoji(str(tmp_path / "emoji"))
    left, right = (
        pixels(tmp_path / "emoji" / "openmoji" / file)
        for file in ("hand-fingers-open/waving-hand.png", "hand-fingers-open/pointing-right.png")
    )
    assert left[:, :32, 0].min() == 255
    assert left[:, 32:].max() == 0
    assert np.array_equal(left[:, ::-1], right)


def test_a_folder_that_is_there_is_left_alone(registry, tmp_path, monkeypatch, capsys):
    emoji(str(tmp_path / "emoji"))
    monkeypatch.setenv("PATH", "/nowhere")
    emoji(str(tmp_path / "emoji"))
    assert "already done" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r'"tones": false.*, now .*"tones": true'):
        emoji(str(tmp_path / "emoji"), tones=True)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match=r"mine is there, and was not fetched"):
        emoji(str(tmp_path / "mine"))
    assert not any((tmp_path / "mine").iterdir())


@pytest.mark.parametrize(
    ("broken", "error", "words"),
    [
        ("no npm", FileNotFoundError, "npm is not on PATH, expected it to bring emoji-datasource-google@16.0.0"),
        ("no network", ValueError, "npm could not bring emoji-datasource-google@16.0.0: ENOTFOUND. Is there a network"),
        ("changed", ValueError, r"emoji-datasource-twitter@16.0.0 is sha512-.*, expected sha512-"),
        ("no resvg", ValueError, r"pip install 'ddattr\[emoji\]'"),
    ],
)
def test_what_goes_wrong_costs_a_line_and_leaves_nothing(registry, tmp_path, monkeypatch, broken, error, words):
    if broken == "no npm":
        monkeypatch.setenv("PATH", "/nowhere")
    elif broken == "no network":
        monkeypatch.setenv("FAIL", "ENOTFOUND")
    elif broken == "changed":
        with (registry / "emoji-datasource-twitter@16.0.0.tgz").open("ab") as file:
            file.write(b"\0")
    else:
        monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(error, match=words):
        emoji(str(tmp_path / "data" / "emoji"))
    assert not any((tmp_path / "data").glob("*"))


def test_one_artist_is_no_comparison(tmp_path):
    with pytest.raises(ValueError, match=r"artists=\['noto', 'noto'\], expected two or more"):
        emoji(str(tmp_path / "emoji"), artists=["noto", "noto"])


HALF = """
from pathlib import Path
from ddattr.data.fetching.whole import whole
with whole(Path("made"), {}) as part:
    (part / "half").write_text("")
    print("half", flush=True)
    input()
"""


def test_a_folder_whose_filling_is_killed_is_absent_and_then_whole(tmp_path):
    half = subprocess.Popen([sys.executable, "-c", HALF], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert half.stdout.readline() == b"half\n"
    with pytest.raises(ValueError, match="another process is filling"), whole(tmp_path / "made", {}):
        pass
    half.send_signal(signal.SIGKILL)
    half.communicate()
    assert not (tmp_path / "made").exists()
    with whole(tmp_path / "made", {}) as part:
        (part / "LICENCES").write_text("mine")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"LICENCES", ".fetched.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.fixture
def debian(tmp_path, monkeypatch) -> Path:
    """A folder with the files of a package, none of which is installed, and on PATH an apt and a dpkg that know it."""
    folder = tmp_path / "debian"
    place = folder / "usr/share/datasets/fashion-mnist"
    place.mkdir(parents=True)
    for name in fashion_module._FILES:
        (place / name).write_bytes(gzip.compress(name.encode()))
        monkeypatch.setitem(fashion_module._FILES, name, hashlib.sha256(name.encode()).hexdigest())
    program(folder, "apt-get", APT)
    program(folder, "dpkg-deb", DPKG)
    monkeypatch.setattr(fashion_module, "_INSTALLED", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_clothes_come_from_debians_package(debian, tmp_path):
    fashion(str(tmp_path / "fashion"))
    for name in fashion_module._FILES:
        assert gzip.decompress((tmp_path / "fashion" / name).read_bytes()) == name.encode()
    assert (tmp_path / "fashion" / "LICENCES").read_text().startswith("Fashion-MNIST, Zalando SE, MIT")


def test_clothes_of_an_installed_package_need_no_apt(debian, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_module, "_INSTALLED", debian)
    monkeypatch.setenv("PATH", "/nowhere")
    fashion(str(tmp_path / "fashion"))
    assert (tmp_path / "fashion" / "LICENCES").is_file()


@pytest.mark.parametrize(
    ("broken", "error", "words"),
    [
        ("no apt", FileNotFoundError, "apt-get is not on PATH, expected it to bring dataset-fashion-mnist"),
        ("no network", ValueError, r"apt-get could not bring dataset-fashion-mnist: Unable to fetch\. Is there"),
        ("changed", ValueError, r"t10k-labels-idx1-ubyte.gz of dataset-fashion-mnist is [0-9a-f]{64}, expected"),
        ("cut short", ValueError, r"t10k-labels-idx1-ubyte.gz of dataset-fashion-mnist is missing or damaged"),
    ],
)
def test_clothes_that_cannot_be_had_cost_a_line(debian, tmp_path, monkeypatch, broken, error, words):
    labels = debian / "usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz"
    if broken == "no apt":
        monkeypatch.setenv("PATH", "/nowhere")
    elif broken == "no network":
        monkeypatch.setenv("FAIL", "Unable to fetch.")
    else:
        labels.write_bytes(gzip.compress(b"other") if broken == "changed" else labels.read_bytes()[:-9])
    with pytest.raises(error, match=words):
        fashion(str(tmp_path / "fashion"))
    assert not any(tmp_path.glob("*fashion*"))


def test_the_verb_fetches_what_the_experiment_names(debian, ddattr, tmp_path):
    first, again = (ddattr("fetch", "experiment=fashion_small") for _ in range(2))
    assert (first.status, again.status) == (0, 0)
    assert (tmp_path / "data" / "fashion" / "LICENCES").is_file()
    assert "already done" in again.out


def test_an_experiment_that_needs_nothing_says_so(ddattr):
    said = ddattr("fetch", "experiment=digits_small")
    assert said.status == 0
    assert "nothing to fetch" in said.out


def test_data_that_is_missing_is_told_how_it_comes(ddattr):
    refused(ddattr("plan", "experiment=fashion_small"), "is missing", "ddattr fetch experiment=fashion_small")


def test_a_saved_config_can_have_nothing_fetched(make_run, tmp_path):
    run = make_run()
    config = run.resolved()
    config["data"]["source"] = {"_target_": "ddattr.data.fetching.emoji.emoji", "folder": str(tmp_path / "emoji")}
    (tmp_path / "config.yaml").write_text(text(config))
    with pytest.raises(ValueError, match="is no constructor of ddattr's"):
        read(tmp_path)
