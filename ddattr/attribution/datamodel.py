"""More out of the same n members: effects of all N units on an output of single members, with a prior.

A member's output on a query (minus its loss, say) is modelled as a constant plus the effects of the units it saw.
With n outputs for N effects nothing can be said without a prior: here, that near units have like effects, and that a
unit's effect is as large as its relevance to the query. Outputs are (n, q), effects (units, q), larger for more
support.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddattr.codebook import contrast

RIDGES = tuple(10.0**power for power in range(-4, 4))


def subset_means(outputs: Float[Tensor, "n q"], codewords: Bool[Tensor, "units n"]) -> Float[Tensor, "units q"]:
    """Mean output of the members that saw a unit, less that of those that did not; unbiased, and noisy.

    Source: Feldman & Zhang 2020, arXiv 2008.03703; the datamodel without a prior.
    """
    seen = codewords.sum(1, keepdim=True).to(outputs)
    return -contrast(codewords).to(outputs) @ outputs * codewords.shape[1] / seen


class KernelRidge(NamedTuple):
    """Posterior mean of the effects, the ridge chosen, and its leave-one-out error over the outputs' variance."""

    effects: Float[Tensor, "units q"]
    ridge: Float[Tensor, "q"]
    error: Float[Tensor, "q"]


def kernel_ridge(
    outputs: Float[Tensor, "n q"],
    codewords: Bool[Tensor, "units n"],
    kernel: Float[Tensor, "units units"],
    relevance: Float[Tensor, "units q"],
    ridges: tuple[float, ...] = RIDGES,
) -> KernelRidge:
    """Bayesian datamodel: effects ~ N(0, D K D), D the relevance of every unit to the query, K the units' kernel.

    The ridge (noise over signal) of every query is the one of smallest leave-one-out error over its own members, in
    closed form. Cost O(N^2 n + n^3) a query.
    Source: Rasmussen & Williams 2006, Gaussian processes for machine learning, sections 2.7 and 5.4.2.
    """
    design = codewords.T.to(outputs)
    design = design - design.mean(0)
    y = outputs - outputs.mean(0)
    found = []
    for q in range(y.shape[1]):
        scaled = design * relevance[:, q]
        half = scaled @ kernel.to(outputs)
        gram = half @ scaled.T
        size = gram.diagonal().mean().clamp_min(1e-30)
        values, vectors = torch.linalg.eigh(gram / size)
        seen = vectors.T @ y[:, q]
        inverse = 1 / (values.clamp_min(0)[:, None] + values.new_tensor(ridges))
        solved = vectors @ (inverse * seen[:, None])
        kept = vectors.square() @ inverse - 1 / (len(y) * y.new_tensor(ridges))  # the constant is refitted
        error = (solved / kept).square().mean(0) / y[:, q].square().mean().clamp_min(1e-30)
        best = int(error.argmin())
        found.append((relevance[:, q] * (half.T @ solved[:, best]) / size, ridges[best], error[best]))
    effects, ridge, error = zip(*found, strict=True)
    return KernelRidge(torch.stack(effects, 1), outputs.new_tensor(ridge), torch.stack(error))


def adjusted_means(
    outputs: Float[Tensor, "n q"], codewords: Bool[Tensor, "units n"], surrogate: Float[Tensor, "units q"]
) -> Float[Tensor, "units q"]:
    """Subset means of what a surrogate leaves unexplained, plus the surrogate: a control variate.

    Any surrogate of fixed scale leaves the estimate unbiased; a good one leaves less noise, a poor one more. The scale
    is fitted on the other half of the members, for each half: its bias is gone from 8 members on.
    Source: the regression-adjusted estimators of arXiv 2506.11849; Lin 2013, Agnostic notes on regression adjustments.
    """
    n = outputs.shape[0]
    seen = codewords.T.to(outputs)
    predicted = seen @ surrogate.to(outputs)
    rounding = 64 * torch.finfo(predicted.dtype).eps * predicted.abs().amax(0)  # what varies less is a constant
    predicted = predicted - predicted.mean(0)  # or the halves' scales would differ by a constant
    residual, scale = torch.empty_like(outputs), torch.empty(2, outputs.shape[1], dtype=outputs.dtype)
    halves = (torch.arange(n) % 2 == 0, torch.arange(n) % 2 == 1)
    for i, (fit, use) in enumerate((halves, halves[::-1])):
        x, y = predicted[fit] - predicted[fit].mean(0), outputs[fit] - outputs[fit].mean(0)
        scale[i] = torch.where(x.square().mean(0) > rounding.square(), (x * y).sum(0) / x.square().sum(0), 0)
        residual[use] = outputs[use] - scale[i] * predicted[use]
    return subset_means(residual, codewords) + scale.mean(0) * surrogate


def rbf_kernel(features: Float[Tensor, "units features"], scale: float = 1.0) -> Float[Tensor, "units units"]:
    """exp(-d^2 / (2 (scale m)^2)), m the median distance between two units' features."""
    distance = torch.cdist(features, features)
    median = distance[~torch.eye(len(features), dtype=torch.bool)].median()
    return torch.exp(-0.5 * (distance / (scale * median)).square())
