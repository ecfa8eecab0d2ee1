"""`ddattr reproduce`: everything up to the report, or what is missing of it.

Each step is a command line that a person could have typed. With a cluster's launcher members are an array of jobs, then
the run's own queries another, beside a job that evaluates; this process waits, and reports.
"""

from ddattr.stages.processes import cores, launcher, queued, spread, together
from ddattr.stages.run import Run
from ddattr.stages.saved import NAME
from ddattr.tracking.report import summary


def run(run: Run) -> None:
    """Runs the missing steps as child processes and prints the summary.

    Raises:
        ValueError: a step failed; its own line says why.
    """
    run.check()
    if run.rule:
        print(f"reproduce: {run.rule}", flush=True)
    missing = run.missing_members()
    steps = []
    if not run.quality_artifact.done():
        steps.append(["evaluate", *(["-m", *launcher()] if queued() else [])])
    if not run.attribution_artifact.done():
        steps.append(["attribute", *(_parts(run) if queued() else spread(run))])
    reported = run.figures_artifact.done()
    if missing or steps or not reported or not (run.root / NAME).exists():
        run.save_config()
    if missing:
        together([["train", "-m", _members(run, missing), *launcher()]], run)
    for group in [steps] if cores() > 1 or queued() else [[step] for step in steps]:
        together(group, run)
    if not reported:
        together([["report"]], run)
        return
    print("reproduce: already done")
    print(f"report: {run.root / 'report.html'}, figures in {run.figures_artifact.folder}")
    print("\n".join(summary(run.root)))


def _members(run: Run, missing: list[int]) -> str:
    """The sweep of those that are missing."""
    n = run.codebook.members
    return f"member={f'range(0,{n})' if len(missing) == n else ','.join(map(str, missing))}"


def _parts(run: Run) -> list[str]:
    """The sweep of as many parts as there are batches of queries."""
    settings = run.config.attribution
    return ["-m", f"part=range(0,{-(-settings.queries // settings.batch)})", *launcher()]
