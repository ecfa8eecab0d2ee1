"""The page and the summary: what they say is in the tables, and the page needs nothing else."""

import html.parser
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, composed

from ddattr.data.datamodule import UnitDataModule
from ddattr.files import load_json, load_table, load_tensors, save_table
from ddattr.stages.run import Run
from ddattr.tracking.figures import FIGURES
from ddattr.tracking.report import WARNING, summary, write_report


class Page(html.parser.HTMLParser):
    """Links, pictures and text of a page, and whether every tag closes."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.pictures, self.anchors, self.open, self.text = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.pictures += [value for name, value in attrs if name == "alt" and value.startswith("Figure")]
        self.anchors += [f"#{value}" for name, value in attrs if name == "id"]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(reproduced) -> Page:
    return Page((reproduced.root / "report.html").read_text())


@pytest.fixture(scope="module")
def data() -> UnitDataModule:
    """The pictures of `reproduced`."""
    return Run(composed(f"experiment={SMALL}")).data


def table(reproduced, name: str):
    return load_table(reproduced.root / "attribution" / "default" / name)


def test_the_page_is_self_contained(page, reproduced):
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    text = (reproduced.root / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//|@import|url\(", text)
    assert str(reproduced.root) not in text


def test_the_page_has_every_figure_with_its_caption(page):
    assert len(page.pictures) == len(FIGURES)
    words = "".join(page.text)
    for module in FIGURES.values():
        assert module.CAPTION in words
    assert not page.open


def test_its_contents_lead_to_what_is_on_it(page):
    inner = [link for link in page.links if link.startswith("#") and not link.startswith("#/")]
    assert {"#figures", "#tables", "#provenance"} <= set(inner) <= set(page.anchors)


def test_the_page_says_where_its_numbers_come_from(page, reproduced):
    words = "".join(page.text)
    for folder in ("members/000", "quality", "attribution/default"):
        manifest = load_json(reproduced.root / folder / "manifest.json")
        assert manifest["fingerprint"] in words
        assert str(manifest["commit"]) in words
        assert manifest["command"] in words


def test_the_summary_has_at_most_nine_lines_and_they_are_on_the_page(page, reproduced):
    lines = summary(reproduced.root)
    assert 4 <= len(lines) <= 9
    words = "".join(page.text)
    for line in lines:
        assert "\n" not in line
        assert line in words
        assert "nan" not in line.lower()


def test_the_summary_says_how_often_strangers_pass(reproduced, tmp_path):
    """As the table has it; nothing where no picture was held out."""
    (said,) = [line for line in summary(reproduced.root) if line.startswith("calibration: ")]
    for row in table(reproduced, "calibration.csv").itertuples():
        assert f"{row.test} {row.rejected:.3f} [{row.low:.3f}, {row.high:.3f}]" in said
    root = shutil.copytree(reproduced.root, tmp_path / "run", ignore=shutil.ignore_patterns("members", "wandb"))
    (root / "attribution" / "default" / "calibration.csv").unlink()
    assert not [line for line in summary(root) if line.startswith("calibration: ")]


def test_the_summary_says_what_the_tables_say(reproduced):
    words = "\n".join(summary(reproduced.root))
    agreement = table(reproduced, "agreement_summary.csv").set_index(["method", "measure", "statistic"])["mean"]
    for method in ("individual", "individual_centred", "last_step", "pixel"):
        assert f"{method} {agreement[method, 'norm', 'spearman']:.2f}" in words
    assert f"jvp {agreement['jvp', 'norm', 'spearman']:.3f}" in words
    queries = table(reproduced, "agreement.csv").query("method == 'jvp' and measure == 'norm'")
    assert f"worst query {queries.spearman.min():.3f}" in words
    radius, sets = table(reproduced, "radius.csv"), table(reproduced, "sets.parquet")
    assert f"to one image {radius.attributable.sum()} of 6" in words
    for kind in ("cluster", "label"):
        best = sets[sets.set.str.startswith(f"{kind}:")].groupby("query").q_value.min()
        assert f"to a {kind} {(best <= 0.05).sum()} of 6" in words


def test_the_summary_counts_what_is_attributable(reproduced, tmp_path):
    """On tables that say so: all queries to one unit and to their own label, and a resolution of 5."""
    root = tmp_path / "run"
    shutil.copytree(reproduced.root, root, ignore=shutil.ignore_patterns("members", "wandb", "figures"))
    radius, sets = (
        load_table(root / "attribution/default/radius.csv"),
        load_table(root / "attribution/default/sets.parquet"),
    )
    labels = load_table(root / "attribution/default/queries.csv").set_index("query").label
    radius["attributable"], radius["resolution"] = True, 5
    own = sets.set == "label:" + labels[sets["query"]].astype(str).to_numpy()
    sets.loc[own, ["z", "q_value"]] = [99.0, 0.001]
    radius.to_csv(root / "attribution/default/radius.csv", index=False)
    sets.to_parquet(root / "attribution/default/sets.parquet", index=False)
    words = "\n".join(summary(root))
    assert "to one image 6 of 6" in words
    assert "to a label 6 of 6 (its nearest pictures' label ranked first: 6)" in words
    assert "6 of 6 queries have a significant neighbourhood of nearest units, median size 5, smallest 5" in words


def test_a_name_is_text_on_the_page(reproduced, data, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(reproduced.root, root, ignore=shutil.ignore_patterns("wandb"))
    write_report(root, "<script>alert(1)</script>", data)
    text = (root / "report.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def doubted(root, data, unlike: float, queries: list[bool]) -> list[str]:
    """The summary's first lines, of a run with this unlikeness and these queries that are unlike the data."""
    likeness = load_table(root / "quality" / "likeness.csv").assign(unlikeness=unlike)
    save_table(root / "quality" / "likeness.csv", likeness)
    table = load_table(root / "attribution" / "default" / "queries.csv").assign(unlike_data=queries)
    save_table(root / "attribution" / "default" / "queries.csv", table)
    write_report(root, "x", data)
    lines = summary(root)
    loud = [line for line in lines if line.startswith(WARNING)]
    assert lines[: len(loud)] == loud
    assert (root / "report.html").read_text().count('<li class="warning">') == len(loud)
    return loud


def test_samples_and_queries_that_are_not_like_the_data_are_the_first_thing_said(reproduced, data, tmp_path):
    root = shutil.copytree(reproduced.root, tmp_path / "run", ignore=shutil.ignore_patterns("wandb", "members"))
    assert doubted(root, data, 0.5, [False] * 6) == []
    (line,) = doubted(root, data, 0.51, [False] * 6)
    assert "samples are not like the data, 0.51 of the way from data to pure noise" in line
    (line,) = doubted(root, data, 0.0, [False, True, False, False, True, False])
    assert "2 of 6 queries are farther from every training picture" in line
    assert line.endswith(": 1, 4")
    assert len(doubted(root, data, 0.9, [True] * 6)) == 2


def test_lower_precision_is_said_and_doubted_where_it_moves_much(reproduced, data, tmp_path):
    root = shutil.copytree(reproduced.root, tmp_path / "run", ignore=shutil.ignore_patterns("wandb", "members"))
    path = root / "attribution" / "default" / "queries.csv"
    table = load_table(path)
    for worst, loud in ((0.1, False), (0.11, True)):
        errors = {"precision_error": [0.01, 0.03] + [np.nan] * 4, "precision_error_exact": [0.05, worst] + [np.nan] * 4}
        save_table(path, table.assign(**errors))
        lines = summary(root)
        assert any(line.startswith(f"{WARNING}: replays in lower precision miss up to 0.11") for line in lines) == loud
        assert any(f"; lower precision 0.020 of it, {(0.05 + worst) / 2:.3f} of exact displ" in line for line in lines)
    save_table(path, table)
    assert not any("lower precision" in line for line in summary(root))


def test_p_that_draws_refute_is_said_first(reproduced, tmp_path):
    root = shutil.copytree(reproduced.root, tmp_path / "run", ignore=shutil.ignore_patterns("wandb", "members"))
    table = pd.DataFrame({"query": [0, 1, 2], "unit": [5, 6, 7], "p_value": [0.01, 0.01, 0.01]})
    path = root / "attribution" / "default" / "verified.csv"
    for drawn, wrong in (([0.01, 0.012, 0.019], 0), ([0.01, 0.03, 0.03], 1)):
        made = table.assign(drawn=drawn, error=[0.001, 0.001, 0.003], ratio=table.p_value / drawn)
        save_table(path, made)
        lines = [line for line in summary(root) if "of what draws say" in line]
        assert len(lines) == wrong
        assert all(line.startswith(f"{WARNING}: p of 1 of 3 units and sets") for line in lines)
        (calibration,) = [line for line in summary(root) if line.startswith("calibration: ")]
        assert "; p checked by draws: of 3 units and sets p is" in calibration
    (root / "attribution" / "default" / "calibration.csv").unlink()
    assert any(line.startswith("p checked by draws: of 3 units and sets p is") for line in summary(root))


def test_the_first_figure_is_of_samples_beside_training_pictures(page, reproduced):
    assert next(iter(FIGURES)) == "fig0_samples"
    kept = load_tensors(reproduced.root / "quality" / "samples.safetensors")
    assert kept["samples"].shape == kept["data"].shape == (24, 1, 8, 8)
