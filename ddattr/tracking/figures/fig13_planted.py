"""Figure 13: are units whose influence is known found, as their share of the data falls, and by which measure?

One measure of each kind, what is tested among them; all are in the table.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.attribution.methods import TESTED, label_of
from ddattr.files import load_table
from ddattr.tracking.figures.forest import reach
from ddattr.tracking.figures.style import WIDTH, colour_of, zero

CAPTION = "Figure 13. Units whose influence is known, by their share of the pictures (95 % intervals over patterns)."
NEEDS = ("validation/planted_summary.csv",)
_PANELS = (
    ("recall_at_1", "share of queries that\nfind their unit first"),
    ("significant", "share of queries in\nwhich it passes, by q"),
    ("mean_z", "z of the unit"),
)
_LINES = {"loss": "o-", TESTED: "o-", "jvp_gls": "o-", "jvp_norm": "s-", "pixel": "o--"}
_SAID = ("loss", TESTED, "denoised_toward", "pixel")


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """A panel a statistic, a line a measure."""
    summary = load_table(root / "validation" / "planted_summary.csv")
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.2))
    shares = sorted(summary.share.unique())
    for axis, (statistic, label) in zip(axes, _PANELS, strict=True):
        for place, (method, line) in enumerate(_LINES.items()):
            rows = summary[(summary.method == method) & (summary.statistic == statistic)].sort_values("share")
            if rows["value"].isna().all():  # a similarity has no z
                continue
            axis.errorbar(
                rows.share * 1.06 ** (place - (len(_LINES) - 1) / 2),
                rows["value"],
                reach(rows["value"], rows.low, rows.high),
                fmt=line,
                color=colour_of(method),
                markersize=3.5,
                capsize=1.5,
                linewidth=1,
                label=label_of(method),
            )
        axis.set_xscale("log")
        axis.set_xticks(shares, [f"1/{1 / share:.0f}" for share in shares], rotation=90)
        axis.minorticks_off()
        axis.set(xlabel="share of the pictures", ylabel=label)
        zero(axis)
    for axis in axes[:2]:
        axis.set_ylim(-0.03, 1.03)
    known = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known, loc="upper center", ncols=3)
    figure.tight_layout(rect=(0, 0, 1, 0.88))
    return figure, summary


def findings(root: Path) -> list[str]:
    """Whether planted units are found first, by measure and share."""
    table = load_table(root / "validation" / "planted_summary.csv")
    table = table[table.statistic == "recall_at_1"]
    found = []
    for method in _SAID:
        rows = table[table.method == method]
        if shares := ", ".join(f"1/{1 / row.share:.0f} {row.value:.2f}" for row in rows.itertuples()):
            found.append(f"{method} {shares}")
    return [f"planted units found first, by their share of the data: {'; '.join(found)}"]
