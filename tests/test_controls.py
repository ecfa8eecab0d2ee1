"""Controls: pictures that no member saw are found as often as the level says, and no oftener."""

import pytest
import torch
from ddattr.validation.controls import calibration, false_attribution

from ddattr.attribution.baselines import pixel
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import pull, similarity
from ddattr.attribution.significance import pull_significance, set_significance
from ddattr.codebook import Codebook
from ddattr.validation import controls

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
    """Along what is each stranger's own, the others discounted, sets by nearness; at a level that about half pass."""
    response, factual, strangers = randn(14, 4, 1, 3, 3), randn(4, 1, 3, 3, seed=1), randn(15, 1, 3, 3, seed=2)
    sets, level, phantoms = torch.arange(15) % 5, 0.5, 400
    found = calibration(response, factual, strangers, {"label": sets}, CODE, 2, level, phantoms, background=0.8)
    found = found.pivot(index="redraw", columns="test", values="rejected")
    near = similarity(-pixel(factual, strangers))
    for redraw in (0, 1):
        code = Codebook(15, 14, 6, CODE.seed + 1 + redraw)
        codewords, along = code.codewords(torch.arange(15)), distinctive(response, strangers)
        others = LeaveOneOutGLS(codewords, near, 0.8)
        answers = others.adjust(along)
        _, p = pull_significance(pull(answers, codewords), answers, code.sample_phantoms(phantoms, redraw), code)
        assert found.unit[redraw] == pytest.approx((p <= level).double().mean().item())
        groups = torch.stack([(sets == s).nonzero()[:, 0] for s in range(5)])[:, None].expand(-1, 4, -1)
        _, _, p = set_significance(groups, others.adjust_sets(near * along, groups), code, 1000, redraw)
        assert found.label[redraw] == pytest.approx((p <= level).double().mean().item())


def test_discoveries_are_false_in_no_more_than_the_level(table):
    rates = table[table.test == "discovery"].rejected
    assert 0 < rates.mean() < 0.05 + 4 * rates.sem()


def test_p_values_that_are_too_small_do_not_pass(table, monkeypatch):
    honest = controls.pull_significance

    def eager(*given):
        z, p = honest(*given)
        return z, p / 2

    monkeypatch.setattr(controls, "pull_significance", eager)
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
