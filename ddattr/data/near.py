"""Near-duplicates: pictures that a person would call the same, found by perceptual hash and checked in colour, or by
features."""

from typing import NamedTuple

import numpy as np
import torch
from imagehash import phash
from jaxtyping import Float, Int
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ddattr.data.pictures import Images, blocks

COMPARED = 20_000  # pictures up to which a run looks for near-duplicates without being asked
BITS = 6  # of the hash's 64 that may differ
COARSE = 0.12  # root mean square difference of 8 x 8 cells, in grey values of 0 to 1, below which colours are the same
SHARE = 0.1  # of the median distance of two pictures, below which embedded ones are the same
_CELLS = 8
_ROWS = 2048  # pictures compared with all others at once


class Near(NamedTuple):
    """Pairs of near-duplicates, the first before the second: places (P, 2); bits of the hash that differ (P,)."""

    pairs: Int[Tensor, "pairs 2"]
    bits: Int[Tensor, "pairs"]


def near_duplicates(images: Images) -> Near:
    """All pairs of pictures whose hashes differ by at most 6 of 64 bits and whose coarse colours are the same.

    The hash sees neither colour nor a slight change of light, which a coarse picture does. Pictures that are equal are
    a pair, of 0 bits. Costs N^2 comparisons of 64 bits: 10,000 pictures take a second or two.
    Source: Zauner 2010, Implementation and benchmarking of perceptual image hash functions; the library ImageHash.
    """
    if not len(images):
        return Near(torch.zeros(0, 2).long(), torch.zeros(0).long())
    hashes, cells = _hashes(images), _coarse(images)
    found, bits = [], []
    for start in range(0, len(hashes), _ROWS):
        differing = np.bitwise_count(hashes[start : start + _ROWS, None] ^ hashes)
        first, second = (differing <= BITS).nonzero()
        later = second > first + start
        first, second = first[later], second[later]
        rows = torch.from_numpy(first + start), torch.from_numpy(second)
        same = (cells[rows[0]] - cells[rows[1]]).square().mean(1).sqrt() < 2 * COARSE
        found.append(torch.stack(rows, 1)[same])
        bits.append(torch.from_numpy(differing[first, second].astype(np.int64))[same])
    return Near(torch.cat(found), torch.cat(bits))


def within(points: Float[Tensor, "images d"], share: float = SHARE) -> Near:
    """All pairs of pictures that are nearer than a share of the median distance of any two, in an embedding of theirs.

    The median is of up to 2,048 pictures, evenly spaced. Bits are 0: there is no hash.
    """
    some = points[torch.linspace(0, len(points) - 1, min(_ROWS, len(points))).round().long()]
    limit, found = share * torch.pdist(some).median(), []
    for start in range(0, len(points), _ROWS):
        first, second = (torch.cdist(points[start : start + _ROWS], points) <= limit).nonzero(as_tuple=True)
        later = second > first + start
        found.append(torch.stack([first[later] + start, second[later]], 1))
    pairs = torch.cat(found)
    return Near(pairs, torch.zeros(len(pairs), dtype=torch.long))


def components(near: Near, images: int) -> Int[Tensor, "images"]:
    """The group of every picture: those that a chain of pairs joins have one."""
    first, second = near.pairs.T.numpy()
    joined = coo_array((np.ones(len(first), bool), (first, second)), (images, images))
    return torch.from_numpy(connected_components(joined, directed=False)[1]).long()


def _hashes(images: Images) -> np.ndarray:
    """(N,) 64-bit words."""
    words = []
    for block in blocks(images):
        grey = ((block.mean(1) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
        words += [np.packbits(phash(Image.fromarray(picture)).hash) for picture in grey]
    return np.stack(words).view(np.uint64)[:, 0]


def _coarse(images: Images) -> Float[Tensor, "images cells"]:
    height, width = images.shape[2:]
    size = min(_CELLS, height), min(_CELLS, width)
    return torch.cat([adaptive_avg_pool2d(block, size).flatten(1) for block in blocks(images)])
