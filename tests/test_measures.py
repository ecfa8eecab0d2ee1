"""Measures: each is a projection of the same response; power is what their tests find."""

import pytest
import torch
from torch import nn

from ddattr.attribution.influence import projections
from ddattr.codebook import Codebook, contrast
from ddattr.validation.measures import measures_of_any, measures_of_displacement, power, power_of_norm

CODE = Codebook(30, 12, 5)
CODEWORDS = CODE.codewords(torch.arange(30))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Linear(nn.Module):
    """Features that are a linear map of the pixels, so that the first order is all there is."""

    def __init__(self, features: int):
        super().__init__()
        self.matrix = randn(9, features, seed=9)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1) @ self.matrix


@pytest.fixture
def given():
    response, factual, units = randn(12, 3, 1, 3, 3), randn(3, 1, 3, 3, seed=1), randn(30, 1, 3, 3, seed=2)
    made = randn(12, 3, 1, 3, 3, seed=4)
    loss = randn(12, 3, seed=3).double()
    return response - response.mean(0), made - made.mean(0), factual, units, loss


def test_pixels_are_the_pull_and_the_loss_has_no_direction(given):
    response, made, factual, units, loss = given
    found = measures_of_any(made, factual, units, loss) | measures_of_displacement(response, factual, units, Linear(4))
    torch.testing.assert_close(found["pixel"], projections(response, factual, units))
    torch.testing.assert_close(found["denoised_toward"], projections(made, factual, units))
    own = nn.functional.normalize((units - units.mean(0)).flatten(1).double(), dim=-1)
    for name, answers in (("denoised", made), ("pixel_own", response)):
        torch.testing.assert_close(found[name], torch.einsum("nqp,up->nuq", answers.flatten(2).double(), own))
    assert torch.equal(found["loss"][:, 0], loss)
    assert torch.equal(found["loss"], found["loss"][:, :1].expand(-1, 30, -1))


def test_features_are_the_pull_in_their_space(given):
    response, _, factual, units, _ = given
    extractor = Linear(4)
    mapped = [extractor(x.flatten(0, -4)).reshape(*x.shape[:-3], 4, 1, 1) for x in (response, factual, units)]
    found = measures_of_displacement(response, factual, units, extractor)["feature"]
    torch.testing.assert_close(found, projections(*mapped), rtol=1e-4, atol=1e-5)


def test_a_region_of_the_whole_picture_is_the_pull_and_dark_pixels_are_not_looked_at(given):
    response, _, factual, units, _ = given
    bright = measures_of_displacement(response, factual.abs() + 0.1, units, Linear(4))
    torch.testing.assert_close(bright["region"], bright["pixel"])
    before = measures_of_displacement(response, factual, units, Linear(4))["region"]
    changed = units + 5 * (factual[0] <= 0)  # where query 0 is dark
    after = measures_of_displacement(response, factual, changed, Linear(4))["region"]
    torch.testing.assert_close(after[..., 0], before[..., 0])
    assert not torch.allclose(after[..., 1], before[..., 1])


@pytest.mark.parametrize("background", [0, 0.5])
def test_a_measure_that_sees_the_unit_finds_it_and_its_set_and_noise_does_not(background):
    """Queries 0 to 2 owe themselves to units 0 to 2: members that saw the unit differ along its direction."""
    noise, seen = 1.5 * randn(12, 30, 3, seed=4).double(), CODEWORDS[:3].T.double()
    planted = noise.clone()
    planted[:, torch.arange(3), torch.arange(3)] += 12 * seen
    distance = 1 + torch.rand(30, 3, generator=torch.Generator().manual_seed(5))
    distance[torch.arange(3), torch.arange(3)] = 0.1
    sets = {"label": torch.arange(30) // 3}
    own = {"label": torch.zeros(3, dtype=torch.long)}
    table = power({"planted": planted, "noise": noise}, distance, sets, own, CODE, 0.05, 700, 2000, 0)
    assert table.groupby("measure").background.unique().map(list).to_dict() == {"planted": [0, 0.5], "noise": [0, 0.5]}
    table = table[table.background == background].set_index(["measure", "weighting"])
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
    given = distance, CODE, 0.05, 700, 0
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
    assert found.background.tolist() == [0, 0]
