"""`ddattr compare against=[runs/another]`: this run beside others that are validated too (figure 14)."""

from pathlib import Path

from ddattr.artifacts import Artefact, load_json
from ddattr.stages.run import Run
from ddattr.tracking.comparison import compare
from ddattr.tracking.wandb import log_figures


def run(run: Run) -> None:
    """Writes comparison/."""
    roots = folders(run)
    prints = {f"{k}": (load_json(root / "validation" / "manifest.json") or {}) for k, root in enumerate(roots)}
    parents = {name: manifest.get("fingerprint", "missing") for name, manifest in prints.items()}
    artefact = Artefact(run.root / "comparison", {"runs": [root.name for root in roots]}, parents)
    if not artefact.make(run.seed, lambda: _compare(run, artefact, roots)):
        print("compare: already done", flush=True)
    print(f"compare: table and figure in {artefact.folder}")


def folders(run: Run) -> list[Path]:
    """This run's folder, and those of `against`.

    Raises:
        ValueError: `against` names none, or something that is no folder's name.
    """
    against = run.plain("against")
    if not isinstance(against, list) or not against or not all(isinstance(name, str) for name in against):
        raise ValueError(f"compare: against={against}, expected folders of runs. Set against=[runs/NAME].")
    return [run.root, *map(Path, against)]


def _compare(run: Run, artefact: Artefact, roots: list[Path]) -> None:
    table = compare(roots, artefact.folder)
    for (name, steps), rows in table.groupby(["run", "training_steps"], sort=False):
        found = rows.groupby("statistic")["value"].mean()
        print(f"{name}, n={rows.members.iloc[0]}, {steps:,} steps: Spearman with retraining "
              f"{found['spearman_jvp']:.2f}, LDS on loss {found['lds_loss_loss']:.2f} (law {found['law_loss']:.2f}), "
              f"z of the nearest {found['z_nearest']:.1f}")  # fmt: skip
    with run.tracking.run(run.root, run.config.name, "compare", artefact.fingerprint, run.resolved()) as loggers:
        log_figures(loggers, sorted(artefact.folder.glob("fig*.png")))
