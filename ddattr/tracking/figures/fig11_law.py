"""Figure 11: LDS against the number of members, beside what subset means reach when effects are additive; and the
power for the k nearest units, beside what `ddattr plan` predicts of it from all members.

Members' losses and their pictures' distances are such means; the others are none, and are held against them.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table
from ddattr.tracking.figures.growth import Curve, curves_of, draw_growth, legend_above
from ddattr.tracking.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, WIDTH, zero

CAPTION = (
    "Figure 11. What more members would give, measured and predicted: LDS beside the law of subset means, and z and "
    "power of the k nearest units beside what is predicted from the largest ensemble."
)
NEEDS = ("validation/members.csv",)
_LDS = {
    "loss": ("denoised_posterior", "jvp", "loss", "member_loss"),
    "distance": ("denoised_posterior", "jvp", "member_picture"),
}


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Two panels of LDS, and two of power."""
    curve = load_table(root / "validation" / "members.csv")
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 6.2))
    for axis, (target, methods) in zip(axes[0], _LDS.items(), strict=True):
        lines = [*curves_of(f"lds_{target}", methods), Curve(f"law_{target}", BLACK, "law of subset means", "x:")]
        draw_growth(axis, curve, lines, f"LDS, {target}")
        zero(axis)
    sets = _sizes(curve)
    for axis, kind, label in (
        (axes[1, 0], "z", "mean z of the k nearest"),
        (axes[1, 1], "found", "share of queries that find\nthe k nearest, p ≤ level"),
    ):
        lines = [Curve(f"{kind}_{name}", colour, f"k = {name.partition(':')[2] or 1}") for name, colour in sets.items()]
        draw_growth(axis, curve, lines, label)
        for name, colour in sets.items():
            predicted = curve[curve.statistic == f"{kind}_{name}_predicted"].groupby("members")["value"].mean()
            axis.plot(predicted.index, predicted, "--", color=colour, linewidth=1.2)
        axis.plot([], [], "--", color=GREY, linewidth=1.2, label="predicted from the largest n")
        legend_above(axis, columns=2)
        zero(axis)
    figure.tight_layout()
    return figure, curve


def _sizes(curve: pd.DataFrame) -> dict[str, str]:
    """The smallest, the middle and the largest neighbourhood, each with its colour."""
    found = [name.removeprefix("z_") for name in curve.statistic.unique() if name.startswith("z_nearest")]
    found = [name for name in found if not name.endswith("_predicted")]
    some = sorted({found[0], found[len(found) // 2], found[-1]}, key=found.index)
    return dict(zip(some, (BLUE, ORANGE, GREEN), strict=False))
