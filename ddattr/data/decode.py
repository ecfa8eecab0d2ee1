"""One encoded picture as bytes (C, H, W): upright, on a background, cropped and resized."""

import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"])
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
_GREY = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"))
_DAMAGED = (SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error, zlib.error)
Fit = Literal["crop", "stretch"]
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused here, one by one
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # on files that are refused, or can be read


class Frame(NamedTuple):
    """What every picture of a data set is made into.

    `channels` is 1 (grey) or 3 (RGB), `background` the grey value, 0 to 255, behind what is transparent; `fit` crops
    the middle to the frame's aspect, or stretches the whole to it.
    """

    height: int
    width: int
    channels: int
    background: int = 255
    fit: Fit = "crop"


class Header(NamedTuple):
    """What a picture says of itself before its pixels are read; width and height are those of the upright one."""

    width: int
    height: int
    grey: bool
    transparent: bool
    frames: int


def header(encoded: Path | bytes) -> Header:
    """Of a file, or of what is in one.

    Raises:
        ValueError: it cannot be read as a picture; says why, without the path.
    """
    with _opened(encoded) as image:
        lying = image.getexif().get(0x0112) in (5, 6, 7, 8)  # EXIF's orientation
        lying = lying and image.format != "TIFF"  # which Pillow itself turns
        width, height = image.size[::-1] if lying else image.size
        frames = getattr(image, "n_frames", 1)
        return Header(width, height, image.mode in _GREY, _is_transparent(image), frames)


def picture(encoded: Path | bytes, frame: Frame) -> np.ndarray:
    """A file, or what is in one, as bytes (C, H, W); of an animation, the first frame.

    Raises:
        ValueError: it cannot be read as a picture, or its pixels are neither of 8 bits nor of 16; says why, without the
            path.
    """
    with _opened(encoded) as image:
        flat = _flattened(ImageOps.exif_transpose(image), frame.background)
        flat = flat.convert("L" if frame.channels == 1 else "RGB")
    size, resample = (frame.width, frame.height), Image.Resampling.BICUBIC
    if flat.size != size:
        flat = ImageOps.fit(flat, size, resample) if frame.fit == "crop" else flat.resize(size, resample)
    return np.atleast_3d(np.asarray(flat)).transpose(2, 0, 1)


@contextmanager
def _opened(encoded: Path | bytes) -> Iterator[Image.Image]:
    """A Pillow image; whatever it raises, now or when pixels are read, is a ValueError that says why."""
    try:
        if isinstance(encoded, Path) and not stat.S_ISREG(encoded.stat().st_mode):
            raise ValueError("it is no file")
        if not (encoded.stat().st_size if isinstance(encoded, Path) else encoded):
            raise ValueError("it is empty")
        with Image.open(encoded if isinstance(encoded, Path) else BytesIO(encoded), formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS or 0
            if limit and image.width * image.height > limit:
                raise ValueError(f"it has {image.width} x {image.height} pixels, expected at most {limit:,}")
            yield image
    except UnidentifiedImageError:
        raise ValueError("it is no picture, or damaged") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"it is too large: {_said(error)}") from None
    except OSError as error:
        raise ValueError(error.strerror.lower() if error.strerror else f"it is damaged: {_said(error)}") from None
    except _DAMAGED as error:
        raise ValueError(f"it is damaged: {_said(error)}") from None


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _flattened(image: Image.Image, background: int) -> Image.Image:
    """Of 8 bits a channel, and opaque."""
    if image.mode.startswith("I") or image.mode == "F":
        return _of_16_bits(image)
    if _is_transparent(image):
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, (background,) * 3 + (255,)), shown).convert("RGB")
    return image.convert("RGB") if image.mode == "P" else image


def _of_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, white at 65,535; Pillow itself would cut it off at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its pixels are of mode {image.mode}, expected 8 or 16 bits a channel")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))
