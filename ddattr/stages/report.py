"""`ddattr report`: figures and the page, from artefacts alone."""

from ddattr.stages.run import Run
from ddattr.tracking.figures import draw_all
from ddattr.tracking.report import summary, write_report


def run(run: Run) -> None:
    """Writes figures/ and report.html."""
    artefact = run.figures_artefact
    if artefact.done():
        print("report: already done", flush=True)
    else:
        run.quality_artefact.require()
        run.attribution_artefact.require()
        with artefact.writing(run.seed):
            draw_all(run.root)
            write_report(run.root, run.config.name)
    print(f"report: {run.root / 'report.html'}, figures in {artefact.folder}")
    print("\n".join(summary(run.root)))
