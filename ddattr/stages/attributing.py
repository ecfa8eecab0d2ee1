"""Attributing a query set: the run's own, or another of the same members; of the command line and of Python."""

import shutil
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from ddattr.artifacts import Artifact, fingerprint, first_process
from ddattr.attribution.asked import Asked
from ddattr.attribution.jacobian import first_order
from ddattr.attribution.module import AttributionModule
from ddattr.attribution.queries import QuerySet
from ddattr.attribution.shards import Shards
from ddattr.attribution.tables import Tables
from ddattr.codebook import Codebook, contrast
from ddattr.data.datamodule import UnitDataModule
from ddattr.files import save_table, save_tensors
from ddattr.stages import lineage
from ddattr.stages.run import Run
from ddattr.tracking.panels import panels
from ddattr.tracking.wandb import log_panels

SHOWN = 16  # queries in W&B's table: some twenty pictures each


def attribute(run: Run, queries: QuerySet) -> bool:
    """Makes a query set, or a part of it, unless it is done: False if it was.

    Parts share the shards, outside the set's own lock; whichever finds none missing merges them under it.

    Raises:
        FileNotFoundError, ValueError: a picture or a member cannot be read; it was made with another config.
    """
    artifact = run.query_set_artifact(queries)
    made = False
    if artifact.done():
        run.check_members(artifact)
    else:
        asked = queries.asked(run.seen, run.seed, run.conditions)  # before anything is written
        made = _make(run, artifact, asked) if run.config.part is None else _make_part(run, artifact, asked)
    if first_process() and artifact.done():
        shutil.rmtree(artifact.folder / "shards", ignore_errors=True)  # a part that is late makes none again
    return made


def _make(run: Run, artifact: Artifact, asked: Asked | None, wait: bool = True) -> bool:
    return run.make(artifact, lambda: _attribute(run, artifact, asked), wait=wait)


def _make_part(run: Run, artifact: Artifact, asked: Asked | None) -> bool:
    """Makes shards as long as there are any that nobody holds, then the set, if they are all there."""
    artifact.read = run.members_read
    module = built(run, artifact, asked, part=True)
    missing, before = module.missing, None
    while missing and missing != before and not artifact.done():  # again: who held one may have been killed
        trainer = run.trainer([], enable_progress_bar=False)
        run.predict(trainer, module, len(module.batches), "attribution.batch", keeps=asked is None)
        missing, before = module.missing, missing
    if not missing or artifact.done():
        with suppress(BlockingIOError):
            return _make(run, artifact, asked, wait=False)
    print(f"attribute: part {run.config.part} has done its share; other processes are at the rest", flush=True)
    return True


def built(run: Run, artifact: Artifact, asked: Asked | None, part: bool = False) -> AttributionModule:
    """The module that attributes a query set, of the run's own config."""
    batch = run.config.attribution.batch
    # of this config and these members' bits, in batches of this size: those of others are not taken up
    folder = artifact.folder / "shards" / f"{artifact.fingerprint}-{fingerprint(artifact.read)[:8]}-{batch}"
    return run.build(
        "attribution",
        ensemble=run.ensemble(),
        process=run.process,
        reverse=run.reverse,
        codebook=run.codebook,
        data=run.seen,
        settings=run.significance,
        shards=Shards(folder, part, artifact.done),
        seed=run.seed,
        asked=asked,
        conditions=run.conditions,
    )


def _attribute(run: Run, artifact: Artifact, asked: Asked | None) -> None:
    run.warn()
    run.write_units()
    module = built(run, artifact, asked)
    with run.tracking.run(run.root, run.name, "attribute", artifact.fingerprint, run.resolved()) as loggers:
        trainer = run.trainer(loggers, enable_progress_bar=False)
        run.predict(trainer, module, len(module.batches), "attribution.batch", keeps=asked is None)
        if trainer.is_global_zero:
            assert module.tables is not None  # which the end of predict makes
            write(artifact.folder, module.tensors, module.tables, run.seen, run.codebook)
            if "jacobian" in module.tensors:
                log_panels(loggers, "attribution/panels", panels(run.root, artifact.folder, SHOWN))
            lineage.log(run, loggers, artifact, lineage.members(run))


def write(folder: Path, tensors: dict[str, Tensor], tables: Tables, data: UnitDataModule, codebook: Codebook) -> None:
    """Tensors and tables under the names that others rely on; what takes a tape is left out where there was none.

    Of members that see latents all tensors are of these, and shown.safetensors has their pictures, decoded to be shown.
    """
    for name in ("jacobian", "denoised"):
        if name in tensors:
            save_tensors(folder / f"{name}.safetensors", {name: tensors[name]})
    kept = ("seeds", "factual", "refined_units", "refined_images", "refined")
    stored = {name: tensors[name] for name in kept if name in tensors}
    save_tensors(folder / "queries.safetensors", stored)
    if data.code is not None:
        response = tensors.get("jacobian")
        save_tensors(folder / "shown.safetensors", _shown(stored, response, data, codebook))
    for name, table in tables.files().items():
        save_table(folder / name, table)


def _shown(
    stored: dict[str, Tensor], response: Tensor | None, data: UnitDataModule, codebook: Codebook
) -> dict[str, Tensor]:
    """The same as pictures, of units those that they have; and `first`, pictures without each to first order."""
    factual = stored["factual"]
    made = {"seeds": stored["seeds"], "factual": data.shown(factual)}
    if "refined" not in stored or response is None:
        return made
    units, moved = stored["refined_units"], stored["refined"]
    by_query = [first_order(response[:, [q]], contrast(codebook.codewords(of)))[:, 0] for q, of in enumerate(units.T)]
    first = factual + torch.stack(by_query, 1)
    for name, latents in {"refined": moved, "first": first}.items():
        made[name] = data.shown(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
    return made | {"refined_units": units, "refined_images": data.pictures.unit_pictures[units]}
