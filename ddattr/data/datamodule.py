"""Pictures and units as a LightningDataModule."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import lightning as L
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader

from ddattr.data import units as grouping
from ddattr.data.source import Source


class UnitDataModule(L.LightningDataModule):
    """Pictures in one tensor on the device, and the unit of each.

    The training loader yields ticks, not pictures: which pictures a step sees is addressed by the step
    (`TrainingDraws`), so that a resumed run sees what an undisturbed one would have.

    Args:
        source: the pictures. A group of it is one unit, whatever the others are; its queries are held out.
        units: `image`, `label` or `cluster`.
        clusters: number of clusters, for `units=cluster` and for the sets scored after the fact.
        seed: of the clustering.
        holdout: pictures, evenly spaced in the source, that no member ever sees: real queries for `validate`.
    Raises:
        ValueError: units of another name, labels, clusters or held-out pictures that the source cannot give.
    """

    def __init__(self, source: Source, units: str = "image", clusters: int = 100, seed: int = 0, holdout: int = 0):
        super().__init__()
        out = _held_out(source, holdout)
        self.rows = (~out).nonzero()[:, 0]  # of the source, a picture's place in it
        kept = source.at(self.rows)
        self.held_out = source.at(out)
        self.images = kept.images
        self.labels = kept.labels
        self.groups = kept.groups
        self.kind = units
        self.clusters = clusters
        self.seed = seed
        loose = kept if self.groups is None else kept.at(self.groups < 0)
        if units == "image":
            self.unit_of = grouping.by_image(loose.images)
        elif units == "label":
            self.unit_of = grouping.by_label(loose.labels)
        elif units == "cluster":
            self.unit_of = grouping.by_cluster(loose.images, clusters, seed)
        else:
            raise ValueError(f"data: units={units}, expected image, label or cluster. Set data.units.")
        if self.groups is not None:
            self.unit_of = grouping.with_groups(self.unit_of, self.groups)
        self.epoch_steps = 1

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.unit_of.max()) + 1 if len(self.unit_of) else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a picture."""
        return tuple(self.images.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """Of the pictures, their shape and order, and the unit of each."""
        content = hashlib.sha256(repr(self.shape).encode())
        content.update(self.images.numpy().tobytes())
        content.update(self.unit_of.numpy().tobytes())
        return content.hexdigest()[:16]

    @property
    def labels_fingerprint(self) -> str:
        """Of the labels, which members do not depend on unless they are the units."""
        return "none" if self.labels is None else hashlib.sha256(self.labels.numpy().tobytes()).hexdigest()[:16]

    @cached_property
    def held_out_units(self) -> Int[Tensor, "held"]:
        """The unit that every held-out picture is of a group with; -1 for none."""
        units = torch.full((len(self.held_out.images),), -1)
        if self.groups is not None and self.held_out.groups is not None:
            same = (self.held_out.groups[:, None] == self.groups) & (self.groups >= 0)
            units = torch.where(same.any(1), self.unit_of[same.byte().argmax(1)], -1)
        return units

    @cached_property
    def planted_fingerprint(self) -> str:
        """Of the held-out pictures whose unit is known, which members do not depend on."""
        known = self.held_out_units >= 0
        content = hashlib.sha256(self.held_out.images[known].numpy().tobytes())
        content.update(self.held_out_units[known].numpy().tobytes())
        return content.hexdigest()[:16] if known.any() else "none"

    @cached_property
    def unit_images(self) -> Float[Tensor, "units c h w"]:
        """Mean picture of every unit."""
        return grouping.means(self.images, self.unit_of)

    @cached_property
    def duplicates(self) -> int:
        """Pictures that are identical to one of another unit."""
        return grouping.duplicates(self.images, self.unit_of)

    def partitions(self) -> dict[str, Int[Tensor, "units"]]:
        """Sets scored after the fact: for every unit the label, and the cluster, that most of its pictures have."""
        sets = {}
        if self.labels is not None and self.kind != "label":
            sets["label"] = grouping.majority(self.labels, self.unit_of)
        if self.kind == "image":
            cluster = grouping.by_cluster(self.images, min(self.clusters, len(self.images)), self.seed)
            sets["cluster"] = grouping.majority(cluster, self.unit_of)
        return sets

    def unit_table(self) -> pd.DataFrame:
        """units.parquet: a row a unit, so that numbers of units and of sets mean something.

        Its name in words; the label and the cluster that most of its pictures have, as far as there are any; how many
        pictures it has, and their rows in the source.
        """
        sizes = self.unit_of.bincount(minlength=self.units).tolist()
        rows = [part.tolist() for part in self.rows[self.unit_of.argsort(stable=True)].split(sizes)]
        sets = self.partitions()
        if self.labels is not None:
            sets["label"] = grouping.majority(self.labels, self.unit_of)
        grouped = torch.zeros(self.units, dtype=torch.bool)
        if self.groups is not None:
            grouped[self.unit_of[self.groups >= 0]] = True
        table: dict[str, Any] = {"unit": range(self.units)}
        table["name"] = [
            f"group from picture {rows[unit][0]}" if grouped[unit] else self._name(unit, rows[unit], sets)
            for unit in range(self.units)
        ]
        table |= {kind: of.tolist() for kind, of in sets.items()}
        return pd.DataFrame({**table, "pictures": sizes, "rows": rows})

    def _name(self, unit: int, rows: list[int], sets: Mapping[str, Tensor]) -> str:
        """A picture goes by its row in the source, a label by itself, a cluster by its number."""
        if self.kind == "image":
            return f"picture {rows[0]}"
        return f"{self.kind} {int(sets['label'][unit]) if self.kind == 'label' else unit}"

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(self.epoch_steps), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]


def _held_out(source: Source, holdout: int) -> Bool[Tensor, "images"]:
    """Mask of the pictures that no member sees: the source's queries, and the middles of `holdout` equal stretches.

    Pictures of a group are held out only when they are queries, so that `holdout` changes no group.
    """
    out = torch.zeros(len(source.images), dtype=torch.bool) if source.queries is None else source.queries.clone()
    free = (~out if source.groups is None else ~out & (source.groups < 0)).nonzero()[:, 0]
    count = len(free)
    if not 0 <= holdout <= max(0, count - 1):
        raise ValueError(
            f"data: holdout={holdout}, expected 0 to {max(0, count - 1)} of {count} pictures. Set data.holdout."
        )
    out[free[(2 * torch.arange(holdout) + 1) * count // max(1, 2 * holdout)]] = True
    return out
