"""Tables of an attribution, from tensors alone: columns, rows, and numbers that can be made again."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import COLUMNS, METHODS
from pyarrow.parquet import ParquetFile

from ddattr.attribution import baselines, influence, significance
from ddattr.attribution.agreement import mean_interval
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.estimator import Estimator
from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import Response, pixel_distance, similarity
from ddattr.attribution.posterior import posterior
from ddattr.attribution.replayed import summarise, tabulate
from ddattr.attribution.significance import TestSettings
from ddattr.attribution.tables import Tables, attributions
from ddattr.codebook import Codebook, contrast
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.data.sources.digits import digits
from ddattr.data.sources.first import first
from ddattr.files import load_table, save_table
from ddattr.validation.tables.planted import influence_by_pull

N, n, Q, SHAPE = 12, 6, 4, (1, 8, 8)
CODE = Codebook(N, n, 2)
ABLATED = torch.tensor([1, 4, 5, 8, 10])
SETTINGS = TestSettings(0, level=0.05, phantoms=100, gls_share=0.5, neighbourhoods=(1, 2, 3))


def replayed() -> dict[str, torch.Tensor]:
    """What a replay leaves behind, with random pictures."""
    draw = torch.Generator().manual_seed(0)

    def noise(*lead: int) -> torch.Tensor:
        return torch.randn(*lead, *SHAPE, generator=draw)

    jacobian, last, made = noise(n, Q), noise(n, Q), noise(n, Q)
    return {
        "seeds": torch.tensor([5, 6, 7, 2**40]),
        "factual": noise(Q),
        "jacobian": jacobian - jacobian.mean(0),
        "denoised": made - made.mean(0),
        "members": noise(n, Q),
        "last_step": last - last.mean(0),
        "ablations": noise(len(ABLATED), Q),
        "refined_units": torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]),
        "refined": noise(2, Q),
        "rotating_error": torch.tensor([0.1, torch.nan, torch.nan, torch.nan]),
    }


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return replayed()


@pytest.fixture(scope="module")
def tabulated() -> Tables:
    return tabulate(replayed(), ABLATED, CODE, UnitDataModule(first(digits(), 12), clusters=3), SETTINGS)


@pytest.fixture
def tables(tabulated) -> Tables:
    return deepcopy(tabulated)


def matrix(table: pd.DataFrame, value: str = "score") -> np.ndarray:
    """(units, queries) of a long table of one method and measure."""
    wide = table.pivot(index="unit", columns="query", values=value)
    return wide.loc[:, sorted(wide)].to_numpy()


def of(tables: Tables, method: str, measure: str) -> pd.DataFrame:
    table = tables.influence
    return table[(table.method == method) & (table.measure == measure)]


ELSEWHERE = ("calibration", "retrieval", "retrieval_summary")  # of pictures that were held out
THERE = ["influence" if name == "rows" else name for name in Tables._fields if name not in ELSEWHERE]


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """q of every p: the least of m p_(j) / j over the j-th smallest from it on; written out."""
    order = sorted(p)
    return np.array([min(len(p) * v / (j + 1) for j, v in enumerate(order) if v >= mine) for mine in p])


@pytest.mark.parametrize("name", THERE)
def test_columns_are_those_that_others_rely_on_and_more_only_at_the_end(tables, name):
    assert list(getattr(tables, name))[: len(COLUMNS[name])] == COLUMNS[name]


def given(p, support, z=None, queries=(7, 3)) -> tuple[torch.Tensor, ...]:
    """What `attributions` takes of two queries, but for the level."""
    p, support = (torch.tensor(values, dtype=torch.float64) for values in (p, support))
    return -p if z is None else torch.tensor(z, dtype=torch.float64), p, support, torch.tensor(queries)


P = [[0.004, 0.9], [0.9, 0.5], [0.008, 0.001], [0.5, 0.5]]  # q of query 7: 0.016 twice; of query 3: 0.004
SUPPORT = [[2.0, 0.0], [9.0, 5.0], [3.0, 1.0], [1.0, 7.0]]  # the largest of query 7 passes no test


def test_attributions_are_the_units_that_pass_sorted_by_query_and_rank():
    """The rank is the place by support among all units, whether they pass or not."""
    table = attributions(*given(P, SUPPORT), 0.02)
    assert list(table) == COLUMNS["attributions"]
    expected = [(3, 2, 3, 0.001, 0.004, 1.0), (7, 2, 2, 0.008, 0.016, 3.0), (7, 0, 3, 0.004, 0.016, 2.0)]
    np.testing.assert_allclose(table.drop(columns="z"), expected)
    assert table.z.tolist() == (-table.p_value).tolist()
    assert table.index.tolist() == [0, 1, 2]
    assert (table.dtypes[["query", "unit", "rank"]] == "int64").all()


def test_attributions_pass_at_the_level_itself_and_not_above_it():
    assert attributions(*given(P, SUPPORT), 0.016)["query"].tolist() == [3, 7, 7]
    assert attributions(*given(P, SUPPORT), 0.0159)["query"].tolist() == [3]
    assert len(attributions(*given(P, SUPPORT), 1.0)) == 8


def test_when_nothing_passes_attributions_are_empty_and_have_their_columns():
    table = attributions(*given(P, SUPPORT), 1e-4)
    assert len(table) == 0
    assert list(table) == COLUMNS["attributions"]


def test_attributions_do_not_depend_on_the_order_of_queries_and_units():
    """Of units that support as much, the order may."""
    expected = attributions(*given(P, SUPPORT), 0.6)
    z, p, support, seeds = given(P, SUPPORT)
    turned = attributions(z.flip(1), p.flip(1), support.flip(1), seeds.flip(0), 0.6)
    pd.testing.assert_frame_equal(turned, expected)
    turned = attributions(z.flip(0), p.flip(0), support.flip(0), seeds, 0.6)
    pd.testing.assert_frame_equal(turned.assign(unit=3 - turned.unit), expected)


@pytest.mark.parametrize("level", [0.05, 0.3, 0.6, 0.99])
def test_attributions_say_what_the_table_of_influence_says_of_what_is_tested(tensors, data, level):
    """A row where q of denoised_gls is at most the level; support and rank are of denoised_posterior."""
    tables = tabulate(tensors, ABLATED, CODE, data, replace(SETTINGS, level=level))
    tested, support = (of(tables, f"denoised_{name}", "pull") for name in ("gls", "posterior"))
    support = support.assign(rank=support.groupby("query").score.rank(ascending=False))
    expected = tested.merge(support[["unit", "query", "score", "rank"]], on=["unit", "query"], suffixes=("", "_of"))
    expected = expected[expected.q_value <= level].sort_values(["query", "rank"], ignore_index=True)
    expected = expected.rename(columns={"score_of": "support"})[COLUMNS["attributions"]]
    pd.testing.assert_frame_equal(tables.attributions, expected, check_dtype=False)
    assert tables.radius.set_index("query").attributable.to_dict() == {
        query: query in set(expected["query"]) for query in tensors["seeds"].tolist()
    }


def test_some_attributions_pass_at_a_lenient_level_and_none_at_a_strict_one(tensors, data):
    counts = [
        len(tabulate(tensors, ABLATED, CODE, data, replace(SETTINGS, level=level)).attributions)
        for level in (1e-3, 0.6)
    ]
    assert counts[0] == 0 < counts[1] < N * Q


def test_every_method_scores_every_unit_on_every_query(tables):
    for method in METHODS:
        measures = {
            "pixel": ["similarity"],
            "random": ["similarity"],
            "jvp_gls": ["pull"],
            "jvp_posterior": ["pull"],
            "denoised": ["pull"],
            "denoised_gls": ["pull"],
            "denoised_posterior": ["pull"],
        }.get(method, ["pull", "norm"])
        for measure in measures:
            table = of(tables, method, measure)
            assert len(table) == N * Q
            assert not table.duplicated(["unit", "query"]).any()
            assert set(table.unit) == set(range(N))
            assert set(table["query"]) == {5, 6, 7, 2**40}
            assert table.score.notna().all()


def test_ablation_has_the_truth_and_the_best_units_once_each(tables, tensors):
    table = of(tables, "ablation", "pull")
    assert not table.duplicated(["unit", "query"]).any()
    expected = {(int(u), int(s)) for u in ABLATED for s in tensors["seeds"]}
    expected |= {
        (int(u), int(s)) for s, units in zip(tensors["seeds"], tensors["refined_units"].T, strict=True) for u in units
    }
    assert set(zip(table.unit, table["query"], strict=True)) == expected


def test_pull_and_norm_of_the_jvp_are_those_of_the_jacobian(tables, tensors, data):
    codewords, j, factual = CODE.codewords(torch.arange(N)), tensors["jacobian"], tensors["factual"]
    projected = influence.projections(j, factual, data.unit_images)
    np.testing.assert_allclose(matrix(of(tables, "jvp", "pull")), influence.pull(projected, codewords).numpy())
    np.testing.assert_allclose(matrix(of(tables, "jvp", "norm")), influence.norm(influence.gram(j), codewords).numpy())


def test_scores_of_all_methods_are_those_of_their_displacements(tables, tensors, data):
    codewords, factual = CODE.codewords(torch.arange(N)), tensors["factual"]
    responses = {
        "jvp": Response(tensors["jacobian"]),
        "individual": baselines.individual(tensors["members"], factual, 2),
        "individual_centred": baselines.individual_centred(tensors["members"]),
        "last_step": Response(tensors["last_step"]),
    }
    for method, response in responses.items():
        expected = influence.displacement_scores(response.displacement(codewords), factual, data.unit_images)
        for measure, score in expected.items():
            np.testing.assert_allclose(matrix(of(tables, method, measure)), score.numpy(), rtol=1e-4, atol=1e-5)


def test_ablation_scores_are_those_of_the_exact_displacements(tables, tensors, data):
    expected = influence.displacement_scores(
        tensors["ablations"] - tensors["factual"], tensors["factual"], data.unit_images[ABLATED]
    )
    for measure, score in expected.items():
        table = of(tables, "ablation", measure)
        found = table[table.unit.isin(ABLATED.tolist())]
        np.testing.assert_allclose(matrix(found), score.numpy(), rtol=1e-6)


def test_what_is_tested_has_a_p_that_is_a_probability_and_nothing_else_has(tables):
    table = tables.influence
    tested = table.method.isin(["jvp_gls", "denoised_gls"]) | (table.method == "jvp") & (table.measure == "norm")
    for column in ("z", "p_value", "q_value"):
        assert tables.influence[tested][column].notna().all()
        assert tables.influence[~tested][column].isna().all()
    for column in ("p_value", "q_value"):
        assert tables.influence[tested][column].between(0, 1, inclusive="right").all()
    assert (tables.influence[tested].q_value >= tables.influence[tested].p_value).all()


@pytest.mark.parametrize(("method", "measure"), [("jvp", "norm"), ("jvp_gls", "pull"), ("denoised_gls", "pull")])
def test_q_is_benjamini_hochberg_over_the_units_of_a_query(tables, method, measure):
    for _, table in of(tables, method, measure).groupby("query"):
        np.testing.assert_allclose(table.q_value, benjamini_hochberg(table.p_value.to_numpy()))


def test_q_of_labels_and_clusters_is_within_their_kind_and_query(tables):
    table = tables.sets.assign(kind=tables.sets.set.str.partition(":")[0])
    for (kind, _), rows in table.dropna(subset="p_value").groupby(["kind", "query"]):
        if kind != "nearest":
            np.testing.assert_allclose(rows.q_value, benjamini_hochberg(rows.p_value.to_numpy()))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_score_of_a_set_is_the_sum_of_its_units_pulls_by_similarity(tensors, data, share):
    tables = tabulate(tensors, ABLATED, CODE, data, replace(SETTINGS, gls_share=share))
    distance = torch.cdist(data.unit_images.flatten(1), tensors["factual"].clamp(-1, 1).flatten(1)).double()
    codewords, near = CODE.codewords(torch.arange(N)), similarity(distance)
    weighted = near * distinctive(tensors["denoised"], data.unit_images, data.distance(tensors["factual"]))
    gls = LeaveOneOutGLS(codewords, near, share)

    def expected(units: torch.Tensor) -> np.ndarray:
        answers = gls.adjust_sets(weighted, units[None])[:, 0]
        scores = contrast(codewords[units]) * answers.permute(1, 2, 0)  # (queries, units, members)
        return -scores.sum((1, 2)).numpy()

    for kind, which in data.partitions().items():
        for s in which.unique():
            rows = tables.sets[tables.sets.set == f"{kind}:{s}"].sort_values("query")
            held = (which == s).nonzero()[:, 0].expand(Q, -1)
            np.testing.assert_allclose(rows.score, expected(held), rtol=1e-5, atol=1e-6)
            assert (rows["size"] == held.shape[1]).all()
            if not share:
                plain = matrix(of(tables, "denoised", "pull")) * near.numpy()
                np.testing.assert_allclose(rows.score, plain[held[0].tolist()].sum(0), rtol=1e-5, atol=1e-6)
    order = baselines.pixel(tensors["factual"], data.unit_images).argsort(0, descending=True)
    for size in SETTINGS.neighbourhoods:
        rows = tables.sets[tables.sets.set == f"nearest:{size}"].sort_values("query")
        np.testing.assert_allclose(rows.score, expected(order[:size].T), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["jvp_posterior", "denoised_posterior"])
def test_what_is_expected_is_made_of_the_adjusted_pull_of_its_tensor(tables, tensors, data, method):
    distance = torch.cdist(data.unit_images.flatten(1), tensors["factual"].clamp(-1, 1).flatten(1)).double()
    codewords = CODE.codewords(torch.arange(N))
    along = {
        "jvp_posterior": influence.projections(tensors["jacobian"], tensors["factual"], data.unit_images),
        "denoised_posterior": distinctive(tensors["denoised"], data.unit_images, data.distance(tensors["factual"])),
    }[method]
    answers = LeaveOneOutGLS(codewords, similarity(distance), SETTINGS.gls_share).adjust(along)
    deviation = significance.null_deviation(answers, codewords)
    expected = posterior(influence.pull(answers, codewords), deviation, distance)
    np.testing.assert_allclose(matrix(of(tables, method, "pull")), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_pictures_without_a_tape_are_scored_and_tested_as_generated_ones_are(tensors, data, share):
    """`validate` asks about any picture what `attribute` asks about those that it made."""
    tables = tabulate(tensors, ABLATED, CODE, data, replace(SETTINGS, gls_share=share))
    along = distinctive(tensors["denoised"], data.unit_images, data.distance(tensors["factual"]))
    codewords = CODE.codewords(torch.arange(N))
    estimator = Estimator.of_distance(codewords, pixel_distance(tensors["factual"], data.unit_images), share)
    for method, score in estimator.estimate(along).named("denoised").items():
        np.testing.assert_allclose(matrix(of(tables, method, "pull")), score, rtol=1e-5, atol=1e-6)
    found = influence_by_pull({"denoised_gls": along}, estimator)
    for column, value in zip(("score", "z", "p_value"), found["denoised_gls"], strict=True):
        np.testing.assert_allclose(matrix(of(tables, "denoised_gls", "pull"), column), value, rtol=1e-5, atol=1e-6)
    expected = matrix(of(tables, "denoised_posterior", "pull"))
    np.testing.assert_allclose(expected, found["denoised_posterior"].score, rtol=1e-5, atol=1e-6)


def test_the_others_are_discounted_from_what_is_tested_and_from_nothing_else(tables, tensors, data):
    plain = tabulate(tensors, ABLATED, CODE, data, replace(SETTINGS, gls_share=0.0))
    codewords = CODE.codewords(torch.arange(N))
    along = {
        "jvp": influence.projections(tensors["jacobian"], tensors["factual"], data.unit_images),
        "denoised": distinctive(tensors["denoised"], data.unit_images, data.distance(tensors["factual"])),
    }
    for method, answers in along.items():
        for measure in ("pull", "norm") if method == "jvp" else ("pull",):
            pd.testing.assert_frame_equal(of(tables, method, measure), of(plain, method, measure))
        score = matrix(of(plain, method, "pull"))
        np.testing.assert_allclose(matrix(of(plain, f"{method}_gls", "pull")), score, atol=1e-6)
        assert not np.allclose(matrix(of(tables, f"{method}_gls", "pull")), score)
        _, p = significance.pull_significance(answers, codewords, codewords)
        np.testing.assert_allclose(matrix(of(plain, f"{method}_gls", "pull"), "p_value"), p)


def test_a_neighbourhood_is_no_surer_than_any_larger_one(tables):
    near = tables.sets[tables.sets.set.str.startswith("nearest:")]
    for _, rows in near.groupby("query"):
        rows = rows.sort_values("size")
        assert (rows.q_value >= rows.p_value).all()
        assert (rows.q_value.diff().dropna() <= 0).all()


def test_resolution_and_attributable_follow_from_the_other_tables(tensors, data):
    """At a level that some pass and some fail."""
    tables = tabulate(tensors, ABLATED, CODE, data, replace(SETTINGS, level=0.6))
    radius = tables.radius.set_index("query")
    assert radius.resolution.nunique() > 1
    best = of(tables, "denoised_gls", "pull").groupby("query").q_value.min()
    assert ((best <= 0.6) == radius.attributable[best.index]).all()
    near = tables.sets[tables.sets.set.str.startswith("nearest:")]
    for query, rows in near.groupby("query"):
        passed = rows[rows.q_value <= 0.6]["size"]
        assert radius.resolution[query] == (passed.min() if len(passed) else -1)


def test_the_radius_is_the_largest_norm(tables):
    largest = of(tables, "jvp", "norm").groupby("query").score.max()
    np.testing.assert_allclose(tables.radius.set_index("query").radius[largest.index], largest)


def test_a_method_that_moves_pictures_as_ablation_does_agrees_perfectly(tensors, data):
    exact = tensors["factual"] + Response(tensors["jacobian"]).displacement(CODE.codewords(ABLATED))
    tables = tabulate(tensors | {"ablations": exact}, ABLATED, CODE, data, SETTINGS)
    jvp = tables.agreement[tables.agreement.method == "jvp"]
    for statistic, value in {"pearson": 1, "spearman": 1, "cosine": 1, "relative_error": 0}.items():
        np.testing.assert_allclose(jvp[statistic], value, atol=2e-5)
    np.testing.assert_allclose(tables.queries.jvp_error, 0, atol=2e-5)


def test_reversing_a_displacement_reverses_pull_and_leaves_norm(tensors, data):
    moved = Response(tensors["jacobian"]).displacement(CODE.codewords(ABLATED))
    tables = tabulate(tensors | {"ablations": tensors["factual"] - moved}, ABLATED, CODE, data, SETTINGS)
    jvp = tables.agreement[tables.agreement.method == "jvp"].set_index("measure")
    np.testing.assert_allclose(jvp.loc["pull"].spearman, -1)
    np.testing.assert_allclose(jvp.loc["norm"].spearman, 1)
    np.testing.assert_allclose(jvp.cosine, -1, atol=2e-5)


def test_the_summary_is_the_mean_over_queries_inside_its_interval(tables):
    for row in tables.agreement_summary.itertuples():
        part = tables.agreement[(tables.agreement.method == row.method) & (tables.agreement.measure == row.measure)]
        assert row.mean == pytest.approx(part[row.statistic].mean())
        assert row.low <= row.mean <= row.high
        assert row.queries == Q
    pd.testing.assert_frame_equal(summarise(tables.agreement), tables.agreement_summary)


def test_metrics_carry_the_method_in_their_key(tables):
    metrics, summary = tables.metrics(), tables.agreement_summary
    rows = summary.set_index(["method", "measure", "statistic"])["mean"]
    assert metrics["agreement/ablation/jvp/spearman"] == rows["jvp", "norm", "spearman"]
    assert metrics["agreement/ablation/jvp/pull/spearman"] == rows["jvp", "pull", "spearman"]
    assert metrics["agreement/ablation/individual_centred/cosine"] == rows["individual_centred", "norm", "cosine"]
    assert metrics["significance/unit/attributable"] == tables.radius.attributable.mean()
    assert {"significance/label/attributable", "significance/cluster/attributable"} <= set(metrics)
    assert all(isinstance(value, float) for value in metrics.values())


def test_queries_have_their_names_in_every_table(tables, tensors):
    for table in (tables.influence, tables.sets, tables.agreement, tables.radius, tables.queries):
        assert set(table["query"]) == set(tensors["seeds"].tolist())


def test_the_interval_of_a_correlation_is_within_1():
    """Of four that are nearly 1 and one that is far below Student's would be beyond it."""
    table = pd.DataFrame({"truth": "ablation", "method": "jvp", "measure": "norm", "query": range(4)})
    spearman = [0.99, 0.995, 0.99, 0.88]
    table = table.assign(pearson=spearman, spearman=spearman, cosine=spearman, relative_error=[0.1, 0.1, 0.1, 0.9])
    assert mean_interval(torch.tensor(spearman))[2] > 1
    found = summarise(table).set_index("statistic")
    assert (found.high[:3] == 1).all()
    assert found.low["relative_error"] == 0
    assert (found["mean"] <= found.high).all()


def test_the_order_of_queries_changes_no_row(tables, tensors, data):
    order, queries_first = torch.tensor([2, 0, 3, 1]), {"seeds", "factual", "rotating_error"}
    shuffled = {name: value[order] if name in queries_first else value[:, order] for name, value in tensors.items()}
    again = tabulate(shuffled, ABLATED, CODE, data, SETTINGS)
    for name in ("influence", "sets", "agreement", "radius", "queries"):
        keys = [column for column in ("unit", "set", "method", "measure", "query") if column in getattr(tables, name)]
        one, other = (getattr(t, name).sort_values(keys, ignore_index=True) for t in (tables, again))
        pd.testing.assert_frame_equal(one, other, rtol=1e-6)


@pytest.mark.parametrize("block", [1, 5, 12])
def test_blocks_of_any_size_make_the_tables_of_one(tables, tensors, data, block):
    again = tabulate(tensors, ABLATED, CODE, data, SETTINGS, block=block)
    pd.testing.assert_frame_equal(again.influence, tables.influence, rtol=1e-9, atol=1e-12)
    for file, table in tables.files().items():
        if file != "influence.parquet":
            pd.testing.assert_frame_equal(again.files()[file], table, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("code", [CODE, Codebook(N, 64, 32, design="orthogonal")], ids=["random", "orthogonal"])
def test_influence_is_written_a_block_of_units_at_a_time_and_read_back_equal(tensors, data, tmp_path, code):
    """A method's rows are as many row groups as there are blocks; no frame has more units, whatever their number."""
    made = {name: of.repeat(11, 1, 1, 1, 1)[:64] if len(of) == n else of for name, of in tensors.items()}
    found = tabulate(tensors if code is CODE else made, ABLATED, code, data, SETTINGS, block=5)
    save_table(tmp_path / "influence.parquet", found.rows)
    read = load_table(tmp_path / "influence.parquet")
    assert ("p_by" in read) == (code is not CODE)
    pd.testing.assert_frame_equal(read, found.influence.astype(read.dtypes), check_exact=True)
    *blocks, ablations = found.rows
    assert max(frame.unit.nunique() for frame in blocks) == 5
    assert [len(frame) for frame in blocks] == [5 * Q, 5 * Q, 2 * Q] * (len(blocks) // 3)
    file = ParquetFile(tmp_path / "influence.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [
        *map(len, blocks),
        len(ablations),
    ]


@pytest.mark.parametrize("kept", [1, 2, 100])
def test_of_units_that_are_kept_rows_are_those_of_all(tables, tensors, data, kept):
    """The best by every method that is shown or tested, those that were replayed, and drawn ones; q is among all."""
    some = tabulate(tensors, ABLATED, CODE, data, SETTINGS, kept=kept)
    keys = ["method", "measure", "query", "unit"]
    rows, whole = (table.influence.set_index(keys).sort_index() for table in (some, tables))
    pd.testing.assert_frame_equal(rows, whole.loc[rows.index])
    assert len(rows) == len(whole) if kept == 100 else len(rows) < len(whole)
    for name, table in some.files().items():
        if name != "influence.parquet":
            pd.testing.assert_frame_equal(table, tables.files()[name])
    for method in ("denoised_posterior", "denoised_gls", "jvp", "pixel"):
        measure = "similarity" if method == "pixel" else "pull"
        for query in tensors["seeds"].tolist():
            best = whole.loc[method, measure, query].score.nlargest(kept)
            assert set(best.index) | set(ABLATED.tolist()) <= set(rows.loc[method, measure, query].index)


@pytest.mark.parametrize("name", THERE)
def test_tables_survive_their_files(tables, tmp_path, name):
    ((file, table),) = [(file, table) for file, table in tables.files().items() if file.partition(".")[0] == name]
    save_table(tmp_path / file, table)
    found = load_table(tmp_path / file)
    found = found.assign(counts=found.counts.map(list)) if "counts" in found else found
    pd.testing.assert_frame_equal(found, getattr(tables, name), rtol=1e-6, check_dtype=False)


def test_a_query_s_label_is_the_one_that_most_of_its_ten_nearest_pictures_have(tensors):
    """Four of ten have it; of fewer, or of more, as many have a smaller one, which would be named."""
    by_distance = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 1, 1])
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    images = (order + 1)[:, None, None, None].expand(-1, *SHAPE) / 20  # from a picture of zeros
    near = UnitDataModule(Source(images.contiguous(), by_distance[order]), clusters=3)
    tables = tabulate(tensors | {"factual": torch.zeros(Q, *SHAPE)}, ABLATED, CODE, near, SETTINGS)
    assert (tables.queries.label == 2).all()


def test_units_may_be_labels_or_carry_none(tensors, data):
    bare = UnitDataModule(Source(data.images, None), clusters=3)
    tables = tabulate(tensors, ABLATED, CODE, bare, SETTINGS)
    assert not tables.sets.set.str.startswith("label:").any()
    assert len(tables.queries) == Q
