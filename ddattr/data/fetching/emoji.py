"""Emoji: the same things, drawn by several artists."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from ddattr.data.fetching.artists import ARTISTS, contents, drawings, named
from ddattr.data.fetching.npm import packed
from ddattr.data.fetching.whole import whole

_TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}


class Emoji(NamedTuple):
    """One thing to draw: its code points, as in `1f44b-1f3fb`, and what it is."""

    code: str
    category: str
    subcategory: str
    name: str
    tone: str

    @property
    def file(self) -> str:
        """Where an artist's drawing of it lies."""
        return f"{self.subcategory}/{self.name}{self.tone and f'-{self.tone}'}.png"

    @property
    def caption(self) -> str:
        """In words."""
        return self.name.replace("-", " ") + (self.tone and f", {self.tone} skin tone")


def emoji(
    folder: str,
    artists: Sequence[Literal["noto", "twemoji", "openmoji", "fluent"]] = ("noto", "twemoji", "openmoji"),
    tones: bool = False,
) -> None:
    """Puts ARTIST/SUBCATEGORY/NAME.png into a folder, 64 x 64 pixels with alpha, and a table pictures.csv of them all.

    All emoji of Unicode 16 that at least two of the artists drew, but flags.

    Args:
        tones: whether skin tones too, which are near-duplicates.
    Raises:
        FileNotFoundError, ValueError: there is no npm, no network, or no resvg-py; a package is not what it was; the
            folder is there and holds something else; fewer than two artists.
    Source: Unicode Technical Standard 51; its names and groups as emoji-datasource and OpenMoji have them.
    """
    if len(set(artists)) < 2:
        raise ValueError(f"fetch: artists={list(artists)}, expected two or more. Set 'fetch.artists=[noto,twemoji]'.")
    if any(ARTISTS[name].folder is None for name in artists):
        _require_drawing()
    versions = {name: ARTISTS[name].package.version for name in artists}
    with whole(Path(folder), {"data": "emoji", "artists": versions, "tones": tones}) as part:
        if part is not None:
            _fill(part, list(dict.fromkeys(artists)), tones)


def _require_drawing() -> None:
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise ValueError(
            "fetch: resvg-py is missing, which draws SVG. Install it: pip install 'ddattr[emoji]', or do without: "
            "'fetch.artists=[noto,twemoji]'"
        ) from None


def _fill(part: Path, artists: Sequence[str], tones: bool) -> None:
    """Everything of the folder, into an empty one."""
    with TemporaryDirectory(prefix="ddattr-") as packages:
        every = dict.fromkeys([*artists, "noto", "openmoji"])  # of which two have the groups and the names
        tarballs = {name: packed(ARTISTS[name].package, Path(packages)) for name in every}
        known = list(_emoji(contents(tarballs["noto"], "emoji.json"), contents(tarballs["openmoji"], "chars.json")))
        wanted = [one for one in known if tones or not one.tone]
        codes = {one.code for one in wanted}
        drawn = {}
        for name in artists:
            print(f"fetch: {len(codes):,} pictures by {ARTISTS[name].author}", flush=True)
            drawn[name] = drawings(ARTISTS[name], tarballs[name], codes)
    times = Counter(code for pictures in drawn.values() for code in pictures)
    with (part / "pictures.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "artist", "category", "subcategory", "emoji", "tone", "caption"])
        for name, pictures in drawn.items():
            for one in wanted:
                if one.code in pictures and times[one.code] > 1:
                    path = part / name / one.file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(pictures[one.code])
                    table.writerow(
                        [f"{name}/{one.file}", name, one.category, one.subcategory, one.name, one.tone, one.caption]
                    )
    (part / "LICENCES").write_text("".join(f"{name}: {ARTISTS[name].terms}\n" for name in artists))


def _emoji(known: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Iterator[Emoji]:
    """All that are no flags, in Unicode's order; each skin tone of one after it."""
    for entry in sorted(known, key=lambda entry: entry["sort_order"]):
        if entry["category"] in ("Flags", "Component"):
            continue
        code = entry["unified"].lower()
        name = _safe(named(names, code) or entry["short_name"])
        kind = _safe(entry["category"]), _safe(entry["subcategory"])
        yield Emoji(code, *kind, name, "")
        for tone, variation in entry.get("skin_variations", {}).items():
            if tone in _TONES:  # not two of them, of two persons
                yield Emoji(variation["unified"].lower(), *kind, name, _TONES[tone])


def _safe(words: str) -> str:
    """A name for a file: lower-case letters, digits and hyphens."""
    return "-".join(re.findall(r"[a-z0-9]+", words.lower()))
