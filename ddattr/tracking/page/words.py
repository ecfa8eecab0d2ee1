"""The page's first words: what was trained, how good its samples are, what was found, and how sure that is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from ddattr.attribution.places import DEFAULT, default_folder, shown_in
from ddattr.codebook import RANDOM, Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.ensemble.likeness import UNLIKE
from ddattr.files import load_json, load_table, load_tensors
from ddattr.tracking.attributed import passing, query_names
from ddattr.tracking.figures.words import q_of
from ddattr.tracking.page.listed import Nearest
from ddattr.tracking.page.pictures import drawn, grid
from ddattr.tracking.query_sets import compared
from ddattr.tracking.units import unit_names

_UNITS = {
    "image": "one picture",
    "label": "all pictures of a label",
    "folder": "all pictures of a folder",
    "cluster": "a cluster of look-alikes",
    "near": "a picture with its near-duplicates",
}
_PAIRS = 3  # that are shown at once
_OF_TEXT = ".text.unet"
_COLOURS = {1: "grey", 3: "RGB"}


class Pair(NamedTuple):
    """A query and a unit that passes: names, pictures for an img, q in words, and where the explorer has them."""

    query: str
    unit: str
    pictures: tuple[str, str]
    sure: str
    address: str


class Part(NamedTuple):
    """A heading, sentences, the summary's lines that say it in numbers, and what is shown with it."""

    title: str
    text: list[str]
    lines: list[str]
    pictures: Mapping[str, str] = MappingProxyType({})  # by their captions
    pairs: Sequence[Pair] = ()


def words(root: Path, data: UnitDataModule, lines: Mapping[str, str]) -> list[Part]:
    """The four parts.

    Args:
        lines: of the summary, by what they are of.
    """
    code = load_json(root / "codebook" / "codebook.json") or {}
    found = _of(lines, "attributable", "resolution") + compared(root)
    return [
        Part("What was trained", _trained(root, data, code), _of(lines, "units")),
        Part("How good its pictures are", [_likeness(root)], _of(lines, "quality"), _samples(root)),
        Part("What was found", [_found(root, code["unit"])], found, pairs=_surest(root, data)),
        Part("How sure that is", [_sure(root)], _of(lines, "agreement", "calibration")),
    ]


def _of(lines: Mapping[str, str], *keys: str) -> list[str]:
    return [lines[key] for key in keys if lines.get(key)]


def _trained(root: Path, data: UnitDataModule, code: Mapping[str, Any]) -> list[str]:
    channels, height, width = data.shape
    shape = f"{height} x {width}, {_COLOURS.get(channels, f'{channels} channels')}"
    held = len(data.held_out.images)
    beside = f" ({held:,} more are held out: no member saw them)" if held else ""
    path = root / "config.yaml"
    config = yaml.safe_load(path.read_text()) if path.exists() else {}
    training = config.get("training", {})
    steps = f", for {training['steps']:,} steps of {training['batch']} pictures each" if "steps" in training else ""
    unit = _UNITS.get(code["unit"], f"all pictures of a {code['unit']}")
    return [
        f"{code['n']} diffusion models, the members, on {len(data.images):,} pictures of {shape}{beside}{steps}.",
        f"The pictures are {code['N']:,} units; a unit is {unit}. Each unit was seen by {code['h']} members and by no "
        "other, so that a unit is taken out by leaving these out: nothing is trained again.",
        *_learnt(config),
    ]


def _learnt(config: Mapping[str, Any]) -> list[str]:
    """Where members start when it is not from noise, as what the start owes to a unit is part of no answer; what of
    them was trained, and under what they are asked, when that is not all and nothing."""
    unet, said = config.get("unet", {}), []
    target = str(unet.get("_target_"))
    if target.endswith((".pretrained", _OF_TEXT)):
        said += [
            f"Members start from a base, {unet.get('path')}. Answers are of what training on these pictures has added: "
            "what the base itself learnt cannot be attributed, as no member is without it."
        ]
    if target.endswith(_OF_TEXT):
        said += [
            "Members see latents of the pictures, under prompts. Scores, displacements and tests are of latents; "
            "pictures are decoded to be shown, and to say which are alike. A picture without a unit is shown where "
            "that was replayed exactly."
        ]
    if lora := config.get("training", {}).get("lora"):
        said += [f"Each is an adapter (LoRA of rank {lora['rank']}) of one network, which stays as it is."]
    if conditions := config.get("conditions"):
        by = "captions" if target.endswith(_OF_TEXT) else "labels"
        said += [f"Each has learnt pictures by their {by} and is asked under one, guidance {conditions['guidance']}."]
    return said


def _likeness(root: Path) -> str:
    unlike = load_table(root / "quality" / "likeness.csv").unlikeness[0]
    return (
        f"On the way from training pictures (0) to pure noise (1) the ensemble's samples are at {unlike:.2f}. "
        f"Above {UNLIKE} nothing below should be believed."
    )


def _samples(root: Path) -> dict[str, str]:
    """Pictures of the whole ensemble, beside some that it was trained on."""
    kept = load_tensors(root / "quality" / "samples.safetensors")
    return {"What the ensemble draws": grid(kept["samples"], 8), "What it was trained on": grid(kept["data"], 8)}


def _found(root: Path, unit: str) -> str:
    folder = default_folder(root)
    table, count = passing(folder), len(load_table(folder / "queries.csv"))
    some, level = table["query"].nunique(), load_table(folder / "radius.csv").level.iloc[0]
    if not some:
        return f"No single {unit} passes the test for any of {count} pictures."
    return (
        f"{some} of {count} pictures have at least one {unit} that passes the test at q ≤ {level:g}; {len(table):,} "
        "pairs pass in all."
    )


def _surest(root: Path, data: UnitDataModule) -> list[Pair]:
    """Of the run's own queries the surest few, each with its surest unit."""
    folder = default_folder(root)
    table = passing(folder).sort_values(["q_value", "rank"]).drop_duplicates("query").head(_PAIRS)
    if table.empty:
        return []
    stored, called, unit, nearest = (
        load_tensors(shown_in(folder)),
        query_names(folder),
        unit_names(root),
        Nearest(data),
    )
    factual = dict(zip(stored["seeds"].tolist(), stored["factual"], strict=True))
    pairs = []
    for row in table.itertuples():
        rows = nearest.rows(row.unit)
        best = rows[nearest.of(row.unit, factual[row.query], 1)[0]]
        shown = drawn(factual[row.query]), drawn(data.images[int(best)])
        address = f"#/{DEFAULT}/{row.query}/{row.unit}"
        pairs.append(Pair(called[row.query], unit(row.unit), shown, q_of(row.q_value), address))
    return pairs


def _sure(root: Path) -> str:
    radius = load_table(default_folder(root) / "radius.csv")
    level = radius.level.iloc[0]
    lucky = (
        f"If no unit mattered, some unit would pass (q ≤ {level:g}) for at most about {100 * level:g} % of the "
        f"pictures; here one does for {int(radius.attributable.sum())} of {len(radius)}. "
    )
    code = load_json(root / "codebook" / "codebook.json") or {}
    if code.get("design", RANDOM) != RANDOM:
        return (
            f"{lucky}Members were given their units by orthogonal codewords, so that the effect of one unit is not "
            f"mixed into another's. p is a t-test's ({Codebook.of_record(code).p_by}): it compares a unit with what "
            "members differ by beyond all units, takes that for near to normal, and is not by randomisation. q "
            "corrects for all units (Benjamini-Hochberg, a picture at a time). What does not pass may matter as well; "
            "nothing can be claimed of it."
        )
    return (
        f"{lucky}Members were given their units at random, so that a unit that does nothing looks as influential as a "
        "codeword that no unit holds: p compares it with those, and q corrects for all units (Benjamini-Hochberg, a "
        "picture at a time). What does not pass may matter as well; nothing can be claimed of it."
    )
