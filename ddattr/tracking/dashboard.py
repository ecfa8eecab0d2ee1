"""The team's dashboard as code: one W&B workspace and one report, of all runs of a project.

A group is an ensemble: the name of a run's folder, of members and of what was asked of them. Panels name what
`member`, `quality`, `attribution` and `validation` log; a metric that an ensemble has not logged yet is an empty panel.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from ddattr.attribution.methods import METHODS, Family
from ddattr.tracking.wandb import Tracking

try:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.workspaces.internal import get_view_dict
except ImportError:
    raise ValueError(
        "dashboard: the library wandb-workspaces is missing. Install it: pip install -e '.[dashboard]'"
    ) from None

import wandb

STEP = "trainer/global_step"
SCORED = [m.key for m in METHODS if m.scored_by_attribute or m.key in ("pixel", "random")]
SHOWN = [m.key for m in METHODS if m.shown and m.family is not Family.RETRAINED]
TITLE = "Ensembles and whose pictures theirs are"


class Section(NamedTuple):
    """Panels of one question, and the runs that they are of.

    Args:
        job: the W&B job type of these runs, a verb; None for all.
    """

    name: str
    says: str
    job: str | None
    panels: Callable[[], list[Any]]


def _curve(metric: str, title: str, spread: Any = "stddev", x: str = "step", **settings: Any) -> Any:
    """A line an ensemble: the mean of its runs, and their spread."""
    return wr.LinePlot(
        title=title,
        x=STEP,
        y=[metric],
        title_x=x,
        groupby=wr.Metric("Group"),
        groupby_aggfunc="mean",
        groupby_rangefunc=spread,
        max_runs_to_show=100,
        **settings,
    )


def _bars(metrics: list[Any], title: str) -> Any:
    """A bar a method and ensemble."""
    return wr.BarPlot(
        title=title,
        metrics=metrics,
        groupby=wr.Metric("Group"),
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
        max_runs_to_show=100,
        max_bars_to_show=100,
        layout=wr.Layout(w=12, h=12),
    )


def _swept(title: str, keys: list[str], metrics: list[str]) -> Any:
    """A line a run, from what a sweep may set to what came out."""
    axes: list[Any] = [*map(wr.Config, keys), *map(wr.SummaryMetric, metrics)]
    columns = [wr.ParallelCoordinatesPlotColumn(axis, display_name=axis.name) for axis in axes]
    return wr.ParallelCoordinatesPlot(title=title, columns=columns, layout=wr.Layout(w=24, h=9))


CODE = ["data.sample", "codebook.members", "codebook.weight", "seed"]
SECTIONS = (
    Section(
        "Members",
        "Mean of an ensemble's members and one standard deviation. Pictures that a member never saw have a loss of "
        "their own: the two part where members memorise.",
        "train",
        lambda: [
            _curve("train/loss", "Loss of training", log_y=True),
            _curve("val/loss_unseen", "Loss of unseen pictures", log_y=True),
        ],
    ),
    Section(
        "Quality and convergence",
        "Of ensembles of growing size; `to_all` is how far their pictures are from the whole ensemble's, `disjoint` "
        "how far those of two ensembles without a common member are from each other (figures 2 and 3).",
        "evaluate",
        lambda: [
            _curve("quality/ensemble/fid", "FID", "minmax", "members"),
            _curve("quality/ensemble/kid", "KID", "minmax", "members"),
            _curve("quality/distance/to_all", "Distance to the whole ensemble's pictures", "minmax", "members"),
            _curve("quality/distance/disjoint", "Distance of disjoint ensembles' pictures", "minmax", "members"),
            _bars(["quality/individual/fid", "quality/ensemble/fid"], "FID of individuals and of the ensemble"),
        ],
    ),
    Section(
        "Attribution",
        "Queries, their best units and the counterfactual pictures; and how many queries have a unit, cluster or label "
        "that chance does not explain.",
        "attribute",
        lambda: [
            wr.WeavePanelSummaryTable(table_name="attribution/panels", layout=wr.Layout(w=24, h=16)),
            _bars(
                [f"significance/{kind}/attributable" for kind in ("unit", "cluster", "label")],
                "Share of queries that are attributable",
            ),
            _bars(["jacobian/jvp_error", "jacobian/rotating_error"], "Error of the first order"),
        ],
    ),
    Section(
        "Agreement with exact ablation",
        "Spearman's correlation of a method's pull with that of the ensemble without the unit, mean over queries.",
        "attribute",
        lambda: [_bars([f"agreement/ablation/{method}/pull/spearman" for method in SCORED], "Spearman, by method")],
    ),
    Section(
        "Validation",
        "Against models trained again: without single units, and, for the LDS, on random halves of the data.",
        "validate",
        lambda: [
            _bars([f"agreement/retraining/{method}/pull/spearman" for method in SHOWN], "Spearman with retraining"),
            _bars([f"lds/transfer/loss/generated/{method}" for method in SHOWN], "LDS of the loss, generated pictures"),
            _bars([f"lds/transfer/distance/generated/{method}" for method in SHOWN], "LDS of the picture"),
        ],
    ),
    Section(
        "Figures",
        "Those of `ddattr report`, an ensemble beside the other.",
        "report",
        lambda: [
            wr.MediaBrowser(
                title="Figures",
                media_keys=[f"figures/{name}" for name in ("fig2_fid", "fig3_convergence", "fig4_correlation")],
                mode="grid",
                grid_x_axis="run",
                grid_y_axis="step",
                layout=wr.Layout(w=24, h=12),
            )
        ],
    ),
    Section(
        "Sweeps",
        "A line a run, from what was swept to what came out.",
        None,
        lambda: [
            _swept("Members", ["member", *CODE, "training.steps"], ["train/loss", "val/loss_unseen"]),
            _swept("Quality", [*CODE, "sampler.steps"], ["quality/ensemble/fid", "quality/distance/disjoint"]),
            _swept(
                "Attribution",
                [*CODE, "sampler.steps"],
                ["agreement/ablation/jvp/pull/spearman", "significance/unit/attributable"],
            ),
        ],
    ),
    Section(
        "Runs compared",
        "What differs between the runs that are ticked.",
        None,
        lambda: [wr.RunComparer(diff_only="split", layout=wr.Layout(w=24, h=16))],
    ),
)


def workspace(project: str, entity: str) -> Any:
    """The saved view of a project, by a name that belongs to it: pushed again, it takes its own place."""
    view = ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=[ws.Section(name=part.name, panels=_numbered(part, part.panels()), is_open=True) for part in SECTIONS],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
    )
    view._internal_name = f"nw-{_digest(TITLE)}-v"
    view._internal_runset_id = _digest("runs")
    return view


def report(project: str, entity: str) -> Any:
    """The same panels as a page to read, each section on its own jobs' runs."""
    blocks: list[Any] = [wr.TableOfContents()]
    for part in SECTIONS:
        runs = wr.Runset(entity=entity, project=project, name=part.job or "all", filters=_of(part.job))
        runs._id = _digest(part.name)
        panels = wr.PanelGrid(runsets=[runs], panels=_numbered(part, part.panels()))
        blocks += [wr.H1(part.name), wr.P(part.says), panels]
    return wr.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def specs() -> dict[str, Any]:
    """What W&B is told of the two, as plain containers: the same for every project, and each time."""
    models = {"workspace": workspace("", "")._to_model(), "report": report("", "")._to_model()}
    return {
        name: json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True)) for name, model in models.items()
    }


def push(tracking: Tracking) -> list[str]:
    """Brings both to W&B, in the place of what was brought before; their addresses.

    Raises:
        ValueError: W&B does not take it.
    """
    try:
        api = wandb.Api()
        entity = tracking.entity or api.settings["entity"] or api.default_entity
        if not entity:
            raise LookupError("the key belongs to nobody")
        if all(project.name != tracking.project for project in api.projects(entity)):
            api.create_project(tracking.project, entity)
        page, view = report(tracking.project, entity), workspace(tracking.project, entity)
        page.id = next((r.id for r in api.reports(f"{entity}/{tracking.project}") if r.display_name == TITLE), "")
        view._internal_id = _known(view)
        return [view.save().url, page.save().url]
    except Exception as error:  # the client's errors have no common class
        raise ValueError(
            f"dashboard: W&B did not take it ({' '.join(str(error).split()).rstrip('.')}). Run the same again, or set "
            "tracking=offline to have it as files."
        ) from error


def outline() -> list[str]:
    """A line a section: its panels."""
    lines = []
    for part in SECTIONS:
        names = [str(getattr(p, "title", None) or getattr(p, "table_name", "run comparer")) for p in part.panels()]
        lines.append(f"  {part.name}: {'; '.join(names)}")
    return lines


def _of(job: str | None) -> list[Any]:
    """Filter of a job's runs."""
    return [] if job is None else [ws.Metric("JobType") == job]


def _numbered(part: Section, panels: list[Any]) -> list[Any]:
    """Panels whose ids are their places, where the library draws them at random: the same spec twice."""
    for place, panel in enumerate(panels):
        panel._id = _digest(f"{part.name}/{place}")
    return panels


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:11]  # as long as W&B's own


def _known(view: Any) -> str:
    """The id of a view that W&B has under this name; empty when it has none."""
    try:
        return get_view_dict(view.entity, view.project, _digest(TITLE))["id"]
    except ValueError:
        return ""
