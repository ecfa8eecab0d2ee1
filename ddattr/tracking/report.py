"""The page and the summary: what a run says, from artifacts alone."""

import base64
import html
from pathlib import Path

import pandas as pd

from ddattr.artifacts import load_json, load_table, save_text
from ddattr.ensemble.likeness import UNLIKE
from ddattr.tracking.figures import FIGURES
from ddattr.tracking.findings import findings

WARNING = "WARNING"
CAPTIONS = {
    "fig0_samples": "Figure 0. What the ensemble draws, and pictures that it was trained on. Where they are not alike, "
    "all that follows is about pictures of another kind.",
    "fig1_codebook": "Figure 1. Encoded ensemble: member k trains on the units whose bit k is 1.",
    "fig2_fid": "Figure 2. Quality of individual members and of ensembles, at equal numbers of pictures.",
    "fig3_convergence": "Figure 3. The ensemble converges as it grows (95 % intervals over orders and pictures).",
    "fig4_correlation": "Figure 4. Agreement over units with exact ablation, and with retraining where it was "
    "validated; a dot a query, means with 95 % bootstrap intervals. The denoising is along what is the unit's own, the "
    "pull from picture to unit.",
    "fig5_attribution": "Figure 5. Four queries, each with the unit of smallest q, by its denoising, and the unit of "
    "largest norm; influence.parquet has all units.",
    "fig6_resolution": "Figure 6. Significance of the k nearest units as a set, by the denoising; dots mark each "
    "query's resolution.",
}

EVIDENCE_CAPTIONS = {
    "fig7_retraining": "Figure 7. Agreement with retraining, by method and by number of members; ceiling: the noise of "
    "training seeds.",
    "fig8_lds": "Figure 8. Linear datamodelling scores against models of random halves, which no score was made with.",
    "fig9_removal": "Figure 9. Remove the best units, retrain, and make the picture again.",
    "fig10_groups": "Figure 10. Leave one group out: does a method name the group whose removal hurts most, and does "
    "the first order foresee the whole group's pull?",
    "fig11_law": "Figure 11. What more members would give, measured and predicted.",
    "fig12_cost": "Figure 12. Accuracy against total cost.",
    "fig13_planted": "Figure 13. Units whose influence is known, by their share of the pictures.",
}


def summary(root: Path) -> list[str]:
    """What a run says, in at most eight lines: warnings, quality, agreement, how many queries owe something to what."""
    code = load_json(root / "codebook" / "codebook.json") or {}
    radius, queries = (load_table(root / "attribution" / f"{name}.csv") for name in ("radius", "queries"))
    count, level = len(radius), radius.level.iloc[0]
    unit = code["unit"]
    lines = [
        *warnings(root, queries),
        f"{code['N']:,} units (a unit is one {unit}), n={code['n']} members, h={code['h']}, {count} queries",
        _quality(root),
        _agreement(root),
        f"first order: median error {queries.jvp_error.median():.3f} of the displacement, worst "
        f"{queries.jvp_error.max():.3f}{_rotating(queries.rotating_error)}",
        f"attributable at q <= {level:g}: to one {unit} {radius.attributable.sum()} of {count}" + _sets(root, level),
        _resolution(radius),
    ]
    return [line for line in lines if line]


def warnings(root: Path, queries: pd.DataFrame) -> list[str]:
    """What makes all that is said of a run doubtful: samples, or queries, that are not like the data."""
    unlike, found = load_table(root / "quality" / "likeness.csv").unlikeness[0], []
    if unlike > UNLIKE:
        found.append(
            f"{WARNING}: the samples are not like the data, {unlike:.2f} of the way from data to pure noise (> "
            f"{UNLIKE}): look at figure 0, and train longer before you read on"
        )
    if queries.unlike_data.any():
        far = queries["query"][queries.unlike_data].tolist()
        named = ", ".join(map(str, far[:8])) + (", ..." if len(far) > 8 else "")
        found.append(
            f"{WARNING}: {len(far)} of {len(queries)} queries are farther from every training picture than 99 % of "
            f"real pictures are: {named}"
        )
    return found


def _rotating(error: pd.Series) -> str:
    """Nothing where no query's was measured."""
    checked = error.count()
    return f"; rotating Jacobian off by {error.mean():.3f} ({checked} queries)" if checked else ""


def _quality(root: Path) -> str:
    table = load_table(root / "quality" / "fid.csv")
    alone, grown = table[table.kind == "individual"].fid, table[table.kind == "ensemble"]
    whole = grown[grown.members == grown.members.max()].fid.mean()
    return (
        f"quality: FID {alone.mean():.3g} (individuals, sd {alone.std():.2g}), {whole:.3g} (ensemble of "
        f"{grown.members.max()}), {int(table.images.iloc[0])} pictures each, own features"
    )


def _agreement(root: Path) -> str:
    table = load_table(root / "attribution" / "agreement_summary.csv")
    rows = table[(table.truth == "ablation") & (table.statistic == "spearman") & (table.measure == "norm")]
    means = rows.set_index("method")
    queries = load_table(root / "attribution" / "agreement.csv").query("method == 'jvp' and measure == 'norm'")
    worst = queries.spearman.min()
    jvp = means.loc["jvp"]
    others = ", ".join(f"{m} {means.loc[m, 'mean']:.2f}" for m in means.index if m not in ("jvp", "random"))
    return (
        f"agreement with exact ablation (Spearman, norm): jvp {jvp['mean']:.3f} [{jvp.low:.3f}, {jvp.high:.3f}], "
        f"worst query {worst:.3f}; {others}"
    )


def _sets(root: Path, level: float) -> str:
    sets = load_table(root / "attribution" / "sets.parquet")
    labels = load_table(root / "attribution" / "queries.csv").set_index("query").label
    text = ""
    for kind in ("cluster", "label"):
        rows = sets[sets.set.str.startswith(f"{kind}:")]
        if rows.empty:
            continue
        best = rows.groupby("query").q_value.min()
        text += f", to a {kind} {(best <= level).sum()} of {len(best)}"
        if kind == "label":
            first = rows.loc[rows.groupby("query").z.idxmax()].set_index("query").set
            own = (first == "label:" + labels[first.index].astype(str)).sum()
            text += f" (own label ranked first: {own})"
    return text


def _resolution(radius: pd.DataFrame) -> str:
    found = radius.resolution[radius.resolution > 0]
    if found.empty:
        return "resolution: no query has a significant neighbourhood"
    return (
        f"resolution: {len(found)} of {len(radius)} queries have a significant neighbourhood of nearest units, "
        f"median size {found.median():.0f}, smallest {found.min()}"
    )


def write_report(root: Path, name: str) -> None:
    """report.html: one self-contained page; with what the validation found, once there is one."""
    figures = "".join(
        _figure(root / "figures" / f"{figure}.png", CAPTIONS[figure], f"figures/{figure}.csv") for figure in FIGURES
    )
    validation = root / "validation"
    evidence = "".join(
        _figure(path, caption, "validation/")
        for name, caption in EVIDENCE_CAPTIONS.items()
        if (path := validation / "figures" / f"{name}.png").exists()
    )
    if found := findings(validation):
        evidence = f"<h2>Is it true?</h2><ul>{_items(found)}</ul>{evidence}"
    agreement = load_table(root / "attribution" / "agreement_summary.csv")
    page = _PAGE.format(
        name=html.escape(name),
        summary=_items(summary(root)),
        figures=figures,
        evidence=evidence,
        provenance=_html(_provenance(root)),
        agreement=_html(agreement),
        radius=_html(load_table(root / "attribution" / "radius.csv")),
    )
    save_text(root / "report.html", page)


def _figure(path: Path, caption: str, source: str) -> str:
    text, picture = html.escape(caption), base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{picture}">'
        f"<figcaption>{text} <small>{source}</small></figcaption></figure>"
    )


def _items(lines: list[str]) -> str:
    loud = {line: ' class="warning"' for line in lines if line.startswith(WARNING)}
    return "".join(f"<li{loud.get(line, '')}>{html.escape(line)}</li>" for line in lines)


def _html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, float_format="%.4g", border=0)


def _provenance(root: Path) -> pd.DataFrame:
    """Where every number comes from: a row for the base, if any, for the members together and for each stage."""
    rows = []
    for folder in ("base", "members", "quality", "attribution", "validation"):
        paths = sorted(root.glob(f"{folder}/*/manifest.json" if folder == "members" else f"{folder}/manifest.json"))
        manifests = [load_json(path) or {} for path in paths]
        if not manifests:
            continue
        first = manifests[0]
        rows.append(
            {
                "artifact": folder,
                "command": first.get("command"),
                "commit": first.get("commit"),
                "seed": first.get("seed"),
                "fingerprint": first.get("fingerprint"),
                "device": first.get("device"),
                "seconds": sum(m.get("wall_seconds", 0) for m in manifests),
                "peak MB": max(m.get("peak_memory_mb", 0) for m in manifests),
                "torch": first.get("versions", {}).get("torch"),
            }
        )
    return pd.DataFrame(rows)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ddattr: {name}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
figure {{ margin: 2rem 0; }} img {{ max-width: 100%; }} figcaption, small {{ color: #555; font-size: .85rem; }}
table {{ border-collapse: collapse; font-size: .8rem; }} th, td {{ padding: .15rem .6rem; text-align: left; }}
.warning {{ color: #b00000; font-weight: bold; }}
tr:nth-child(even) {{ background: #f5f5f5; }} div {{ overflow-x: auto; }}
</style>
<h1>{name}: whose pictures does each picture owe itself to?</h1>
<ul>{summary}</ul>
{figures}
{evidence}
<h2>Agreement with exact ablation</h2><div>{agreement}</div>
<h2>Queries</h2><div>{radius}</div>
<h2>Provenance</h2><div>{provenance}</div>
</html>
"""
