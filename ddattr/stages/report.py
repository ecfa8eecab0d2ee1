"""`ddattr report`: figures and the page, from artefacts alone."""

from ddattr.artifacts import save_text
from ddattr.stages.run import Run
from ddattr.tracking.figures import draw_all
from ddattr.tracking.report import summary, write_report
from ddattr.tracking.wandb import log_figures


def run(run: Run) -> None:
    """Writes figures/ and report.html."""
    artefact = run.figures_artefact
    if not artefact.make(run.seed, lambda: _draw(run)):
        print("report: already done", flush=True)
    print(f"report: {run.root / 'report.html'}, figures in {artefact.folder}")
    print("\n".join(summary(run.root)))


def _draw(run: Run) -> None:
    artefact = run.figures_artefact
    run.quality_artefact.require()
    run.attribution_artefact.require()
    draw_all(run.root)
    save_text(artefact.folder / "summary.txt", "\n".join(summary(run.root)))
    write_report(run.root, run.name)
    with run.tracking.run(run.root, run.name, "report", artefact.fingerprint, run.resolved()) as loggers:
        log_figures(loggers, sorted(artefact.folder.glob("fig*.png")))
