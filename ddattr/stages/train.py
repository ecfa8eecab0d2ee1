"""`ddattr train member=3`: trains one member. Done ones are skipped, broken ones go on.

With `training.fork`, the base that members are forks of is trained first, by whichever process comes first.
"""

from ddattr.stages.run import Run
from ddattr.stages.training import train_member


def run(run: Run) -> None:
    """Trains the member that `member` names."""
    member = asked(run)
    run.write_codebook()
    if not train_member(run, member):
        print(f"member {member}: already done", flush=True)


def asked(run: Run) -> int:
    """The member that `member` names, once all is refused that cannot be.

    Raises:
        ValueError: none is named, there is no such member, or the config has something that no training takes.
    """
    member = run.config.member
    n = run.codebook.members
    if member is None:
        sweep = run.command("train", "-m", f"member=range(0,{n})")
        raise ValueError(f"train: member is missing, expected 0 to {n - 1}. Name one, or sweep them all: {sweep}")
    run.codebook.check_member(member)
    run.check()
    return member
