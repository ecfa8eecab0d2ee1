"""`ddattr sync`: the offline runs of a run's folder, wherever it was moved, to W&B."""

from ddattr.stages.run import Run
from ddattr.tracking.sync import send
from ddattr.tracking.wandb import require_key


def run(run: Run) -> None:
    """Sends what W&B has not got yet."""
    require_key("sync")
    print(f"sync: offline runs of {run.root} sent to W&B: {send(run.root)}")
