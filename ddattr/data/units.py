"""What can be removed at once: a map from every picture to its unit, numbered 0 .. N - 1 in order of appearance."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def by_image(images: Float[Tensor, "images c h w"]) -> Int[Tensor, "images"]:
    """One unit a picture; identical pictures share one, since removing a copy removes nothing."""
    return _number([hashlib.sha256(image.numpy().tobytes()).digest() for image in images])


def by_label(labels: Int[Tensor, "images"] | None) -> Int[Tensor, "images"]:
    """One unit a label.

    Raises:
        ValueError: the data has no labels.
    """
    if labels is None:
        raise ValueError("data: units=label, but this source has no labels. Set data.units to image or cluster.")
    return torch.from_numpy(np.unique(labels.numpy(), return_inverse=True)[1]).long()


def by_cluster(images: Float[Tensor, "images c h w"], clusters: int, seed: int) -> Int[Tensor, "images"]:
    """One unit a k-means cluster of pixels.

    Raises:
        ValueError: more clusters than pictures.
    Source: Lloyd 1982, Least squares quantization in PCM; scikit-learn's KMeans.
    """
    from sklearn.cluster import KMeans

    if not len(images):
        return _number([])
    if not 1 <= clusters <= len(images):
        raise ValueError(f"data: clusters={clusters}, expected 1 to {len(images)} pictures. Set data.clusters.")
    fit = KMeans(clusters, n_init=4, random_state=seed % 2**32).fit(images.flatten(1).double().numpy())
    return _number(fit.labels_.tolist())


def with_groups(loose: Int[Tensor, "loose"], groups: Int[Tensor, "images"]) -> Int[Tensor, "images"]:
    """Units of all pictures: those of the pictures in no group (-1), and after them one unit a group."""
    grouped = groups >= 0
    units = torch.empty_like(groups)
    units[~grouped] = loose
    units[grouped] = int(loose.max()) + 1 + torch.unique(groups[grouped], return_inverse=True)[1]
    return units


def majority(values: Int[Tensor, "images"], units: Int[Tensor, "images"]) -> Int[Tensor, "units"]:
    """The value that most pictures of every unit have; the smallest of those that tie."""
    names, which = torch.unique(values, return_inverse=True)
    counts = torch.zeros(int(units.max()) + 1, len(names)).index_put_((units, which), torch.ones(()), accumulate=True)
    return names[counts.argmax(1)]


def duplicates(images: Float[Tensor, "images c h w"], units: Int[Tensor, "images"]) -> int:
    """Pictures that are identical to one of another unit: removing either unit leaves a copy behind."""
    same = by_image(images)
    pairs = torch.unique(torch.stack([same, units]), dim=1)
    return int((torch.bincount(pairs[0]) - 1).clamp_min(0).sum())


def means(images: Float[Tensor, "images c h w"], units: Int[Tensor, "images"]) -> Float[Tensor, "units c h w"]:
    """Mean picture of every unit."""
    count = int(units.max()) + 1
    total = torch.zeros(count, *images.shape[1:], dtype=torch.float64).index_add_(0, units, images.double())
    return (total / torch.bincount(units).reshape(-1, 1, 1, 1)).float()


def _number(names: list) -> Tensor:
    order: dict = {}
    return torch.tensor([order.setdefault(name, len(order)) for name in names], dtype=torch.long)
