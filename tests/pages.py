"""Runs that were made up: members answer noise, and effects of some units that are known; tables are the product's."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from ddattr.artifacts import load_table, load_tensors, save_json, save_table, save_tensors, save_text
from ddattr.attribution.significance import TestSettings
from ddattr.attribution.tables import tabulate
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.data.tables import unit_table
from ddattr.stages.attribute import write


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
) -> Made:
    """A run of units by label; the first `effects` units matter to every query but the last one."""
    draw = torch.Generator().manual_seed(0)
    codebook = Codebook(units, members, members // 2 - 1)
    images = torch.rand(pictures, *shape, generator=draw) * 2 - 1
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
    tensors = {
        "seeds": torch.arange(queries) + 5,
        "factual": factual,
        "jacobian": noise(members, queries),
        "denoised": answers,
        "members": factual + noise(members, queries),
        "last_step": noise(members, queries),
        "ablations": factual + 0.1 * noise(4, queries),
        "refined_units": refined,
        "refined_images": data.unit_images[refined],
        "refined": factual + 0.1 * noise(4, queries),
        "rotating_error": torch.full((queries,), torch.nan),
    }
    settings = TestSettings(0, phantoms=2000, draws=100, neighbourhoods=(1, 2, 5))
    found = Made(root, data, codebook)
    write(found.folder, tensors, tabulate(tensors, torch.arange(4), codebook, data, settings))
    save_json(found.folder / "manifest.json", {"command": "ddattr attribute", "fingerprint": "0123456789abcdef"})
    _rest(found)
    return found


def given_pictures(run: Made) -> None:
    """A second set of queries, as pictures that were not inverted leave it behind."""
    folder = run.root / "attribution" / "mine"
    shutil.copytree(run.folder, folder)
    for name in ("jacobian.safetensors", "agreement.csv", "agreement_summary.csv", "calibration.csv"):
        (folder / name).unlink(missing_ok=True)
    tensors = load_tensors(folder / "queries.safetensors")
    save_tensors(folder / "queries.safetensors", {name: tensors[name] for name in ("seeds", "factual")})
    queries = run.table("queries.csv")[["query", "label", "nearest", "unlike_data"]]
    save_table(folder / "queries.csv", queries.assign(name=["a b.png", "<b>.png", "c.png"]))
    save_table(folder / "radius.csv", run.table("radius.csv")[["query", "attributable", "resolution", "level"]])
    table = run.table("influence.parquet")
    save_table(folder / "influence.parquet", table[table.method.str.startswith("denoised") | (table.method == "pixel")])
    save_json(folder / "manifest.json", {"command": "ddattr attribute runs/x 'queries.pictures=[a b.png]' seed=0"})


def _rest(run: Made) -> None:
    """What other stages leave behind, as far as the page reads it."""
    code = run.codebook
    about = {"n": code.members, "h": code.weight, "seed": code.seed, "N": code.units, "unit": "label"}
    save_json(run.root / "codebook" / "codebook.json", about)
    save_text(run.root / "config.yaml", "training: {steps: 60, batch: 32}")
    save_table(run.root / "units.parquet", unit_table(run.data))
    quality = run.root / "quality"
    save_table(quality / "likeness.csv", pd.DataFrame({"unlikeness": [0.1], "images": [8]}))
    fid = {"kind": ["individual", "ensemble"], "members": [1, code.members], "fid": [2.0, 1.0], "images": [8, 8]}
    save_table(quality / "fid.csv", pd.DataFrame(fid))
    save_tensors(
        quality / "samples.safetensors", {"samples": run.data.images[:24].flip(0), "data": run.data.images[:24]}
    )
