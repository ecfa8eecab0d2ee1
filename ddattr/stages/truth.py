"""The ground truth of a run: whether its models can be validated by, and which of them wait for the scores."""

from ddattr.stages.run import Run
from ddattr.validation.peers import check_installed
from ddattr.validation.removal import Removal, removals
from ddattr.validation.scores import load_scores


def check(run: Run) -> None:
    """Refuses what `validate` could not make of these models.

    Raises:
        ValueError: held-out pictures without a caption; too few of something for an interval, or a peer that is not
            installed.
    """
    _ = run.held_out_condition
    run.validation.check_intervals(run.config.attribution.queries, len(run.data.held_out.images))
    check_installed(run.validation.peers)


def removal_plan(run: Run) -> list[Removal]:
    """Sets of best units to remove, once `validate` has made the scores; none before, or where none are asked.

    Raises:
        ValueError: a method that has no score.
    """
    if not run.validation.removal_queries or not run.scores_artifact.done():
        return []
    plan = run.validation
    scores = load_scores(run.scores_artifact.verified("scores.safetensors"))["generated"]
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
