"""Runs that were made up: members answer noise, and effects of some units that are known; tables are the product's."""

import shlex
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from ddattr.attribution import replayed
from ddattr.attribution import tables as denoised
from ddattr.attribution.significance import TestSettings
from ddattr.attribution.tables import Tables
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.data.tables import near_table, unit_table
from ddattr.files import load_table, load_tensors, save_json, save_table, save_tensors, save_text
from ddattr.stages.attributing import write

SETTINGS = TestSettings(0, phantoms=2000, neighbourhoods=(1, 2, 5))


class Made(NamedTuple):
    """A run's folder, its pictures and its codebook."""

    root: Path
    data: UnitDataModule
    codebook: Codebook

    @property
    def folder(self) -> Path:
        return self.root / "attribution" / "default"

    def table(self, name: str) -> pd.DataFrame:
        return load_table(self.folder / name)


def made(
    root: Path,
    shape: tuple[int, int, int] = (1, 8, 8),
    queries: int = 3,
    units: int = 30,
    pictures: int = 60,
    members: int = 16,
    effects: int = 4,
    images: torch.Tensor | None = None,
) -> Made:
    """A run of units by label; the first `effects` units matter to every query but the last one.

    Args:
        images: noise where none are given.
    """
    draw = torch.Generator().manual_seed(0)
    codebook = Codebook(units, members, members // 2 - 1)
    images = torch.rand(pictures, *shape, generator=draw) * 2 - 1 if images is None else images
    data = UnitDataModule(Source(images, torch.arange(pictures) % units), units="label")

    def noise(*lead: int) -> torch.Tensor:
        drawn = torch.randn(*lead, *shape, generator=draw)
        return drawn - drawn.mean(0)

    answers, bits = noise(members, queries), codebook.codewords(torch.arange(units)).float()
    for unit in range(effects):
        effect = (bits[unit] - bits[unit].mean())[:, None, None, None] * (data.unit_images[unit] - data.images.mean(0))
        answers[:, :-1] += 2 * effect[:, None]
    refined = torch.stack([torch.randperm(units, generator=draw)[:4] for _ in range(queries)], 1)
    factual = noise(queries).clamp(-1.5, 1.5)
    given = {"seeds": torch.arange(queries) + 5, "factual": factual, "denoised": answers}
    tensors = given | {
        "jacobian": noise(members, queries),
        "members": factual + noise(members, queries),
        "last_step": noise(members, queries),
        "ablations": factual + 0.1 * noise(4, queries),
        "refined_units": refined,
        "refined_images": data.unit_images[refined],
        "refined": factual + 0.1 * noise(4, queries),
        "rotating_error": torch.full((queries,), torch.nan),
    }
    found = Made(root, data, codebook)
    _write(found, found.folder, tensors, replayed.tabulate(tensors, torch.arange(4), codebook, data, SETTINGS))
    _rest(found)
    return found


def given_pictures(run: Made, names: list[str]) -> None:
    """A second query set, of the same pictures as files that were not inverted."""
    tensors = load_tensors(run.folder / "queries.safetensors") | load_tensors(run.folder / "denoised.safetensors")
    given = {name: tensors[name] for name in ("seeds", "factual", "denoised")}
    tables = denoised.tabulate(given, run.codebook, run.data, SETTINGS, names)
    asked = shlex.join([f"queries.pictures=[{','.join(names)}]", "seed=0"])
    _write(run, run.root / "attribution" / "mine", given, tables, f"ddattr attribute runs/made {asked}")


def _write(
    run: Made, folder: Path, tensors: dict[str, torch.Tensor], tables: Tables, command: str = "ddattr attribute"
) -> None:
    write(folder, tensors, tables, run.data, run.codebook)
    save_json(folder / "manifest.json", {"command": command, "fingerprint": "0123456789abcdef"})


def _rest(run: Made) -> None:
    """What other stages leave behind, as far as the page reads it."""
    code = run.codebook
    about = {"n": code.members, "h": code.weight, "seed": code.seed, "N": code.units, "unit": "label"}
    save_json(run.root / "codebook" / "codebook.json", about)
    save_text(run.root / "config.yaml", "training: {steps: 60, batch: 32}")
    save_table(run.root / "units.parquet", unit_table(run.data))
    save_table(run.root / "near_duplicates.parquet", near_table(run.data))
    quality = run.root / "quality"
    save_table(quality / "likeness.csv", pd.DataFrame({"unlikeness": [0.1], "images": [8]}))
    fid = {"kind": ["individual", "ensemble"], "members": [1, code.members], "fid": [2.0, 1.0], "images": [8, 8]}
    save_table(quality / "fid.csv", pd.DataFrame(fid))
    save_tensors(
        quality / "samples.safetensors", {"samples": run.data.images[:24].flip(0), "data": run.data.images[:24]}
    )
