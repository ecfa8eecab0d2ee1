"""What a validation says, in lines and in flat metrics, from its tables alone."""

from pathlib import Path

import pandas as pd

from ddattr.artifacts import load_table

SHOWN = (
    "jvp",
    "jvp_gls",
    "jvp_posterior",
    "denoised_gls",
    "denoised_posterior",
    "ablation",
    "loss",
    "datamodel",
    "individual_centred",
    "trak",
    "dtrak",
    "unlearning",
    "pixel",
    "random",
    "another_seed",
)
KEYS = {
    "agreement_summary": "agreement/retraining/{method}/{measure}/{statistic}",
    "lds_summary": "lds/{kind}/{target}/{queries}/{method}/{statistic}",
    "groups_summary": "groups/{target}/{queries}/{method}/{statistic}",
    "sets_summary": "sets/pull/{statistic}",
    "discoveries_summary": "discoveries/{statistic}",
    "removal_summary": "removal/{method}/{size}/{statistic}",
    "calibration_summary": "calibration/{test}/{statistic}",
    "false_attribution_summary": "false_attribution/{removed}/{statistic}",
    "planted_summary": "planted/{method}/{copies}/{statistic}",
}  # of a metric, by table


def findings(folder: Path) -> list[str]:
    """At most ten lines: retraining, LDS, groups, removal, calibration, planted units."""
    lines = []
    if (rows := _table(folder, "agreement_summary")) is not None:
        rows = rows[(rows.measure == "pull") & (rows.statistic == "spearman")]
        lines.append(f"agreement with retraining (Spearman, pull): {_means(rows)}; {_noise(rows)}")
    if (table := _table(folder, "lds_summary")) is not None:
        table = table[(table.kind == "transfer") & (table.statistic == "lds")]
        for (target, queries), rows in table.groupby(["target", "queries"], sort=False):
            lines.append(f"LDS, {target} of {queries} pictures: {_means(rows)}; {_noise(rows)}")
    if (table := _table(folder, "groups_summary")) is not None:
        rows = table[(table.statistic == "top1") & (table.target == "loss") & (table.queries == "generated")]
        lines.append(f"leave one group out, top-1 on loss: {_means(rows)}{_foreseen(folder)}")
        if len(rows := table[(table.statistic == "spearman") & (table.target == "pull")]):
            lines.append(f"leave one group out, Spearman with its pull: {_means(rows)}")
    if (table := _table(folder, "discoveries_summary")) is not None:
        mean = table.set_index("statistic")["mean"]
        lines.append(
            f"{mean.units_found:.0f} units are found a query: pull by retraining {mean.pull_found:.3f}, > 0 "
            f"for {mean.above_0_found:.2f}; of others {mean.pull_others:.3f}, {mean.above_0_others:.2f}"
        )
    if (table := _table(folder, "removal_summary")) is not None:
        rows = table[(table.statistic == "l2") & (table["size"] == table["size"].max())]
        lines.append(f"remove {rows['size'].iloc[0]} and retrain, L2 of the picture: {_means(rows)}")
    if (table := _table(folder, "calibration_summary")) is not None:
        rates = ", ".join(f"{row.test} {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in table.itertuples())
        lines.append(f"false positives at {table.level.iloc[0]:g} among pictures that no member saw: {rates}")
    if (table := _table(folder, "planted_summary")) is not None:
        table, found = table[table.statistic == "recall_at_1"], []
        for method in ("loss", "denoised_gls", "denoised_toward", "pixel"):
            rows = table[table.method == method]
            shares = ", ".join(f"1/{1 / row.share:.0f} {row.value:.2f}" for row in rows.itertuples())
            found += [f"{method} {shares}"] if shares else []
        lines.append(f"planted units found first, by their share of the data: {'; '.join(found)}")
    return lines


def metrics(folder: Path) -> dict[str, float]:
    """Flat metrics with the method in the key; the paper's measure `norm` is bare, as elsewhere."""
    found = {}
    for name, key in KEYS.items():
        if (table := _table(folder, name)) is not None:
            for row in table.to_dict("records"):
                key_of = key.format(**row).replace("/norm/", "/").removesuffix("/lds")
                found[key_of] = row["value" if name == "planted_summary" else "mean"]
    return found


def _foreseen(folder: Path) -> str:
    """How far the first order foresees the pull of a whole group."""
    if (table := _table(folder, "sets_summary")) is None:
        return ""
    row = table.iloc[0]
    interval = f" [{row.low:.2f}, {row.high:.2f}]" if row.low == row.low else ""
    return f"; a whole group's pull, first order against retraining, Spearman {row['mean']:.2f}{interval}"


def _table(folder: Path, name: str) -> pd.DataFrame | None:
    path = folder / f"{name}.csv"
    return load_table(path) if path.exists() else None


def _noise(rows: pd.DataFrame) -> str:
    """What the truth's own seeds leave to be reached."""
    return f"ceiling {rows.ceiling.iloc[0]:.2f}, split-half reliability {rows.reliability.iloc[0]:.2f}"


def _means(rows: pd.DataFrame) -> str:
    """The first method with its interval, the others' means."""
    by = rows.set_index("method")
    methods = [method for method in SHOWN if method in by.index]
    methods += [method for method in by.index if method.startswith("denoised_posterior@")]  # at a tuned peer's cost
    first, others = methods[0], methods[1:]
    row = by.loc[first]
    told = f"{first} {row['mean']:.2f}" + (f" [{row.low:.2f}, {row.high:.2f}]" if row.low == row.low else "")
    return ", ".join([told, *(f"{method} {by.loc[method, 'mean']:.2f}" for method in others)])
