"""One file, or one Pillow image, as bytes (C, H, W): upright, on a background, cropped and resized."""

import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"])
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
_GREY = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"))
Fit = Literal["crop", "stretch"]
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused here, one by one


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
    """What a file says of itself before its pixels are read; width and height are those of the upright picture."""

    width: int
    height: int
    grey: bool
    frames: int


def header(path: Path) -> Header:
    """Of a file.

    Raises:
        ValueError: it cannot be read as a picture; says why, without the path.
    """
    with _opened(path) as image:
        upright = image.getexif().get(0x0112, 1) < 5  # EXIF's orientation: from 5 on, it lies on its side
        width, height = image.size if upright else image.size[::-1]
        return Header(width, height, image.mode in _GREY, getattr(image, "n_frames", 1))


def picture(path: Path, frame: Frame) -> np.ndarray:
    """A file as bytes (C, H, W); of an animation, the first frame.

    Raises:
        ValueError: it cannot be read as a picture; says why, without the path.
    """
    with _opened(path) as image:
        return framed(image, frame)


def framed(image: Image.Image, frame: Frame) -> np.ndarray:
    """A Pillow image as bytes (C, H, W).

    Raises:
        ValueError: its pixels cannot be read, or are neither of 8 bits nor of 16.
    """
    try:
        image = ImageOps.exif_transpose(image)
        flat = _flattened(image, frame.background).convert("L" if frame.channels == 1 else "RGB")
    except (OSError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise ValueError(_reason(error)) from None
    size, resample = (frame.width, frame.height), Image.Resampling.BICUBIC
    if flat.size != size:
        flat = ImageOps.fit(flat, size, resample) if frame.fit == "crop" else flat.resize(size, resample)
    return np.atleast_3d(np.asarray(flat)).transpose(2, 0, 1)


def _opened(path: Path) -> Image.Image:
    try:
        if not path.stat().st_size:
            raise ValueError("it is empty")
        image = Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError:
        raise ValueError("it is no picture, or damaged") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(_reason(error)) from None
    limit = Image.MAX_IMAGE_PIXELS or 0
    if limit and image.width * image.height > limit:
        image.close()
        raise ValueError(f"it has {image.width} x {image.height} pixels, expected at most {limit:,}")
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    said = " ".join(str(error).split()).rstrip(".")
    return f"it is damaged: {said}" if said else "it is damaged"


def _flattened(image: Image.Image, background: int) -> Image.Image:
    """Of 8 bits a channel, and opaque."""
    if image.mode.startswith("I") or image.mode == "F":
        return _of_16_bits(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, (background,) * 3 + (255,)), shown).convert("RGB")
    return image.convert("RGB") if image.mode == "P" else image


def _of_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, white at 65,535; Pillow itself would cut it off at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its pixels are of mode {image.mode}, expected 8 or 16 bits a channel")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))
