"""What every method costs, beside what it is worth: trainings, time, memory, disk."""

from pathlib import Path
from typing import Any

import pandas as pd

from ddattr.artifacts import load_json
from ddattr.validation.retraining import PEERS, TUNED, Training, Validation
from ddattr.validation.scores import ENSEMBLE, SIMILARITY


def costs(
    root: Path, plan: Validation, steps: int, seconds: dict[str, float], methods: list[str], fork: int | None = None
) -> pd.DataFrame:
    """cost.csv: a row a method.

    Seconds are of one process, as the manifests have them: of training the models that a method asks (and those that
    its damping is tuned on), and of scoring all queries; `attribute` makes all of the ensemble's answers on generated
    queries at once, exact ablations for the agreement included.

    Args:
        root: the run's folder.
        steps: of one training.
        seconds: of scoring, by method, where it was timed.
        methods: whose cost is asked.
        fork: steps of a member, when members are forks of one base.
    """
    members = [root / "members" / f"{k:03d}" for k in range(plan.codebook.members)]
    full, tuning = [_folder(root, plan.full(0))], [_folder(root, model) for model in plan.tuning_models()]
    rows = []
    for method in methods:
        peer = method in PEERS
        ours = [] if method in SIMILARITY or peer else members
        others = full + tuning * (method in TUNED) if peer else []
        if (method == "adjusted" and "dtrak" in seconds) or method in ("datamodel_trak", "datamodel_both"):
            others = full + tuning
        if ours and fork is not None:
            others = [*others, root / "base"]
        models, each = ours + others, steps if fork is None else fork
        attributed = method in ENSEMBLE
        scoring = root / ("attribution" if attributed else "validation/scores")
        rows.append({
            "method": method, "trainings": len(models), "training_steps": len(ours) * each + len(others) * steps,
            "training_seconds": sum(_manifest(folder).get("wall_seconds", 0.0) for folder in models),
            "scoring_seconds": seconds.get(method, 0.0)
            + (_manifest(scoring).get("wall_seconds", 0.0) if attributed else 0.0),
            "memory_mb": max(_manifest(folder).get("peak_memory_mb", 0.0) for folder in [*models, scoring]),
            "disk_mb": sum(_size(folder) for folder in models),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table["seconds"] = table.training_seconds + table.scoring_seconds
    return table


def _folder(root: Path, model: Training) -> Path:
    return root / "validation" / "retraining" / model.name


def _size(folder: Path) -> float:
    """Megabytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _manifest(folder: Path) -> dict[str, Any]:
    return load_json(folder / "manifest.json") or {}
