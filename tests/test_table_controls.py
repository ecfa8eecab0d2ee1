"""calibration.csv, false_attribution.csv: what no member saw is found as often as the level says, and no oftener."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from additive import LABELS, PLAN, SHAPE, asked, members, study_of
from additive import randn as single

from ddattr.attribution import estimator
from ddattr.attribution.baselines import pixel
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import pull, similarity
from ddattr.attribution.significance import pull_significance, set_significance
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.validation.plan import Plan
from ddattr.validation.study import Study
from ddattr.validation.tables.controls import calibration, false_attribution, tables

CODE = Codebook(20, 14, 6)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def table():
    """An ensemble, 15 strangers in three sets, and 150 codebooks for them."""
    response = randn(14, 4, 1, 3, 3) * torch.linspace(0.2, 3, 14).reshape(-1, 1, 1, 1, 1)  # members of all sizes
    return calibration(
        response,
        randn(4, 1, 3, 3, seed=1),
        randn(15, 1, 3, 3, seed=2),
        {"label": torch.arange(15) % 3},
        CODE,
        150,
        0.05,
        phantoms=400,
    )


def test_strangers_are_rejected_at_the_level(table):
    """Mean over 150 independent codebooks within 4 of its standard errors of the level: a false alarm in 15,000."""
    for test in ("unit", "label"):
        rates = table[table.test == test].rejected
        assert len(rates) == 150
        assert abs(rates.mean() - 0.05) < 4 * rates.sem()


def test_strangers_are_tested_as_units_are():
    """Along its distinctive direction, the others discounted, sets by similarity; at a level that about half pass."""
    response, factual, strangers = randn(14, 4, 1, 3, 3), randn(4, 1, 3, 3, seed=1), randn(15, 1, 3, 3, seed=2)
    sets, level = torch.arange(15) % 5, 0.5
    found = calibration(response, factual, strangers, {"label": sets}, CODE, 2, level, 400, gls_share=0.8)
    found = found.pivot(index="redraw", columns="test", values="rejected")
    near = similarity(-pixel(factual, strangers))
    for redraw in (0, 1):
        code = Codebook(15, 14, 6, CODE.seed + 1 + redraw)
        codewords, along = code.codewords(torch.arange(15)), distinctive(response, strangers)
        gls = LeaveOneOutGLS(codewords, near, 0.8)
        answers = gls.adjust(along)
        phantoms = code.sample_phantoms(400, redraw)
        _, p = pull_significance(pull(answers, codewords), answers, phantoms, codewords)
        assert found.unit[redraw] == pytest.approx((p <= level).double().mean().item())
        groups = torch.stack([(sets == s).nonzero()[:, 0] for s in range(5)])[:, None].expand(-1, 4, -1)
        _, _, p = set_significance(groups, gls.adjust_sets(near * along, groups), code, 1000, redraw)
        assert found.label[redraw] == pytest.approx((p <= level).double().mean().item())


def test_discoveries_are_false_in_no_more_than_the_level(table):
    rates = table[table.test == "discovery"].rejected
    assert 0 < rates.mean() < 0.05 + 4 * rates.sem()


def test_p_values_that_are_too_small_do_not_pass(table, monkeypatch):
    honest = estimator.pull_significance

    def eager(*given):
        z, p = honest(*given)
        return z, p / 2

    monkeypatch.setattr(estimator, "pull_significance", eager)
    response = randn(14, 4, 1, 3, 3)
    found = calibration(response, randn(4, 1, 3, 3, seed=1), randn(15, 1, 3, 3, seed=2), {}, CODE, 150, 0.05, 400)
    rates = found[found.test == "unit"].rejected
    assert rates.mean() > 0.05 + 4 * rates.sem()


@pytest.mark.parametrize(("strangers", "level", "expected"), [(15, 0.05, 3000), (15, 0.2, 750), (7, 0.03, 2334)])
def test_there_are_ten_times_as_many_phantoms_as_one_discovery_needs_unless_told_otherwise(
    monkeypatch, strangers, level, expected
):
    """One p-value among N strangers is a discovery at level / N: 1 / phantoms must be far below it."""
    asked, honest = [], Codebook.sample_phantoms

    def sample(code, count, *given):
        asked.append(count)
        return honest(code, count, *given)

    monkeypatch.setattr(Codebook, "sample_phantoms", sample)
    given = randn(14, 2, 1, 3, 3), randn(2, 1, 3, 3, seed=1), randn(strangers, 1, 3, 3, seed=2), {}, CODE, 2, level
    calibration(*given)
    calibration(*given, phantoms=70)
    assert asked == [expected, expected, 70, 70]


def test_a_null_of_few_phantoms_discovers_nothing_and_the_usual_one_does():
    """Of 50 phantoms the smallest p-value is 1/51: six of the 15 units would have to reach it at once, by chance in one
    of a million queries. Of the usual 3,000 one unit can. 120 codebooks and 4 queries, each a discovery in up to 0.05:
    none of the codebooks has one by chance in less than 1 of 400, were as few as 0.0125 of the queries."""
    given = randn(14, 4, 1, 3, 3), randn(4, 1, 3, 3, seed=1), randn(15, 1, 3, 3, seed=2), {}, CODE, 120, 0.05
    few, usual = (calibration(*given, phantoms=phantoms) for phantoms in (50, None))
    assert (few[few.test == "discovery"].rejected == 0).all()
    rates = usual[usual.test == "discovery"].rejected
    assert 0 < rates.mean() < 0.05 + 4 * rates.sem()


def test_the_nearest_unit_that_stays_the_nearest_is_a_false_attribution():
    units = torch.eye(4).reshape(4, 1, 2, 2)
    factual = units[[0, 1]] * 0.9
    ablated = torch.stack([units[[0, 2]] * 0.9, units[[0, 1]] * 0.8])  # query 1 turns to unit 2 without unit 1
    removed = torch.tensor([[0, 1], [3, 2]])
    table = false_attribution(factual, ablated, removed, units, [7, 8]).set_index(["removed", "query"])
    assert table.unchanged.to_dict() == {
        ("nearest", 7): True,
        ("nearest", 8): False,
        ("random", 7): True,
        ("random", 8): True,
    }
    assert table.unit.tolist() == [0, 1, 3, 2]
    assert table.moved["nearest", 7] == 0
    assert table.moved["nearest", 8] == pytest.approx(0.9 * 2**0.5, rel=1e-6)
    assert table.moved["random", 8] == pytest.approx(0.1, rel=1e-5)


# -- of a whole study


@pytest.fixture
def make_study(make_process) -> Callable[..., Study]:
    """Linear denoisers of known effects: eight members, thirty units, three generated and two real queries."""

    def make(plan: Plan = PLAN, **given) -> Study:
        ensemble = members()
        return study_of(plan, asked(make_process(timestep_spacing="trailing"), ensemble), ensemble, **given)

    return make


@pytest.fixture
def study(make_study) -> Study:
    return make_study()


def test_the_random_control_of_false_attribution_is_never_the_nearest_unit_itself(study):
    """Of three units one is the nearest, and either other one is drawn about as often: not all 40 times the same, but
    for a chance of 2^-39."""
    answers = study.answers
    answers.queries = replace(answers.queries, seeds=list(range(40)), factual=single(40, *SHAPE, seed=3))
    answers.data = UnitDataModule(Source(single(3, *SHAPE, seed=1), LABELS[:3]))
    table = dict(tables(study))["false_attribution"]
    wide = table.pivot(index="query", columns="removed", values="unit")
    assert (wide["random"] != wide["nearest"]).all()
    assert set((wide["random"] - wide["nearest"]) % 3) == {1, 2}


def test_without_pictures_that_were_held_out_nothing_is_calibrated(study):
    assert list(dict(tables(study))) == ["false_attribution", "false_attribution_summary"]
