"""Attribution in Trainer.predict: shards, and numbers that do not depend on how the work was split."""

from dataclasses import replace
from functools import partial

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import bends
from torch import nn

from ddattr.attribution.agreement import relative_error
from ddattr.attribution.asked import Asked
from ddattr.attribution.counterfactual import ablated, counterfactual, factual
from ddattr.attribution.denoising import denoised
from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import gram, norm, projections, pull
from ddattr.attribution.jacobian import first_order, jacobian
from ddattr.attribution.loss import loss_draws
from ddattr.attribution.module import AttributionModule
from ddattr.attribution.replay import inversion_spread
from ddattr.attribution.rows import Rows
from ddattr.attribution.shards import Shards
from ddattr.attribution.significance import TestSettings
from ddattr.attribution.tables import Tables
from ddattr.codebook import Codebook, contrast
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDPM
from ddattr.ensemble.ensemble import Ensemble
from ddattr.files import load_tensors
from ddattr.tracking.history import History


def rotating(members_per_step: int | None) -> partial:
    """What the config makes of attribution.jacobian."""
    return partial(jacobian, members_per_step=members_per_step)


N, n, QUERIES, SHAPE = 12, 6, 5, (1, 8, 8)
CODE = Codebook(N, n, 2)


@pytest.fixture
def attribute(process, data, tmp_path):
    """An attribution that has run; keywords go to the module."""

    def make(name: str = "a", steps: int = 3, logger=None, ensemble=None, run=True, **options) -> AttributionModule:
        options = {
            "queries": QUERIES,
            "batch": 2,
            "jacobian": rotating(2),
            "denoisings": 7,
            "ablation_units": 5,
            "check": 3,
            "refine": 2,
            "first_query": 10,
            "settings": TestSettings(0, neighbourhoods=(1, 2, 3)),
        } | options
        module = AttributionModule(
            ensemble or Ensemble(bends(n)),
            process,
            DDPM(steps).reverse(process),
            CODE,
            data,
            shards=Shards(tmp_path / name),
            seed=0,
            **options,
        )
        if not run:
            return module
        trainer = L.Trainer(
            accelerator="cpu", logger=logger or False, enable_progress_bar=False, enable_model_summary=False
        )
        trainer.predict(module, return_predictions=False)
        return module

    return make


def shards(tmp_path, name: str = "a"):
    return sorted((tmp_path / name).glob("shard-*.safetensors"))


def whole(tables: Tables) -> dict[str, pd.DataFrame]:
    """What its files have."""
    return {name: table.whole() if isinstance(table, Rows) else table for name, table in tables.files().items()}


def assert_same(one: Tables, other: Tables) -> None:
    assert list(one.files()) == list(other.files())
    for name, table in whole(one).items():
        pd.testing.assert_frame_equal(table, whole(other)[name], check_exact=True)


def test_queries_are_named_by_their_seeds(attribute, tmp_path):
    module = attribute()
    assert module.tensors["seeds"].tolist() == [10, 11, 12, 13, 14]
    assert module.tables.queries["query"].tolist() == [10, 11, 12, 13, 14]
    assert [path.name for path in shards(tmp_path)] == [f"shard-{seed:08d}.safetensors" for seed in (10, 12, 14)]


def test_tensors_are_those_of_the_numeric_core(attribute, process, data):
    module, ensemble = attribute(jacobian=rotating(None)), Ensemble(bends(n))
    reverse, seeds, tensors = DDPM(3).reverse(process), range(10, 15), module.tensors
    codewords = CODE.codewords(module.ablated)
    expected = {
        "factual": factual(ensemble, seeds, reverse, SHAPE),
        "jacobian": jacobian(ensemble, noise_tape(seeds, 3, SHAPE), reverse)[1],
        "denoised": denoised(
            ensemble, process, factual(ensemble, seeds, reverse, SHAPE), *loss_draws(7, process, SHAPE, 0, attempt=2)
        ),
        "members": ensemble.pictures(torch.eye(n), seeds, reverse, SHAPE),
        "ablations": counterfactual(ensemble, codewords, seeds, reverse, SHAPE),
    }
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value, rtol=0, atol=1e-5)
    torch.testing.assert_close(tensors["jacobian"].sum(0), torch.zeros(QUERIES, *SHAPE), rtol=0, atol=1e-5)


@pytest.mark.parametrize("reversed_", [False, True])
def test_the_best_units_are_replayed_exactly(attribute, process, monkeypatch, reversed_):
    """By the tables' own tests: a discount that turns every answer round turns the order of the units, too."""
    if reversed_:
        monkeypatch.setattr(LeaveOneOutGLS, "adjust", lambda self, answers: -answers)
    module, reverse = attribute(), DDPM(3).reverse(process)
    ensemble, units = Ensemble(bends(n)), module.tensors["refined_units"]
    assert units.shape == (4, QUERIES)
    tests, scores = (
        module.tables.influence.query(f"method == '{method}'").set_index(["measure", "query", "unit"]).sort_index()
        for method in ("denoised_gls", "jvp")
    )
    ranked = {"pull": -tests.p_value + 1e-6 * tests.z, "norm": scores.score}
    for q, seed in enumerate(range(10, 15)):
        for place, unit in enumerate(units[:, q].tolist()):
            measure, rank = ("pull", "norm")[place // 2], place % 2
            values = ranked[measure][measure, seed]
            assert values[unit] == pytest.approx(values.sort_values(ascending=False).iloc[rank])
            exact = counterfactual(ensemble, CODE.codewords(torch.tensor([unit])), [seed], reverse, SHAPE)[0, 0]
            torch.testing.assert_close(module.tensors["refined"][place, q], exact, rtol=0, atol=1e-5)


def test_the_largest_by_norm_are_replayed_whatever_the_denoising_says(attribute, monkeypatch):
    def unlike(ensemble, process, pictures, times, noise) -> torch.Tensor:
        return torch.randn(n, *pictures.shape, generator=torch.Generator().manual_seed(0))

    monkeypatch.setattr("ddattr.attribution.module.denoised", unlike)
    tensors, codewords = attribute().tensors, CODE.codewords(torch.arange(N))
    by_jacobian, by_denoising = (norm(gram(tensors[name]), codewords).topk(2, 0) for name in ("jacobian", "denoised"))
    assert torch.equal(tensors["refined_units"][2:], by_jacobian.indices)
    assert not torch.equal(by_denoising.indices, by_jacobian.indices)


@pytest.mark.parametrize("members_per_step", [0, 7])
def test_a_rotation_over_members_that_are_not_there_is_refused(attribute, members_per_step):
    with pytest.raises(ValueError, match=rf"members_per_step={members_per_step}, expected 1 to 6"):
        attribute(jacobian=rotating(members_per_step))


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_batch_changes_no_score(attribute, batch):
    """To 1e-5 of the largest score of a method and measure; numbers of the rotating Jacobian included."""
    one, other = attribute("a").tables, attribute("b", batch=batch).tables
    keys = ["method", "measure", "unit", "query"]
    wanted, found = (t.influence.sort_values(keys, ignore_index=True) for t in (one, other))
    for (method, _), rows in wanted.groupby(["method", "measure"]):
        if method != "ablation":
            np.testing.assert_allclose(found.score[rows.index], rows.score, rtol=0, atol=1e-5 * rows.score.abs().max())
    assert wanted[wanted.method == "ablation"].shape == found[found.method == "ablation"].shape
    for name in ("agreement_summary", "radius", "queries", "sets"):
        numbers = [getattr(t, name).select_dtypes("number").drop(columns=["z"], errors="ignore") for t in (one, other)]
        pd.testing.assert_frame_equal(*numbers, rtol=1e-3, atol=1e-4)


def test_the_number_of_queries_changes_no_query(attribute):
    many, few = attribute("a").tables.influence, attribute("b", queries=2).tables.influence
    keys = ["method", "measure", "unit", "query"]
    many = many[many["query"].isin([10, 11])].sort_values(keys, ignore_index=True)
    few = few.sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(many[keys], few[keys])
    np.testing.assert_allclose(many.score, few.score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lost", [[2], [1], [0, 2], [0, 1, 2]])
def test_an_attribution_killed_between_shards_goes_on_to_the_same_tables(attribute, tmp_path, lost):
    whole = attribute().tables
    kept = {path: path.stat().st_mtime_ns for i, path in enumerate(shards(tmp_path)) if i not in lost}
    for path in shards(tmp_path):
        if path not in kept:
            path.unlink()
    assert_same(attribute().tables, whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_shard_that_another_process_takes_away_is_missed_and_not_left_out(attribute, tmp_path, monkeypatch):
    """Else a table of fewer queries than were asked would count as done."""
    begins = AttributionModule.predict_step

    def step(self, numbers, index) -> None:
        begins(self, numbers, index)
        if index == 1:
            shards(tmp_path)[0].unlink()

    monkeypatch.setattr(AttributionModule, "predict_step", step)
    with pytest.raises(FileNotFoundError, match="shard-00000010"):
        attribute()


def test_a_shard_that_is_there_is_not_made_again(attribute):
    whole = attribute().tables

    class Untouchable(torch.nn.Module):
        def forward(self, x, t):
            raise AssertionError("a network was asked")

    assert_same(attribute(ensemble=Ensemble([Untouchable()] * n)).tables, whole)


def test_the_same_call_gives_the_same_tables(attribute):
    assert_same(attribute("a").tables, attribute("b").tables)


def test_with_one_step_the_first_order_is_exact(attribute):
    """The picture is then linear in the weights: the agreement of ablation with itself."""
    tables = attribute(steps=1).tables
    jvp = tables.agreement[tables.agreement.method == "jvp"]
    for statistic, value in {"pearson": 1, "cosine": 1, "relative_error": 0}.items():
        np.testing.assert_allclose(jvp[statistic], value, atol=1e-3)
    assert (jvp.spearman > 0.99).all()


def test_identical_members_have_no_influence(attribute):
    """Every score is within rounding of 0, relative to the length of a picture (about 8)."""
    network = bends(1)[0]
    table = attribute(ensemble=Ensemble([network] * n)).tables.influence
    scores = table[~table.method.isin(["pixel", "random"])].score
    assert scores.abs().max() < 1e-4


def test_the_rotating_jacobian_is_measured_on_as_many_queries_as_asked_from_all_shards(attribute):
    errors = attribute(check=3).tables.queries.rotating_error
    assert errors.notna().tolist() == [True, True, False, True, False]
    assert (errors.dropna() > 0).all()
    assert attribute("b", check=0).tables.queries.rotating_error.isna().all()


@pytest.mark.parametrize("members_per_step", [n, None])
def test_rotating_over_all_members_is_exact(attribute, members_per_step):
    errors = attribute(jacobian=rotating(members_per_step)).tables.queries.rotating_error.dropna()
    assert len(errors) == 3
    assert (errors < 1e-5).all()


def test_what_rounding_moves_is_measured_against_float32_on_the_queries_that_are_checked(attribute):
    """Jacobian and exact displacements; what a picture is denoised to is not rounded."""
    full, rounded = attribute(), attribute("b", precision="bfloat16")
    assert "precision_error" not in full.tables.queries
    columns = rounded.tables.queries[["precision_error", "precision_error_exact"]]
    assert columns.notna().to_numpy().tolist() == [[c, c] for c in (True, True, False, True, False)]
    assert ((columns.dropna() > 0) & (columns.dropna() < 0.1)).all(axis=None)
    moved = [module.tensors["ablations"] - module.tensors["factual"] for module in (rounded, full)]
    checked = torch.from_numpy(columns.precision_error.notna().to_numpy(copy=True))
    for name, (of, truth) in {
        "precision_error": (rounded.tensors["jacobian"], full.tensors["jacobian"]),
        "precision_error_exact": moved,
    }.items():
        expected = relative_error(of, truth)[checked]
        np.testing.assert_allclose(columns[name].dropna(), expected, rtol=0.05)  # of batches of other sizes
    picture = rounded.tensors["factual"]
    again = denoised(rounded.ensemble, rounded.process, picture, rounded.times, rounded.noise)
    torch.testing.assert_close(rounded.tensors["denoised"], again, rtol=1e-5, atol=1e-6)


def test_networks_that_multiply_no_matrices_are_off_by_nothing(attribute):
    """What is measured is rounding alone: nothing else differs from the replay in float32."""

    class Scaled(nn.Module):
        def __init__(self, k):
            super().__init__()
            self.k = k

        def forward(self, x, t):
            return (1 + self.k / 10) * torch.tanh(x)

    ensemble = Ensemble([Scaled(k) for k in range(n)])
    table = attribute(ensemble=ensemble, precision="bfloat16", check=QUERIES).tables.queries
    assert (table[["precision_error", "precision_error_exact"]] < 1e-5).all(axis=None)


def test_the_jvp_error_is_that_of_the_displacements(attribute):
    module = attribute()
    tensors, codewords = module.tensors, CODE.codewords(module.ablated)
    moved, exact = first_order(tensors["jacobian"], contrast(codewords)), tensors["ablations"] - tensors["factual"]
    for q, error in enumerate(module.tables.queries.jvp_error):
        expected = (moved - exact)[:, q].norm() / exact[:, q].norm()
        assert error == pytest.approx(expected.item(), rel=1e-4)


def test_the_ablated_units_are_the_same_for_all_queries_and_drawn_by_seed(attribute, tmp_path):
    module = attribute()
    table = module.tables.influence.query("method == 'ablation' and measure == 'pull'")
    assert set(module.ablated.tolist()) <= set.intersection(*(set(rows.unit) for _, rows in table.groupby("query")))
    assert len(module.ablated.unique()) == 5
    assert torch.equal(attribute("b").ablated, module.ablated)


def test_more_ablation_units_than_units_are_all_of_them(attribute):
    module = attribute(ablation_units=100, refine=100)
    assert module.ablated.tolist() == list(range(N))


def test_agreement_is_logged_with_the_method_in_the_key(attribute, tmp_path):
    history = History(tmp_path / "metrics.csv")
    tables = attribute(logger=history).tables
    assert history.rows[0] == pytest.approx(tables.metrics(), nan_ok=True)
    assert "agreement/ablation/jvp/spearman" in history.rows[0]


def test_shards_hold_tensors_only_and_all_of_them(attribute, tmp_path):
    module = attribute()
    assert set(load_tensors(shards(tmp_path)[0])) == set(module.tensors)


def test_settings_that_cannot_be_are_refused_at_the_door(attribute):
    with pytest.raises(ValueError, match=r"=\[50\], expected some numbers from 1 to 12"):
        attribute(run=False, settings=TestSettings(0, neighbourhoods=(50,)))


# -- pictures that were given


NAMES = [f"{i}.png" for i in range(QUERIES)]


@pytest.fixture
def shown() -> torch.Tensor:
    return torch.rand(QUERIES, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_given_pictures_are_attributed_as_generated_ones_are_without_a_tape(attribute):
    """The ensemble's own pictures, given back: every number of the denoising is the same; none of a replay."""
    made = attribute("made", first_query=0)
    given = attribute("given", asked=Asked(torch.arange(QUERIES), NAMES, made.tensors["factual"]))
    assert sorted(given.tensors) == ["denoised", "factual", "seeds"]
    assert sorted(given.tables.files()) == [
        "attributions.parquet",
        "influence.parquet",
        "nulls.parquet",
        "queries.csv",
        "radius.csv",
        "sets.parquet",
        "verified.csv",
    ]
    known = ["denoised", "denoised_gls", "denoised_posterior", "pixel", "random"]
    influence = made.tables.influence[made.tables.influence.method.isin(known)].reset_index(drop=True)
    assert list(given.tables.influence.method.unique()) == ["pixel", "random", *known[:3]]
    pd.testing.assert_frame_equal(given.tables.influence, influence, check_exact=True)
    for name in ("attributions", "sets", "nulls"):
        pd.testing.assert_frame_equal(getattr(given.tables, name), getattr(made.tables, name), check_exact=True)
    for name, columns in (
        ("radius", ["query", "attributable", "resolution", "level"]),
        ("queries", ["query", "label", "nearest", "unlike_data"]),
    ):
        table = getattr(given.tables, name)
        assert list(table) == columns + ["name"] * (name == "queries")
        pd.testing.assert_frame_equal(table[columns], getattr(made.tables, name)[columns], check_exact=True)
    assert given.tables.queries.name.tolist() == NAMES
    assert not [key for key in given.tables.metrics() if key.startswith(("agreement", "jacobian"))]


def test_inverted_pictures_have_all_that_generated_ones_have_on_their_own_tapes(attribute, process, shown):
    asked = Asked(torch.arange(QUERIES), NAMES, shown, inversions=2)
    module, plain = attribute("inverted", asked=asked, steps=5), attribute("plain", asked=replace(asked, inversions=0))
    made = attribute("made", steps=5)
    assert sorted(set(module.tensors) - set(made.tensors)) == ["pull_spread", "replay_error"]
    assert list(module.tables.files()) == list(made.tables.files())
    torch.testing.assert_close(module.tensors["factual"], shown, rtol=0, atol=1e-4)
    queries = module.tables.queries
    assert list(queries) == [*made.tables.queries, "replay_error", "pull_spread"]
    apart = (module.tensors["factual"] - shown).abs().flatten(1).amax(1)
    np.testing.assert_allclose(queries.replay_error, apart)
    assert (queries.replay_error < 1e-4).all()
    assert (queries.pull_spread > 0).all()
    torch.testing.assert_close(module.tensors["denoised"], plain.tensors["denoised"], rtol=0, atol=1e-3)

    ensemble, reverse = Ensemble(bends(n)), DDPM(5).reverse(process)
    (tape, _), steps = asked.tapes(torch.arange(QUERIES), ensemble, process, reverse, SHAPE)
    expected = ablated(ensemble, CODE.codewords(module.ablated), tape, steps)
    torch.testing.assert_close(module.tensors["ablations"], expected, rtol=0, atol=1e-5)
    expected = ensemble.replay(torch.eye(n), tape, steps)
    torch.testing.assert_close(module.tensors["members"], expected, rtol=0, atol=1e-5)


def test_the_spread_over_inversions_is_of_the_first_order_pull(attribute, process, data, shown):
    """Made again from two tapes; the first one is that of all other numbers."""
    asked = Asked(torch.arange(QUERIES), NAMES, shown, inversions=2)
    module, ensemble = attribute("a", asked=asked, jacobian=rotating(None)), Ensemble(bends(n))
    tapes, steps = asked.tapes(torch.arange(QUERIES), ensemble, process, DDPM(3).reverse(process), SHAPE)
    pulls = []
    for tape in tapes:
        picture, response = jacobian(ensemble, tape, steps)
        pulls.append(pull(projections(response, picture, data.unit_images), CODE.codewords(torch.arange(N))))
    torch.testing.assert_close(module.tensors["pull_spread"], inversion_spread(torch.stack(pulls)))
    table = module.tables.influence.query("method == 'jvp' and measure == 'pull'")
    first = table.pivot(index="unit", columns="query", values="score").to_numpy()
    np.testing.assert_allclose(first, pulls[0], rtol=1e-4, atol=1e-6)
    once = attribute("b", asked=replace(asked, inversions=1))
    assert once.tables.queries.pull_spread.isna().all()


@pytest.mark.parametrize("inversions", [0, 2])
def test_the_batch_of_given_pictures_changes_nothing_beyond_rounding(attribute, shown, inversions):
    asked = Asked(torch.arange(QUERIES), NAMES, shown, inversions)
    one, other = (attribute(f"of {batch}", asked=asked, batch=batch).tables for batch in (2, 5))
    for name, table in whole(one).items():
        pd.testing.assert_frame_equal(table, whole(other)[name], rtol=1e-3, atol=1e-4)


def test_further_seeds_are_those_of_a_run_that_has_them(attribute):
    """But for the exact Jacobian of some, which are others: the numbers of seeds 11 and 13 among 10 to 14."""
    whole, some = attribute("whole", check=0), attribute("some", asked=Asked(torch.tensor([11, 13])), check=0)
    rows = whole.tables.influence["query"].isin([11, 13]) & (whole.tables.influence.method != "ablation")
    found = some.tables.influence[some.tables.influence.method != "ablation"]
    pd.testing.assert_frame_equal(
        found, whole.tables.influence[rows].reset_index(drop=True), rtol=1e-4, atol=1e-5, check_exact=False
    )
    assert some.tables.queries.name.tolist() == ["seed 11", "seed 13"]
