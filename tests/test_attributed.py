"""Whose pictures: what the page and the summary say of single units that pass, by name."""

import html
import shutil

import pandas as pd
import pytest
from conftest import SMALL, composed

from ddattr.attribution.places import default_folder
from ddattr.files import save_table
from ddattr.stages.run import Run
from ddattr.tracking.attributed import NO_SHARES, attributed
from ddattr.tracking.report import summary, write_report
from ddattr.tracking.units import unit_names

ROWS = [(4, unit, rank, 0.001, 0.01 + rank / 1000, 3.0, 0.2) for rank, unit in enumerate([9, 7, 30, 2, 11, 5, 64], 1)]
ROWS += [(1, 3, 2, 0.0001, 0.0002, 4.25, 0.3)]


@pytest.fixture
def root(reproduced, tmp_path):
    """A run with two queries that have units that pass, whose names would be markup."""
    root = tmp_path / "run"
    shutil.copytree(reproduced.root, root, ignore=shutil.ignore_patterns("members", "wandb"))
    columns = ["query", "unit", "rank", "p_value", "q_value", "z", "support"]
    save_table(default_folder(root) / "attributions.parquet", pd.DataFrame(ROWS[::-1], columns=columns))
    names = {"unit": range(128), "name": [f"label <{u}>" for u in range(128)], "pictures": [1, 1178] * 64}
    save_table(root / "units.parquet", pd.DataFrame(names))
    return root


def test_units_are_named_by_the_table_or_else_by_their_numbers(root, tmp_path):
    name = unit_names(root)
    assert (name(2), name(3)) == ("label <2>", "label <3> (1,178 pictures)")
    assert unit_names(tmp_path / "nowhere")(3) == "unit 3"


def test_the_units_that_pass_are_listed_by_rank_and_queries_without_any_in_one_sentence(root):
    (found,) = attributed(root)
    one, four = found.owing
    assert (found.name, found.level, one.query, four.query) == ("default", 0.05, "seed 1", "seed 4")
    assert one.units == [("label <3> (1,178 pictures)", "rank 2, q < 0.001, z = 4.2")]
    assert [name for name, _ in four.units] == [unit_names(root)(unit) for _, unit, *_ in ROWS[:7]]
    assert found.others == "No single unit passes for 4 of 6 queries: 0, 2, 3, 5."
    assert len(NO_SHARES.split()) < 95


def test_that_none_passes_is_said(root):
    path = default_folder(root) / "attributions.parquet"
    save_table(path, pd.read_parquet(path)[:0])
    (found,) = attributed(root)
    assert found.others == "No single unit passes for any of the 6 queries."
    assert found.owing == []
    assert "surest" not in "".join(summary(root))


def test_a_run_without_the_table_has_no_list(root):
    (default_folder(root) / "attributions.parquet").unlink()
    assert attributed(root) == []


def test_the_summary_names_the_surest_and_the_page_has_the_section_once(root):
    (line,) = [line for line in summary(root) if line.startswith("attributable")]
    assert "(surest: query 1 to label <3> (1,178 pictures), q < 0.001)" in line
    write_report(root, "x", Run(composed(f"experiment={SMALL}")).data)
    page = (root / "report.html").read_text()
    assert page.count('<section id="whose">') == page.count('<a href="#whose">') == 1
    assert (
        page.index('<section id="explorer"') < page.index('<section id="whose">') < page.index('<section id="figures">')
    )
    assert page.count("100 %") == 1
    assert "label <" not in page
    listed = html.unescape(page[page.index('<section id="whose">') : page.index('<section id="figures">')])
    assert listed.index("2 more") < listed.index("label <5>")  # behind a click
    assert listed.count('<img class="pixels" alt="seed') == 2
    assert NO_SHARES in listed
