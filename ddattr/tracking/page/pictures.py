"""Pictures in a page: PNGs for what reads without a script, packed bytes for what the script draws."""

import base64
import io
import zlib
from pathlib import Path
from typing import TypedDict

import matplotlib.image
import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

SMALL = 32  # pixels a side of a training picture, which the page draws no larger than a thumb
LEVELS = 63  # of a displacement on either side of zero; half a step of 1 is what a byte of a picture shows


class Stepped(TypedDict):
    """Packed whole numbers, and for every picture the step that they count."""

    values: str
    steps: list[float]


def png(path: Path) -> str:
    """A file as what an img shows."""
    return _uri(path.read_bytes())


def drawn(picture: Float[Tensor, "c h w"]) -> str:
    """A picture as what an img shows, a pixel a pixel; the page enlarges it."""
    return _drawn(_pixels(picture))


def grid(pictures: Float[Tensor, "n c h w"], columns: int) -> str:
    """Pictures in rows, as one img, which is transparent between them."""
    height, width = pictures.shape[2:]
    gap, rows = max(1, width // 8), -(-len(pictures) // columns)
    whole = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4))
    for place, picture in enumerate(pictures):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        whole[top : top + height, left : left + width] = np.pad(
            _pixels(picture), ((0, 0), (0, 0), (0, 1)), constant_values=1
        )
    return _drawn(whole)


def _pixels(picture: Tensor) -> np.ndarray:
    """(H, W, 3) from 0 to 1; grey is shown as such."""
    return np.ascontiguousarray(((picture.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).expand(-1, -1, 3).numpy())


def _drawn(pixels: np.ndarray) -> str:
    with io.BytesIO() as file:
        matplotlib.image.imsave(file, pixels, format="png")
        return _uri(file.getvalue())


def small(pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c th tw"]:
    """Pictures of at most `SMALL` pixels a side, each the mean of those that it stands for."""
    sides = pictures.shape[2:]
    ratio = min(1.0, SMALL / max(sides))
    return interpolate(pictures, [max(1, round(side * ratio)) for side in sides], mode="area")


def shades(pictures: Float[Tensor, "n c h w"]) -> str:
    """Packed bytes: 0 is -1, 255 is 1, clipped."""
    return _packed(((pictures.clamp(-1, 1) + 1) * 127.5).round().numpy().astype("u1"))


def fine(pictures: Float[Tensor, "n c h w"]) -> Stepped:
    """Pictures that are not clipped, in 16 bits."""
    return _stepped(pictures, 32767, "<i2")


def coarse(displacements: Float[Tensor, "n c h w"]) -> Stepped:
    """Displacements in 8 bits, `LEVELS` on either side of zero."""
    return _stepped(displacements, LEVELS, "i1")


def _stepped(values: Tensor, levels: int, kind: str) -> Stepped:
    steps = (values.flatten(1).abs().amax(1) / levels).clamp_min(1e-12)
    whole = (values / steps.reshape(-1, 1, 1, 1)).round().numpy().astype(kind)
    return {"values": _packed(whole), "steps": [float(f"{step:.7g}") for step in steps.tolist()]}


def _packed(values: np.ndarray) -> str:
    """Differences along the rows, which wrap around, deflated, in base64: what the script's `unpacked` undoes."""
    moved = np.diff(values, axis=-1, prepend=values.dtype.type(0))
    return base64.b64encode(zlib.compress(moved.tobytes())).decode()


def _uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
