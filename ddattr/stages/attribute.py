"""`ddattr attribute`: replays, Jacobian, influence, significance (figures 4 and 5).

Some units are ablated exactly as well: the agreement with these says whether the first order is right.
"""

import shutil

from ddattr.artifacts import save_table, save_tensors
from ddattr.stages.run import Run
from ddattr.tracking.panels import panels
from ddattr.tracking.wandb import log_panels


def run(run: Run) -> None:
    """Attributes the queries and writes attribution/default/."""
    if not run.make(run.attribution_artifact, lambda: _attribute(run)):
        print("attribute: already done", flush=True)


def _attribute(run: Run) -> None:
    run.warn()
    run.write_units()
    artifact = run.attribution_artifact
    shards = artifact.folder / "shards" / artifact.fingerprint  # of this config: those of another are not taken up
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
    )
    with run.tracking.run(run.root, run.name, "attribute", artifact.fingerprint, run.resolved()) as loggers:
        trainer = run.trainer(loggers, enable_progress_bar=False)
        run.predict(trainer, module, len(module.batches), "attribution.batch")
        if trainer.is_global_zero:
            write(artifact.folder, module.tensors, module.tables)
            log_panels(loggers, "attribution/panels", panels(run.root, artifact.folder))
            shutil.rmtree(artifact.folder / "shards")


def write(folder, tensors, tables) -> None:
    """Tensors and tables under the names that others rely on."""
    for name in ("jacobian", "denoised"):
        if name in tensors:
            save_tensors(folder / f"{name}.safetensors", {name: tensors[name]})
    kept = ("seeds", "factual", "refined_units", "refined_images", "refined")
    save_tensors(folder / "queries.safetensors", {name: tensors[name] for name in kept if name in tensors})
    for name, table in tables.files().items():
        save_table(folder / name, table)
