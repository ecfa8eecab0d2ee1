"""`ddattr reproduce`: everything up to the report, or what is missing of it.

Each step is a command line that a person could have typed.
"""

from hydra.core.hydra_config import HydraConfig

from ddattr.stages.processes import cores, spread, together
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
    members = range(run.codebook.members)
    missing = run.missing_members()
    steps = []
    if not run.quality_artifact.done():
        steps.append(["evaluate"])
    if not run.attribution_artifact.done():
        steps.append(["attribute", *spread(run)])
    reported = run.figures_artifact.done()
    if missing or steps or not reported or not (run.root / NAME).exists():
        run.save_config()
    if missing:
        launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
        own = [] if launcher != "basic" else ["hydra/launcher=processes"]  # the user's choice is among the overrides
        together([["train", "-m", f"member=range(0,{len(members)})", *own]], run)
    for group in [steps] if cores() > 1 else [[step] for step in steps]:
        together(group, run)
    if not reported:
        together([["report"]], run)
        return
    print("reproduce: already done")
    print(f"report: {run.root / 'report.html'}, figures in {run.figures_artifact.folder}")
    print("\n".join(summary(run.root)))
