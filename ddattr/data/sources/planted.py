"""Units whose influence is known: patterns that are planted in a source, and pictures of them that no member sees."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.data.source import Source

_BLOCKS = 4  # a glyph is 4 x 4 blocks, half of them bright
_CANDIDATES = 64  # glyphs drawn for a pattern, of which the one unlike everything else is taken
_FADING = 0.2  # a near-duplicate has 0.8 to 1 of its glyph's contrast,
_NOISE = 0.05  # and pixel noise of this deviation


def planted(source: Source, copies: list[int], queries: int = 4, seed: int = 0) -> Source:
    """A source with patterns added, each seen by one unit only: a group of near-duplicates of one blocky glyph.

    A pattern is as far as can be, among those drawn, from all other pictures and patterns. Its pictures have an
    address (seed, pattern, number): more copies or queries leave the others as they are. All patterns share one label,
    where there are labels, so that no extractor of features is told which is which.

    Args:
        copies: near-duplicates of every pattern that members may see.
        queries: further ones that no member may see.
    Raises:
        ValueError: a pattern without copies, no pattern, or fewer than no queries.
    """
    if not copies or min(copies) < 1:
        raise ValueError(f"data: copies={copies}, expected numbers of at least 1. Set data.source.copies.")
    if queries < 0:
        raise ValueError(f"data: queries={queries}, expected at least 0. Set data.source.queries.")
    had = len(source.images)
    groups = torch.full((had,), -1) if source.groups is None else source.groups
    hidden = torch.zeros(had, dtype=torch.bool) if source.queries is None else source.queries
    images = [source.images[:]]
    group_of = [groups]
    held_out = [hidden]
    everything = images[0].flatten(1)
    for pattern, size in enumerate(copies):
        glyph = _glyph(everything, tuple(source.images.shape[1:]), seed, pattern)
        everything = torch.cat([everything, glyph.reshape(1, -1)])
        images += [_near(glyph, seed, pattern, number, query=False) for number in range(size)]
        images += [_near(glyph, seed, pattern, number, query=True) for number in range(queries)]
        group_of.append(torch.full((size + queries,), int(groups.max()) + 1 + pattern))
        held_out.append(torch.arange(size + queries) >= size)
    pictures = torch.cat(images)
    labels = source.labels
    if labels is not None:
        labels = torch.cat([labels, labels.max().expand(len(pictures) - had) + 1])
    return Source(pictures, labels, torch.cat(group_of), torch.cat(held_out))


def _glyph(
    others: Float[Tensor, "others pixels"], shape: tuple[int, ...], seed: int, pattern: int
) -> Float[Tensor, "1 c h w"]:
    """Of the glyphs drawn for a pattern the one whose nearest neighbour is farthest (Gonzalez 1985)."""
    order = _draw(seed, pattern).random((_CANDIDATES, shape[0], _BLOCKS**2)).argsort(-1)
    bright = torch.from_numpy(np.where(order < _BLOCKS**2 // 2, 1, -1)).float()
    blocks = bright.reshape(_CANDIDATES, shape[0], _BLOCKS, _BLOCKS)
    glyphs = torch.nn.functional.interpolate(blocks, size=shape[1:])
    best = torch.cdist(glyphs.flatten(1), others).amin(1).argmax()
    return glyphs[best][None]


def _near(glyph: Float[Tensor, "1 c h w"], seed: int, pattern: int, number: int, query: bool) -> Tensor:
    """A near-duplicate of a glyph."""
    draw = _draw(seed, pattern, 2 if query else 1, number)
    noise = torch.from_numpy(draw.standard_normal(glyph.shape, np.float32))
    return ((1 - _FADING * draw.random()) * glyph + _NOISE * noise).clamp(-1, 1)


def _draw(seed: int, pattern: int, kind: int = 0, number: int = 0) -> np.random.Generator:
    """Philox as in `diffusion.noise`, which this room does not see, in the stream 0 that it leaves free."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64), counter=[0, number, kind, pattern]))
