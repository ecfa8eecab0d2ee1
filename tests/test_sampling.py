"""Pictures drawn in Trainer.predict are the ensemble's own, at any batch size."""

import lightning as L
import pytest
import torch

from ddattr.codebook import Codebook
from ddattr.diffusion.sampler import DDIM, DDPM
from ddattr.ensemble.sampling import SamplingModule

SHAPE, SEEDS = (1, 8, 8), range(5)
ROWS = torch.cat([torch.eye(3), torch.full((1, 3), 1 / 3), torch.tensor([[0.5, 0.5, 0.0]])])


def drawn(unets, reverse, batch: int, weights=ROWS, seeds=SEEDS) -> torch.Tensor:
    module = SamplingModule(unets, reverse, SHAPE, weights, seeds, batch)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    return torch.cat(trainer.predict(module), dim=1)


@pytest.mark.parametrize("sampler", [DDPM(4), DDIM(3)])
@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_pictures_are_those_of_the_ensemble_at_any_batch(unets, process, sampler, batch):
    reverse = sampler.reverse(process)
    expected = unets.pictures(ROWS, SEEDS, reverse, SHAPE)
    torch.testing.assert_close(drawn(unets, reverse, batch), expected, rtol=0, atol=1e-5)


def test_every_seed_is_drawn_once_and_in_order(unets, process):
    reverse = DDPM(2).reverse(process)
    seeds = [9, 0, 2**40, 5]
    together = drawn(unets, reverse, 3, seeds=seeds)
    assert together.shape == (len(ROWS), 4, *SHAPE)
    for q, seed in enumerate(seeds):
        alone = drawn(unets, reverse, 1, seeds=[seed])
        torch.testing.assert_close(together[:, q], alone[:, 0], rtol=0, atol=1e-5)


def test_a_row_of_weights_may_be_an_ablation(unets, process):
    reverse, code = DDPM(2).reverse(process), Codebook(3, 3, 1)
    ablated = drawn(unets, reverse, 2, torch.stack([code.ablation(unit) for unit in range(3)]))
    for unit in range(3):
        expected = unets.pictures(code.ablation(unit)[None], SEEDS, reverse, SHAPE)[0]
        torch.testing.assert_close(ablated[unit], expected, rtol=0, atol=1e-5)
