"""How figures look: colours, fonts of 8 points and more at a slide's width, and what several figures share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from ddattr.attribution.methods import Family, method_of
from ddattr.files import atomic

# Okabe & Ito's colours: told apart by every kind of colour vision
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
RED = "#D55E00"
GREY = "#777777"
SKY = "#56B4E9"
PINK, BLACK = "#CC79A7", "#000000"
WIDTH = 6.8  # inches of a figure that fills a slide, or a page
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "figure.dpi": 200,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,
    "axes.axisbelow": True,
}
_FAMILIES = {
    Family.DISPLACEMENT: ORANGE,
    Family.DENOISING: BLUE,
    Family.LOSS: GREEN,
    Family.PICTURES: SKY,
    Family.PEER: PINK,
    Family.SIMILARITY: GREY,
    Family.VARIANT: RED,
    Family.RETRAINED: BLACK,
    Family.TRUTH: BLACK,
}


def colour_of(method: str) -> str:
    """A method's colour: that of its family, in every figure."""
    return _FAMILIES[method_of(method).family]


def marks_of(methods: Iterable[str]) -> dict[str, str]:
    """Marks that tell apart methods of one family, which have its colour."""
    marks: dict[str, str] = {}
    for method in methods:
        family = method_of(method).family
        marks[method] = "os^Dv"[sum(method_of(other).family is family for other in marks) % 5]
    return marks


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as path.png and path.pdf, and closes it; of the same numbers, the same bits at any time."""
    for ending, metadata in ((".png", None), (".pdf", {"CreationDate": None})):
        with atomic(path.with_name(path.name + ending)) as part:
            figure.savefig(part, metadata=metadata)
    plt.close(figure)


def members_axis(axis, members: pd.Series, label: str) -> None:
    """A logarithmic axis with a tick at every size that there is, and room for its number."""
    ticks = sorted(members.unique())
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel(label)


def zero(axis, across: bool = False) -> None:
    """A thin line at 0: of the y axis, or, `across`, of the x axis."""
    (axis.axvline if across else axis.axhline)(0, color=GREY, linewidth=0.6, zorder=0)


def show_picture(axis, picture: torch.Tensor, limit: float | None = None) -> None:
    """A picture (C, H, W) in [-1, 1]; with a limit a difference of pictures, brown where it is positive."""
    pixels = picture.permute(1, 2, 0).numpy()
    if limit is not None:
        axis.imshow(pixels.mean(-1), cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="none")
    else:
        pixels = (pixels.clip(-1, 1) + 1) / 2
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="none")
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.4)
