"""What a stage read and made, for W&B's graph: data, codebook, members, quality and attribution, validation."""

from collections.abc import Sequence

from ddattr.artifacts import Artifact
from ddattr.stages.run import Run
from ddattr.tracking.lineage import Node, log_lineage, node
from ddattr.tracking.wandb import RunLogger


def log(run: Run, loggers: Sequence[RunLogger], made: Artifact, read: Sequence[Artifact], data: bool = False) -> None:
    """Logs what a stage has made, all of whose files are there, and what it read.

    Args:
        data: whether it read the pictures as well, which are no artifact: they are named by their fingerprint.
    """
    if loggers:
        pictures = [Node("data", run.data.fingerprint, run.plain("data"), {})] if data else []
        log_lineage(loggers, node(run.root, made), [*pictures, *(node(run.root, artifact) for artifact in read)])


def members(run: Run) -> list[Artifact]:
    """All that an ensemble is made of."""
    return [run.member_artifact(k) for k in range(run.codebook.members)]
