"""Figure 0: pictures of the whole ensemble, beside some that it was trained on."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table, load_tensors
from ddattr.tracking.figures.style import WIDTH, show_picture

CAPTION = (
    "Figure 0. What the ensemble draws, and pictures that it was trained on. Where they do not look the same, all that "
    "follows is about pictures of another kind."
)
NEEDS = ("quality/samples.safetensors", "quality/likeness.csv")


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """A grid of samples, and one of training pictures."""
    shown = load_tensors(root / "quality" / "samples.safetensors")
    columns, rows = 6, -(-max(map(len, shown.values())) // 6)
    figure, grid = plt.subplots(rows, 2 * columns + 1, figsize=(WIDTH, 0.55 * rows + 0.4), squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for start, name, title in ((0, "samples", "samples"), (columns + 1, "data", "training pictures")):
        for place, picture in enumerate(shown[name]):
            axis = grid[place // columns, start + place % columns]
            axis.axis("on")
            show_picture(axis, picture)
        grid[0, start].set_title(title, loc="left")
    figure.subplots_adjust(wspace=0.08, hspace=0.08)
    return figure, load_table(root / "quality" / "likeness.csv")
