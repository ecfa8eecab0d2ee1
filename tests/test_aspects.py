"""Asking a functional of a query set: its tables, its test, and that nothing else is made again."""

import sys

import pytest
import torch
from conftest import COLUMNS, contents, manifest, refused
from PIL import Image

from ddattr.attribution.aspects import METHOD, first_order_error, tabulate
from ddattr.attribution.methods import FUNCTIONAL
from ddattr.attribution.scored import Scored
from ddattr.attribution.significance import TestSettings, benjamini_hochberg
from ddattr.codebook import Codebook, contrast
from ddattr.files import load_table, load_tensors
from ddattr.tracking.attributed import attributed

CORNER = ("functional=region", "functional.box=[0,0,4,4]")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brightness(pictures):
    return pictures.flatten(1).mean(1)


@pytest.fixture
def code():
    return Codebook(12, 8, 3, seed=1)


@pytest.fixture
def scored(data, code):
    settings = TestSettings(seed=0, gls_share=0.0, neighbourhoods=(1, 2))
    return Scored(torch.tensor([4, 7]), randn(2, 1, 8, 8), data, code, settings)


def rows(tables, method, query):
    table = tables.influence
    return table[(table.method == method) & (table["query"] == query)].sort_values("unit")


def test_a_units_score_is_minus_the_first_order_change_and_its_p_the_share_of_free_words_that_reach_it(scored, code):
    """By going through all of the 56 codewords, where nothing is discounted."""
    response = randn(8, 2, seed=1).double()
    tables = tabulate(scored, brightness, randn(2), response, torch.zeros(2), None)
    held = code.codewords(torch.arange(12))
    words = torch.combinations(torch.arange(8), 3)
    every = torch.zeros(len(words), 8, dtype=torch.bool).scatter_(1, words, True)
    taken = (every[:, None] == held).all(-1).any(1)
    for q, query in enumerate((4, 7)):
        score = -contrast(held).double() @ response[:, q]
        found = rows(tables, METHOD, query)
        torch.testing.assert_close(torch.tensor(found.score.to_numpy()), score)
        of_words = -contrast(every[~taken]).double() @ response[:, q]
        reached = (of_words >= score[:, None] - 1e-9).sum(1)
        p = (reached + 1) / (len(of_words) + 1)
        tested = rows(tables, FUNCTIONAL, query)
        torch.testing.assert_close(torch.tensor(tested.p_value.to_numpy()), p.double(), rtol=1e-6, atol=0)
        q_value = benjamini_hochberg(p.double()[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(tested.q_value.to_numpy()), q_value, rtol=1e-6, atol=0)


def test_of_a_constant_functional_no_unit_passes(scored):
    tables = tabulate(scored, brightness, torch.ones(2), torch.zeros(8, 2).double(), torch.full((2,), torch.nan), None)
    tested = tables.influence[tables.influence.method == FUNCTIONAL]
    assert (tested.score == 0).all()
    assert (tested.z == 0).all()
    assert (tested.p_value == 1).all()
    assert not tables.radius.attributable.any()
    assert tables.attributions.empty
    assert (tables.sets.score == 0).all()


def test_the_error_is_that_of_the_first_order_against_exact_changes(code):
    """Of a linear functional and pictures that have moved by just what the first order says, and half as far again."""
    factual, response = randn(2, 1, 2, 2), randn(8, 2, seed=2).double()
    units = torch.tensor([[0, 5], [3, 1], [7, 7]])
    change = torch.einsum(
        "kqn,nq->kq", contrast(code.codewords(units.flatten())).unflatten(0, (3, 2)).double(), response
    )
    for share, error in ((1.0, 0.0), (1.5, 1 / 3)):
        moved = factual.double() + share * change[..., None, None, None]
        stored = {"factual": factual.double(), "refined_units": units, "refined": moved}
        found = first_order_error(brightness, code, stored, response)
        torch.testing.assert_close(found, torch.full((2,), error).double(), rtol=1e-6, atol=1e-9)


@pytest.fixture
def run_of_two(ddattr, copy):
    """Members, and a set of two generated queries."""
    said = ddattr("attribute", "run", "queries.seeds=[0,1]", "queries.name=two")
    assert said.status == 0, said.err
    return copy


def test_a_functional_is_asked_of_a_set_that_is_done_and_nothing_else_is_made_again(ddattr, run_of_two):
    of, before = ("queries.seeds=[0,1]", "queries.name=two"), contents(run_of_two)
    said = ddattr("attribute", "run", *of, *CORNER)
    assert said.status == 0, said.err
    assert "brightness of rows 0 to 3, columns 0 to 3: 2 queries, " in said.out
    now = contents(run_of_two)
    assert {name: now[name] for name in before} == before
    (folder,) = (run_of_two / "attribution" / "two" / "functionals").iterdir()
    made = manifest(folder)
    assert made["config"]["functional"]["box"] == [0, 0, 4, 4]
    assert made["parents"] == {"attribution/two": manifest(run_of_two / "attribution" / "two")["fingerprint"]}
    for name in ("attributions", "influence", "sets", "nulls"):
        assert list(load_table(folder / f"{name}.parquet"))[: len(COLUMNS[name])] == COLUMNS[name]
    queries, stored = load_table(folder / "queries.csv"), load_tensors(folder / "functional.safetensors")
    factual = load_tensors(folder.parent.parent / "queries.safetensors")["factual"]
    torch.testing.assert_close(
        torch.tensor(queries.value).float(), factual[:, 0, :4, :4].mean((1, 2)), rtol=1e-4, atol=1e-5
    )
    assert (stored["response"].sum(0).abs() < 1e-9).all()
    assert queries.first_order_error.between(0, 2).all()
    assert [part.name for part in attributed(run_of_two)] == [
        "two",
        "two, brightness of rows 0 to 3, columns 0 to 3",
    ]
    before = contents(run_of_two)
    assert ddattr("attribute", "run", *of, *CORNER).status == 0
    assert contents(run_of_two) == before
    assert "two/functionals" in ddattr("verify", "run").out
    assert ddattr("verify", "run").status == 0
    refused(ddattr("replay", f"run/{folder.relative_to(run_of_two)}"), "Name it again: set functional")
    again = ddattr("replay", f"run/{folder.relative_to(run_of_two)}", *CORNER)
    files = len(made["files"])
    assert f"{files} of {files} files have the same bits" in again.out, again


def test_the_stored_derivatives_are_those_of_the_exact_jacobian(ddattr, run_of_two):
    """A set of its own with the exact Jacobian, whose mean over the corner the functional's derivatives are."""
    of = ("queries.seeds=[0,1]", "queries.name=exact", "attribution.jacobian.members_per_step=null")
    assert ddattr("attribute", "run", *of, *CORNER).status == 0
    (folder,) = (run_of_two / "attribution" / "exact" / "functionals").iterdir()
    response = load_tensors(folder / "functional.safetensors")["response"]
    jacobian = load_tensors(folder.parent.parent / "jacobian.safetensors")["jacobian"]
    expected = jacobian[:, :, 0, :4, :4].mean((2, 3)).double()
    assert (response - expected).norm() < 1e-4 * expected.norm()


def test_a_function_of_ones_own_is_asked(ddattr, run_of_two, tmp_path, monkeypatch):
    (tmp_path / "mine_aspect.py").write_text(
        "class Power:\n"
        "    def __init__(self, exponent: float):\n"
        "        self.exponent = exponent\n"
        "    def __call__(self, pictures):\n"
        "        return pictures.abs().pow(self.exponent).flatten(1).sum(1)\n"
        "def spread(pictures, by: float = 1.0):\n"
        "    return by * pictures.flatten(1).var(1)\n"
        "def broken(pictures):\n"
        "    return pictures @ pictures.flatten()[:3]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mine_aspect", None)
    of = ("queries.seeds=[0,1]", "queries.name=two")
    for given in (
        "{_target_: mine_aspect.Power, exponent: 2.0}",
        "{_target_: mine_aspect.spread, _partial_: true, by: 2}",
    ):
        said = ddattr("attribute", "run", *of, f"+functional={given}")
        assert said.status == 0, said.err
    names = {folder.name.partition("-")[0] for folder in (run_of_two / "attribution" / "two" / "functionals").iterdir()}
    assert names == {"power", "spread"}
    refused(
        ddattr("attribute", "run", *of, "+functional={_target_: mine_aspect.broken, _partial_: true}"), "functional: "
    )


def test_what_cannot_be_asked_is_one_line_and_makes_nothing(ddattr, copy, tmp_path):
    Image.effect_noise((8, 8), 50).save(tmp_path / "mine.png")
    before = contents(copy)
    refused(ddattr("attribute", "run", "functional=astrology"), "functional", "astrology")
    refused(ddattr("attribute", "run", "functional=region", "functional.box=[6,6,4,4]"), "inside 8 x 8 pixels")
    refused(ddattr("attribute", "run", "functional=region", "functional.boxes=[6,6,4,4]"), "functional.boxes")
    refused(ddattr("attribute", "run", "functional=similarity"), "functional: picture=null")
    refused(ddattr("attribute", "run", "functional=logit", "functional.label=3"), "quality", "ddattr evaluate")
    refused(ddattr("attribute", "run", "queries.pictures=[mine.png]", *CORNER), "without tapes", "queries.invert=true")
    refused(ddattr("report", "run", *CORNER), "functional: one is given, which `attribute` asks and no other verb does")
    refused(ddattr("attribute", "run", "+functional={_target_: no.such.thing}"), "functional._target_=no.such.thing")
    assert contents(copy) == before


def test_a_dry_run_says_what_would_be_asked(ddattr, run_of_two):
    before = contents(run_of_two)
    said = ddattr("attribute", "run", "queries.seeds=[0,1]", "queries.name=two", *CORNER, "--dry-run")
    assert said.status == 0, said.err
    assert "two/functionals/region-" in said.out
    assert contents(run_of_two) == before
