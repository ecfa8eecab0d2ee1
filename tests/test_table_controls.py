"""false_attribution.csv: what is nearest is no attribution; and what a study has of calibration."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from additive import LABELS, PLAN, SHAPE, asked, members, study_of
from additive import randn as single

from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.validation.plan import Plan
from ddattr.validation.study import Study
from ddattr.validation.tables.controls import false_attribution, tables


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
