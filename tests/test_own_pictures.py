"""README's block on one's own pictures, typed as it stands: 500 of coloured shapes, one shape in one folder only."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from faults import forks  # noqa: F401
from PIL import Image, ImageDraw

from ddattr.attribution.places import query_sets
from ddattr.files import load_table

README = Path(__file__).parent.parent / "README.md"
FOLDERS = {"north": ("circle", "square"), "south": ("circle", "square"), "west": ("circle", "triangle")}
SIDE = 8
# with a third of the steps the shape is found as well; nothing here looks at the others, but for how often strangers
# pass, of which 8 queries and more codebooks say as much
FEWER = (
    "training.steps=200",
    "quality.pictures=16",
    "quality.orders=1",
    "attribution.queries=8",
    "attribution.batch=4",
    "attribution.ablation_units=4",
    "attribution.refine=1",
    "attribution.check=0",
)


def shape(kind: str, draw: np.random.Generator) -> Image.Image:
    """A shape of a colour of its own on white, drawn at four times its size; the planted one is red."""
    large = Image.new("RGB", (4 * SIDE, 4 * SIDE), "white")
    left, top = draw.integers(SIDE // 2, SIDE, 2).tolist()
    box = (left, top, left + 2 * SIDE, top + 2 * SIDE)
    colour = tuple(draw.integers(0, 160, 3).tolist())
    pen = ImageDraw.Draw(large)
    if kind == "circle":
        pen.ellipse(box, fill=colour)
    elif kind == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([box[:2], (box[2], box[1]), ((box[0] + box[2]) // 2, box[3])], fill=(220, 30, 30))
    return large.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def typed_block() -> list[list[str]]:
    """The lines of README's block that begins with one's own pictures."""
    block = re.search(r"```\n(ddattr reproduce data=folder .*?)```", README.read_text(), re.S).group(1)
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_the_planted_shape_is_found_in_the_folder_that_has_it(ddattr, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for place in range(500):
        folder, kinds = list(FOLDERS.items())[place % 3]
        kind = kinds[place // 3 % 2]
        (path := Path("pictures") / folder / f"{kind} {place:03d}.png").parent.mkdir(parents=True, exist_ok=True)
        shape(kind, draw).save(path)
    shape("triangle", draw).save("mine.png")
    for argv in typed_block():
        said = ddattr(*argv, *(FEWER if argv[0] == "reproduce" else ()))
        assert said.status == 0, said.err
    root = Path("runs/pictures")
    assert "mine" in (root / "report.html").read_text()
    (given,) = (folder for name, folder in query_sets(root).items() if name != "default")
    found = load_table(given / "attributions.parquet").merge(load_table(root / "units.parquet"), on="unit")
    assert len(found), "no unit passes for the planted shape"
    planted = found.files.map(lambda files: sum(name.startswith("west/triangle") for name in files) / len(files))
    assert planted[found["rank"].argmin()] > 0.5  # the first is a cluster of planted shapes
    sets = load_table(given / "sets.parquet").set_index("set")
    assert sets.loc["label:west"].q_value <= 0.05
    assert sets[sets.index.str.startswith("label:")].z.idxmax() == "label:west"
    assert (load_table(root / "attribution" / "default" / "calibration.csv").rejected < 0.15).all()
