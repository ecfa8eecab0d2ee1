"""Pictures and units as a LightningDataModule."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader

from ddattr.data import chosen
from ddattr.data import similarity as alike
from ddattr.data import units as grouping
from ddattr.data.decode import Frame
from ddattr.data.near import Near, components, near_duplicates, within
from ddattr.data.partitions import Partitions
from ddattr.data.pictures import Images, Indexed, Pictures, blocks, content_of
from ddattr.data.similarity import PIXELS, Similarity
from ddattr.data.source import Source
from ddattr.data.units import MeanPictures

OWN = "features"  # of the run's own extractor
_HELD = 1 << 28  # numbers of units' mean pictures that are held: 1 GB
_ENOUGH = 10  # folders or labels; with fewer units some members would be left without any


@runtime_checkable
class Code(Protocol):
    """Pictures as latents, and back: (batch, C, H, W) and (batch, d, y, x)."""

    def encode(self, pictures: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class UnitDataModule(L.LightningDataModule):
    """Pictures, on the device or in a mapped file, and the unit of each.

    The training loader yields ticks, not pictures: which pictures a step sees is addressed by the step
    (`TrainingDraws`), so that a resumed run sees what an undisturbed one would have.

    Args:
        source: the pictures. A group of it is one unit, whatever the others are; its queries are held out.
        units: `image`, `label`, `folder` (of the files), `cluster`, `near` (a picture with its near-duplicates), or a
            column of the source's table. None: folders where there are ten or more, else labels where there are, else
            clusters.
        clusters: number of clusters, for `units=cluster` and for the sets scored after the fact; None: a tenth of the
            pictures, 10 to 100.
        seed: of the clustering, and of the sample.
        holdout: pictures, evenly spaced in the source, that no member ever sees: real queries, and strangers that the
            tests are tried on. None: a twentieth, at most 64.
        sample: pictures drawn by seed of those that are not held out, and the only ones that members see; a smaller
            sample is part of a larger one. Groups stay whole, and are no part of the count. None: all.
        sets: columns of the source's table whose values are scored as sets.
        flips: whether members see every picture mirrored half of the time: then it is a picture and its mirror that are
            removed together, and that a picture owes something to.
        on_error: whether files that are no pictures are refused, or left out and counted.
        similarity: of clusters and near units: `pixels`, `features` of the run's own extractor, or a file: a
            TorchScript module, or a run's extractor.safetensors. None: pixels below 16 x 16, else features.
        near: of near-duplicates: `hash`, or `similarity`.
        only: a column's name and the values that pictures may have there, to take some of the source; None for all.
        extractor: what trains the run's own extractor, of pictures and labels; None where only pixels are at hand.
        restore: what makes an extractor of its weights, for pictures of (H, W); None where there are none.
    Raises:
        ValueError: files that are no pictures; units of another name, labels, clusters or held-out pictures that the
            source cannot give.
    """

    def __init__(
        self,
        source: Source,
        units: str | None = "image",
        clusters: int | None = 100,
        seed: int = 0,
        holdout: int | None = 0,
        sample: int | None = None,
        sets: Sequence[str] = (),
        flips: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        similarity: str | None = None,
        near: Literal["hash", "similarity"] = "hash",
        only: Mapping[str, Sequence[str | int]] | None = None,
        extractor: Callable[[Images, Tensor | None], alike.Embedding] | None = None,
        restore: alike.Restore | None = None,
    ):
        super().__init__()
        self.pictures = self
        self.code: Code | None = None
        if source.broken and on_error == "raise":
            (name, why), count = source.broken[0], len(source.broken)
            more = f" (and {count - 1} more)" if count > 1 else ""
            raise ValueError(
                f"data: {name} cannot be read: {why}{more}. Mend or remove it, or leave such out: data.on_error=skip"
            )
        source = source if only is None else source.only(only)
        out = chosen.held_out(source, holdout)
        self.source = source
        # of the source: a picture's place in it
        self.rows = chosen.sampled(source, (~out).nonzero()[:, 0], sample, seed)
        self.kept = source.at(self.rows)
        self.held_out = source.at(out)
        self.images = self.kept.images
        self.labels = self.kept.labels
        self.groups = self.kept.groups
        self.clusters = max(10, min(100, len(self.rows) // 10)) if clusters is None else clusters
        self.seed = seed
        self.sets = tuple(sets)
        self.flips = flips
        self.near_by = near
        self._similarity = similarity
        self._extractor = extractor
        self._restore = restore
        if self.compared_by not in ("pixels", OWN):
            _ = self.similarity  # refused here, not when it is needed
        self.kind = _usual(self.kept) if units is None else units
        self.epoch_steps = 1
        for column in self.sets:
            if "/" in column:  # models without a set lie in a folder of its name
                raise ValueError(f"data: sets={column}, expected columns without / in their names. Set data.sets.")
            grouping.by_column(self.kept.table, column, "sets")
        loose = self.kept if self.groups is None else self.kept.at(self.groups < 0)
        self.unit_of = self._grouped(loose)
        if self.groups is not None:
            self.unit_of = grouping.with_groups(self.unit_of, self.groups)

    def encoded(
        self, code: Code, images: Float[Tensor, "images d y x"], held_out: Float[Tensor, "held d y x"]
    ) -> "UnitDataModule":
        """The same units for members that see latents: whatever takes data takes this.

        `images`, `held_out`, `unit_images`, `unit_pictures` and `shape` are of latents from here on. What says which
        pictures are alike goes by pictures, and `pictures` is the data as people see them.

        Args:
            images, held_out: what `code` makes of the pictures, which may have been kept.
        """
        view = copy(self)
        view.code, view.images = code, images
        view.kept, view.held_out = self.kept._replace(images=images), self.held_out._replace(images=held_out)
        for name in ("unit_images", "unit_pictures", "similarity"):
            vars(view).pop(name, None)
        return view

    def seen(self, pictures: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d y x"]:
        """Pictures as members see them."""
        return pictures if self.code is None else self.code.encode(pictures)

    def shown(self, made: Float[Tensor, "batch d y x"]) -> Float[Tensor, "batch c h w"]:
        """What members make, as pictures; not clipped."""
        return made if self.code is None else self.code.decode(made)

    def _grouped(self, pictures: Source) -> Int[Tensor, "images"]:
        """Units of pictures by `kind`."""
        if self.kind == "image":
            return grouping.by_image(pictures.images)
        if self.kind == "label":
            return grouping.by_label(pictures.labels)
        if self.kind == "cluster":
            return grouping.by_cluster(self._points(pictures.images), self.clusters, self.seed)
        if self.kind == "near":
            return grouping.renumbered(components(self._near(pictures.images), len(pictures.images)))
        return grouping.by_column(pictures.table, self.kind, "units")

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.unit_of.max()) + 1 if len(self.unit_of) else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of a picture."""
        return tuple(self.images.shape[1:])

    @property
    def frame(self) -> Frame:
        """What a file is made into to be a picture like these."""
        channels, height, width = self.pictures.shape
        return self.source.frame or Frame(height, width, channels)

    @property
    def is_small(self) -> bool:
        """Whether pictures are compared by pixels when nobody says by what."""
        return alike.is_small(self.pictures.shape)

    @property
    def compared_by(self) -> str:
        """`pixels`, `features` of the run's own extractor, or the file of a module."""
        if self._similarity is not None:
            return self._similarity
        return "pixels" if alike.is_small(self.pictures.shape) or self._extractor is None else OWN

    @property
    def compared_name(self) -> str:
        """The same in words; that of `similarity`, which may have to be trained."""
        own = {"pixels": PIXELS.name, OWN: "features of the run's extractor"}
        return own.get(self.compared_by) or alike.named(self.compared_by)

    @cached_property
    def similarity(self) -> Similarity:
        """By what pictures are alike."""
        if self.code is not None:
            return replace(self.pictures.similarity, shown=lambda made: self.shown(made).clamp(-1, 1))
        if self.compared_by == "pixels":
            return PIXELS
        if self.compared_by != OWN:
            return alike.of_file(self.compared_by, self.shape, self._restore)
        if self._extractor is None:
            raise ValueError("data: similarity=features, but no extractor was given. Set data.similarity=pixels.")
        return Similarity(self.compared_name, self._extractor(self.images, self.labels))

    @cached_property
    def unit_points(self) -> Float[Tensor, "units d"]:
        """Every unit where its pictures are on average, in pixels or features."""
        if self.code is not None:
            return self.pictures.unit_points
        if self.similarity is PIXELS:
            return self.unit_images.flatten(1)
        return alike.means(self.similarity.points(self.images), self.unit_of)

    def distance(self, pictures: Float[Tensor, "q c h w"]) -> Float[Tensor, "units q"]:
        """From every unit to every picture, in pixels or features."""
        by_pixels, images = self.pictures.similarity is PIXELS, self.pictures.unit_pictures
        points = (block.flatten(1) for block in blocks(images)) if by_pixels else [self.unit_points]
        return torch.cat([self.similarity.distance(some, pictures) for some in points])

    @cached_property
    def fingerprint(self) -> str:
        """Of the pictures, their shape and order, and the unit of each."""
        content = hashlib.sha256(repr(self.shape).encode())
        content.update(content_of(self.images))
        content.update(self.unit_of.numpy().tobytes())
        if self.flips:
            content.update(b"flips")
        return content.hexdigest()[:16]

    @property
    def labels_fingerprint(self) -> str:
        """Of the labels, which members do not depend on unless they are the units."""
        return "none" if self.labels is None else hashlib.sha256(self.labels.numpy().tobytes()).hexdigest()[:16]

    @property
    def held_out_text_fingerprint(self) -> str:
        """Of the text of held-out pictures, which members do not depend on."""
        table = self.held_out.table
        return "none" if table is None else hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]

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
    def unit_pictures(self) -> Indexed:
        """The same, to be read in part: of many that are mapped from a file, made where they are indexed."""
        if isinstance(self.images, Pictures) and self.units * math.prod(self.shape) > _HELD:
            return MeanPictures(self.images, self.unit_of)
        return self.unit_images

    @cached_property
    def duplicates(self) -> int:
        """Pictures that are identical to one of another unit."""
        return grouping.duplicates(self.images, self.unit_of)

    @cached_property
    def labelled_twice(self) -> int:
        """Pictures that are identical to one of another label."""
        return 0 if self.labels is None else grouping.duplicates(self.images, self.labels)

    @cached_property
    def near_duplicates(self) -> Near:
        """Pairs of pictures that a person would call the same."""
        return self._near(self.images)

    def _near(self, images: Images) -> Near:
        return near_duplicates(images) if self.near_by == "hash" else within(self.similarity.points(images))

    def partitions(self) -> Partitions:
        """Sets scored after the fact: for every unit the label, the cluster, and the value of every column of `sets`,
        that most of its pictures have; as numbers, which `set_name` has words for."""
        return self.pictures._partitions

    @cached_property
    def _partitions(self) -> Partitions:
        label = ["label"] if self.labels is not None and self.kind != "label" else []
        cluster = ["cluster"] if self.kind == "image" else []
        return Partitions(dict.fromkeys([*label, *cluster, *self.sets]), self._partition)

    def _partition(self, kind: str) -> Int[Tensor, "units"]:
        if kind in self.sets:
            values = grouping.by_column(self.kept.table, kind, "sets")
        elif kind == "label":
            assert self.labels is not None
            values = self.labels
        else:
            clusters = min(self.clusters, len(self.images))
            values = grouping.by_cluster(self._points(self.images), clusters, self.seed)
        return grouping.majority(values, self.unit_of)

    def _points(self, images: Images) -> Indexed:
        """Pictures as points; by pixels themselves, which may stay where they are."""
        return images if self.similarity is PIXELS else self.similarity.points(images)

    def set_key(self, name: str) -> str:
        """A set as a validation's plan knows it, by number: `label:3` of `label:cats`; else itself."""
        kind, _, wanted = name.partition(":")
        values = self.partitions().get(kind, torch.empty(0)).unique().tolist()
        known = {self.set_name(kind, value): value for value in values}
        return f"{kind}:{known[wanted]}" if wanted in known else name

    def set_name(self, kind: str, value: int) -> str:
        """A set's value in words: a label by its name, a column's value by itself, a cluster by its number."""
        if kind == "label" and self.source.label_names is not None:
            return str(self.source.label_names[value])
        return self._words[kind][value] if kind in self._words else str(value)

    @cached_property
    def _words(self) -> dict[str, list[str]]:
        """The values that columns of `sets` have, by their numbers."""
        table = self.kept.table
        columns = [] if table is None else [table[kind] for kind in self.sets if kind in table]
        return {str(column.name): [str(value) for value in column.unique()] for column in columns}

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(self.epoch_steps), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]


def _usual(source: Source) -> str:
    """The units of data of which nobody says what they are."""
    if source.table is not None and "folder" in source.table and source.table["folder"].nunique() >= _ENOUGH:
        return "folder"
    return "cluster" if source.labels is None or len(source.labels.unique()) < _ENOUGH else "label"
