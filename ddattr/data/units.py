"""What can be removed at once: a map from every picture to its unit, numbered 0 .. N - 1 in order of appearance."""

import hashlib

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.data.pictures import Images, Indexed, Pictures, blocks

_CLUSTERED = 20_000  # pictures that k-means is fitted to, at most
_PREDICTED = 4096  # pictures that are given their cluster at once


def by_image(images: Images) -> Int[Tensor, "images"]:
    """One unit a picture; identical pictures share one, since removing a copy removes nothing."""
    if isinstance(images, Pictures):
        return _number([digest.tobytes() for digest in images.digests])
    return _number([hashlib.sha256(image.numpy().tobytes()).digest() for image in images])


def by_label(labels: Int[Tensor, "images"] | None) -> Int[Tensor, "images"]:
    """One unit a label.

    Raises:
        ValueError: the data has no labels.
    """
    if labels is None:
        raise ValueError("data: units=label, but this source has no labels. Set data.units to image or cluster.")
    return torch.from_numpy(np.unique(labels.numpy(), return_inverse=True)[1]).long()


def by_cluster(points: Indexed, clusters: int, seed: int) -> Int[Tensor, "images"]:
    """One unit a k-means cluster of pictures, or of points that they are embedded as, (images, *point).

    The best of four fits. Beyond 20,000 pictures, centres are those of one fit to 20,000 drawn by seed, in single
    precision.

    Raises:
        ValueError: more clusters than pictures.
    Source: Lloyd 1982, Least squares quantization in PCM; scikit-learn's KMeans.
    """
    from sklearn.cluster import KMeans

    if not len(points):
        return _number([])
    if not 1 <= clusters <= len(points):
        raise ValueError(f"data: clusters={clusters}, expected 1 to {len(points)} pictures. Set data.clusters.")
    if len(points) <= _CLUSTERED:
        k_means = KMeans(clusters, n_init=4, random_state=seed % 2**32)
        return _number(k_means.fit(points[:].flatten(1).double().numpy()).labels_.tolist())
    drawn = np.random.default_rng(seed).permutation(len(points))[:_CLUSTERED]
    k_means = KMeans(clusters, n_init=1, random_state=seed % 2**32)
    k_means.fit(points[torch.from_numpy(np.sort(drawn))].flatten(1).numpy())
    parts = (points[start : start + _PREDICTED] for start in range(0, len(points), _PREDICTED))
    return _number([place for part in parts for place in k_means.predict(part.flatten(1).numpy()).tolist()])


def by_column(table: pd.DataFrame | None, column: str, key: str) -> Int[Tensor, "images"]:
    """One unit, or set, a value of a column of text.

    Args:
        key: of the config that named the column.
    Raises:
        ValueError: the data has no such column.
    """
    known = [] if table is None else [str(name) for name in table]
    if table is None or column not in known:
        own = ", ".join(name for name in known if name not in ("file", "folder"))
        raise ValueError(
            f"data: {key}={column}, expected image, label, cluster, near{', folder' * ('folder' in known)} or a column "
            f"of the data's own ({own or 'it has none'}). Set data.{key}."
        )
    return _number(table[column].tolist())


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
    pairs, counts = torch.unique(units * len(names) + which, return_counts=True)  # by unit, then by value
    order = counts.argsort(descending=True, stable=True)
    order = order[(pairs[order] // len(names)).argsort(stable=True)]  # of every unit, most pictures first
    first = torch.unique_consecutive(pairs[order] // len(names), return_counts=True)[1].cumsum(0).roll(1)
    first[0] = 0
    return names[pairs[order[first]] % len(names)]


def duplicates(images: Images, groups: Int[Tensor, "images"]) -> int:
    """Pictures that are identical to one of another group: of units, removing either leaves a copy behind."""
    same, of = by_image(images), torch.unique(groups, return_inverse=True)[1]
    pairs = torch.unique(same * (len(groups) + 1) + of)  # one number a pair: far faster than rows
    return int((torch.bincount(pairs // (len(groups) + 1)) - 1).clamp_min(0).sum())


def means(images: Images, units: Int[Tensor, "images"]) -> Float[Tensor, "units c h w"]:
    """Mean picture of every unit."""
    count, done = torch.bincount(units), 0
    total = torch.zeros(len(count), *images.shape[1:], dtype=torch.float64)
    for block in blocks(images):
        total.index_add_(0, units[done : done + len(block)], block.double())
        done += len(block)
    return (total / count.reshape(-1, 1, 1, 1)).float()


class MeanPictures:
    """What `means` returns, without its memory: the mean pictures of the units that are indexed, from their pictures.

    Args:
        images: mapped from a file.
        units: of every one of them.
    """

    def __init__(self, images: Pictures, units: Int[Tensor, "images"]):
        self._images = images
        self._order = units.argsort(stable=True)
        self._counts = units.bincount()
        self._ends = self._counts.cumsum(0)

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (len(self), *self._images.shape[1:])

    def __getitem__(self, index: Tensor | slice) -> Float[Tensor, "... c h w"]:
        units = torch.arange(len(self))[index]
        asked, counts = units.reshape(-1), self._counts[units.reshape(-1)]
        if (counts == 1).all():  # a picture is its own mean
            return self._images[self._order[self._ends[units] - 1]]
        of = torch.arange(len(asked)).repeat_interleave(counts)  # which of the asked units every picture is of
        back = counts.cumsum(0)[of] - torch.arange(len(of))  # from the end of its pictures
        found = means(self._images.at(self._order[self._ends[asked][of] - back]), of)
        return found.reshape(*units.shape, *self.shape[1:])


def _number(names: list) -> Tensor:
    order: dict = {}
    return torch.tensor([order.setdefault(name, len(order)) for name in names], dtype=torch.long)


def renumbered(units: Int[Tensor, "images"]) -> Int[Tensor, "images"]:
    """The same units, numbered in order of appearance."""
    return _number(units.tolist())
