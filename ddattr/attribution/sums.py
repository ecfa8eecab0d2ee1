"""Sets too large to be held: what their tests are made of is summed, some of their units at a time.

The moments of a set's score under its null are sums over its units, and of thousands of units no more than three are
needed: the score is all but normal, and its skewness, which is known in closed form, takes most of what is left.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.codebook import Codebook, contrast

LARGE = 2048  # units, of more than which a set's p is by moments


def summed_significance(
    blocks: Iterable[tuple[Tensor, Tensor]], codebook: Codebook
) -> tuple[Float[Tensor, "q"], Float[Tensor, "q"], Float[Tensor, "q"]]:
    """(score, z, p) of one set: score and z as `set_significance` has them, up to rounding, and p by z and skewness.

    p is a normal tail after the first term of Cornish and Fisher's expansion. Down to 1e-8, of 2,048 units of 64
    members, it is 1.000 to 1.003 times the saddlepoint's where answers are normal, up to 1.02 where one member is ten
    deviations off, 1.05 where they are lognormal, and 1.04 where 49 units of 50 have a tenth of the others' weight.

    Args:
        blocks: codewords of some of the set's units, (units, n), and adjusted answers along these, (n, units, q).
    Source: of a sum without replacement, Cochran 1977, Sampling techniques, section 2.15; Cornish & Fisher 1938.
    """
    total, square, cube, sums = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    for codewords, adjusted in blocks:
        a = adjusted - adjusted.mean(0)
        total = total - torch.einsum("un,nuq->q", contrast(codewords).to(adjusted), adjusted)
        square, cube, sums = square + a.square().sum((0, 1)), cube + (a.square() * a).sum((0, 1)), sums + a.sum(1)
    n, h, c = codebook.members, codebook.weight, codebook.capacity
    variance = square / (n - 1) - sums.var(0) * (1 / c)
    deviation = (codebook.contrast_variance * variance * (c / (c - 1))).clamp_min(0).sqrt()
    z = torch.where(deviation > 0, total / deviation, 0)
    spread = (h * (n - h) / (n * (n - 1)) * square).clamp_min(torch.finfo(z.dtype).tiny)
    skewness = h * (n - h) * (n - 2 * h) / (n * (n - 1) * max(n - 2, 1)) * cube / spread**1.5
    p = torch.special.ndtr(skewness * (z.square() - 1) / 6 - z).clamp_min(torch.finfo(z.dtype).tiny)
    return total, z, torch.where(deviation > 0, p, 1)
