"""The page and the summary: what a run says, from artifacts alone."""

import base64
import html
from pathlib import Path

import pandas as pd

from ddattr.artifacts import load_json, load_table, save_text
from ddattr.attribution.queries import default_folder, query_sets
from ddattr.ensemble.likeness import UNLIKE
from ddattr.tracking.attributed import attributed, surest
from ddattr.tracking.figures import ALL, EVIDENCE, folder_of
from ddattr.tracking.findings import findings

WARNING = "WARNING"


def summary(root: Path) -> list[str]:
    """What a run says, in at most eight lines: warnings, quality, agreement, how many queries owe something to what."""
    code = load_json(root / "codebook" / "codebook.json") or {}
    radius, queries = (load_table(default_folder(root) / f"{name}.csv") for name in ("radius", "queries"))
    count, level = len(radius), radius.level.iloc[0]
    unit = code["unit"]
    lines = [
        *warnings(root, queries),
        f"{code['N']:,} units (a unit is one {unit}), n={code['n']} members, h={code['h']}, {count} queries",
        _quality(root),
        _agreement(root),
        f"first order: median error {queries.jvp_error.median():.3f} of the displacement, worst "
        f"{queries.jvp_error.max():.3f}{_rotating(queries.rotating_error)}",
        f"attributable at q <= {level:g}: to one {unit} {radius.attributable.sum()} of {count}{surest(root)}"
        f"{_sets(root, level)}",
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
        some = ", ".join(map(str, far[:8])) + (", ..." if len(far) > 8 else "")
        found.append(
            f"{WARNING}: {len(far)} of {len(queries)} queries are farther from every training picture than 99 % of "
            f"real pictures are: {some}"
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
    table = load_table(default_folder(root) / "agreement_summary.csv")
    rows = table[(table.truth == "ablation") & (table.statistic == "spearman") & (table.measure == "norm")]
    means = rows.set_index("method")
    queries = load_table(default_folder(root) / "agreement.csv").query("method == 'jvp' and measure == 'norm'")
    worst = queries.spearman.min()
    jvp = means.loc["jvp"]
    others = ", ".join(f"{m} {means.loc[m, 'mean']:.2f}" for m in means.index if m not in ("jvp", "random"))
    return (
        f"agreement with exact ablation (Spearman, norm): jvp {jvp['mean']:.3f} [{jvp.low:.3f}, {jvp.high:.3f}], "
        f"worst query {worst:.3f}; {others}"
    )


def _sets(root: Path, level: float) -> str:
    sets = load_table(default_folder(root) / "sets.parquet")
    labels = load_table(default_folder(root) / "queries.csv").set_index("query").label
    text = ""
    for kind in ("cluster", "label"):
        rows = sets[sets.set.str.startswith(f"{kind}:")]
        if rows.empty:
            continue
        best = rows.groupby("query").q_value.min()
        text += f", to a {kind} {(best <= level).sum()} of {len(best)}"
        if kind == "label":
            first = rows.loc[rows.groupby("query").z.idxmax()].set_index("query").set
            same = (first == "label:" + labels[first.index].astype(str)).sum()
            text += f" (its nearest pictures' label ranked first: {same})"
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
    evidence, whose = _figures(root, [name for name in ALL if name in EVIDENCE]), attributed(root)
    if found := findings(root / "validation"):
        evidence = f"<ul>{_items(found)}</ul>{evidence}"
    if evidence:
        evidence = f'<h2 id="true">Is it true?</h2>{evidence}'
    there = {"whose": bool(whose), "true": bool(evidence)}
    agreement = load_table(default_folder(root) / "agreement_summary.csv")
    page = _PAGE.format(
        name=html.escape(name),
        contents="".join(f'<a href="#{key}">{words}</a>' for key, words in _CONTENTS.items() if there.get(key, True)),
        summary=_items(summary(root)),
        whose=whose,
        figures=_figures(root, [name for name in ALL if name not in EVIDENCE]),
        evidence=evidence,
        provenance=_html(_provenance(root)),
        agreement=_html(agreement),
        radius=_html(load_table(default_folder(root) / "radius.csv")),
    )
    save_text(root / "report.html", page)


def _figures(root: Path, names: list[str]) -> str:
    """Those of the named figures that were drawn, each with its caption and what is behind it."""
    found = ""
    for name in names:
        path = root / folder_of(name) / f"{name}.png"
        if path.exists():
            text, picture = html.escape(ALL[name].CAPTION), base64.b64encode(path.read_bytes()).decode()
            found += (
                f'<figure><img alt="{text}" src="data:image/png;base64,{picture}">'
                f"<figcaption>{text} <small>{folder_of(name)}/{name}.csv</small></figcaption></figure>"
            )
    return found


def _items(lines: list[str]) -> str:
    loud = {line: ' class="warning"' for line in lines if line.startswith(WARNING)}
    return "".join(f"<li{loud.get(line, '')}>{html.escape(line)}</li>" for line in lines)


def _html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, float_format="%.4g", border=0)


def _provenance(root: Path) -> pd.DataFrame:
    """Where every number comes from: a row for the base, if any, for the members together and for each stage."""
    sets = {f"attribution/{name}": [folder] for name, folder in query_sets(root).items()}
    folders = {
        "base": [root / "base"],
        "members": sorted((root / "members").glob("*")),
        "quality": [root / "quality"],
        **sets,
        "validation": [root / "validation"],
    }
    rows = []
    for name, parts in folders.items():
        manifests = [found for folder in parts if (found := load_json(folder / "manifest.json"))]
        if not manifests:
            continue
        first = manifests[0]
        rows.append(
            {
                "artifact": name,
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


_CONTENTS = {
    "whose": "Whose pictures",
    "figures": "Figures",
    "true": "Is it true?",
    "tables": "Tables",
    "provenance": "Provenance",
}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>ddattr: {name}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto 4rem; padding: 0 1rem; color: #222; }}
nav {{ position: sticky; top: 0; background: #fffe; border-bottom: 1px solid #ddd; padding: .5rem 0; }}
nav a {{ margin-right: 1.2rem; color: #0072b2; text-decoration: none; }} h2 {{ scroll-margin-top: 3rem; }}
figure {{ margin: 2.5rem 0; }} img {{ max-width: 100%; }} figcaption, small {{ color: #555; font-size: .85rem; }}
table {{ border-collapse: collapse; font-size: .8rem; }} th, td {{ padding: .15rem .6rem; text-align: left; }}
.warning {{ color: #b00000; font-weight: bold; }} .note {{ border-left: 3px solid #0072b2; padding-left: 1rem; }}
.whose {{ font-size: .9rem; }} .whose td {{ vertical-align: top; padding: .5rem .6rem; }}
.whose img {{ width: 4rem; image-rendering: pixelated; }} .whose ul {{ margin: 0; padding-left: 1.2rem; }}
summary {{ color: #0072b2; cursor: pointer; padding-left: 1.2rem; }}
tr:nth-child(even) {{ background: #f5f5f5; }} div {{ overflow-x: auto; }}
</style>
<nav>{contents}</nav>
<h1>{name}: whose pictures does each picture owe itself to?</h1>
<ul>{summary}</ul>
{whose}
<h2 id="figures">Figures</h2>
{figures}
{evidence}
<h2 id="tables">Agreement with exact ablation</h2><div>{agreement}</div>
<h2>Queries</h2><div>{radius}</div>
<h2 id="provenance">Provenance</h2><div>{provenance}</div>
</html>
"""
