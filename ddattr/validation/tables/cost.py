"""cost.csv: what every method costs, beside what it is worth: trainings, time, memory, disk."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddattr.attribution.methods import LEFT_OUT, WITH_GRADIENTS, Family, Method, method_of
from ddattr.attribution.places import default_folder
from ddattr.files import load_json
from ddattr.validation.plan import Plan
from ddattr.validation.study import Phase, Study
from ddattr.validation.training import Training

PHASE = Phase.REMOVED


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Left out where nothing was scored."""
    if study.scores:
        spent = study.spent
        methods = list(study.scores["generated"]) + [LEFT_OUT] * (
            study.plan.groups is not None and study.plan.leave_one_out
        )
        yield (
            "cost",
            costs(study.root, study.plan, study.steps, spent["seconds"], spent["memory_mb"], methods, study.fork),
        )


def costs(
    root: Path,
    plan: Plan,
    steps: int,
    seconds: Mapping[str, float],
    memory: Mapping[str, int],
    methods: Sequence[str],
    fork: int | None = None,
) -> pd.DataFrame:
    """A row a method.

    Seconds are of one process: of training the models that a method needs (and those that it is tuned on), all at the
    pace of members that were trained here, or what else the machine did would count; and of scoring all queries.
    `attribute` makes all of the ensemble's answers on generated queries at once, exact ablations for the agreement
    included; METHOD@m, of m members alone, is scored and timed apart. Memory is the highest that a process of training
    or scoring held.
    `leave_one_out` costs a training a group and one of all; asking these is not timed.

    Args:
        root: the run's folder.
        steps: of one training.
        seconds, memory: of scoring, by method, where it was measured.
        methods: whose cost is wanted.
        fork: steps of a member, when members are forks of one base.
    """
    members = [root / "members" / f"{k:03d}" for k in range(plan.codebook.members)]
    each = steps if fork is None else fork
    trained = {**dict.fromkeys(members, each), **({} if fork is None else {root / "base": steps})}
    here = {folder: count for folder, count in trained.items() if "adopted" not in _manifest(folder)}
    pace = sum(_manifest(f).get("wall_seconds", 0.0) for f in here) / sum(here.values()) if here else float("nan")
    rows = []
    for name in methods:
        method, (_, _, size) = method_of(name), name.partition("@")
        uses_members = method.family not in (Family.SIMILARITY, Family.PEER, Family.RETRAINED)
        ours = members[: int(size or len(members))] if uses_members else []
        others = _others(method, root, plan, seconds)
        if ours and fork is not None:
            others = [*others, root / "base"]
        asked = method.family in (Family.DISPLACEMENT, Family.DENOISING) and not size
        models, attribution = ours + others, [default_folder(root)] * asked
        training = len(ours) * each + len(others) * steps
        scored = [name, *_beside(method, seconds)]
        held = [memory.get(part, 0.0) for part in scored]
        held += [_manifest(folder).get("peak_memory_mb", 0.0) for folder in models + attribution]
        scoring = sum(seconds.get(part, 0.0) for part in scored)
        scoring += sum(_manifest(folder).get("wall_seconds", 0.0) for folder in attribution)
        rows.append(
            {
                "method": name,
                "trainings": len(models),
                "training_steps": training,
                "training_seconds": training * pace,
                "scoring_seconds": scoring,
                "memory_mb": max(held),
                "disk_mb": sum(_size(folder) for folder in models),
                "seconds": training * pace + scoring,
            }
        )
    return pd.DataFrame(rows)


def _others(method: Method, root: Path, plan: Plan, seconds: Mapping[str, float]) -> list[Path]:
    """Models beside the members: of all units, and those that a method, or its surrogate if it has one, is tuned on."""
    if method.key == "adjusted" and "dtrak" not in seconds:
        return []
    models = [plan.full(0)] * ("full" in method.needs) + plan.tuning_models() * ("halves" in method.needs)
    models += plan.group_models(0) * ("left_out" in method.needs)
    return [_folder(root, model) for model in models]


def _beside(method: Method, seconds: Mapping[str, float]) -> list[str]:
    """Peers whose scores, or projected gradients, a method of the members takes."""
    if method.key == WITH_GRADIENTS:
        return ["dtrak"]
    if method.family is not Family.LOSS:
        return []
    if "halves" in method.needs:
        return ["dtrak"]
    return ["trak" if "trak" in seconds else "dtrak"] if "gradients" in method.needs else []


def _folder(root: Path, model: Training) -> Path:
    return root / "validation" / "retraining" / model.name


def _size(folder: Path) -> float:
    """Megabytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _manifest(folder: Path) -> dict[str, Any]:
    return load_json(folder / "manifest.json") or {}
