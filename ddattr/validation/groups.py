"""Leave one group out: does a method name the group whose removal hurts a picture most?"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def group_scores(scores: Float[Tensor, "units q"], group_of: Int[Tensor, "units"]) -> Float[Tensor, "groups q"]:
    """Sum of the scores of every group's units; groups in increasing order of their number."""
    names, which = group_of.unique(return_inverse=True)
    return scores.new_zeros(len(names), scores.shape[1]).index_add_(0, which, scores)


def top_one(scores: Float[Tensor, "groups q"], effect: Float[Tensor, "groups q"]) -> Float[Tensor, "q"]:
    """1 where the group of largest score is that of largest effect."""
    return (scores.argmax(0) == effect.argmax(0)).double()


def ndcg(scores: Float[Tensor, "groups q"], effect: Float[Tensor, "groups q"], k: int = 3) -> Float[Tensor, "q"]:
    """Normalised discounted cumulative gain of the k best-scored groups; gain is the effect, no less than 0.

    NaN where no group has a positive effect.
    Source: Jarvelin & Kekalainen 2002, Cumulated gain-based evaluation of IR techniques.
    """
    gain = effect.clamp_min(0)
    k = min(k, len(gain))
    discount = 1 / torch.log2(torch.arange(2, k + 2, dtype=gain.dtype))
    reached = discount @ gain.gather(0, scores.topk(k, 0).indices)
    best = discount @ gain.topk(k, 0).values
    return torch.where(best > 0, reached / best, torch.nan)
