"""Are samples like the data at all? What is attributed of pictures that are noise looks as sure as of good ones."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ddattr.data.pictures import Images, blocks
from ddattr.diffusion.noise import Stream, generator
from ddattr.ensemble.distances import frechet

UNLIKE = 0.5  # of the way from data to noise
_CELLS = 8  # pictures are looked at in no more cells a side
_USUAL = 0.99  # share of real pictures that are as near to the others as a picture has to be
_REAL = 2000  # real pictures that are asked, at most
_BLOCK = 1 << 24  # distances at once


def unlikeness(samples: Float[Tensor, "samples c h w"], data: Images, seed: int) -> float:
    """How far samples are on the way from data, 0, to pure noise, 1: the farther of two statistics.

    Each is (d(samples, data) - d(data, data)) / (d(noise, data) - d(data, data)), d the Frechet distance of equal
    numbers of pictures: of what they show in coarse cells, and of how much neighbouring pixels differ. Features that
    were trained to tell classes are of no use here: they look through noise.

    Args:
        samples: clipped, as they are shown.
        seed: of the noise, and of which data are compared with which.
    """
    count = min(len(samples), len(data) // 2)
    order = torch.from_numpy(generator(seed, Stream.LIKENESS).permutation(len(data))[: 2 * count])
    drawn = generator(seed, Stream.LIKENESS, step=1).standard_normal((count, *data.shape[1:])).clip(-1, 1)
    (one, other), noise = data[order].split(count), torch.from_numpy(drawn)
    ways = []
    for statistic in (_cells, _contrast):
        known = statistic(one)
        base, far, found = (frechet(known, statistic(part)) for part in (other, noise, samples[:count]))
        ways.append((found - base) / (far - base))
    return max(ways)


def unusual(
    pictures: Float[Tensor, "q c h w"], data: Images, held_out: Images
) -> tuple[Float[Tensor, "q"], Bool[Tensor, "q"]]:
    """(L2 to the nearest of the data, whether that is more than 99 % of real pictures have).

    Real pictures are those held out where there are 100 or more, else the data themselves, each less itself.
    """
    own = len(held_out) < 100
    real = data if own else held_out
    chosen = torch.linspace(0, len(real) - 1, min(_REAL, len(real))).round().long()
    usual = nearest(real[chosen], data, chosen if own else None)
    distance = nearest(pictures, data)
    return distance, distance > usual.quantile(_USUAL)


def nearest(pictures: Float[Tensor, "q c h w"], data: Images, but: Tensor | None = None) -> Float[Tensor, "q"]:
    """L2 from each picture to the nearest of the data; `but` is the place there of the picture itself."""
    found, done = torch.full((len(pictures),), torch.inf, dtype=pictures.dtype), 0
    for block in blocks(data):
        flat = block.flatten(1)
        for rows in torch.arange(len(pictures)).split(max(1, _BLOCK // len(block))):
            distance = torch.cdist(pictures[rows].flatten(1), flat, compute_mode="donot_use_mm_for_euclid_dist")
            if but is not None:
                own = ((but[rows] >= done) & (but[rows] < done + len(block))).nonzero()[:, 0]
                distance[own, but[rows][own] - done] = torch.inf
            found[rows] = torch.minimum(found[rows], distance.amin(1))
        done += len(block)
    return found


def _cells(pictures: Float[Tensor, "q c h w"]) -> Float[Tensor, "q cells"]:
    height, width = pictures.shape[2:]
    return adaptive_avg_pool2d(pictures, (min(_CELLS, height), min(_CELLS, width))).flatten(1)


def _contrast(pictures: Float[Tensor, "q c h w"]) -> Float[Tensor, "q 4"]:
    across, down = pictures.diff(dim=3).abs(), pictures.diff(dim=2).abs()
    flat = pictures.flatten(1)
    return torch.stack([across.flatten(1).mean(1), down.flatten(1).mean(1), flat.mean(1), flat.std(1)], 1)
