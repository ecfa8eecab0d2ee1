"""Who drew the emoji, under which licence, and where npm has the pictures: PNG of 64 pixels, or SVG to be drawn so."""

import json
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddattr.data.fetching.npm import Package

SIZE = 64  # pixels


class Artist(NamedTuple):
    """One who drew them all.

    Args:
        folder: in the package, of PNG files that are named by code points; None: it is a set of SVG.
    """

    package: Package
    author: str
    licence: str
    folder: str | None = None

    @property
    def terms(self) -> str:
        """Whose they are, and under which licence."""
        drawn = f", drawn at {SIZE} pixels" if self.folder is None else ""
        return f"{self.author}, {self.licence}; from npm's {self.package.name} {self.package.version}{drawn}, renamed"


ARTISTS = {
    "noto": Artist(
        Package(
            "emoji-datasource-google",
            "16.0.0",
            "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
            74,
        ),
        "Noto Emoji, Google",
        "Apache-2.0",
        "package/img/google/64/",
    ),
    "twemoji": Artist(
        Package(
            "emoji-datasource-twitter",
            "16.0.0",
            "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
            62,
        ),
        "Twemoji, Twitter and other contributors",
        "CC-BY-4.0",
        "package/img/twitter/64/",
    ),
    "openmoji": Artist(
        Package(
            "@iconify-json/openmoji",
            "1.2.29",
            "sha512-vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
            1,
        ),
        "OpenMoji, the open-source emoji and icon project",
        "CC-BY-SA-4.0",
    ),
    "fluent": Artist(
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
            1,
        ),
        "Fluent Emoji, Microsoft",
        "MIT",
    ),
}


def drawings(artist: Artist, tarball: Path, codes: Collection[str]) -> dict[str, bytes]:
    """PNG files of 64 x 64 pixels with an alpha channel, by code points as in `1f44b-1f3fb`; those that there are."""
    if artist.folder is None:
        return _drawn(tarball, codes)
    found = {}
    with tarfile.open(tarball) as archive:
        for member in archive:
            code = member.name.removeprefix(artist.folder).removesuffix(".png")
            if member.name.startswith(artist.folder) and code in codes and (file := archive.extractfile(member)):
                found[code] = file.read()
    return found


def contents(tarball: Path, name: str) -> Any:
    """A JSON file of a package."""
    with tarfile.open(tarball) as archive:
        file = archive.extractfile(f"package/{name}")
        assert file is not None
        return json.load(file)


def named(names: Mapping[str, str], code: str) -> str | None:
    """The name that an icon set has for code points; it knows them without what asks for colour."""
    return names.get(code) or names.get(code.replace("-fe0f", ""))


def _drawn(tarball: Path, codes: Collection[str]) -> dict[str, bytes]:
    """Of an icon set of Iconify: https://iconify.design/docs/types/iconify-json.html"""
    from resvg_py import svg_to_bytes

    icons, names = contents(tarball, "icons.json"), contents(tarball, "chars.json")
    found = {}
    for code in sorted(codes):
        if (name := named(names, code)) is not None:
            svg = _svg(icons, name)
            found[code] = bytes(svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True))
    return found


def _svg(icons: Mapping[str, Any], name: str) -> str:
    """An icon as a square picture; an alias may be its parent's mirror image."""
    alias = icons["aliases"].get(name, {})
    icon = icons["icons"][alias.get("parent", name)]
    width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
    body = icon["body"]
    if alias.get("hFlip"):
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    side = max(width, height)
    box = f"{(width - side) / 2} {(height - side) / 2} {side} {side}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
        f'width="{SIZE}" height="{SIZE}">{body}</svg>'
    )
