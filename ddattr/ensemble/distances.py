"""Distances of two samples of features, by torchmetrics."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance


def frechet(real: Float[Tensor, "real d"], fake: Float[Tensor, "fake d"]) -> float:
    """Frechet distance of two samples of features (Heusel et al. 2017), by torchmetrics; every process has them all."""
    metric = FrechetInceptionDistance(_Features(real.shape[1]), sync_on_compute=False).set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return float(metric.compute())


def kernel(real: Float[Tensor, "real d"], fake: Float[Tensor, "fake d"]) -> tuple[float, float]:
    """Kernel distance and its deviation over subsets (Binkowski et al. 2018), by torchmetrics; for small samples."""
    size = min(100, len(real), len(fake))
    metric = KernelInceptionDistance(_Features(real.shape[1]), subsets=50, subset_size=size, sync_on_compute=False)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # torchmetrics draws the subsets; the same for every row
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


class _Features(nn.Identity):
    """Tells torchmetrics that what it is given are features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features
