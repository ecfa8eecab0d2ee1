"""Many encoded pictures, made alike and kept as bytes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddattr.data.decode import Fit, Frame, Header, header, picture
from ddattr.data.pictures import Pictures
from ddattr.data.store import Progress, Writer, cache_folder, stored

_LARGEST = 32  # side of pictures whose size nobody gave
_WAITING = 1024  # pictures that are decoded before the first of them is written


class Wanted(NamedTuple):
    """What pictures are to be made into, see `Frame`; a size or channels of None are found in them."""

    size: int | None = None
    channels: int | None = None
    fit: Fit = "crop"
    background: int = 255


class Decoded(NamedTuple):
    """Pictures in their order, less those that cannot be read: for the place of each of these, why."""

    pictures: Pictures
    frame: Frame
    broken: Mapping[int, str]
    notes: Sequence[str]


def decoded(
    count: int, encoded: Callable[[int], Path | bytes], wanted: Wanted, cache: str | None, signature: Iterable[Any]
) -> Decoded:
    """Pictures that are decoded the first time, and mapped from the cache from then on.

    Args:
        encoded: the file of a picture, or what is in one, by its place; asked for by several threads.
        cache: folder; None for the user's own.
        signature: all that the content of the files depends on.
    Raises:
        ValueError: the cache cannot be written.
    """
    kept, notes = stored(cache_folder(cache), [*wanted, *signature], lambda to: _write(count, encoded, wanted, to))
    broken = {int(place): why for place, why in notes["broken"]}
    return Decoded(kept, Frame(**notes["frame"]), broken, notes["notes"])


def _write(count: int, encoded: Callable[[int], Path | bytes], wanted: Wanted, to: Writer) -> dict[str, Any]:
    """Writes all pictures that can be read; notes those that cannot, and what all were made into."""
    headers, progress = [], Progress("data: looking at pictures", count)
    for place in range(count):
        with suppress(ValueError):  # which decoding meets again
            headers.append(header(encoded(place)))
        progress(place + 1)
    frame = _frame(headers, wanted)
    broken, progress = [], Progress("data: decoding pictures", count)

    def read(place: int) -> np.ndarray | str:
        try:
            return picture(encoded(place), frame)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor() as threads:  # Pillow decodes outside Python's lock
        for start in range(0, count, _WAITING):
            part = range(start, min(start + _WAITING, count))
            for place, made in zip(part, threads.map(read, part), strict=True):
                if isinstance(made, str):
                    broken.append((place, made))
                else:
                    to.add(made)
                progress(place + 1)
    return {"broken": broken, "frame": frame._asdict(), "notes": _notes(frame, headers, wanted.size is None)}


def _frame(headers: Sequence[Header], wanted: Wanted) -> Frame:
    """What all pictures are made into: as it is asked for, else as they are."""
    size, channels = wanted.size, wanted.channels
    if size is None:
        smallest = min((min(head.width, head.height) for head in headers), default=_LARGEST)
        size = max(4, min(_LARGEST, smallest) // 4 * 4)
    if channels is None:
        channels = 1 if all(head.grey for head in headers) else 3
    return Frame(size, size, channels, wanted.background, wanted.fit)


def _notes(frame: Frame, headers: Sequence[Header], sized: bool) -> list[str]:
    """How pictures were made, as far as it was not asked for."""

    def of(count: int) -> str:
        return f"{count:,} of {len(headers):,} pictures"

    notes = []
    if oblong := sum(head.width != head.height for head in headers):
        aspects = [head.width / head.height for head in headers]
        done = "their middle is taken" if frame.fit == "crop" else "they are stretched"
        notes.append(f"no squares: {of(oblong)} (width / height {min(aspects):.2f} to {max(aspects):.2f}); {done}")
    if sized and any((head.height, head.width) != (frame.height, frame.width) for head in headers):
        notes.append(f"made {frame.width} x {frame.height}; set data.source.size for another")
    if transparent := sum(head.transparent for head in headers):
        behind = {0: "black", 255: "white"}.get(frame.background, f"grey of {frame.background}")
        notes.append(f"transparent: {of(transparent)}; {behind} is behind them")
    if animated := sum(head.frames > 1 for head in headers):
        notes.append(f"animated: {of(animated)}; the first frame is taken")
    return notes
