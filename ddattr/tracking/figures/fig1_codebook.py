"""Figure 1: the codewords of the first units, and how many units each member trains on."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ddattr.codebook import Codebook
from ddattr.files import load_json
from ddattr.tracking.figures.style import BLUE, GREY, RED

CAPTION = "Figure 1. Encoded ensemble: member k trains on the units whose bit k is 1."
NEEDS = ("codebook/codebook.json",)


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Bits, a row a unit, above the number of units that every member saw."""
    code = codebook_of(root)
    shown = min(24, code.units)
    bits = code.codewords(torch.arange(shown)).numpy()
    width = min(7.0, 2.2 + 0.14 * code.members)
    figure, (top, below) = plt.subplots(2, 1, figsize=(width, 4.2), height_ratios=[3, 1], sharex=True)
    top.imshow(bits, cmap=matplotlib.colors.ListedColormap(["#F2F2F2", BLUE]), aspect="auto", interpolation="none")
    top.set(ylabel="unit", title=f"Codewords of {shown} of {code.units:,} units: n = {code.members}, h = {code.weight}")
    for edge in np.arange(0.5, max(code.members, shown) - 1):
        top.axvline(edge, color="white", linewidth=0.8)
        top.axhline(edge, color="white", linewidth=0.8)
    top.set(xlim=(-0.5, code.members - 0.5), ylim=(shown - 0.5, -0.5))
    below.bar(range(code.members), code.balance.numpy(), color=GREY)
    below.axhline(code.units * code.weight / code.members, color=RED, linewidth=1, label="N h / n")
    below.set(xlabel="member", ylabel="units seen")
    below.legend(loc="lower right", facecolor="white", frameon=True)
    table = pd.DataFrame(bits.astype(int), columns=[f"member_{k}" for k in range(code.members)])
    return figure, table.rename_axis("unit").reset_index()


def codebook_of(root: Path) -> Codebook:
    """The codebook that a run's members were trained on."""
    code = load_json(root / "codebook" / "codebook.json") or {}
    return Codebook.of_record(code)
