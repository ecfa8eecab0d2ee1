"""The slides' figures 1 to 5, and two more: each a .png, a .pdf and the .csv behind it, from artifacts alone."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from ddattr.artifacts import atomic, load_json, load_table, load_tensors, save_table
from ddattr.codebook import Codebook
from ddattr.tracking.panels import panels

# Okabe & Ito's colours: told apart by every kind of colour vision
BLUE, ORANGE, GREEN, RED, GREY, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777", "#56B4E9"
PINK, BLACK = "#CC79A7", "#000000"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "figure.dpi": 200,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,
    "axes.axisbelow": True,
}
METHODS = {
    "jvp": "JVP (first order)",
    "jvp_gls": "JVP, others discounted",
    "jvp_posterior": "JVP, posterior",
    "denoised": "denoising",
    "denoised_gls": "denoising, others discounted",
    "denoised_posterior": "denoising, posterior",
    "individual_centred": "individuals, centred",
    "individual": "individual members",
    "last_step": "last step",
    "pixel": "pixel similarity",
    "random": "random",
}


def draw_all(root: Path, names: Iterable[str] | None = None) -> None:
    """Every figure of a run, or those that are named, into root/figures."""
    for name in names or FIGURES:
        with plt.rc_context(STYLE):
            figure, table = FIGURES[name](root)
            save_figure(figure, root / "figures" / name)
        save_table(root / "figures" / f"{name}.csv", table)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as path.png and path.pdf, and closes it."""
    for ending in (".png", ".pdf"):
        with atomic(path.with_name(path.name + ending)) as part:
            figure.savefig(part)
    plt.close(figure)


def codebook_of(root: Path) -> Codebook:
    """The codebook that a run's members were trained on."""
    code = load_json(root / "codebook" / "codebook.json") or {}
    return Codebook(code["N"], code["n"], code["h"], code["seed"])


def samples(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Figure 0: pictures of the whole ensemble, beside some that it was trained on."""
    shown = load_tensors(root / "quality" / "samples.safetensors")
    unlike = load_table(root / "quality" / "likeness.csv")
    columns, rows = 6, -(-max(map(len, shown.values())) // 6)
    figure, grid = plt.subplots(rows, 2 * columns + 1, figsize=(6.8, 0.55 * rows + 0.4), squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for start, name, title in ((0, "samples", "samples"), (columns + 1, "data", "training pictures")):
        for place, picture in enumerate(shown[name]):
            axis = grid[place // columns, start + place % columns]
            axis.axis("on")
            _show(axis, picture, None)
        grid[0, start].set_title(title, loc="left")
    figure.subplots_adjust(wspace=0.08, hspace=0.08)
    return figure, unlike


def codebook(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Figure 1: the codewords of the first units, and how many units each member trains on."""
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
    below.legend(loc="lower right", facecolor="white", frameon=True, fontsize=7)
    table = pd.DataFrame(bits.astype(int), columns=[f"member_{k}" for k in range(code.members)])
    return figure, table.rename_axis("unit").reset_index()


def fid(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Figure 2: FID of individuals, and of ensembles of growing size."""
    table = load_table(root / "quality" / "fid.csv")
    alone, grown = table[table.kind == "individual"], table[table.kind == "ensemble"]
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 2.8))
    for axis, measure in zip(axes, ("fid", "kid"), strict=True):
        jitter = 1 + 0.06 * np.linspace(-1, 1, len(alone))
        axis.scatter(jitter, alone[measure], s=12, color=ORANGE, label="individual members", zorder=3)
        axis.axhline(alone[measure].mean(), color=ORANGE, linewidth=0.8, linestyle=":", label="their mean")
        for _, rows in grown.groupby("order"):
            axis.plot(rows.members, rows[measure], color=BLUE, alpha=0.3, linewidth=0.8)
        mean = grown.groupby("members")[measure].mean()
        axis.plot(mean.index, mean, "o-", color=BLUE, markersize=4, label="ensembles, mean over orders")
        _members_axis(axis, grown.members)
        axis.set_ylabel(f"{measure.upper()}, {int(table.images.iloc[0])} pictures")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    note = "In the features of a small network trained on this data: not comparable with Inception's"
    figure.text(0.5, -0.03, note, ha="center", fontsize=7)
    return figure, table


def convergence(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Figure 3: how far pictures of k members are from those of all n, and of k others, on the same tapes."""
    table = load_table(root / "quality" / "convergence.csv")
    names = {"to_all": ("to all n members", BLUE, "o-"), "disjoint": ("between two disjoint sets of k", RED, "s--")}
    figure, axis = plt.subplots(figsize=(3.6, 2.8))
    for kind, rows in table.groupby("kind", sort=False):
        label, colour, style = names[str(kind)]
        grouped = rows.groupby("members").distance_mean
        between = grouped.std(ddof=1).fillna(0) / grouped.nunique() ** 0.5
        sem = np.hypot(between, rows.groupby("members").distance_sem.mean())  # all orders draw the same tapes
        axis.errorbar(
            grouped.mean().index,
            grouped.mean(),
            1.96 * sem,
            fmt=style,
            color=colour,
            markersize=4,
            capsize=2,
            linewidth=1,
            label=label,
        )
    _members_axis(axis, table.members)
    axis.set(ylabel="L2 distance of pictures", ylim=(0, None))
    axis.legend(fontsize=7)
    return figure, table


def _members_axis(axis, members: pd.Series) -> None:
    ticks = sorted(members.unique())
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.minorticks_off()
    axis.set_xlabel("members k in the ensemble")


def correlation(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Figure 4: correlation of every method's influence with the truth's, with 95 % intervals.

    The truth is exact ablation and, once `validate` has retrained without units, retraining too.
    """
    panels = [
        ("attribution", "norm", "norm: how far the picture moves", "exact ablation"),
        ("attribution", "pull", "pull: how far it moves off the unit", "exact ablation"),
    ]
    methods = dict(METHODS)
    if (root / "validation" / "agreement_summary.csv").exists():
        panels.append(("validation", "pull", "pull, once more", "retraining"))
        methods["ablation"] = "exact ablation"
    tables = {name: load_table(root / name / "agreement_summary.csv") for name, *_ in panels}
    figure, axes = plt.subplots(1, len(panels), figsize=(0.8 + 3 * len(panels), 1 + 0.27 * len(methods)), sharey=True)
    for axis, (name, measure, title, truth) in zip(axes, panels, strict=True):
        queries, summary = load_table(root / name / "agreement.csv"), tables[name]
        queries, summary = queries[queries.measure == measure], summary[summary.measure == measure]
        _correlations(axis, queries, summary, list(methods))
        axis.axvline(0, color=GREY, linewidth=0.6)
        if "ceiling" in summary and np.isfinite(ceiling := summary[summary.statistic == "spearman"].ceiling.iloc[0]):
            axis.axvline(ceiling, color=RED, linewidth=1, linestyle="--", label="ceiling of Spearman")
        axis.set(xlim=(-1.02, 1.04), title=title, xlabel=f"correlation with {truth}")
        axis.set_yticks(range(len(methods), 0, -1), methods.values())
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.legend(*axes[-1].get_legend_handles_labels(), fontsize=7, loc="upper center", ncols=3)
    return figure, pd.concat(tables.values(), ignore_index=True)


def _correlations(axis, queries: pd.DataFrame, summary: pd.DataFrame, methods: list[str]) -> None:
    """A dot a query, and the mean with its interval, in a line for every method that the truth knows."""
    for shift, (statistic, colour) in enumerate((("pearson", SKY), ("spearman", BLUE))):
        axis.errorbar([], [], fmt="o" if shift else "s", color=colour, markersize=4, label=statistic.title())
        for place, method in enumerate(methods):
            y = len(methods) - place + 0.16 - 0.32 * shift
            dots = queries[queries.method == method][statistic]
            axis.scatter(dots, np.full(len(dots), y), s=5, color=colour, alpha=0.3, linewidth=0)
            for row in summary[(summary.method == method) & (summary.statistic == statistic)].itertuples():
                ends = np.clip([[row.mean - row.low], [row.high - row.mean]], 0, None)
                axis.errorbar(row.mean, y, xerr=ends, fmt="o" if shift else "s", color=colour, markersize=4, capsize=2)


def attribution(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Figure 5: the four queries whose best unit has the smallest q, with counterfactuals."""
    rows = panels(root / "attribution")
    best = [row for row in rows if row["rank"] == 1]
    sure = sorted((row for row in best if row["measure"] == "pull"), key=lambda row: row["q_value"])[:4]
    shown = [row for query in sure for row in best if row["query"] == query["query"]]
    columns = ["factual", "unit_image", "exact", "jvp", "displacement"]
    titles = [
        "factual",
        "removed unit",
        "counterfactual,\nexact",
        "counterfactual,\nfirst order",
        "exact less factual\n(brown: brighter)",
    ]
    figure, axes = plt.subplots(len(shown), 5, figsize=(6.2, 1.15 * len(shown)), squeeze=False)
    for line, row in zip(axes, shown, strict=True):
        for axis, column in zip(line, columns, strict=True):
            limit = row["displacement"].abs().max().item()
            _show(axis, row[column], limit if column == "displacement" else None)
        axis.set_ylabel(f"±{limit:.2g}", rotation=0, ha="left", va="center", fontsize=7)
        axis.yaxis.set_label_position("right")
        q = f"q = {row['q_value']:.2g}" if row["q_value"] >= 0.001 else "q < 0.001"
        line[0].set_ylabel(
            f"query {row['query']}\n{row['measure']}\nunit {row['unit']}\n{q}",
            rotation=0,
            ha="right",
            va="center",
            fontsize=7,
        )
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    table = pd.DataFrame([{k: v for k, v in row.items() if not isinstance(v, torch.Tensor)} for row in rows])
    return figure, table


def _show(axis, picture: torch.Tensor, limit: float | None) -> None:
    pixels = picture.permute(1, 2, 0).numpy()
    if limit is not None:
        axis.imshow(pixels.mean(-1), cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="none")
    else:
        pixels = (pixels.clip(-1, 1) + 1) / 2
        axis.imshow(
            pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1, interpolation="none"
        )
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.4)


def resolution(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Figure 6: z of the nearest k units against k, a line a query, with its resolution marked."""
    sets = load_table(root / "attribution" / "sets.parquet")
    near = sets[sets.set.str.startswith("nearest:")]
    radius = load_table(root / "attribution" / "radius.csv").set_index("query")
    level = radius.level.iloc[0]
    figure, axis = plt.subplots(figsize=(4.2, 3.0))
    for query, rows in near.groupby("query"):
        axis.plot(rows["size"], rows.z, color=GREY, alpha=0.5, linewidth=0.8)
        resolved = rows[rows["size"] == radius.resolution[query]]
        axis.scatter(resolved["size"], resolved.z, s=24, color=RED, zorder=3, linewidth=0)
    mean = near.groupby("size").z.mean()
    axis.plot(mean.index, mean, "o-", color=BLUE, markersize=4, label="mean over queries")
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.scatter([], [], s=24, color=RED, label=f"resolution: smallest k with p ≤ {level:g}, and all larger")
    axis.plot([], [], color=GREY, linewidth=0.8, label="a query")
    _members_axis(axis, near["size"])
    axis.set(xlabel="k nearest units, as one set", ylabel="z of their denoising")
    axis.legend(fontsize=7, loc="upper left")
    axis.set_ylim(top=axis.get_ylim()[1] * 1.35)
    return figure, near.merge(radius.resolution.reset_index(), on="query")


FIGURES: dict[str, Callable[[Path], tuple[Figure, pd.DataFrame]]] = {
    "fig0_samples": samples,
    "fig1_codebook": codebook,
    "fig2_fid": fid,
    "fig3_convergence": convergence,
    "fig4_correlation": correlation,
    "fig5_attribution": attribution,
    "fig6_resolution": resolution,
}
