"""`ddattr dashboard`: the team's W&B workspace and report, as code.

Of all runs of `tracking.project`, a group an ensemble. With tracking=online both are brought to W&B, in the place of
what was brought before; else they are written to the run's folder as JSON, for eyes and for diffs.
"""

from ddattr.files import save_json
from ddattr.stages.run import Run
from ddattr.tracking.dashboard import outline, push, specs


def run(run: Run) -> None:
    """Pushes the dashboard, or writes dashboard/."""
    tracking, folder = run.tracking, run.root / "dashboard"
    if tracking.mode == "online":
        for url in push(tracking):
            print(f"dashboard: {url}")
        return
    for name, spec in specs().items():
        path = folder / f"{name}.json"
        save_json(path, spec)
        print(f"dashboard: {path}")
    print("\n".join(outline()))
    print("dashboard: nothing was sent. Send it: " + run.command("dashboard", "tracking=online"))
