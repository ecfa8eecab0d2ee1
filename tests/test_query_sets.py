"""Where the query sets of a run lie, the run's own set of an older one among them."""

import shutil

from conftest import contents

from ddattr.artifacts import load_json
from ddattr.attribution.queries import DEFAULT, default_folder, located, query_sets


def made(folder):
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_a_set_is_one_that_is_done_and_the_runs_own_comes_first(tmp_path):
    assert query_sets(tmp_path) == {}
    other = made(tmp_path / "attribution" / "a-set")
    (tmp_path / "attribution" / "broken").mkdir()
    assert query_sets(tmp_path) == {"a-set": other}
    own = made(tmp_path / "attribution" / "default")
    assert list(query_sets(tmp_path).items()) == [(DEFAULT, own), ("a-set", other)]
    assert default_folder(tmp_path) == own


def test_an_older_run_has_its_own_set_in_attribution_itself(tmp_path):
    own = made(tmp_path / "attribution")
    other = made(own / "a-set")
    assert list(query_sets(tmp_path).items()) == [(DEFAULT, own), ("a-set", other)]
    assert located(tmp_path, "attribution/radius.csv") == own / "radius.csv"
    assert located(tmp_path, "quality/fid.csv") == tmp_path / "quality" / "fid.csv"


def test_an_older_run_is_read_and_reported_where_it_is(ddattr, reproduced, tmp_path):
    """The same fingerprints in the older place: nothing is made again, but the report that was deleted."""
    root = tmp_path / "older"
    shutil.copytree(reproduced.root, root, ignore=shutil.ignore_patterns("wandb", "figures"))
    for path in (root / "attribution" / "default").iterdir():
        path.rename(root / "attribution" / path.name)
    (root / "attribution" / "default").rmdir()
    before = {name: contents(root / name) for name in ("members", "quality", "attribution")}
    said = ddattr("reproduce", str(root), "tracking=none")
    assert said.status == 0, said.err
    assert {name: contents(root / name) for name in before} == before
    figures = (load_json(folder / "figures" / "manifest.json") or {} for folder in (root, reproduced.root))
    assert len({made["fingerprint"] for made in figures}) == 1
    for figure in ("fig4_correlation", "fig5_attribution", "fig6_resolution"):
        one, other = (folder / "figures" / f"{figure}.csv" for folder in (root, reproduced.root))
        assert one.read_bytes() == other.read_bytes()
    assert ddattr("attribute", str(root)).out.strip() == "attribute: already done"
