"""`ddattr replay runs/digits/members/003`: makes an artifact again from its manifest, and compares the bits.

In a temporary folder, from the run's own parents: nothing of the run is changed. A line a file says whether its bits
are the same, or by how much its numbers differ; then what differs in what made it: commit, versions, device, threads.

Any machine may replay what another made. On one process, whatever the run was made on. Its exit status tells a script:
0 all bits are the same, 3 something differs. 2 is a refusal, as everywhere.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from ddattr.artifacts import Artifact, checksum, own_files, same_digest
from ddattr.attribution.places import FUNCTIONALS
from ddattr.attribution.queries import QuerySet
from ddattr.files import digest, load_json
from ddattr.stages import aspects, evaluate, report
from ddattr.stages.attributing import attribute
from ddattr.stages.difference import difference
from ddattr.stages.retrain import select
from ddattr.stages.run import Run
from ddattr.stages.training import retrain, train_base, train_member
from ddattr.stages.truth import removal_plan
from ddattr.stages.verify import others, readable
from ddattr.validation.training import Training

_DIFFERS = 3
_SAME = "same bits"
_BROKEN = "changed or lost since"
_MADE_BY = ("commit", "versions", "device", "threads")


class Making(NamedTuple):
    """An artifact, and how it is made where it is missing."""

    artifact: Artifact
    work: Callable[[], Any]


def run(run: Run) -> None:
    """Prints a line for every file.

    Raises:
        FileNotFoundError, ValueError: no artifact lies there; it or a parent is not what was made; nothing makes it.
        SystemExit: 3, where something differs.
    """
    kept = asked(run).artifact
    made = kept.manifest or {}
    with TemporaryDirectory(prefix="ddattr-") as room:
        _mirror(run.root, Path(room), kept.folder)
        again = _making(_elsewhere(run, room), _place(run), made)
        again.work()
        now = again.artifact.manifest or {}
        said = compared(kept.folder, made, again.artifact.folder, now)
        for name, verdict in said.items():
            print(f"{name:<{max(map(len, said))}}  {verdict}")
    for line in changed(made, now):
        print(line)
    differ = sum(verdict != _SAME for verdict in said.values())
    print(f"replay: {kept.folder}: {len(said) - differ} of {len(said)} files have the same bits")
    if differ and HydraConfig.get().mode is not RunMode.MULTIRUN:  # there it would end the sweep
        sys.exit(_DIFFERS)


def asked(run: Run) -> Making:
    """The artifact that the command line names, if it is done and can be made again, and of what lies here.

    Raises:
        FileNotFoundError, ValueError: see `run`.
    """
    place = _place(run)
    folder = run.root / place
    known = {path.parent.relative_to(run.root).as_posix(): path for path in run.root.rglob("manifest.json")}
    if place not in known:
        raise FileNotFoundError(
            f"replay: {folder} has no manifest.json, expected an artifact that is done, as "
            f"{', '.join(sorted(known)[:4]) or 'members/000'}. Name its folder."
        )
    manifests = {name: found for name, path in known.items() if (found := readable(path.read_text())) is not None}
    made = manifests.get(place)
    if made is None or made.get("checksum", checksum(made)) != checksum(made):
        raise ValueError(f"{known[place]} is damaged. Take it from where it is whole, or make its artifact again.")
    if "adopted" in made:
        of = made["adopted"]
        raise ValueError(
            f"replay: {folder} was trained elsewhere, and adopted on {of['date']} from {of['path']}, expected what "
            f"was made here. Its file is held against its manifest by: ddattr verify {run.root}"
        )
    if other := list(others(place, made, manifests)):
        raise ValueError(
            f"replay: {folder} was made of {', '.join(other)}: other than what lies there now. Look for what changed: "
            f"ddattr verify {run.root}"
        )
    making = _making(run, place, made)
    if making.artifact.folder != folder or not making.artifact.done():
        raise ValueError(
            f"replay: {folder} is out of date: other artifacts lie there now. Make it again: {making.artifact.remedy}"
        )
    return making


def _place(run: Run) -> str:
    """The artifact's folder, below the run's."""
    given = run.config.artifact
    place = PurePosixPath(str(given or ""))
    shown = "null" if given is None else given
    if not isinstance(given, str) or not place.parts or place.is_absolute() or ".." in place.parts:
        raise ValueError(
            f"replay: artifact={shown}, expected a folder below {run.root}, as members/003. Name it: ddattr replay "
            f"{run.root / 'members' / '003'}"
        )
    return place.as_posix()


def _making(run: Run, place: str, made: Mapping[str, Any]) -> Making:
    """How the artifact of a place is made.

    Raises:
        ValueError: nothing makes it alone.
    """
    kind, _, name = place.partition("/")
    if kind == "codebook":
        return Making(run.codebook_artifact, run.write_codebook)
    if kind == "features":
        return Making(run.features_artifact(run.data.images, run.data.labels), run.write_codebook)
    if kind == "latents" and run.latents is not None:
        return Making(run.latents_artifact, run.write_codebook)
    if kind == "base" and run.fork is not None:
        return Making(run.base_artifact, lambda: train_base(run))
    if kind == "members" and name.isdigit():
        return Making(run.member_artifact(int(name)), lambda: train_member(run, int(name)))
    if kind == "quality":
        return Making(run.quality_artifact, lambda: evaluate.run(run))
    if kind == "attribution":
        name, _, functional = name.partition(f"/{FUNCTIONALS}/")
        of = made if not functional else load_json(run.root / kind / name / "manifest.json") or made
        queries = _queries(run, name, of)
        if not functional:
            return Making(run.query_set_artifact(queries), lambda: attribute(run, queries))
        if run.functional is None:
            raise ValueError(
                f"replay: {functional} was asked of {name}, and a run does not keep whose code that is. Name it again: "
                "set functional."
            )
        return Making(run.functional_artifact(queries), lambda: aspects.ask(run, queries))
    if kind == "figures":
        return Making(run.figures_artifact, lambda: run.make(run.figures_artifact, lambda: report.draw(run)))
    if place.startswith("validation/retraining/"):
        model = _model(run, place.removeprefix("validation/retraining/"), made)
        return Making(run.retrained_artifact(model), lambda: retrain(run, [model]))
    raise ValueError(
        f"replay: {run.root / place} says how long its work took, or is of several runs, expected codebook, features, "
        "base, members/NNN, quality, attribution/NAME, figures or validation/retraining/NAME. Name one of them."
    )


def _queries(run: Run, name: str, made: Mapping[str, Any]) -> QuerySet:
    """What a query set was asked; its pictures, of which a run keeps no files, are those of the command line.

    Raises:
        ValueError: it names none.
    """
    of = made["config"].get("queries", {})
    conditions = of.get("conditions")
    if "seeds" in of:
        return QuerySet(name, seeds=of["seeds"], conditions=conditions)
    if "held_out" in of:
        inversions = of["inversions"]
        return QuerySet(name, None, None, inversions > 0, inversions or 1, conditions, held_out=True)
    if "pictures" not in of:
        return QuerySet()
    if run.queries.pictures is None:
        raise ValueError(
            f"replay: {name} was asked about {len(of['pictures'])} pictures, whose files a run does not keep. Name "
            "them again: set queries.pictures."
        )
    inversions = of["inversions"]
    inverted = {"invert": inversions > 0, "inversions": inversions or run.queries.inversions}
    return replace(run.queries, name=name, conditions=conditions, **inverted)


def _model(run: Run, name: str, made: Mapping[str, Any]) -> Training:
    """The model of the ground truth of a name.

    Raises:
        ValueError: `validate` asks for none of that name, nor does `unit`.
    """
    asked = run.validation.models() if run.config.unit is None else select(run)
    found = {model.name: model for model in [*asked, *(removal.model for removal in removal_plan(run))]}
    if name not in found:
        raise ValueError(
            f"replay: {name} is no model that `validate` asks for, nor one without unit={run.config.unit}. Set unit as "
            f"the command did that made it: {made.get('command')}"
        )
    return found[name]


def _mirror(root: Path, room: Path, without: Path) -> None:
    """The files of a run as links in a folder of their own, less an artifact: what replaces one leaves the run's."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and path.name != ".lock" and without not in path.parents and name.parts[0] != "wandb":
            (room / name).parent.mkdir(parents=True, exist_ok=True)
            (room / name).symlink_to(path.absolute())


def _elsewhere(run: Run, room: str) -> Run:
    """The same run in another folder: untracked, on one process."""
    config = run.resolved()
    config |= {
        "root": room,
        "tracking": {**config["tracking"], "mode": "disabled"},
        "trainer": {**config["trainer"], "devices": 1, "strategy": "auto"},
    }
    return Run(OmegaConf.create(config), run.overrides)


def compared(folder: Path, made: Mapping[str, Any], place: Path, now: Mapping[str, Any]) -> dict[str, str]:
    """What is to be said of every file of an artifact, by its name.

    Args:
        folder, made: of the artifact, and its manifest.
        place, now: of what was made again, and its manifest.
    """
    here = own_files(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kept = dict.fromkeys(here, "") | (made.get("files") or {})
    return {name: _verdict(name, folder, kept, place, now["files"]) for name in sorted(set(kept) | set(now["files"]))}


def _verdict(name: str, folder: Path, kept: Mapping[str, str], place: Path, now: Mapping[str, str]) -> str:
    """Of one file; a digest that is empty is that of a manifest that has none of it."""
    if name not in now:
        return "differs: it is not made any more"
    if name not in kept:
        return "differs: it was not made"
    lies = digest(folder / name) if (folder / name).is_file() else None
    if not same_digest(kept[name] or lies or "", now[name]):
        whole = lies is not None and same_digest(kept[name] or lies, lies)
        return f"differs: {difference(folder / name, place / name)}" if whole else f"differs; here it is {_BROKEN}"
    return _SAME if lies == now[name] else f"made with the bits of the manifest; here it is {_BROKEN}"


def changed(made: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A line for everything that differs in what made an artifact; what an older manifest leaves open is none."""
    for key in _MADE_BY:
        before, after = made.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from (f"{k} {before[k]}, now {after.get(k)}" for k in before if before[k] != after.get(k))
        elif key in made and before != after:
            yield f"{key} {before}, now {after}"
