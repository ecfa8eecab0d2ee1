"""What a verb would do, said and not done: `--dry-run`. A function a verb, which goes its way up to the work.

It gives the artifacts that the verb makes, in the verb's order, and refuses what the verb refuses before it begins, by
the same functions. Nothing is written, but for the user's cache of decoded pictures.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ddattr.artifacts import Artifact
from ddattr.files import load_json
from ddattr.stages.run import Run


class Step(NamedTuple):
    """An artifact that a verb makes; `needs` refuses what its work would refuse at once.

    `busy`: what becomes of it while another process works on it. A call that is a part of several waits for none: it
    shares the batches of a query set, and leaves the models that others train.
    """

    artifact: Artifact
    needs: Callable[[], Any] = lambda: None
    busy: str = "would wait"


MAKES = ("would make", "would go on")
PARTS = {"attribute": "would share", "retrain": "would leave"}  # what others are at, of the verbs that have parts
Steps = Iterator[Step | str]


def would(run: Run, made: set[Path]) -> None:
    """Prints a line for everything that the verb would make, wait for or find done.

    Args:
        made: folders that jobs before this one of a sweep would have made; those of this one are added.
    Raises:
        FileNotFoundError, ValueError: what the verb would raise before its work begins, after the line that it is of.
    """
    count: Counter[str] = Counter()
    wanted = []
    for step in _STEPS[run.config.stage](run):
        if isinstance(step, str):
            print(step)
            continue
        folder = step.artifact.folder
        if folder in made:
            count["of a job before" if step.busy == "would wait" else "shared with a part before"] += 1
            continue
        try:
            state = _state(step)
        except FileNotFoundError:
            print(_line("blocked", folder))
            raise
        except ValueError:
            print(_line("refused", folder))
            raise
        print(_line(state, folder) + _more(state, step.artifact))
        count[state] += 1
        made.add(folder)
        if state in MAKES and folder.is_relative_to(run.root):  # an export may lie anywhere
            wanted.append(folder.relative_to(run.root).as_posix())
    counted = "".join(f", {number} {state}" for state, number in sorted(count.items()))
    print(f"dry run: nothing was written{counted}{_how_long(run, wanted)}", flush=True)


def _state(step: Step) -> str:
    """What would become of an artifact.

    Raises:
        FileNotFoundError, ValueError: it was made with another config; something is missing that it is made of.
    """
    if step.artifact.done():
        return "done"
    state = step.artifact.state()
    if state == "running":
        return step.busy
    step.needs()
    return "would go on" if _resumes(step.artifact) else "would make"


def _resumes(artifact: Artifact) -> bool:
    """Whether a training has a checkpoint of this config, as `training.train` looks for it."""
    begun = load_json(artifact.folder / "status.json") or {}
    return (artifact.folder / "last.ckpt").exists() and begun.get("fingerprint") == artifact.fingerprint


def _more(state: str, artifact: Artifact) -> str:
    """Why: who is at it, or what is there already."""
    if state == "done":
        return ": trained elsewhere" if "adopted" in (artifact.manifest or {}) else ""
    if state in ("would wait", *PARTS.values()):
        from ddattr.stages.status import at_work

        return f": {at_work(artifact) or 'another process is working on it'}"
    if state == "would go on":
        return f": {artifact.state()} at step {(load_json(artifact.folder / 'status.json') or {}).get('step', 0)}"
    return f": {artifact.state()}" if state == "would make" and artifact.state() != "missing" else ""


def _line(what: str, of: object) -> str:
    return f"{what:<15} {of}"


def _how_long(run: Run, places: list[str]) -> str:
    """What `plan` estimates of these artifacts, from their beginning; a sweep, which would time its network in every
    job, names `plan` alone."""
    if not places or run.config.stage == "compare":
        return ""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        return f". How long it takes: {run.command('plan')}"
    from ddattr.stages.estimate import estimate
    from ddattr.stages.plan import duration

    found, n = estimate(run), run.codebook.members
    whole = found.whole
    of = {"members": found.seconds["train"] / n, "quality": found.seconds["evaluate"], "base": whole}
    of |= {"attribution/default": found.seconds["attribute"], "validation/retraining": whole}
    total = sum(of[kind] for place in places for kind in of if place == kind or place.startswith(f"{kind}/"))
    return f", about {duration(total)} of one process" if total else ""


# -- verbs


def _busy(run: Run) -> str:
    return "would wait" if run.config.part is None else PARTS[run.config.stage]


def _begun(run: Run) -> Steps:
    """`Run.write_codebook`."""
    yield Step(run.codebook_artifact)
    if run.data.compared_by == "features":
        yield Step(run.features_artifact(run.data.images, run.data.labels))
    if run.latents is not None:
        yield Step(run.latents_artifact)


def _replays(run: Run) -> None:
    """What takes the ensemble and a Trainer, and has no other folder's leave to begin."""
    run.require_members()
    for member in range(run.codebook.members):
        run.member_artifact(member).verified("member.safetensors")
    _ = run.reverse, run.tracking
    run.trainer([])


def _train(run: Run) -> Steps:
    from ddattr.stages.train import asked

    member = asked(run)
    yield from _begun(run)
    artifact = run.member_artifact(member)
    if run.fork is not None and not artifact.done():
        yield Step(run.base_artifact)
    yield Step(artifact)


def _evaluate(run: Run) -> Steps:
    run.check_members(run.quality_artifact)
    yield Step(run.quality_artifact, lambda: _replays(run))


def _attribute(run: Run) -> Steps:
    artifact = run.query_set_artifact(run.queries)
    if artifact.done():
        run.check_members(artifact)
    else:
        run.queries.asked(run.seen, run.seed, run.conditions)
    yield Step(artifact, lambda: _replays(run), _busy(run))
    if run.functional is not None:
        from ddattr.stages.aspects import ready

        ready(run, run.queries)
        yield Step(run.functional_artifact(run.queries))


def _retrain(run: Run) -> Steps:
    from ddattr.stages.retrain import select

    run.check()
    wanted = select(run)
    yield from _begun(run)
    for model in wanted:
        yield Step(run.retrained_artifact(model), busy=_busy(run))


def _export(run: Run) -> Steps:
    from ddattr.stages.export import asked

    artifact, members = asked(run)
    yield Step(artifact, lambda: [run.member_artifact(k).verified("member.safetensors") for k in members])


def _subsets(run: Run) -> Steps:
    from ddattr.stages.subsets import subsets

    artifact = subsets(run)
    run.check()
    yield from _begun(run)
    yield Step(artifact)


def _adopt(run: Run) -> Steps:
    from ddattr.stages.adopt import asked

    artifact, _ = asked(run)
    yield from _begun(run)
    yield Step(artifact)


def _validate(run: Run) -> Steps:
    from ddattr.stages.truth import removal_plan
    from ddattr.stages.validate import ready

    artifact = run.validation_artifact
    if artifact.done():
        yield Step(artifact)
        return
    ready(run)
    models = [run.retrained_artifact(model) for model in run.validation.models()]
    if not all(model.done() for model in models):
        yield from _begun(run)
    yield from map(Step, models)
    if models:
        yield Step(run.scores_artifact)
    yield from (Step(run.retrained_artifact(removal.model)) for removal in removal_plan(run))
    if run.validation.removal_queries and not run.scores_artifact.done():
        more = run.root / "validation" / "retraining" / "removed"
        yield _line("would make more", f"{more}: models without the best units, which the scores will tell")
    yield Step(artifact)
    if run.figures_artifact.done():
        yield _line("would redraw", run.figures_artifact.folder)


def _report(run: Run) -> Steps:
    parents = run.quality_artifact, run.attribution_artifact
    yield Step(run.figures_artifact, lambda: [parent.require() for parent in parents])


def _reproduce(run: Run) -> Steps:
    run.check()
    missing = run.missing_members()
    after = run.quality_artifact, run.attribution_artifact, run.figures_artifact
    _ = [artifact.done() for artifact in after]  # refused before the members are trained
    if missing:
        yield from _begun(run)
        if run.fork is not None:
            yield Step(run.base_artifact)
    yield from (Step(run.member_artifact(member)) for member in range(run.codebook.members))
    yield from map(Step, after)


def _compare(run: Run) -> Steps:
    from ddattr.stages.compare import comparison

    yield Step(comparison(run).artifact)


def _replay(run: Run) -> Steps:
    from ddattr.stages.replay import asked

    yield _line("would make", f"{asked(run).artifact.folder} again, in a temporary folder, and compare its files")


def _plan(run: Run) -> Steps:
    run.check()
    yield _line("would time", "steps of the network")


def _status(run: Run) -> Steps:
    _ = run.members_fingerprint
    yield _line("would read", run.root)


def _verify(run: Run) -> Steps:
    from ddattr.archive import present

    yield _line("would read", present(Path(run.folder) if run.folder else run.root))


def _sync(run: Run) -> Steps:
    from ddattr.tracking.sync import waiting
    from ddattr.tracking.wandb import require_key

    require_key("sync")
    yield from (_line("would send", folder) for folder in waiting(run.root))


def _dashboard(run: Run) -> Steps:
    from ddattr.tracking.dashboard import specs

    online, project = run.tracking.mode == "online", run.tracking.project
    for name in specs():
        where = f"{name} of {project}, to W&B" if online else run.root / "dashboard" / f"{name}.json"
        yield _line("would send" if online else "would write", where)


def _fetch(run: Run) -> Steps:
    from ddattr.data.fetching.whole import fetched

    if run.config.fetch is None:
        yield _line("done", "nothing to fetch, this experiment's data is there already, or is yours")
        return
    folder = Path(str(run.config.fetch.folder))
    yield _line("done" if os.path.lexists(folder) and fetched(folder) else "would fill", folder)


_STEPS: dict[str, Callable[[Run], Steps]] = {
    "reproduce": _reproduce,
    "plan": _plan,
    "train": _train,
    "evaluate": _evaluate,
    "attribute": _attribute,
    "report": _report,
    "status": _status,
    "verify": _verify,
    "replay": _replay,
    "sync": _sync,
    "export": _export,
    "subsets": _subsets,
    "adopt": _adopt,
    "validate": _validate,
    "retrain": _retrain,
    "compare": _compare,
    "dashboard": _dashboard,
    "fetch": _fetch,
}
