"""`ddattr evaluate`: FID and KID of individuals and ensembles by size (figures 2, 3)."""

from collections.abc import Sequence

import pandas as pd

from ddattr.artifacts import adopted, first_process
from ddattr.files import save_table, save_tensors
from ddattr.stages import lineage
from ddattr.stages.run import Run


def run(run: Run) -> None:
    """Draws the pictures of every individual and ensemble, and writes quality/."""
    if not run.make(run.quality_artifact, lambda: _evaluate(run)):
        print("evaluate: already done", flush=True)


def _marked(fid: pd.DataFrame, elsewhere: Sequence[int]) -> pd.DataFrame:
    """The table with a column that says which individuals were trained elsewhere, if any was."""
    return fid.assign(adopted=fid.member.isin(elsewhere)) if elsewhere else fid


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
            save_table(artifact.folder / "fid.csv", _marked(quality.fid, list(adopted(run.root))))
            save_table(artifact.folder / "convergence.csv", quality.convergence)
            save_table(artifact.folder / "likeness.csv", quality.likeness)
            save_tensors(artifact.folder / "samples.safetensors", quality.shown)
            lineage.log(run, loggers, artifact, lineage.members(run))
