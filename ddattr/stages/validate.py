"""`ddattr validate`: agreement with retraining, LDS, remove-and-retrain, groups; trains what is missing first."""

import os

import torch

from ddattr.artifacts import load_table, load_tensors, save_json, save_table, save_tensors
from ddattr.stages.reproduce import together
from ddattr.stages.retrain import removal_plan
from ddattr.stages.run import Run
from ddattr.tracking.evidence import draw_evidence
from ddattr.validation.bench import Bench
from ddattr.validation.measurement import Measurement
from ddattr.validation.retraining import Training


def run(run: Run) -> None:
    """Retrains, scores, retrains without the best units, and writes the tables of validation/."""
    if not run.validation_artefact.make(run.seed, lambda: _validate(run)):
        print("validate: already done", flush=True)


def _validate(run: Run) -> None:
    run.attribution_artefact.require()
    run.quality_artefact.require()  # for its features
    _train(run, run.validation.models())
    bench = build(run)
    run.scores_artefact.make(run.seed, lambda: _score(run, bench))
    removals = removal_plan(run)
    _train(run, [removal.model for removal in removals])
    for name, table in bench.tables(run.scores(), removals).items():
        save_table(run.validation_artefact.folder / f"{name}.csv", table)
    draw_evidence(run.validation_artefact.folder)


def _score(run: Run, bench: Bench) -> None:
    scores, notes = bench.score()
    flat = {f"{kind}/{method}": value for kind, found in scores.items() for method, value in found.items()}
    save_tensors(run.scores_artefact.folder / "scores.safetensors", flat)
    save_json(run.scores_artefact.folder / "peers.json", notes)


def _train(run: Run, models: list[Training]) -> None:
    """Trains what is missing in child processes, each the command line a person could have typed."""
    if not all(run.retrained_artefact(model).done() for model in models):
        together([["retrain"]] * (1 if torch.cuda.is_available() else os.cpu_count() or 1), run)


def build(run: Run) -> Bench:
    """The bench of a run whose models are trained."""
    folder, plan, data = run.attribution_artefact.folder, run.validation, run.data
    stored = load_tensors(folder / "queries.safetensors")
    queries = Measurement(run.process, run.reverse, stored["seeds"].tolist(), stored["factual"],
                          data.held_out.images[: plan.real], plan.draws, run.seed)  # fmt: skip
    return Bench(
        plan, queries, data, run.ensemble(), lambda model: run.load(run.retrained_artefact(model)),
        load_table(folder / "influence.parquet"), load_tensors(folder / "jacobian.safetensors")["jacobian"],
        run.extractor(),
    )  # fmt: skip
