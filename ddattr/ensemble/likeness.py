"""Are samples like the data at all? What is attributed of pictures that are noise looks as sure as of good ones."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ddattr.data.pictures import Images, blocks
from ddattr.diffusion.noise import Stream, generator
from ddattr.ensemble.distances import frechet

UNLIKE = 0.5  # of the way from data to noise
_CELLS = 8  # pictures are looked at in no more cells a side
_USUAL = 0.99  # share of real pictures that are as near to the others as a picture has to be
_REAL = 2000  # real pictures that are asked, at most
_PAIRS, _FEWEST = 1 << 28, 200  # of real pictures and data that are compared at most, and real pictures at least
_SPARE = 3  # more than are asked for, that are found by products


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


def unusual(distance: Float[Tensor, "q"], data: Images, held_out: Images) -> Bool[Tensor, "q"]:
    """Whether pictures are farther from the nearest of the data (`nearest`) than 99 % of real pictures are.

    Real pictures are those held out where there are 100 or more, else the data themselves, each less itself: 2,000
    evenly spaced, and fewer of more than 134,000 pictures, so that about 2^28 pairs are compared, and 200 at least.
    """
    own = len(held_out) < 100
    real = data if own else held_out
    count = min(_REAL, len(real), max(_FEWEST, _PAIRS // len(data)))
    chosen = torch.linspace(0, len(real) - 1, count).round().long()
    usual, _ = nearest(real[chosen], data, but=chosen if own else None)
    return distance > usual[:, 0].quantile(_USUAL)


def nearest(
    pictures: Float[Tensor, "q c h w"], data: Images, count: int = 1, but: Int[Tensor, "q"] | None = None
) -> tuple[Float[Tensor, "q count"], Int[Tensor, "q count"]]:
    """(L2, place) of each picture's nearest of the data, nearest first.

    Some more are found by products of matrices, whose rounding is that of the pictures' lengths; of these, distances
    are then exact, so that a copy is at 0.

    Args:
        but: the place there of the picture itself, which is left out.
    """
    flat, wanted, done = pictures.flatten(1), min(count + _SPARE, len(data)), 0
    square = torch.empty(len(flat), 0)
    place = torch.empty(len(flat), 0, dtype=torch.long)
    for block in blocks(data):
        block = block.flatten(1)
        found = torch.addmm(block.square().sum(1), flat, block.T, alpha=-2)  # less the picture's own length
        if but is not None:
            own = ((but >= done) & (but < done + len(block))).nonzero()[:, 0]
            found[own, but[own] - done] = torch.inf
        best = found.topk(min(wanted, len(block)), 1, largest=False)
        square, place = torch.cat([square, best.values], 1), torch.cat([place, best.indices + done], 1)
        kept = square.topk(min(wanted, square.shape[1]), 1, largest=False)
        square, place = kept.values, place.gather(1, kept.indices)
        done += len(block)
    exact = [
        torch.cdist(one[None], data[at].flatten(1), compute_mode="donot_use_mm_for_euclid_dist")[0]
        for one, at in zip(flat, place, strict=True)
    ]
    distance = torch.stack(exact) if exact else torch.empty(0, wanted)
    distance = distance.where(square.isfinite(), torch.inf)
    order = distance.argsort(dim=1, stable=True)[:, :count]
    return distance.gather(1, order), place.gather(1, order)


def _cells(pictures: Float[Tensor, "q c h w"]) -> Float[Tensor, "q cells"]:
    height, width = pictures.shape[2:]
    return adaptive_avg_pool2d(pictures, (min(_CELLS, height), min(_CELLS, width))).flatten(1)


def _contrast(pictures: Float[Tensor, "q c h w"]) -> Float[Tensor, "q 4"]:
    across, down = pictures.diff(dim=3).abs(), pictures.diff(dim=2).abs()
    flat = pictures.flatten(1)
    return torch.stack([across.flatten(1).mean(1), down.flatten(1).mean(1), flat.mean(1), flat.std(1)], 1)
