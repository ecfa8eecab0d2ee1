"""Functionals: what is asked of pictures beside the whole of each, a number a picture that torch can differentiate.

A functional is any callable, pictures (q, c, h, w) -> (q,), each number of its own picture alone; `str` of it says in
words what it is. Pictures are not clipped, and may leave [-1, 1] a little.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.data.datamodule import UnitDataModule
from ddattr.data.decode import header, picture
from ddattr.data.pictures import scaled
from ddattr.ensemble.extractor import FeatureExtractor


class Similarity:
    """Minus the distance to a given picture, in pixels: removing a unit that supports it moves a query away from that.

    Of a training unit's picture its derivative is `jvp`'s pull of that unit.

    Args:
        data: whose pictures these are like.
        picture: file, of as many pixels as the data's.
    Raises:
        FileNotFoundError, ValueError: no such file, or none that is such a picture.
    """

    def __init__(self, data: UnitDataModule, picture: str | None = None):
        self.target = _picture(picture, "picture", data)
        self.name = Path(str(picture)).name

    def __str__(self) -> str:
        return f"similarity to {self.name}"

    def __call__(self, pictures: Float[Tensor, "q *image"]) -> Float[Tensor, "q"]:
        return -(pictures - self.target.to(pictures)).flatten(1).norm(dim=1)


class Region:
    """Mean brightness of a rectangle, or of where a mask is brighter than middle grey.

    Args:
        data: whose pictures these are like.
        box: [top, left, height, width], in pixels.
        mask: file, of as many pixels as the data's.
    Raises:
        FileNotFoundError, ValueError: neither or both; a rectangle that is not inside; no such mask, or a dark one.
    """

    def __init__(self, data: UnitDataModule, box: Sequence[int] | None = None, mask: str | None = None):
        if (box is None) == (mask is None):
            raise ValueError("functional: box and mask, expected one of them. Set functional.box or functional.mask.")
        self.name = f"mask {Path(str(mask)).name}" if box is None else _in_words(box, data)
        self.inside = torch.zeros(data.shape[1:], dtype=torch.bool)
        if box is None:
            self.inside = _picture(mask, "mask", data).mean(0) > 0
            if not self.inside.any():
                raise ValueError(f"functional: mask={mask} is dark, expected a bright region. Set functional.mask.")
        else:
            top, left, height, width = box
            self.inside[top : top + height, left : left + width] = True

    def __str__(self) -> str:
        return f"brightness of {self.name}"

    def __call__(self, pictures: Float[Tensor, "q c h w"]) -> Float[Tensor, "q"]:
        return pictures[..., self.inside.to(pictures.device)].flatten(1).mean(1)


class Logit:
    """Logit of a label, by the small network that the run's features are of: `evaluate` trains it.

    Args:
        data: whose labels it tells apart.
        classifier: that network, in float32.
        label: by name.
    Raises:
        ValueError: data without labels, or without that one.
    """

    def __init__(self, data: UnitDataModule, classifier: FeatureExtractor, label: str | int | None = None):
        if data.labels is None:
            raise ValueError("functional: a label's logit, but the data has no labels. Take another functional.")
        known = {data.set_name("label", value): value for value in data.labels.unique().tolist() if value >= 0}
        if str(label) not in known:
            listed = ", ".join([*known][:12]) + (", ..." if len(known) > 12 else "")
            given = "null" if label is None else label
            raise ValueError(f"functional: label={given}, expected one of {listed}. Set functional.label.")
        self.classifier, self.label, self.value = classifier, label, known[str(label)]

    def __str__(self) -> str:
        return f"logit of {self.label}"

    def __call__(self, pictures: Float[Tensor, "q c h w"]) -> Float[Tensor, "q"]:
        features = self.classifier(pictures.to("cpu", torch.float32))
        return self.classifier.head(features)[:, self.value].to(pictures)


def _picture(path: str | None, key: str, data: UnitDataModule) -> Float[Tensor, "c h w"]:
    """A file as the data's own source would have made it, which is of that size already."""
    if path is None:
        raise ValueError(f"functional: {key}=null, expected a picture's file. Set functional.{key}.")
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"functional: {key}={path} is missing, expected a picture's file. Set functional.{key}."
        )
    try:
        said = header(Path(path))
        if (size := (said.height, said.width)) != (sides := tuple(data.shape[1:])):
            got, expected = (f"{width} x {height}" for height, width in (size, sides))
            raise ValueError(f"it is {got} pixels, expected {expected}, as the data is")
        return scaled(torch.from_numpy(np.array(picture(Path(path), data.frame))))
    except ValueError as error:
        raise ValueError(f"functional: {key}={path} cannot be taken: {error}. Set functional.{key}.") from None


def _in_words(box: Sequence[int], data: UnitDataModule) -> str:
    """A rectangle, if it lies inside the data's pictures."""
    height, width = data.shape[1:]
    inside = len(box) == 4 and min(box[:2]) >= 0 and min(box[2:]) >= 1
    if not inside or box[0] + box[2] > height or box[1] + box[3] > width:
        raise ValueError(
            f"functional: box={list(box)}, expected [top, left, height, width] inside {width} x {height} pixels. Set "
            "functional.box."
        )
    return f"rows {box[0]} to {box[0] + box[2] - 1}, columns {box[1]} to {box[1] + box[3] - 1}"
