"""The page's data: what it draws is what the tables say, in a file of bounded size, with nothing that could run."""

import json
import re
import shutil
import zlib
from base64 import b64decode

import numpy as np
import pandas as pd
import pytest
import torch
from pages import Made, given_pictures, made

from ddattr.attribution.methods import SUPPORT, TESTED
from ddattr.data.tables import unit_table
from ddattr.files import load_json, load_tensors, save_table
from ddattr.tracking.page.answers import Answers
from ddattr.tracking.page.duplicates import duplicates
from ddattr.tracking.page.pictures import LEVELS, fine, grid, shades, small
from ddattr.tracking.page.words import words
from ddattr.tracking.panels import panels
from ddattr.tracking.report import LIMIT, summary, write_report

KINDS = {"first": "i1", "exact": "i1", "factual": "<i2", "pictures": "u1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


def copied(run: Made, tmp_path) -> Made:
    return run._replace(root=shutil.copytree(run.root, tmp_path / "run"))


def page(run: Made, name: str = "made") -> str:
    write_report(run.root, name, run.data)
    return (run.root / "report.html").read_text()


def drawn(run: Made) -> dict:
    """What the script is given."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page(run), re.DOTALL)[1])


def unpacked(values: str, kind: str, shape: list[int]) -> np.ndarray:
    """As the script does it."""
    moved = np.frombuffer(zlib.decompress(b64decode(values)), kind).reshape(-1, *shape)
    return np.cumsum(moved, axis=-1, dtype=kind)


def stepped(packed: dict, kind: str, shape: list[int]) -> torch.Tensor:
    return torch.from_numpy(unpacked(packed["values"], kind, shape) * np.reshape(packed["steps"], (-1, 1, 1, 1)))


@pytest.fixture(scope="module")
def content(run) -> dict:
    return drawn(run)


def test_every_number_of_the_explorer_is_the_tables(run, content):
    (given,) = content["sets"]
    table = run.table("influence.parquet").set_index(["query", "method", "measure", "unit"]).sort_index()
    measures = {method["key"]: "similarity" if method["key"] == "pixel" else "pull" for method in given["methods"]}
    assert list(measures) == [SUPPORT, TESTED, "jvp", "jvp_posterior", "pixel"]
    for query in given["queries"]:
        tests = table.loc[query["query"], TESTED, "pull"].loc[query["units"]]
        for key, column in {"p": "p_value", "q": "q_value", "z": "z"}.items():
            np.testing.assert_allclose(query[key], tests[column], rtol=1e-6)
        for method, measure in measures.items():
            scores = table.loc[query["query"], method, measure].score
            np.testing.assert_allclose(query["scores"][method], scores.loc[query["units"]], rtol=1e-6)
            above = [(scores > scores[unit]).sum() + 1 for unit in query["units"]]
            assert query["ranks"][method] == above
        sets = run.table("sets.parquet").query("query == @query['query']").set_index("set").loc[query["sets"]["name"]]
        for key, column in {"score": "score", "p": "p_value", "q": "q_value", "z": "z", "size": "size"}.items():
            np.testing.assert_allclose(query["sets"][key], sets[column], rtol=1e-6)


def test_ranks_past_those_that_the_table_has_are_not_said(run, content, monkeypatch):
    monkeypatch.setattr(Answers, "known_ranks", 3)
    for query, whole in zip(drawn(run)["sets"][0]["queries"], content["sets"][0]["queries"], strict=True):
        for method, ranks in whole["ranks"].items():
            assert query["ranks"][method] == [rank if rank <= 3 else None for rank in ranks]


def test_what_passes_is_listed_with_the_best_by_every_method(run, content):
    passing = run.table("attributions.parquet").groupby("query").unit.agg(set)
    assert not passing.empty
    table = run.table("influence.parquet")
    for query in content["sets"][0]["queries"]:
        assert passing.get(query["query"], set()) <= set(query["units"])
        assert query["passing"] == len(passing.get(query["query"], set()))
        for method in content["sets"][0]["methods"]:
            rows = table[
                (table["query"] == query["query"]) & (table.method == method["key"]) & (table.measure != "norm")
            ]
            assert set(rows.nlargest(12, "score").unit) <= set(query["units"])
        assert query["scores"][SUPPORT] == sorted(query["scores"][SUPPORT], reverse=True)
    assert content["sets"][0]["queries"][-1]["passing"] == 0


def test_pictures_are_those_of_the_tensors_to_half_a_step(run, content):
    shape, (given,) = content["shape"], content["sets"]
    tensors = load_tensors(run.folder / "queries.safetensors")
    factual = stepped(given["factual"], KINDS["factual"], shape)
    torch.testing.assert_close(factual, tensors["factual"].double(), rtol=0, atol=1e-4)
    for place, query in enumerate(given["queries"]):
        found = stepped(query["exact"], KINDS["exact"], shape)
        where = tensors["refined_units"][:, place].tolist()
        for unit, moved in zip(query["exact"]["units"], found, strict=True):
            true = tensors["refined"][where.index(unit), place] - tensors["factual"][place]
            assert (moved - true).abs().max() <= true.abs().max() / LEVELS * 0.501
    training = unpacked(content["pictures"]["values"], KINDS["pictures"], shape)
    for query in given["queries"]:
        for unit, places in zip(query["units"], query["pictures"], strict=True):
            own = ((run.data.images[run.data.unit_of == unit] + 1) * 127.5).round().numpy()
            assert all((training[place] == own).all((1, 2, 3)).any() for place in places)


def test_the_first_order_is_that_of_the_panels(run, content):
    rows = {(row["query"], row["unit"]): row["jvp"] - row["factual"] for row in panels(run.root, run.folder)}
    checked = 0
    for query in content["sets"][0]["queries"]:
        moved = stepped(query["first"], KINDS["first"], content["shape"])
        for unit, found in zip(query["first"]["units"], moved, strict=True):
            if (true := rows.get((query["query"], unit))) is not None:
                assert (found - true).abs().max() <= true.abs().max() / LEVELS * 0.51
                checked += 1
    assert checked >= 6


def test_a_units_pictures_are_its_nearest_to_the_query_the_nearest_first(tmp_path):
    run = made(tmp_path, units=6, pictures=60)  # ten a unit, of which six are shown
    content = drawn(run)
    (given,), shape = content["sets"], content["shape"]
    training = torch.from_numpy(unpacked(content["pictures"]["values"], "u1", shape) / 127.5 - 1)
    factual = load_tensors(run.folder / "queries.safetensors")["factual"].clamp(-1, 1)
    for place, query in enumerate(given["queries"]):
        for unit, places in zip(query["units"], query["pictures"], strict=True):
            own = run.data.images[run.data.unit_of == unit]
            nearest = (own - factual[place]).flatten(1).norm(dim=1).sort().values[:6]
            shown = (training[places] - factual[place]).flatten(1).norm(dim=1)
            torch.testing.assert_close(shown, nearest.double(), rtol=0, atol=0.05)


@pytest.mark.parametrize(("shape", "expected"), [((3, 64, 48), (3, 32, 24)), ((1, 8, 8), (1, 8, 8))])
def test_training_pictures_are_no_larger_than_thumbs_and_as_bright(shape, expected):
    pictures = torch.rand(2, *shape)
    shown = small(pictures)
    assert shown.shape[1:] == expected
    torch.testing.assert_close(shown.mean((2, 3)), pictures.mean((2, 3)))
    if shape == expected:
        assert torch.equal(shown, pictures)


def test_packing_loses_half_a_step_at_most(run):
    pictures = torch.randn(3, 3, 5, 7) * torch.tensor([1e-3, 1.0, 50.0]).reshape(3, 1, 1, 1)
    found = stepped(fine(pictures), "<i2", [3, 5, 7])
    steps = pictures.abs().amax((1, 2, 3)) / 32767
    assert ((found - pictures).abs().amax((1, 2, 3)) <= 0.51 * steps).all()
    assert (stepped(fine(torch.zeros(1, 1, 2, 2)), "<i2", [1, 2, 2]) == 0).all()
    bytes_ = unpacked(shades(torch.tensor([-3, -1, 0.0, 1, 2]).reshape(1, 1, 1, 5)), "u1", [1, 1, 5])
    assert bytes_.flatten().tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_picture_once(channels):
    from io import BytesIO

    import matplotlib.image

    pictures = torch.rand(5, channels, 4, 4) * 2 - 1
    pixels = matplotlib.image.imread(BytesIO(b64decode(grid(pictures, 3).partition(",")[2])))
    assert pixels.shape == (9, 14, 4)  # a pixel between
    assert pixels[..., 3].sum() == 5 * 16
    last = (pictures[4].expand(3, -1, -1).permute(1, 2, 0).numpy() + 1) / 2
    np.testing.assert_allclose(pixels[5:9, 5:9, :3], last, atol=1 / 255)


def test_text_of_the_data_stays_text(run, tmp_path):
    run, evil = copied(run, tmp_path), "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    table = unit_table(run.data)
    save_table(run.root / "units.parquet", table.assign(name=evil, label=evil, files=[[evil] * 2] * len(table)))
    queries = run.table("queries.csv")
    save_table(run.folder / "queries.csv", queries.assign(name=evil, label=evil))
    text = page(run, evil)
    assert text.lower().count("<script") == text.lower().count("</script") == 2
    assert "<img src=x" not in text
    content = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert content["run"] == content["sets"][0]["queries"][0]["name"] == content["pictures"]["files"][0] == evil
    assert {unit["name"] for unit in content["named"].values()} == {evil}


def test_a_name_that_is_a_template_stays_text(run, tmp_path):
    text = page(copied(run, tmp_path), "{{ 7 * 7 }}{% endif %}")
    assert "<title>ddattr: {{ 7 * 7 }}{% endif %}</title>" in text


def test_the_page_says_all_of_the_summary(run, tmp_path):
    run = copied(run, tmp_path)
    row = {"test": ["unit"], "level": [0.05], "rejected": [0.046], "low": [0.04], "high": [0.052]}
    save_table(run.folder / "calibration.csv", pd.DataFrame(row))
    text = page(run)
    for line in summary(run.root):
        assert line.replace("<", "&lt;") in text
    assert "at a rate of: unit 0.046 [0.040, 0.052]" in text
    assert "2 of 3 pictures have at least one label that passes the test at q ≤ 0.05" in text
    assert "for 60 steps of 32 pictures each" in text


def test_the_surest_are_shown_first_each_with_where_the_explorer_has_it(run):
    table = run.table("attributions.parquet").sort_values(["q_value", "rank"]).drop_duplicates("query")
    pairs = words(run.root, run.data, {})[2].pairs
    assert [pair.address for pair in pairs] == [f"#/default/{row.query}/{row.unit}" for row in table.itertuples()]
    assert [pair.unit for pair in pairs] == [f"label {unit} (2 pictures)" for unit in table.unit]
    assert all(f'href="{pair.address}"' in page(run) for pair in pairs)


def test_pictures_that_were_given_have_no_counterfactuals_and_their_names(run, tmp_path):
    run = copied(run, tmp_path)
    given_pictures(run, ["a b.png", "<b>.png", "c.png"])
    content = drawn(run)
    own, mine = content["sets"]
    assert (own["name"], mine["name"]) == ("default", "mine")
    assert [query["name"] for query in mine["queries"]] == ["a b.png", "<b>.png", "c.png"]
    assert {query["first"] for query in mine["queries"]} == {query["exact"] for query in mine["queries"]} == {None}
    assert [method["key"] for method in mine["methods"]] == [SUPPORT, TESTED, "pixel"]
    assert mine["arguments"] == ["queries.pictures=[a b.png,<b>.png,c.png]"]
    assert own["queries"][0]["q"][:4] == mine["queries"][0]["q"][:4]
    text = page(run)
    assert sum(line.startswith("query set ") for line in summary(run.root)) == 2
    assert all(line.replace("<", "&lt;").replace(">", "&gt;") in text for line in summary(run.root))


def test_a_run_made_before_there_were_query_sets_names_of_units_or_nulls_has_a_page(run, tmp_path):
    run = copied(run, tmp_path)
    for path in run.folder.iterdir():
        path.rename(run.folder.parent / path.name)
    run.folder.rmdir()
    (run.root / "units.parquet").unlink()
    (run.root / "config.yaml").unlink()
    (run.root / "attribution" / "attributions.parquet").unlink()
    (run.root / "attribution" / "nulls.parquet").unlink()
    (run.root / "near_duplicates.parquet").unlink()
    content = drawn(run)
    assert content["named"]["3"] == {"name": "unit 3", "label": None, "of": 2}
    assert {counts for query in content["sets"][0]["queries"] for counts in query["nulls"]} == {None}


def test_nulls_that_were_kept_are_on_the_page(run, content):
    kept = run.table("nulls.parquet").set_index(["query", "unit"]).counts
    for query in content["sets"][0]["queries"]:
        for unit, counts in zip(query["units"], query["nulls"], strict=True):
            assert (counts is None) == ((query["query"], unit) not in kept.index)
            assert counts is None or counts == kept[query["query"], unit].tolist()
        assert sum(map(bool, query["nulls"])) >= 12


def test_near_duplicates_are_shown_those_of_two_units_first(tmp_path):
    images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    images[7], images[31] = images[3], images[1]  # of two units; of one
    run = made(tmp_path, images=images)
    found = duplicates(run.root, run.data)
    assert (found.pairs, found.apart) == (2, 1)
    assert [twins.names for twins in found.shown] == [("picture 3", "picture 7"), ("picture 1", "picture 31")]
    assert [twins.apart for twins in found.shown] == [True, False]
    assert found.shown[0].pictures[0] == found.shown[0].pictures[1] != found.shown[1].pictures[0]
    assert "2 pairs of training pictures may be called the same, 1\nof them of two units" in page(run)


def test_neighbourhoods_show_the_units_that_they_are_of(run, content):
    factual = load_tensors(run.folder / "queries.safetensors")["factual"]
    nearest = run.data.distance(factual).argsort(dim=0, stable=True)
    training = unpacked(content["pictures"]["values"], KINDS["pictures"], content["shape"])
    for place, query in enumerate(content["sets"][0]["queries"]):
        shown = query["sets"]["pictures"][query["sets"]["name"].index("nearest:5")]
        assert len(shown) == 5
        for picture, unit in zip(shown, nearest[:5, place], strict=True):
            own = ((run.data.images[run.data.unit_of == unit] + 1) * 127.5).round().numpy()
            assert (training[picture] == own).all((1, 2, 3)).any()


def test_numbers_that_are_none_are_null(run, tmp_path):
    run = copied(run, tmp_path)
    table = run.table("influence.parquet")
    columns = ["z", "p_value", "q_value"]
    table.loc[table.unit == 3, columns] = np.nan
    save_table(run.folder / "influence.parquet", table)
    query = drawn(run)["sets"][0]["queries"][0]
    assert query["p"][query["units"].index(3)] is None


@pytest.mark.slow
@pytest.mark.parametrize(("side", "members"), [(32, 64), (64, 16)])
def test_32_queries_fit_into_10_megabytes_even_if_no_picture_can_be_compressed(side, members, tmp_path):
    run = made(tmp_path, shape=(3, side, side), queries=32, units=400, pictures=1200, members=members, effects=60)
    text = page(run)
    assert len(text.encode()) <= LIMIT
    content = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    passing = run.table("attributions.parquet").groupby("query").size()
    for query in content["sets"][0]["queries"]:
        assert len(query["units"]) >= min(passing.get(query["query"], 0), content["sizes"]["passing"])
        assert len(query["first"]["units"]) >= content["sizes"]["moved"]
    assert content["sizes"]["passing"] >= (40 if side == 32 else 16)


def test_what_no_room_is_for_is_left_out_and_the_page_is_made(run, monkeypatch):
    monkeypatch.setattr("ddattr.tracking.report.LIMIT", 1)
    content = drawn(run)
    assert content["sizes"] == {"passing": 2, "best": 1, "pictures": 1, "moved": 1}
    assert all(2 <= len(query["units"]) <= 7 for query in content["sets"][0]["queries"][:-1])


def test_the_command_of_a_run_is_not_asked_of_its_manifest(run):
    assert load_json(run.folder / "manifest.json")["command"] == "ddattr attribute"
    assert drawn(run)["sets"][0]["arguments"] == []
