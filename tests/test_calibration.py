"""Calibration: what no member saw is found as often as the level says, and no oftener."""

import pytest
import torch

from ddattr.attribution import estimator
from ddattr.attribution.baselines import pixel
from ddattr.attribution.calibration import calibrated, calibration
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import similarity
from ddattr.attribution.significance import TestSettings, pull_significance, set_significance
from ddattr.codebook import Codebook
from ddattr.data.source import Source

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
    found = calibration(response, factual, strangers, {"label": sets}, CODE, 2, level, gls_share=0.8)
    found = found.pivot(index="redraw", columns="test", values="rejected")
    near = similarity(-pixel(factual, strangers))
    for redraw in (0, 1):
        code = Codebook(15, 14, 6, CODE.seed + 1 + redraw)
        codewords, along = (
            code.codewords(torch.arange(15)),
            distinctive(response, strangers, -pixel(factual, strangers)),
        )
        gls = LeaveOneOutGLS(codewords, near, 0.8)
        answers = gls.adjust(along)
        _, p = pull_significance(answers, codewords, codewords)
        assert found.unit[redraw] == pytest.approx((p <= level).double().mean().item())
        groups = torch.stack([(sets == s).nonzero()[:, 0] for s in range(5)])[:, None].expand(-1, 4, -1)
        _, _, p = set_significance(groups, gls.adjust_sets(near * along, groups), code)
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
    found = calibration(response, randn(4, 1, 3, 3, seed=1), randn(15, 1, 3, 3, seed=2), {}, CODE, 150, 0.05)
    rates = found[found.test == "unit"].rejected
    assert rates.mean() > 0.05 + 4 * rates.sem()


def held(count: int, labels: bool = True) -> Source:
    return Source(randn(count, 1, 3, 3, seed=2), torch.arange(count) % 3 if labels else None)


def test_the_table_is_the_mean_over_codebooks_with_an_interval_around_the_level():
    """No oftener than the level; nearer to it than 0.02, in 30 codebooks of 15 strangers on 4 queries."""
    settings = TestSettings(0, level=0.1)
    found = calibrated(randn(14, 4, 1, 3, 3), randn(4, 1, 3, 3, seed=1), held(15), CODE, settings)
    assert list(found) == ["test", "level", "rejected", "low", "high"]
    assert found.test.tolist() == ["unit", "discovery", "label"]
    assert (found.level == 0.1).all()
    assert (found.low <= found.rejected).all()
    assert (found.rejected <= found.high).all()
    assert found.rejected[0] == pytest.approx(0.1, abs=0.02)


def test_it_is_left_out_of_less_than_two_strangers_and_of_a_codebook_without_room():
    given = randn(4, 2, 1, 3, 3), randn(2, 1, 3, 3, seed=1)
    code, settings = Codebook(2, 4, 1), TestSettings(0)
    for count in (0, 1):
        assert calibrated(*given, held(count, labels=False), code, settings) is None
    assert calibrated(*given, held(9), Codebook(2, 3, 1), settings) is None  # one of three codewords
    assert calibrated(*given, held(9, labels=False), code, settings).test.tolist() == ["unit", "discovery"]


def test_many_strangers_cost_no_more_than_fifty(monkeypatch):
    monkeypatch.setattr("ddattr.attribution.calibration._REDRAWS", (2, 2))
    given = randn(14, 3, 1, 3, 3), randn(3, 1, 3, 3, seed=1)
    many = calibrated(*given, held(400), CODE, TestSettings(0))
    fifty = held(400).at(torch.linspace(0, 399, 50).round().long())
    assert many.equals(calibrated(*given, fifty, CODE, TestSettings(0)))


def test_orthogonal_words_reject_strangers_at_the_level_by_their_t_test():
    """Mean over 150 codebooks at most 4 of its standard errors above the level, and at least half of it; of 15 of them
    ten have a word, as there are ten units."""
    code = Codebook(10, 16, 8, design="orthogonal")
    strangers, labels = randn(15, 1, 3, 3, seed=2), torch.arange(15) % 3
    response, factual = randn(16, 4, 1, 3, 3), randn(4, 1, 3, 3, seed=1)
    found = calibration(response, factual, strangers, {"label": labels}, code, 150, 0.05)
    for test in ("unit", "label"):
        rates = found[found.test == test].rejected
        assert 0.025 < rates.mean() < 0.05 + 4 * rates.sem()
    first = calibration(response, factual, strangers[:10], {"label": labels[:10]}, code, 3, 0.05)
    assert first.rejected.tolist() == found[found.redraw < 3].rejected.tolist()
