"""The card: what it says in plain words is what the tables say in numbers, and where these say nothing, it says so."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from pages import Made, given_pictures, made

from ddattr.attribution.methods import TESTED
from ddattr.codebook import contrast
from ddattr.files import load_tensors, save_table
from ddattr.tracking.page.answers import answered
from ddattr.tracking.page.card import Card, Cards, surest
from ddattr.tracking.page.plain import one_in, times, way
from ddattr.tracking.page.without import change
from ddattr.tracking.report import write_report

JARGON = re.compile(
    r"\b(units?|codewords?|phantoms?|members?|ensembles?|jacobian|null|queries|query|significan\w+|[pqz]|[pq]-values?|"
    r"probabilit\w+|true|proves?)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Made:
    return made(tmp_path_factory.mktemp("made"))


def copied(run: Made, tmp_path) -> Made:
    return run._replace(root=shutil.copytree(run.root, tmp_path / "run"))


def cards(run: Made, validated: bool = False, name: str = "default") -> list[Card]:
    return Cards(run.root, run.data, answered(run.root), validated).sets[name]


def page(run: Made) -> str:
    write_report(run.root, "made", run.data)
    return (run.root / "report.html").read_text()


def element(text: str, name: str) -> str:
    """What an element of the page says before any script runs."""
    return re.search(rf'id="{name}"[^>]*>([^<]*)<', text)[1]


def no_unit_passes(run: Made) -> None:
    table = run.table("influence.parquet")
    save_table(run.folder / "influence.parquet", table.assign(q_value=table.q_value.clip(lower=0.5)))


def test_the_first_card_is_of_the_surest_of_all_and_its_numbers_are_the_tables(run):
    best = run.table("attributions.parquet").sort_values(["q_value", "support"], ascending=[True, False]).iloc[0]
    text = page(run)
    assert f'id="card-record" href="#/default/{best["query"]:.0f}/{best.unit:.0f}"' in text
    assert element(text, "card-record").startswith(f"For the record: p = {best.p_value:.2g}, q = {best.q_value:.2g}.")
    assert element(text, "card-owed") == f"label {best.unit:.0f}"
    assert 'id="card" class="sure"' in text
    content = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["sets"][0]
    first = content["queries"][content["first"]]
    assert first["query"] == best["query"]
    for name, words in first["card"]["words"].items():
        assert element(text, f"card-{name}") == words


def test_every_card_is_of_its_pictures_surest_unit_whose_odds_are_one_over_p(run):
    table = run.table("attributions.parquet").sort_values(["q_value", "support"], ascending=[True, False])
    surest = table.drop_duplicates("query").set_index("query")
    found = {card.words["name"]: card for card in cards(run)}
    for query, row in surest.iterrows():
        card = found[f"seed {query}"]
        assert (card.owed.unit, card.owed.passes) == (row.unit, True)
        number = re.search(r"once in ([\d,]+) times", card.words["sure"])
        assert (
            number is None
            if row.p_value < 1e-6
            else float(number[1].replace(",", "")) * row.p_value == (pytest.approx(1, rel=0.06))
        )
    assert len(surest) == 2


def test_where_nothing_passes_the_card_says_so_names_nothing_and_leaves_nothing_out(run, tmp_path):
    *_, last = cards(run)
    assert not last.owed.passes
    assert last.words["owed"] == "nothing that can be named"
    assert last.without is None
    assert f"strongest of {run.codebook.units} tried" in last.words["sure"]
    run = copied(run, tmp_path)
    no_unit_passes(run)
    save_table(run.folder / "radius.csv", run.table("radius.csv").assign(resolution=-1))
    assert {card.owed.passes for card in cards(run)} == {False}
    text = page(run)
    assert 'id="card" class="unsure"' in text
    assert 'id="card-moved" hidden' in text


def test_a_set_speaks_where_no_unit_does_and_a_neighbourhood_where_no_set_does(run, tmp_path):
    run = copied(run, tmp_path)
    no_unit_passes(run)
    rows = [("label:3", 2.0, 0.02), ("artist:ada", 2.0, 0.02), ("artist:bob", 9.0, 0.04)]
    sets = [
        {"set": name, "size": 1, "query": 5, "measure": "pull", "score": 1.0, "z": z, "p_value": q / 2, "q_value": q}
        for name, z, q in rows
    ]
    save_table(run.folder / "sets.parquet", pd.concat([run.table("sets.parquet"), pd.DataFrame(sets)]))
    units = pd.read_parquet(run.root / "units.parquet")
    artist = np.where(units.unit < 4, "ada", "bob")
    save_table(run.root / "units.parquet", units.assign(artist=artist))
    save_table(run.folder / "radius.csv", run.table("radius.csv").assign(resolution=[5, 2, -1]))
    by_artist, by_likeness, none = cards(run)
    assert by_artist.owed.item == "artist:ada"  # of equals, what says more than a label
    assert by_artist.words["owed"] == "artist ada"
    assert by_artist.words["about"] == "all 8 training pictures of this artist; these 6 look most like this one"
    assert set(by_artist.owed.units) == {0, 1, 2, 3}
    assert "about once in 100 times" in by_artist.words["sure"]
    assert by_artist.words["allowed"].startswith("All 2 artists were tried")
    assert by_artist.words["allowed"].endswith("at most about 1 picture in 20. Here one was found for 1 of 3.")
    assert by_likeness.owed.item == "nearest:2"
    assert by_likeness.words["owed"] == "the 2 labels most like it"
    factual = load_tensors(run.folder / "queries.safetensors")["factual"]
    assert by_likeness.owed.units == run.data.distance(factual).argsort(dim=0, stable=True)[:2, 1].tolist()
    assert not none.owed.passes


def test_the_change_is_exact_where_it_was_replayed_and_else_the_first_order(run):
    tensors = load_tensors(run.folder / "queries.safetensors")
    jacobian = load_tensors(run.folder / "jacobian.safetensors")["jacobian"]
    for place, card in enumerate(cards(run)[:2]):
        where = tensors["refined_units"][:, place].tolist()
        if card.owed.unit in where:
            moved = tensors["refined"][where.index(card.owed.unit), place] - tensors["factual"][place]
        else:
            weights = contrast(run.codebook.codewords(torch.tensor([card.owed.unit])))[0]
            moved = torch.einsum("n,n...->...", weights, jacobian[:, place])
        assert card.without.how == ("exact" if card.owed.unit in where else "first")
        assert ("estimate" in card.words["how"]) == (card.without.how == "first")
        torch.testing.assert_close(card.without.moved, moved, rtol=1e-4, atol=1e-6)
        assert (card.amplified * moved.abs() > 1).float().mean() <= 0.03 or card.amplified == 1
        assert way(card.without.change) in card.words["change"]


def test_without_a_neighbourhood_the_changes_add_up_unless_every_model_saw_some_of_it(run, tmp_path):
    run = copied(run, tmp_path)
    no_unit_passes(run)
    jacobian = load_tensors(run.folder / "jacobian.safetensors")["jacobian"]
    for size in (2, 30):
        save_table(run.folder / "radius.csv", run.table("radius.csv").assign(resolution=size))
        rows = run.table("sets.parquet").query("set == 'nearest:2'").assign(set=f"nearest:{size}")
        save_table(run.folder / "sets.parquet", rows)
        for place, card in enumerate(cards(run)):
            codewords = run.codebook.codewords(torch.tensor(card.owed.units))
            assert len(codewords) == size
            if codewords.any(0).all():
                assert card.without is None
                assert "each of the 16 models saw some of them" in card.words["how"]
            else:
                each = torch.einsum("un,n...->u...", contrast(codewords), jacobian[:, place])
                torch.testing.assert_close(card.without.moved, each.sum(0), rtol=1e-4, atol=1e-6)
                assert "added up" in card.words["how"]
    assert card.without is None  # of 30 units


def test_how_much_a_picture_changes_is_seen_in_it():
    grey, black = torch.zeros(1, 4, 4), -torch.ones(1, 4, 4)
    assert change(grey, torch.zeros(1, 4, 4)) == 0
    assert change(black, torch.full((1, 4, 4), 2.0)) == 1  # all the way
    assert change(black, torch.full((1, 4, 4), 9.0)) == 1  # and no farther
    assert change(black, torch.full((1, 4, 4), -1.0)) == 0
    half = torch.zeros(1, 4, 4)
    half[:, :2] = 0.1
    assert change(grey, half) == change(grey, -half) == pytest.approx(0.025)


def test_what_is_left_out_by_lot_grows_with_the_jacobian_and_not_with_the_unit(run, tmp_path):
    """Of pictures that nothing clips."""
    from ddattr.files import save_tensors

    run, lots = copied(run, tmp_path), []
    tensors = load_tensors(run.folder / "queries.safetensors")
    save_tensors(run.folder / "queries.safetensors", tensors | {"factual": 0.1 * tensors["factual"]})
    jacobian = 0.05 * load_tensors(run.folder / "jacobian.safetensors")["jacobian"]
    for scale in (1, 2):
        save_tensors(run.folder / "jacobian.safetensors", {"jacobian": scale * jacobian})
        lots.append([card.without.by_lot for card in cards(run)[:2]])
    np.testing.assert_allclose(lots[1], 2 * np.array(lots[0]), rtol=1e-4)
    one = contrast(run.codebook.phantom_codewords(torch.arange(100)))
    sizes = torch.einsum("un,nq...->uq...", one, jacobian).abs().flatten(2).mean(2)[:, :2] / 2
    np.testing.assert_allclose(lots[0], sizes.median(0).values, rtol=0.15)


def test_a_card_has_no_words_that_need_statistics(run, tmp_path):
    run = copied(run, tmp_path)
    given_pictures(run, ["a.png", "b.png", "c.png"])
    said = cards(run) + cards(run, validated=True) + cards(run, name="mine")
    no_unit_passes(run)
    for card in said + cards(run):
        words = {key: text for key, text in card.words.items() if key != "record"}
        text = " ".join(words.values()).replace("“Is it true?”", "")
        assert JARGON.findall(text) == []


def test_what_luck_would_find_is_said_beside_what_was_found(tmp_path):
    """One of 20 pictures is what luck finds where nothing matters, and the card says so."""
    run = made(tmp_path, queries=20)
    allowed = cards(run)[0].words["allowed"]
    assert f"Here one was found for {run.table('attributions.parquet')['query'].nunique()} of 20." in allowed
    for many, luck in ((1, ", no more than luck would find"), (2, "")):
        save_table(run.folder / "radius.csv", run.table("radius.csv").assign(attributable=np.arange(20) < many))
        assert cards(run)[0].words["allowed"].endswith(f"Here one was found for {many} of 20{luck}.")


def test_the_page_does_not_open_with_what_luck_would_find(run, tmp_path):
    """Of one picture in 20 a unit is found; of all of them a set, though it is less sure."""
    run = copied(made(tmp_path, queries=20), tmp_path / "again")
    table, first = run.table("influence.parquet"), 12
    q = table.q_value.where(table["query"] == first, table.q_value.clip(lower=0.5))
    save_table(run.folder / "influence.parquet", table.assign(q_value=q))
    save_table(
        run.folder / "radius.csv",
        run.table("radius.csv").assign(attributable=np.arange(20) + 5 == first, resolution=-1),
    )
    assert surest(cards(run)) == 7  # for want of others
    sets = run.table("sets.parquet").query("set == 'nearest:2'").assign(set="label:3", q_value=0.04)
    save_table(run.folder / "sets.parquet", sets)
    found = cards(run)
    assert found[7].lucky
    assert found[surest(found)].owed.item == "label:3"


def test_a_validated_run_points_to_what_was_measured(run):
    assert "nor what models trained anew" in cards(run)[0].words["not"]
    assert "Is it true?" in cards(run, validated=True)[0].words["not"]


def test_a_picture_that_was_given_is_not_drawn_without(run, tmp_path):
    run = copied(run, tmp_path)
    given_pictures(run, ["a.png", "b.png", "c.png"])
    card = cards(run, name="mine")[0]
    assert (card.owed.unit, card.without) == (cards(run)[0].owed.unit, None)
    assert (card.words["name"], card.words["origin"]) == ("a.png", "given, not drawn by the models")
    assert card.words["verb"] == "the models know from"
    assert card.address == f"#/mine/5/{card.owed.unit}"


def test_where_nothing_could_be_tested_the_card_says_so(run, tmp_path):
    run = copied(run, tmp_path)
    table = run.table("influence.parquet")
    columns = ["z", "p_value", "q_value"]
    table.loc[table.method == TESTED, columns] = np.nan
    save_table(run.folder / "influence.parquet", table)
    save_table(run.folder / "radius.csv", run.table("radius.csv").assign(resolution=-1))
    assert {card.words["sure"] for card in cards(run)} == {"Nothing could be tested."}
    assert "nan" not in element(page(run), "card-record")


@pytest.mark.parametrize("p", np.geomspace(1e-6, 0.2, 13))
def test_a_chance_is_said_to_two_digits_as_once_in_so_many_times(p):
    said = float(re.fullmatch(r"about once in ([\d,]+) times", times(p))[1].replace(",", ""))
    assert said * p == pytest.approx(1, rel=0.1)
    assert times(p / 1e7) == "less than once in a million times"
    assert one_in(0.05, "picture") == "1 picture in 20"
