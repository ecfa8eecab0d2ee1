"""`ddattr status`: what is done, running, failed or missing, what it has cost, and the command that goes on.

Its exit status tells a script: 0 all is done, 3 something is missing or running, 4 something failed, was killed or was
made otherwise. 2 is a refusal, as everywhere. A sweep of it ends with 0.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ddattr.artifacts import Artifact, adopted
from ddattr.attribution.places import DEFAULT
from ddattr.files import load_json, load_table
from ddattr.locks import holder
from ddattr.stages.folder import Folder
from ddattr.tracking.ledger import said

_KILLED = "Killed: no process holds its lock. Started again, it goes on from its last checkpoint."
_UNFINISHED, _TROUBLE = 3, 4


def run(run: Folder) -> None:
    """Prints a line for the members and one for every stage, what each has cost, then the next command.

    Raises:
        SystemExit: 3 or 4, where not all is done.
    """
    members = {f"member {k}": run.member_artifact(k) for k in range(run.codebook.members)}
    states = Counter(artifact.state() for artifact in members.values())
    base = {} if run.fork is None else {"base": run.base_artifact}
    for name, artifact in base.items():
        print(f"{name:<12}{artifact.state()}")
    print(f"{'members':<12}" + ", ".join(f"{count} {name}" for name, count in states.items()))
    for member, of in adopted(run.root).items():
        print(f"  member {member}: trained elsewhere, adopted on {of['date']} from {of['path']}")
    for name, artifact in (base | members).items():
        if (now := artifact.state()) not in ("done", "missing"):
            status = load_json(artifact.folder / "status.json") or {}
            why = _KILLED if now == "dead" else at_work(artifact) if now == "running" else status.get("error", "")
            print(f"  {name}: {now} at step {status.get('step', 0)}. {why}")
    for name, artifact in stages(run).items():
        who = at_work(artifact) if artifact.state() == "running" else ""
        print(f"{name:<12}{artifact.state()}{f'. {who}' if who else ''}")
    for name, artifact in run.query_sets.items():
        if name != DEFAULT:
            now = artifact.state()
            print(f"  query set {name}: {'interrupted' if now == 'missing' else now}{_asked(artifact)}")
    if (now := run.validation_artifact.state()) != "missing":  # nobody has to
        print(f"{'validate':<12}{now}")
    for line in said(run.root):
        print(f"cost        {line}")
    print(f"next: {following(run)}")
    left = exit_status(artifact.state() for artifact in (base | members | stages(run)).values())
    if left and HydraConfig.get().mode is not RunMode.MULTIRUN:  # there it would end the sweep
        sys.exit(left)


def exit_status(states: Iterable[str]) -> int:
    """0, 3 or 4: of the states of a run's artifacts, see above. `interrupted` is missing: started again, it goes on."""
    found = set(states)
    if found <= {"done"}:
        return 0
    return _UNFINISHED if found <= {"done", "running", "missing", "interrupted", "out of date"} else _TROUBLE


def at_work(artifact: Artifact) -> str:
    """Which process works on an artifact, since when, and how long a member still takes; clocks of its machine."""
    known, status = holder(artifact.folder), load_json(artifact.folder / "status.json") or {}
    words = []
    if {"host", "pid", "since"} <= set(known):
        since = datetime.fromtimestamp(known["since"]).strftime("%d %b %H:%M:%S")
        words.append(f"Process {known['pid']} on {known['host']}, since {since}.")
    if "until" in status:
        words.append(f"About {max(0.0, status['until'] - time.time()):.0f} s to go.")
    return " ".join(words)


def _asked(artifact: Artifact) -> str:
    """How many queries a set has, once it is done."""
    path = artifact.folder / "queries.csv"
    return f", {len(load_table(path))} queries" if path.is_file() else ""


def stages(run: Folder) -> dict[str, Artifact]:
    """The artifacts of `reproduce` after the members, by the verb that makes each, in order."""
    return {"evaluate": run.quality_artifact, "attribute": run.attribution_artifact, "report": run.figures_artifact}


def following(run: Folder) -> str:
    """The command that goes on."""
    if run.missing_members():
        return run.command("train", "-m", f"member=range(0,{run.codebook.members})")
    missing = [artifact.remedy for artifact in stages(run).values() if not artifact.done()]
    return missing[0] if missing else "nothing: all is done"
