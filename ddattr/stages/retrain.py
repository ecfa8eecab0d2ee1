"""`ddattr retrain`: trains the models of the ground truth.

They are all that `validate` needs, or those without one `unit`.
Several processes, on one machine or many, share the work: each takes the next model that nobody holds.
"""

from ddattr.stages.run import Run
from ddattr.stages.train import module, train
from ddattr.validation.peers import check_installed
from ddattr.validation.plan import Removal, Training, removals
from ddattr.validation.scores import load_scores


def run(run: Run) -> None:
    """Trains what is missing; done models are skipped, broken ones go on."""
    run.check()
    wanted = select(run)
    run.write_codebook()
    trained = retrain(run, wanted)
    print(f"retrain: {len(wanted)} models, {trained} trained now" if trained else "retrain: already done", flush=True)


def select(run: Run) -> list[Training]:
    """The models that the overrides `unit` and `member` name.

    Raises:
        ValueError: no such unit, set or member, or one that has nothing to retrain.
    """
    unit, member = run.config.unit, run.config.member
    if unit is None:
        check(run)  # before hours of training for nothing
        models = run.validation.models() + [removal.model for removal in removal_plan(run)]
    elif isinstance(unit, int) and not isinstance(unit, bool):
        models = run.validation.unit(unit)
    elif isinstance(listed := run.plain("unit"), list):
        models = run.validation.several(listed)
    else:
        models = run.validation.set(str(unit))
    if member is not None:
        run.codebook.check_member(member)
        models = [model for model in models if model.member == member]
    if not models and (unit is not None or run.validation.retrains):
        asked = run.validation.retraining_members
        if unit is None:
            raise ValueError(
                f"retrain: member {member} is not among the truth's members {asked}: there is nothing to "
                "retrain. Set validation.retrained_members higher, or choose one of them."
            )
        who = f"members {asked}" if member is None else f"member {member}"
        raise ValueError(
            f"retrain: {who} never saw unit {unit}, or retraining is not asked of them: there is nothing to retrain. "
            "Set validation.retrained_members higher, or choose another unit or member."
        )
    return models


def check(run: Run) -> None:
    """Refuses what `validate` could not make of these models.

    Raises:
        ValueError: too few of something for an interval, or a peer that is not installed.
    """
    run.validation.check_intervals(run.config.attribution.queries, len(run.data.held_out.images))
    check_installed(run.validation.peers)


def removal_plan(run: Run) -> list[Removal]:
    """Sets of best units to remove, once `validate` has made the scores; none before, or where none are asked.

    Raises:
        ValueError: a method that has no score.
    """
    if not run.validation.removal_queries or not run.scores_artifact.done():
        return []
    plan, scores = run.validation, load_scores(run.scores_artifact.verified("scores.safetensors"))["generated"]
    methods = [*dict.fromkeys([*plan.removed_by(), "random"])]
    if unknown := [method for method in methods if method not in scores]:
        raise ValueError(
            f"validation: removal_methods={unknown[0]}, expected some of {', '.join(scores)}. "
            "Set validation.removal_methods, or validation.peers to have it."
        )
    first = run.config.attribution.first_query
    queries = min(plan.removal_queries, run.config.attribution.queries)
    seeds = list(range(first, first + queries))
    return removals({m: scores[m][:, :queries] for m in methods}, seeds, list(plan.removal_sizes))


def retrain(run: Run, models: list[Training]) -> int:
    """Trains models; returns how many this process trained. A model that another process holds is waited for last."""
    trained, held = 0, []
    for place, model in enumerate(models):
        title = f"retrain {place + 1} of {len(models)}, {model.name}"
        try:
            trained += _make(run, model, title, wait=False)
        except BlockingIOError:
            held.append((model, title))
    return trained + sum(_make(run, model, title, wait=True) for model, title in held)


def _make(run: Run, model: Training, title: str, wait: bool) -> bool:
    artifact = run.retrained_artifact(model)

    def work() -> None:
        train(run, module(run, model.units, model.member, run.seed + model.replicate), artifact, title)

    made = artifact.make(run.seed + model.replicate, work, wait)
    (artifact.folder / "last.ckpt").unlink(missing_ok=True)
    return made
