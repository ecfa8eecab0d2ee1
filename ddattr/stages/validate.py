"""`ddattr validate`: agreement with retraining, LDS, remove-and-retrain, groups.

It trains what is missing first. What `validation` leaves out costs nothing: units whose influence is known need the
members alone.
"""

import os
import time

import torch

from ddattr.artifacts import Artifact
from ddattr.files import load_json, load_table, load_tensors, save_json, save_table, save_tensors
from ddattr.stages import lineage
from ddattr.stages.processes import Child, beside
from ddattr.stages.run import Run
from ddattr.stages.truth import check, removal_plan
from ddattr.tracking.figures import draw_all, draw_evidence
from ddattr.tracking.findings import findings, metrics
from ddattr.tracking.report import write_report
from ddattr.tracking.wandb import log_figures
from ddattr.validation.answers import Answers
from ddattr.validation.queries import Queries
from ddattr.validation.scores import load_scores, score
from ddattr.validation.study import Phase, Study
from ddattr.validation.tables import made
from ddattr.validation.training import Training
from ddattr.validation.truth import Truth


def run(run: Run) -> None:
    """Retrains, scores, retrains without the best units, and writes the tables of validation/."""
    artifact = run.validation_artifact
    if not artifact.done():
        ready(run)
        run.save_config()
    if not run.make(artifact, lambda: _validate(run)):
        print("validate: already done", flush=True)
    print(f"validate: tables in {artifact.folder}, figures in {artifact.folder / 'figures'}")
    print("\n".join(findings(artifact.folder)))


def ready(run: Run) -> None:
    """Refuses what cannot be done, before anything is written."""
    if (kept := run.config.attribution.get("kept")) is not None:
        raise ValueError(f"attribution: kept={kept}, expected null: validate scores all units. Set attribution.kept.")
    check(run)
    for artifact in (run.attribution_artifact, run.quality_artifact):  # this for its features
        run.check_members(artifact.require())
    run.require_members()
    run.validation.models()  # which refuses units and members that cannot be


def _validate(run: Run) -> None:
    artifact, plan = run.validation_artifact, run.validation
    study = build(run)
    models = plan.models()
    with beside(_training(run, models), run) as children:  # meanwhile, what takes few of them, and what takes none
        if _trained(run, plan.scored_by() if models else [], children):
            if models:
                run.scores_artifact.make(run.seed, lambda: _score(run, study))
            study.answers.prepare()
            _save(artifact, study, Phase.MEMBERS)
    if models:
        study.scores = load_scores(run.scores_artifact.verified("scores.safetensors"))
        study.spent = load_json(run.scores_artifact.folder / "peers.json") or {}
    study.removals = removal_plan(run)
    with beside(_training(run, [removal.model for removal in study.removals]), run):
        _save(artifact, study, Phase.RETRAINED)
    _save(artifact, study, Phase.REMOVED)
    draw_evidence(artifact.folder)
    reported = run.figures_artifact.done()
    if reported:  # again, with this in it
        draw_all(run.root, ["fig4_correlation"])
        write_report(run.root, run.name, run.data)
        run.figures_artifact.redrawn()
    figures = [*(artifact.folder / "figures").glob("fig*.png")]
    figures += [run.figures_artifact.folder / "fig4_correlation.png"] if reported else []
    with run.tracking.run(run.root, run.name, "validate", artifact.fingerprint, run.resolved()) as loggers:
        for logger in loggers:
            logger.log_metrics(metrics(artifact.folder))
        log_figures(loggers, sorted(figures))
        lineage.log(run, loggers, artifact, [run.attribution_artifact, run.quality_artifact])


def _score(run: Run, study: Study) -> None:
    scores, spent = score(study.answers, study.truth)
    flat = {f"{kind}/{method}": value for kind, found in scores.items() for method, value in found.items()}
    save_tensors(run.scores_artifact.folder / "scores.safetensors", flat)
    save_json(run.scores_artifact.folder / "peers.json", spent)


def _save(artifact: Artifact, study: Study, phase: Phase) -> None:
    """Tables of a phase, each as soon as it is made; those of models that were not asked for are left out."""
    if phase is Phase.MEMBERS or study.scores:
        for name, table in made(study, phase):
            save_table(artifact.folder / f"{name}.csv", table)
            print(f"validate: {name}.csv", flush=True)


def _training(run: Run, models: list[Training]) -> list[list[str]]:
    """Steps that train what is missing of them: a process for every core, or one for an accelerator."""
    if all(run.retrained_artifact(model).done() for model in models):
        return []
    return [["retrain"]] * (1 if torch.accelerator.is_available() else os.cpu_count() or 1)


def _trained(run: Run, models: list[Training], children: list[Child]) -> bool:
    """Waits for models that children train; False if these stopped before."""

    def done() -> bool:
        return all(run.retrained_artifact(model).done() for model in models)

    while not done() and any(child.poll() is None for child in children):
        time.sleep(1)
    return done()


def build(run: Run) -> Study:
    """What tables look at; a model is loaded when it is asked."""
    attribution, plan, data = run.attribution_artifact, run.validation, run.seen
    stored = load_tensors(attribution.verified("queries.safetensors"))
    queries = Queries(
        run.process,
        run.reverse,
        stored["seeds"].tolist(),
        stored["factual"],
        data.held_out.images[: plan.held_out_queries],
        plan.draws,
        run.seed,
        run.config.attribution.denoisings,
        run.conditions,
        _conditions(run, stored["seeds"].tolist()),
        run.held_out_condition,
    )
    ensemble = run.ensemble()
    answers = Answers(
        plan,
        queries,
        data,
        ensemble,
        load_table(attribution.verified("influence.parquet")),
        load_tensors(attribution.verified("jacobian.safetensors"))["jacobian"],
        load_tensors(attribution.verified("denoised.safetensors"))["denoised"],
        run.extractor(),
        run.significance,
    )
    truth = Truth(plan, queries, lambda model: run.load(run.retrained_artifact(model)))
    return Study(answers, truth, run.root, run.config.training.steps, None if run.fork is None else run.fork.steps)


def _conditions(run: Run, seeds: list[int]) -> torch.Tensor | None:
    """Numbers of the conditions of the run's own queries, and of the real ones."""
    if run.conditions is None or run.held_out_condition is None:
        return None
    real = run.held_out_condition[: run.validation.held_out_queries]
    return torch.cat([run.conditions.of_seeds(seeds, run.conditions.queries), real])
