"""`ddattr compare against=[runs/another]`: this run beside others: validated ones (figure 14), other seeds or sizes.

Runs that differ in their seed alone need no validation: mean and spread of their numbers over ensembles. Nor do runs
of samples of one source's pictures: what falls with their number, and how fast (figure 15).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from omegaconf import OmegaConf

from ddattr.artifacts import Artifact
from ddattr.attribution.places import default_folder
from ddattr.codebook import RANDOM
from ddattr.files import load_json, save_table
from ddattr.stages.run import Run
from ddattr.stages.saved import NAME
from ddattr.tracking import sizes
from ddattr.tracking.comparison import ESTIMATES, best_estimate, compare, growth
from ddattr.tracking.ensembles import ensembles, lines
from ddattr.tracking.wandb import log_figures

_SAMPLED = ("sample", "queries", "ablation_units", "check", "refine")


class Comparison(NamedTuple):
    """What is made of several runs, how, and what is said of it."""

    artifact: Artifact
    work: Callable[[], None]
    said: str


def run(run: Run) -> None:
    """Writes comparison/; of one run at several seeds ensembles/, and at several sizes sizes/."""
    found = comparison(run)
    if not run.make(found.artifact, found.work):
        print("compare: already done", flush=True)
    print(found.said)


def comparison(run: Run) -> Comparison:
    """What these runs can be compared by; all tables are read, and nothing is written.

    Raises:
        FileNotFoundError, ValueError: no such folder, or a run that lacks what is compared.
    """
    roots = folders(run)
    _ = run.tracking  # refuses, if it must, before anything is written
    if alike(roots):
        return _spread(run, roots)
    if alike(roots, sampled=True):
        return _sizes(run, roots)
    run.validation_artifact.require()
    table = pd.concat([growth(root) for root in roots], ignore_index=True)
    manifests = {root.name: load_json(root / "validation" / "manifest.json") or {} for root in roots}
    parents = {name: manifest.get("fingerprint", "missing") for name, manifest in manifests.items()}
    artifact = Artifact(run.root / "comparison", {"runs": [root.name for root in roots]}, parents)
    said = f"compare: table and figure in {artifact.folder}"
    return Comparison(artifact, lambda: _compare(run, artifact, table), said)


def alike(roots: Sequence[Path], sampled: bool = False) -> bool:
    """Whether runs differ in nothing that makes an attribution but their seed, and the queries' own.

    If `sampled` they may differ in the pictures that were drawn, and in how much is asked and replayed, too.
    """
    if not all((root / NAME).is_file() for root in roots):
        return False
    of_one = {"seed", "first_query", *(_SAMPLED if sampled else [])}
    first, *others = [_made_of(OmegaConf.to_container(OmegaConf.load(root / NAME)), of_one) for root in roots]
    return all(other == first for other in others)


def _made_of(config: Any, of_one: set[str]) -> Any:
    """What members and their attribution depend on, less what is of one run."""
    made = {
        key: config.get(key) for key in ("data", "codebook", "diffusion", "unet", "conditions", "training", "sampler")
    }
    made["codebook"] = {"design": RANDOM} | (made["codebook"] or {})  # of before there was another
    return _without(made | {key: config.get(key) for key in ("attribution", "significance")}, of_one)


def _without(part: Any, of_one: set[str]) -> Any:
    """Less what is null, too: an older run's config has no such key."""
    if not isinstance(part, dict):
        return part
    return {key: _without(value, of_one) for key, value in part.items() if key not in of_one and value is not None}


def _spread(run: Run, roots: Sequence[Path]) -> Comparison:
    """ensembles/."""
    parents = {root.name: _made(root) for root in roots}
    artifact = Artifact(run.root / "ensembles", {"runs": [root.name for root in roots]}, parents)
    table, path = ensembles(roots), artifact.folder / "ensembles.csv"
    said = [*lines(table), f"compare: {len(roots)} ensembles, differing in their seed, in {path}"]
    return Comparison(artifact, lambda: save_table(path, table), "\n".join(said))


def _sizes(run: Run, roots: Sequence[Path]) -> Comparison:
    """sizes/."""
    tables = sizes.of_roots(roots)
    parents = {root.name: _made(root) for root in roots}
    artifact = Artifact(run.root / "sizes", {"runs": [root.name for root in roots]}, parents)

    def write() -> None:
        sizes.write(tables, artifact.folder)
        _log(run, artifact)

    where = f"compare: {len(roots)} runs, differing in their number of pictures, in {artifact.folder}"
    return Comparison(artifact, write, "\n".join([*sizes.lines(*tables), where]))


def _made(root: Path) -> str:
    """Of what a run has been attributed and validated to."""
    folders = default_folder(root), root / "validation"
    return " ".join((load_json(folder / "manifest.json") or {}).get("fingerprint", "missing") for folder in folders)


def folders(run: Run) -> list[Path]:
    """This run's folder, and those of `against`: each run once, by its folder's name.

    Raises:
        ValueError: `against` names none, something that is no folder's name, or two runs of one name.
    """
    against = run.plain("against")
    if not isinstance(against, list) or not against or not all(isinstance(name, str) for name in against):
        raise ValueError(f"compare: against={against}, expected folders of runs. Set against=[runs/NAME].")
    roots = [Path(name).resolve() for name in (run.root, *against)]
    names = [root.name for root in roots]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"compare: {twice[0]} is there twice, expected runs whose folders have different names. Set experiment= or "
            "root= to the run itself, and against= to others."
        )
    return roots


def _compare(run: Run, artifact: Artifact, table: pd.DataFrame) -> None:
    compare(table, artifact.folder)
    agreement = best_estimate(table)
    for (name, steps), rows in table.groupby(["run", "training_steps"], sort=False):
        found = rows.groupby("statistic")["value"].mean()
        print(
            f"{name}, n={rows.members.iloc[0]}, {steps:,} steps: Spearman with retraining, "
            f"{ESTIMATES[agreement]} {found[agreement]:.2f}, LDS on loss {found['lds_loss_loss']:.2f} "
            f"(law {found['law_loss']:.2f}), z of the nearest {found['z_nearest']:.1f}"
        )
    _log(run, artifact)


def _log(run: Run, artifact: Artifact) -> None:
    """Sends an artifact's figures to W&B."""
    with run.tracking.run(run.root, run.name, "compare", artifact.fingerprint, run.resolved()) as loggers:
        log_figures(loggers, sorted(artifact.folder.glob("fig*.png")))
