"""Attribution panels: rows that say what the tables say, with the pictures of the tensors."""

import pandas as pd
import pytest
import torch
from conftest import SMALL, composed

from ddattr.attribution.jacobian import first_order
from ddattr.files import load_table, load_tensors
from ddattr.stages.run import Run
from ddattr.tracking.panels import panels


@pytest.fixture(scope="module")
def rows(reproduced) -> list[dict]:
    return panels(reproduced.root, reproduced.root / "attribution" / "default")


@pytest.fixture(scope="module")
def jvp(reproduced) -> pd.DataFrame:
    """Scores of the first order, and the tests: of pull, that of the denoising with the other units discounted."""
    table = load_table(reproduced.root / "attribution" / "default" / "influence.parquet")
    keys, tests = ["query", "measure", "unit"], ["z", "p_value", "q_value"]
    scores = table[table.method == "jvp"].set_index(keys).sort_index()
    pull = table[table.method == "denoised_gls"].set_index(keys)[tests]
    assert set(pull.index.get_level_values("measure")) == {"pull"}
    scores.loc[pull.index, tests] = pull
    return scores


@pytest.fixture(scope="module")
def run() -> Run:
    return Run(composed(f"experiment={SMALL}"))


def test_there_is_a_row_for_every_query_measure_and_rank(rows):
    places = [(row["query"], row["measure"], row["rank"]) for row in rows]
    assert sorted(places) == [(q, measure, rank) for q in range(6) for measure in ("norm", "pull") for rank in (1, 2)]


def test_units_are_ranked_by_p_of_pull_and_by_norm_and_carry_what_the_table_says(rows, jvp):
    for row in rows:
        by_p = row["measure"] == "pull"
        values = jvp.loc[row["query"], row["measure"]]["p_value" if by_p else "score"]
        assert values[row["unit"]] == pytest.approx(values.sort_values(ascending=by_p).iloc[row["rank"] - 1])
        found = jvp.loc[row["query"], row["measure"], row["unit"]]
        assert (row["score"], row["p_value"], row["q_value"]) == (found.score, found.p_value, found.q_value)


def test_support_is_that_of_the_attributions_wherever_a_unit_passes(rows, reproduced):
    folder = reproduced.root / "attribution" / "default"
    passed = load_table(folder / "attributions.parquet").set_index(["query", "unit"]).support
    every = load_table(folder / "influence.parquet").query("method == 'denoised_posterior' and measure == 'pull'")
    scores = every.set_index(["query", "unit"]).score
    for row in rows:
        place = row["query"], row["unit"]
        assert row["support"] == scores[place]
        assert place not in passed or row["support"] == pytest.approx(passed[place])


def test_of_the_first_queries_alone_it_has_their_rows(rows, reproduced):
    few = panels(reproduced.root, reproduced.root / "attribution" / "default", queries=2)
    assert [(row["query"], row["unit"]) for row in few] == [
        (row["query"], row["unit"]) for row in rows if row["query"] < 2
    ]


def test_pictures_are_the_factual_the_unit_and_both_counterfactuals(rows, reproduced, run):
    tensors = load_tensors(reproduced.root / "attribution" / "default" / "queries.safetensors")
    jacobian = load_tensors(reproduced.root / "attribution" / "default" / "jacobian.safetensors")["jacobian"]
    for row in rows:
        q = row["query"]
        assert torch.equal(row["factual"], tensors["factual"][q])
        torch.testing.assert_close(row["unit_image"], run.data.unit_images[row["unit"]])
        moved = first_order(jacobian[:, q : q + 1], run.codebook.contrast(row["unit"])[None])[0, 0]
        torch.testing.assert_close(row["jvp"] - row["factual"], moved, rtol=0, atol=1e-5)
        assert torch.equal(row["displacement"], row["exact"] - row["factual"])


def test_the_score_is_that_of_the_first_order_picture(rows):
    """In float32 pictures of length about 8."""
    for row in rows:
        moved = row["jvp"] - row["factual"]
        toward = torch.nn.functional.normalize((row["unit_image"] - row["factual"]).flatten(), dim=0)
        score = moved.norm() if row["measure"] == "norm" else -(moved.flatten() @ toward)
        assert row["score"] == pytest.approx(score.item(), rel=1e-3, abs=1e-4)
