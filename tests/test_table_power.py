"""power.csv: what the tests of every measure find."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
import torch
from additive import BOOK, PLAN, SHAPE, asked, members, study_of
from additive import randn as single

from ddattr.attribution.baselines import pixel
from ddattr.attribution.influence import gram, norm
from ddattr.attribution.significance import TestSettings, norm_significance
from ddattr.codebook import Codebook, contrast
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.validation.plan import Plan
from ddattr.validation.study import Study
from ddattr.validation.tables.power import power, power_of_norm, tables

CODE = Codebook(30, 12, 5)
CODEWORDS = CODE.codewords(torch.arange(30))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_measure_that_sees_the_unit_finds_it_and_its_set_and_noise_does_not(share):
    """Queries 0 to 2 owe themselves to units 0 to 2: members that saw the unit differ along its direction."""
    noise, seen = 1.5 * randn(12, 30, 3, seed=4).double(), CODEWORDS[:3].T.double()
    planted = noise.clone()
    planted[:, torch.arange(3), torch.arange(3)] += 12 * seen
    distance = 1 + torch.rand(30, 3, generator=torch.Generator().manual_seed(5))
    distance[torch.arange(3), torch.arange(3)] = 0.1
    sets = {"label": torch.arange(30) // 3}
    own = {"label": torch.zeros(3, dtype=torch.long)}
    table = power({"planted": planted, "noise": noise}, distance, sets, own, CODE, TestSettings(0, phantoms=700))
    assert table.groupby("measure").gls_share.unique().map(list).to_dict() == {"planted": [0, 0.5], "noise": [0, 0.5]}
    table = table[table.gls_share == share].set_index(["measure", "weighting"])
    assert (table.attributable["planted"] == 1).all()
    assert (table.attributable["noise"] < 1).all()
    assert (table.z_nearest["planted"] > 3).all()
    assert (table.found_nearest["planted"] == 1).all()
    assert (table.units["planted"] >= 1).all()
    assert (table.units["planted"] < 3).all()
    assert (table.units["noise"] < 1).all()
    assert table.z_nearest["noise"].abs().max() < 2
    assert (table.attributable_label["planted"] == 1).all()
    assert table.z_label["planted", "nearness"] > table.z_label["planted", "equal"]  # the nearest of the set is the one


def test_the_length_of_a_response_is_tested_against_the_phantoms_lengths():
    """By hand: no sign, and the null of a query is the same for all units. Unit 0 moves query 0, whichever way."""
    response, distance = randn(12, 3, 1, 3, 3, seed=4), torch.rand(30, 3, generator=torch.Generator().manual_seed(5))
    distance[0] = 0
    seen = CODEWORDS[0].float() - CODEWORDS[0].float().mean()
    response[:, 0] += 3 * seen[:, None, None, None] * randn(1, 3, 3, seed=6)
    given = distance, CODE, TestSettings(0, phantoms=700)
    found = power_of_norm({"norm": response, "turned": -response}, *given)
    lengths, null = (
        torch.einsum("un,nq...->uq...", contrast(codewords).double(), response.double()).flatten(2).norm(dim=2)
        for codewords in (CODEWORDS, CODE.sample_phantoms(700, 0))
    )
    z = (lengths - null.mean(0)) / null.std(0)
    p = (1 + (null >= lengths[:, None]).sum(1)) / 701
    least = (p.sort(0).values * 30 / torch.arange(1, 31)[:, None]).min(0).values  # the smallest q
    assert found.z_nearest.tolist() == pytest.approx([z[0].mean().item()] * 2)
    assert found.attributable.tolist() == pytest.approx([(least <= 0.05).double().mean().item()] * 2)
    assert least[0] <= 0.05 < least[1:].min()
    assert found.found_nearest.tolist() == pytest.approx([(p[0] <= 0.05).double().mean().item()] * 2)
    passing = [max((k for k in range(31) if (p[:, q] <= 0.05 * k / 30).sum() >= k), default=0) for q in range(3)]
    assert found.units.tolist() == pytest.approx([sum(passing) / 3] * 2)
    assert found.weighting.tolist() == ["equal"] * 2
    assert found.gls_share.tolist() == [0, 0]


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


def test_real_pictures_have_the_power_that_generated_ones_like_them_have(make_study):
    """Of the measures that need no tape: the same pictures, once real, once as if the ensemble had made them."""
    study, other = make_study(), make_study()
    queries, ensemble = study.answers.queries, study.answers.ensemble
    swapped = replace(queries, factual=queries.real, real=queries.real[:0], seeds=[5, 6])
    other.answers.queries, other.answers.jacobian = swapped, torch.zeros(8, 2, *SHAPE)
    other.answers.denoised = swapped.denoised(ensemble, swapped.factual)
    index = ["queries", "measure", "weighting", "gls_share"]
    found, expected = (dict(tables(one))["power"].set_index(index).sort_index() for one in (study, other))
    measures = {kind: set(found.loc[kind].index.get_level_values("measure")) for kind in ("generated", "real")}
    any_picture = {"denoised", "denoised_toward", "denoised_norm", "loss"}
    assert measures == {
        "generated": any_picture | {"pixel", "pixel_distinctive", "feature", "region", "norm"},
        "real": any_picture,
    }
    real = found.loc["real"]
    pd.testing.assert_frame_equal(expected.loc["generated"].loc[real.index], real)
    assert (real != found.loc["generated"].loc[real.index]).any(axis=None)


def test_power_is_of_the_set_that_most_of_the_ten_nearest_have_and_of_every_length_by_its_name(study, monkeypatch):
    """Labels by similarity to the first picture are such that fewer than ten, or more, would say another."""
    labels, own = torch.zeros(30, dtype=torch.long), []
    answers = study.answers
    alike = pixel(answers.queries.factual, answers.data.unit_images)
    labels[alike[:, 0].argsort(descending=True)[:12]] = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 1, 1])
    answers.data = UnitDataModule(Source(answers.data.images, labels), clusters=3)
    answers.jacobian, answers.denoised = single(2, 8, 3, *SHAPE, seed=4)
    monkeypatch.setattr(
        "ddattr.validation.tables.power.power", lambda *given: (own.append(given[3]), pd.DataFrame())[1]
    )
    table = dict(tables(study))["power"].query("queries == 'generated'").set_index("measure")
    assert own[0]["label"][0] == 2

    null, nearest = BOOK.sample_phantoms(answers.settings.phantoms, study.seed), (alike.argmax(0), torch.arange(3))
    for name, response in (("norm", answers.jacobian), ("denoised_norm", answers.denoised)):
        z, _ = norm_significance(*(norm(gram(response), codewords) for codewords in (answers.codewords, null)))
        assert table.z_nearest[name] == pytest.approx(z[nearest].mean().item())
