"""`ddattr evaluate`: FID and KID of individuals and ensembles by size (figures 2, 3)."""

from ddattr.artifacts import first_process, save_table, save_tensors
from ddattr.stages import lineage
from ddattr.stages.run import Run


def run(run: Run) -> None:
    """Draws the pictures of every individual and ensemble, and writes quality/."""
    if not run.make(run.quality_artifact, lambda: _evaluate(run)):
        print("evaluate: already done", flush=True)


def _evaluate(run: Run) -> None:
    run.warn()
    artifact, ensemble, quality = run.quality_artifact, run.ensemble(), run.quality()
    if first_process():
        print(f"evaluate: {len(quality.rows.weights)} ensembles of {len(quality.seeds)} pictures each", flush=True)
    with run.tracking.run(run.root, run.name, "evaluate", artifact.fingerprint, run.resolved()) as loggers:
        trainer = run.trainer(loggers, callbacks=[quality], enable_progress_bar=False)
        run.predict(trainer, quality.module(ensemble), len(quality.seeds), "quality.pictures")
        if trainer.is_global_zero:
            save_tensors(artifact.folder / "extractor.safetensors", quality.extractor.state_dict())
            save_table(artifact.folder / "fid.csv", quality.fid)
            save_table(artifact.folder / "convergence.csv", quality.convergence)
            save_table(artifact.folder / "likeness.csv", quality.likeness)
            save_tensors(artifact.folder / "samples.safetensors", quality.shown)
            lineage.log(run, loggers, artifact, lineage.members(run))
