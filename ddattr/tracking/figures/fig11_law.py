"""Figure 11: LDS against the number of members, beside what subset means reach when effects are additive.

Members' losses and their pictures' distances are such means; the others are none, and are held against them.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table
from ddattr.tracking.figures.growth import Curve, curves_of, draw_growth
from ddattr.tracking.figures.style import BLACK, WIDTH, zero

CAPTION = (
    "Figure 11. How well fewer members predict retraining on halves of the data: LDS, beside the law of subset means."
)
NEEDS = ("validation/members.csv",)
_LDS = {
    "loss": ("denoised_posterior", "jvp", "loss", "member_loss"),
    "distance": ("denoised_posterior", "jvp", "member_picture"),
}


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """A panel a target."""
    curve = load_table(root / "validation" / "members.csv")
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    for axis, (target, methods) in zip(axes, _LDS.items(), strict=True):
        lines = [*curves_of(f"lds_{target}", methods), Curve(f"law_{target}", BLACK, "law of subset means", "x:")]
        draw_growth(axis, curve, lines, f"LDS, {target}")
        zero(axis)
    figure.tight_layout()
    return figure, curve
