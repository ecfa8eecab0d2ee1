"""What every method costs, beside what it is worth: trainings, time, memory, disk."""

from pathlib import Path
from typing import Any

import pandas as pd

from ddattr.artifacts import load_json
from ddattr.validation.methods import ENSEMBLE, IN_PART_BESIDE_ONE, PEERS, SIMILARITY, TUNED
from ddattr.validation.retraining import Training, Validation


def costs(
    root: Path,
    plan: Validation,
    steps: int,
    seconds: dict[str, float],
    memory: dict[str, int],
    methods: list[str],
    fork: int | None = None,
) -> pd.DataFrame:
    """cost.csv: a row a method.

    Seconds are of one process: of training the models that a method asks (and those that it is tuned on), all
    at the members' pace, or what else the machine did would count; and of scoring all queries. `attribute` makes all of
    the ensemble's answers on generated queries at once, exact ablations for the agreement included; METHOD@m, of m
    members alone, is scored and timed apart. Memory is the highest that a process of training or scoring held.

    Args:
        root: the run's folder.
        steps: of one training.
        seconds, memory: of scoring, by method, where it was measured.
        methods: whose cost is asked.
        fork: steps of a member, when members are forks of one base.
    """
    members = [root / "members" / f"{k:03d}" for k in range(plan.codebook.members)]
    full, tuning = [_folder(root, plan.full(0))], [_folder(root, model) for model in plan.tuning_models()]
    each = steps if fork is None else fork
    trained = {**dict.fromkeys(members, each), **({} if fork is None else {root / "base": steps})}
    pace = sum(_manifest(folder).get("wall_seconds", 0.0) for folder in trained) / sum(trained.values())
    features = ["trak" if "trak" in seconds else "dtrak"]  # whose projected gradients they are
    beside = {"adjusted": ["dtrak"], "datamodel_trak": features, "datamodel_both": features}
    rows = []
    for method in methods:
        name, _, size = method.partition("@")
        peer = name in PEERS
        ours = [] if name in SIMILARITY or peer else members[: int(size or len(members))]
        others = full + tuning * (method in TUNED) if peer else []
        if method == "adjusted" and "dtrak" in seconds:
            others = full + tuning
        if name in IN_PART_BESIDE_ONE:  # gradients of one model, which no tuning changes
            others = full
        if ours and fork is not None:
            others = [*others, root / "base"]
        models, attribution = ours + others, [root / "attribution"] * (method in ENSEMBLE)
        training = len(ours) * each + len(others) * steps
        rows.append(
            {
                "method": method,
                "trainings": len(models),
                "training_steps": training,
                "training_seconds": training * pace,
                "scoring_seconds": sum(seconds.get(part, 0.0) for part in [method, *beside.get(name, [])])
                + sum(_manifest(folder).get("wall_seconds", 0.0) for folder in attribution),
                "memory_mb": max(
                    [memory.get(part, 0.0) for part in [method, *beside.get(name, [])]]
                    + [_manifest(folder).get("peak_memory_mb", 0.0) for folder in models + attribution]
                ),
                "disk_mb": sum(_size(folder) for folder in models),
            }
        )
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
