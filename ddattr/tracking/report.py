"""The page and the summary: what a run says, from artifacts alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from ddattr.artifacts import adopted
from ddattr.attribution.places import DEFAULT, default_folder
from ddattr.codebook import RANDOM, Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.ensemble.likeness import UNLIKE
from ddattr.files import load_json, load_table, save_text
from ddattr.tracking.attributed import NO_SHARES, attributed, surest
from ddattr.tracking.figures import ALL, EVIDENCE, folder_of
from ddattr.tracking.findings import findings
from ddattr.tracking.page import rendered
from ddattr.tracking.page.answers import answered
from ddattr.tracking.page.card import Cards
from ddattr.tracking.page.duplicates import duplicates
from ddattr.tracking.page.explorer import explorer
from ddattr.tracking.page.pictures import png
from ddattr.tracking.page.provenance import provenance
from ddattr.tracking.page.words import words
from ddattr.tracking.query_sets import compared

WARNING = "WARNING"
ROUNDED = 0.1  # share of Jacobian or displacements that replays in lower precision may miss, without a warning
LIMIT = 10_000_000  # bytes of a page of 32 queries


class _Figure(NamedTuple):
    """A figure that was drawn, its caption, itself as what an img shows, and how wide: text has one size in all."""

    name: str
    caption: str
    picture: str
    width: int

    @property
    def table(self) -> str:
        """What is behind it."""
        return f"{folder_of(self.name)}/{self.name}.csv"


def summary(root: Path) -> list[str]:
    """What a run says, in some lines: warnings, quality, agreement, how many queries owe something to what; and a line
    for every query set, where there are several."""
    doubts = warnings(root, load_table(default_folder(root) / "queries.csv"))
    return [*doubts, *filter(None, lines(root).values()), *compared(root)]


def lines(root: Path) -> dict[str, str]:
    """The summary's lines but the warnings, by what they are of."""
    code = load_json(root / "codebook" / "codebook.json") or {}
    radius, queries = (load_table(default_folder(root) / f"{name}.csv") for name in ("radius", "queries"))
    count, level = len(radius), radius.level.iloc[0]
    unit = code["unit"]
    return {
        "units": f"{code['N']:,} units (a unit is one {unit}), n={code['n']} members{_elsewhere(root)}, h={code['h']}, "
        f"{count} queries{_design(code)}",
        "quality": _quality(root),
        "agreement": f"{_agreement(root)}; error of the first order {queries.jvp_error.median():.3f} of the "
        f"displacement (median), worst {queries.jvp_error.max():.3f}{_rotating(queries.rotating_error)}"
        f"{_precision(queries)}",
        "attributable": f"attributable at q <= {level:g}: to one {unit} {radius.attributable.sum()} of {count}"
        f"{surest(root)}{_sets(root, level)}",
        "resolution": _resolution(radius),
        "calibration": "; ".join(filter(None, (_calibration(root), _verified(root)))),
    }


def _design(code: Mapping[str, Any]) -> str:
    """Nothing of random words, whose p is by randomisation."""
    if code.get("design", RANDOM) == RANDOM:
        return ""
    return f"; orthogonal words: p by {Codebook.of_record(code).p_by}, parametric, not by randomisation"


def _elsewhere(root: Path) -> str:
    """Nothing where all members were trained here."""
    taken = adopted(root)
    return f" (trained elsewhere: {', '.join(map(str, taken))})" if taken else ""


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
    return [*found, *_rounded(queries), *_refuted(root)]


def _rounded(queries: pd.DataFrame) -> list[str]:
    """Nothing of replays in float32, which have no such errors."""
    worst = queries.get(["precision_error", "precision_error_exact"], pd.DataFrame()).max().max()
    return [
        f"{WARNING}: replays in lower precision miss up to {worst:.2f} of what those in float32 say (> {ROUNDED}): set "
        "attribution.precision=float32, in a run of another name"
    ] * bool(worst > ROUNDED)


def _refuted(root: Path) -> list[str]:
    """Where draws say that p is more than twice as large: members far from all others do that to it."""
    path = default_folder(root) / "verified.csv"
    table = load_table(path) if path.exists() else pd.DataFrame({"p_value": [], "drawn": [], "error": []})
    wrong = int((2 * table.p_value < table.drawn - 4 * table.error).sum())
    return [
        f"{WARNING}: p of {wrong} of {len(table)} units and sets is less than half of what draws say (verified.csv): "
        "look for a member that is far from all others"
    ] * (wrong > 0)


def _rotating(error: pd.Series) -> str:
    """Nothing where no query's was measured."""
    checked = error.count()
    return f"; rotating Jacobian off by {error.mean():.3f} ({checked} queries)" if checked else ""


def _precision(queries: pd.DataFrame) -> str:
    """Nothing of replays in float32, nor where no query's was measured."""
    if "precision_error" not in queries or not queries.precision_error.count():
        return ""
    moved = queries.precision_error_exact.mean()
    return f"; lower precision {queries.precision_error.mean():.3f} of it, {moved:.3f} of exact displacements"


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
    kinds = sets.set.str.partition(":")[0]
    for kind in sorted(set(kinds) - {"nearest"}):
        rows = sets[kinds == kind]
        best = rows.groupby("query").q_value.min()
        text += f", to {'an' if kind[0] in 'aeiou' else 'a'} {kind} {(best <= level).sum()} of {len(best)}"
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


def _calibration(root: Path) -> str:
    """Nothing where no pictures were held out."""
    path = default_folder(root) / "calibration.csv"
    if not path.exists():
        return ""
    table = load_table(path)
    rates = ", ".join(f"{row.test} {row.rejected:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in table.itertuples())
    return f"calibration: pictures that no member saw pass at p <= {table.level.iloc[0]:g} at a rate of: {rates}"


def _verified(root: Path) -> str:
    """Nothing where nothing passes, and units' p was counted."""
    path = default_folder(root) / "verified.csv"
    if not path.exists():
        return ""
    table = load_table(path)
    if table.empty:
        return ""
    worst = table.loc[np.log(table.ratio).abs().idxmax()]
    return (
        f"p checked by draws: of {len(table)} units and sets p is {table.ratio.median():.2f} times theirs in the "
        f"median, {worst.ratio:.2f} at worst (their standard error there {worst.error / worst.drawn:.2f})"
    )


def write_report(root: Path, name: str, data: UnitDataModule) -> None:
    """report.html: one self-contained page; with what the validation found, once there is one.

    At most 10 MB for up to 32 queries, and in proportion for more: units are left out of the explorer until it fits.
    """
    paths = {key: root / folder_of(key) / f"{key}.png" for key in ALL}
    drawn = [_figure(key, path) for key, path in paths.items() if path.exists()]
    agreement, radius = (load_table(default_folder(root) / f"{key}.csv") for key in ("agreement_summary", "radius"))
    found, evidence = findings(root / "validation"), [figure for figure in drawn if figure.name in EVIDENCE]
    answers = answered(root)
    cards = Cards(root, data, answers, validated=bool(found or evidence))
    card, pictured = cards.first(answers[DEFAULT])
    content = {
        "name": name,
        "warnings": warnings(root, load_table(default_folder(root) / "queries.csv")),
        "card": card,
        "pictured": pictured,
        "words": words(root, data, lines(root)),
        "whose": attributed(root),
        "no_shares": NO_SHARES,
        "duplicates": duplicates(root, data),
        "figures": [figure for figure in drawn if figure.name not in EVIDENCE],
        "findings": found,
        "evidence": evidence,
        "tables": {"Agreement with exact ablation": _html(agreement), "Queries": _html(radius)},
        "provenance": _html(provenance(root)),
    }
    limit = LIMIT * max(1.0, sum(map(len, cards.sets.values())) / 32)
    room = int(limit) - len(rendered(**content, explorer="").encode())
    explored = explorer(root, name, data, answers, cards.sets, room)
    save_text(root / "report.html", rendered(**content, explorer=explored))


def _figure(name: str, path: Path) -> _Figure:
    with Image.open(path) as image:
        return _Figure(name, ALL[name].CAPTION, png(path), round(0.6 * image.width))


def _html(table: pd.DataFrame) -> Markup:
    return Markup(table.to_html(index=False, float_format="%.4g", border=0))
