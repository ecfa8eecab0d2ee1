"""`ddattr retrain`: retrains models without units: the ground truth of `validate`.

They are all that `validate` needs, or those without one `unit`.
Several processes, on one machine or many, share the work: each takes the next model that nobody holds, and waits for
the others at the end; a part of several, -m 'part=range(0,8)', does not.
"""

from ddattr.stages.run import Run
from ddattr.stages.training import retrain
from ddattr.stages.truth import check, removal_plan
from ddattr.validation.training import Training


def run(run: Run) -> None:
    """Trains what is missing; done models are skipped, broken ones go on."""
    run.check()
    wanted = select(run)
    run.write_codebook()
    trained = retrain(run, wanted, wait=run.config.part is None)
    left = sum(not run.retrained_artifact(model).done() for model in wanted)
    if left:
        print(f"retrain: part {run.config.part} has done its share; other processes are at {left} models", flush=True)
    print(f"retrain: {len(wanted)} models, {trained} trained now" if trained else "retrain: already done", flush=True)


def select(run: Run) -> list[Training]:
    """The models that the overrides `unit` and `member` name.

    Raises:
        ValueError: no such unit, set or member, or one that has nothing to retrain.
    """
    unit = run.config.unit
    member = run.config.member
    if unit is None:
        check(run)  # before hours of training for nothing
        models = run.validation.models() + [removal.model for removal in removal_plan(run)]
    elif isinstance(unit, int) and not isinstance(unit, bool):
        models = run.validation.unit(unit)
    elif isinstance(listed := run.plain("unit"), list):
        models = run.validation.several(listed)
    else:
        models = run.validation.set(run.data.set_key(str(unit)))
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
