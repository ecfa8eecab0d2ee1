"""`ddattr report`: figures and the page, from artifacts alone."""

from ddattr.files import save_table, save_text
from ddattr.stages.run import Run
from ddattr.tracking.figures import draw_all
from ddattr.tracking.ledger import ledger
from ddattr.tracking.report import summary, write_report
from ddattr.tracking.wandb import log_figures


def run(run: Run) -> None:
    """Writes figures/, report.html, and costs.csv: what every stage has cost."""
    artifact = run.figures_artifact
    if not run.make(artifact, lambda: draw(run)):
        print("report: already done", flush=True)
    print(f"report: {run.root / 'report.html'}, figures in {artifact.folder}")
    print("\n".join(summary(run.root)))


def draw(run: Run) -> None:
    """The work of the report's artifact."""
    artifact = run.figures_artifact
    run.quality_artifact.whole()  # no figure is drawn of a table that was changed
    run.attribution_artifact.whole()
    run.save_config()
    draw_all(run.root)
    save_text(artifact.folder / "summary.txt", "\n".join(summary(run.root)))
    write_report(run.root, run.name, run.data)
    save_table(run.root / "costs.csv", ledger(run.root))
    with run.tracking.run(run.root, run.name, "report", artifact.fingerprint, run.resolved()) as loggers:
        log_figures(loggers, sorted(artifact.folder.glob("fig*.png")))
