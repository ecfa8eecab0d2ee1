"""`ddattr status`: what is done, failed or missing, and the command that goes on."""

from collections import Counter

from ddattr.artifacts import Artifact, load_json, load_table
from ddattr.attribution.queries import DEFAULT
from ddattr.stages.run import Run

_KILLED = "Killed: no process holds its lock. Started again, it goes on from its last checkpoint."


def run(run: Run) -> None:
    """Prints a line for the members and one for every stage, then the next command."""
    members = {f"member {k}": run.member_artifact(k) for k in range(run.codebook.members)}
    states = Counter(artifact.state() for artifact in members.values())
    base = {} if run.fork is None else {"base": run.base_artifact}
    for name, artifact in base.items():
        print(f"{name:<12}{artifact.state()}")
    print(f"{'members':<12}" + ", ".join(f"{count} {name}" for name, count in states.items()))
    for name, artifact in (base | members).items():
        if (now := artifact.state()) not in ("done", "missing"):
            status = load_json(artifact.folder / "status.json") or {}
            why = _KILLED if now == "dead" else status.get("error", "")
            print(f"  {name}: {now} at step {status.get('step', 0)}. {why}")
    for name, artifact in stages(run).items():
        print(f"{name:<12}{artifact.state()}")
    for name, artifact in run.query_sets.items():
        if name != DEFAULT:
            now = artifact.state()
            print(f"  query set {name}: {'interrupted' if now == 'missing' else now}{_asked(artifact)}")
    if (now := run.validation_artifact.state()) != "missing":  # nobody has to
        print(f"{'validate':<12}{now}")
    print(f"next: {following(run)}")


def _asked(artifact: Artifact) -> str:
    """How many queries a set has, once it is done."""
    path = artifact.folder / "queries.csv"
    return f", {len(load_table(path))} queries" if path.is_file() else ""


def stages(run: Run) -> dict[str, Artifact]:
    """The artifacts of `reproduce` after the members, by the verb that makes each, in order."""
    return {"evaluate": run.quality_artifact, "attribute": run.attribution_artifact, "report": run.figures_artifact}


def following(run: Run) -> str:
    """The command that goes on."""
    if run.missing_members():
        return run.command("train", "-m", f"member=range(0,{run.codebook.members})")
    missing = [artifact.remedy for artifact in stages(run).values() if not artifact.done()]
    return missing[0] if missing else "nothing: all is done"
