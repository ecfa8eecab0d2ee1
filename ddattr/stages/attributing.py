"""Attributing a query set: the run's own, or another of the same members; of the command line and of Python."""

import shutil
from pathlib import Path

from torch import Tensor

from ddattr.artifacts import Artifact, fingerprint, save_table, save_tensors
from ddattr.attribution.asked import Asked
from ddattr.attribution.queries import QuerySet
from ddattr.attribution.tables import Tables
from ddattr.stages import lineage
from ddattr.stages.run import Run
from ddattr.tracking.panels import panels
from ddattr.tracking.wandb import log_panels

SHOWN = 16  # queries in W&B's table: some twenty pictures each


def attribute(run: Run, queries: QuerySet) -> bool:
    """Makes a query set, unless it is done: False if it was.

    Raises:
        FileNotFoundError, ValueError: a picture or a member cannot be read; it was made with another config.
    """
    artifact = run.query_set_artifact(queries)
    if artifact.done():
        run.check_members(artifact)
        return False
    asked = queries.asked(run.data, run.seed)  # before anything is written
    return run.make(artifact, lambda: _attribute(run, artifact, asked))


def _attribute(run: Run, artifact: Artifact, asked: Asked | None) -> None:
    run.warn()
    run.write_units()
    batch = run.config.attribution.batch
    # of this config and these members' bits, in batches of this size: those of others are not taken up
    shards = artifact.folder / "shards" / f"{artifact.fingerprint}-{fingerprint(artifact.read)[:8]}-{batch}"
    module = run.build(
        "attribution",
        ensemble=run.ensemble(),
        process=run.process,
        reverse=run.reverse,
        codebook=run.codebook,
        data=run.data,
        settings=run.significance,
        folder=shards,
        seed=run.seed,
        asked=asked,
    )
    with run.tracking.run(run.root, run.name, "attribute", artifact.fingerprint, run.resolved()) as loggers:
        trainer = run.trainer(loggers, enable_progress_bar=False)
        run.predict(trainer, module, len(module.batches), "attribution.batch", keeps=asked is None)
        if trainer.is_global_zero:
            write(artifact.folder, module.tensors, module.tables)
            if "jacobian" in module.tensors:
                log_panels(loggers, "attribution/panels", panels(run.root, artifact.folder, SHOWN))
            shutil.rmtree(artifact.folder / "shards")
            lineage.log(run, loggers, artifact, lineage.members(run))


def write(folder: Path, tensors: dict[str, Tensor], tables: Tables) -> None:
    """Tensors and tables under the names that others rely on; what takes a tape is left out where there was none."""
    for name in ("jacobian", "denoised"):
        if name in tensors:
            save_tensors(folder / f"{name}.safetensors", {name: tensors[name]})
    kept = ("seeds", "factual", "refined_units", "refined_images", "refined")
    save_tensors(folder / "queries.safetensors", {name: tensors[name] for name in kept if name in tensors})
    for name, table in tables.files().items():
        save_table(folder / name, table)
