"""Measures: each is what members answer along directions of its own."""

import pytest
import torch
from torch import nn

from ddattr.attribution.denoising import distinctive
from ddattr.attribution.influence import pixel_distance, projections
from ddattr.validation.measures import measures_of_any, measures_of_displacement


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
    distance = pixel_distance(factual, units)
    found = measures_of_any(made, factual, units, loss, distance)
    found |= measures_of_displacement(response, factual, units, Linear(4), distance)
    torch.testing.assert_close(found["pixel"], projections(response, factual, units))
    torch.testing.assert_close(found["denoised_toward"], projections(made, factual, units))
    for name, answers in (("denoised", made), ("pixel_distinctive", response)):
        torch.testing.assert_close(found[name], distinctive(answers, units, distance))
    assert torch.equal(found["loss"][:, 0], loss)
    assert torch.equal(found["loss"], found["loss"][:, :1].expand(-1, 30, -1))


def test_features_are_the_pull_in_their_space(given):
    response, _, factual, units, _ = given
    extractor = Linear(4)
    mapped = [extractor(x.flatten(0, -4)).reshape(*x.shape[:-3], 4, 1, 1) for x in (response, factual, units)]
    found = measures_of_displacement(response, factual, units, extractor, pixel_distance(factual, units))["feature"]
    torch.testing.assert_close(found, projections(*mapped), rtol=1e-4, atol=1e-5)


def test_a_region_of_the_whole_picture_is_the_pull_and_dark_pixels_are_not_looked_at(given):
    response, _, factual, units, _ = given
    distance = pixel_distance(factual, units)
    bright = measures_of_displacement(response, factual.abs() + 0.1, units, Linear(4), distance)
    torch.testing.assert_close(bright["region"], bright["pixel"])
    before = measures_of_displacement(response, factual, units, Linear(4), distance)["region"]
    changed = units + 5 * (factual[0] <= 0)  # where query 0 is dark
    after = measures_of_displacement(response, factual, changed, Linear(4), distance)["region"]
    torch.testing.assert_close(after[..., 0], before[..., 0])
    assert not torch.allclose(after[..., 1], before[..., 1])
