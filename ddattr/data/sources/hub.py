"""Data sets of the Hugging Face Hub, and folders of theirs."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from annotated_types import Ge, Interval
from torch import Tensor

from ddattr.data.decode import Fit
from ddattr.data.decoded import Wanted, decoded
from ddattr.data.source import Source, coded

_FILES = {".parquet": "parquet", ".arrow": "arrow"}


def hub(
    path: str,
    split: str = "train",
    subset: str | None = None,
    image: str | None = None,
    label: str | None = None,
    columns: Sequence[str] = (),
    size: Annotated[int, Ge(4)] | None = None,
    channels: Literal[1, 3] | None = None,
    fit: Fit = "crop",
    background: Annotated[int, Interval(ge=0, le=255)] = 255,
    cache: str | None = None,
) -> Source:
    """Pictures of a data set that the library `datasets` opens, in its order.

    Args:
        path: the id of a data set, a folder of parquet, arrow or image files, one that `save_to_disk` has written, or
            a parquet or arrow file.
        split: of the data set.
        subset: of a data set that has several.
        image: column of pictures; None for the only one.
        label: column of labels, of classes, whole numbers or text; None for the only one of classes, if there.
        columns: others, text that units and sets may be made of.
        size: see `folder`, as are `channels`, `fit`, `background` and `cache`.
    Raises:
        FileNotFoundError, ValueError: the library is not installed; no such data set, split or column, or none that
            can be reached; pictures without a label.
    Source: Lhoest et al. 2021, Datasets: a community library for natural language processing.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError("data: hub needs the library datasets. Install it: pip install 'ddattr[hub]'") from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    data = _opened(path, subset, split)
    image = _column(data.features, "image", image, lambda feature: isinstance(feature, datasets.Image), path)
    label = _column(data.features, "label", label, lambda feature: isinstance(feature, datasets.ClassLabel), path)
    for column in columns:
        _column(data.features, "columns", column, bool, path)
    try:
        pictures = data.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"data: column {image} of {path} has no pictures: {said}. Set data.source.image.") from None

    def encoded(place: int) -> Path | bytes:
        stored = pictures[place][image] or {"bytes": b""}
        return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"])

    wanted = Wanted(size, channels, fit, background)
    made = decoded(len(pictures), encoded, wanted, cache, [path, pictures._fingerprint])
    names = _names(pictures, image, path)
    kept = [place for place in range(len(pictures)) if place not in made.broken]
    if not kept:
        raise ValueError(f"data: {path} has no picture that can be read. Check data.source.path.")
    table = {"file": [names[place] for place in kept]}
    table |= {column: [str(value) for value in data.select(kept)[column]] for column in columns}
    codes, label_names = (None, None) if label is None else _labels(data.select(kept), label)
    return Source(
        made.pictures,
        codes,
        label_names=label_names,
        table=pd.DataFrame(table),
        frame=made.frame,
        broken=[(names[place], why) for place, why in sorted(made.broken.items())],
        notes=made.notes,
    )


def _opened(path: str, subset: str | None, split: str) -> Any:
    """One split.

    Raises:
        ValueError: what the library said, in one line.
    """
    import datasets

    place, kind = Path(path), _FILES.get(Path(path).suffix)
    try:
        if kind is not None and place.is_file():
            return datasets.load_dataset(kind, data_files=path, split="train")
        if (place / "state.json").is_file():
            return datasets.load_from_disk(path)
        if (place / "dataset_dict.json").is_file():
            return datasets.load_from_disk(path)[split]
        return datasets.load_dataset(path, subset, split=split)
    except KeyError:
        known = ", ".join(sorted(entry.name for entry in place.iterdir() if entry.is_dir()))
        raise ValueError(f"data: split={split}, expected one of {known}. Set data.source.split.") from None
    except Exception as error:  # of the network, of many libraries
        said = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise ValueError(f"data: {path} cannot be opened: {said}. Check data.source.path, or the network.") from None


def _column(features: Any, key: str, name: str | None, fits: Any, path: str) -> Any:
    """The name of a column: the one that is given, else the only one that fits."""
    fitting = [column for column, feature in features.items() if fits(feature)]
    if name is None and key == "label" and len(fitting) != 1:
        return None
    if name is None and len(fitting) != 1:
        many = ", ".join(fitting) or "none"
        raise ValueError(f"data: {path} has {many} for columns of pictures, expected one. Set data.source.{key}.")
    if name is not None and name not in features:
        raise ValueError(f"data: {key}={name}, expected a column of {', '.join(features)}. Set data.source.{key}.")
    return name or fitting[0]


def _names(pictures: Any, image: str, path: str) -> list[str]:
    """Files below the path, where every picture has one of its own; else rows."""
    found = [str((row[image] or {}).get("path") or "") for row in pictures]
    root = os.path.abspath(path)
    if all(found) and len(set(found)) == len(found):
        return [os.path.relpath(name, root) if os.path.isabs(name) else name for name in found]
    return [f"row {place}" for place in range(len(pictures))]


def _labels(data: Any, label: str) -> tuple[Tensor, list[str] | None]:
    """Numbers, and their names: those of the classes, or the text that they are."""
    values, names = data[label], getattr(data.features[label], "names", None)
    if any(value is None or (isinstance(value, int) and value < 0) for value in values):
        raise ValueError(
            f"data: label={label} has pictures without one. Set data.source.label to another column, or split."
        )
    if all(isinstance(value, int) for value in values):
        return torch.tensor(list(values), dtype=torch.int64), names
    return coded([str(value) for value in values])
