"""The query sets of a run: where they lie, what they are named, and what asking another one leaves alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, contents, refused, shapes
from PIL import Image

import ddattr as product
from ddattr.artifacts import Artifact
from ddattr.attribution.places import DEFAULT, default_folder, located, query_sets
from ddattr.attribution.queries import QuerySet
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.sources.digits import digits
from ddattr.data.sources.folder import folder
from ddattr.files import load_json, load_table, save_json


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


@pytest.mark.slow
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


# -- what is asked


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """A folder: two digits as files, one of them of another size, one below; what is no picture; and pure noise."""
    root = tmp_path_factory.mktemp("scans")
    (root / "below").mkdir()
    images = ((digits().images[[3, 700], 0] + 1) * 127.5).round().byte().numpy()
    Image.fromarray(images[0]).save(root / "a digit.png")
    Image.fromarray(images[1]).resize((50, 50)).save(root / "below" / "b.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(noise).save(root / "noise.png")
    (root / "notes.txt").write_text("no picture")
    return root


def asked(*pictures, **given) -> QuerySet:
    return QuerySet(pictures=[str(path) for path in pictures], **given)


def test_files_are_each_once_in_the_order_given_and_those_of_a_folder_by_name(scans):
    found = asked(scans / "noise.png", scans, scans / "below").files
    assert [file.name for file in found] == ["noise.png", "a digit.png", "below/b.jpg"]


def test_a_training_picture_given_as_a_file_is_its_own_row_to_the_bit(tmp_path):
    """Of any size and colour, as the data's own source makes its pictures."""
    draw = np.random.default_rng(0)
    for i, mode in enumerate(("RGB", "L", "RGBA", "P")):
        raw = draw.integers(0, 256, (20 + 7 * i, 31, 4), dtype=np.uint8)
        Image.fromarray(raw, "RGBA").convert(mode).save(tmp_path / f"{i}.png")
    data = UnitDataModule(folder(str(tmp_path), size=12, background=100, cache=str(tmp_path / "cache")))
    pictures = asked(tmp_path).asked(data, 0).pictures
    assert torch.equal(pictures, data.images[:])
    alone = asked(tmp_path / "2.png").asked(data, 0)
    assert torch.equal(alone.pictures[0], data.images[2])
    assert alone.names == ["2.png"]


def test_pictures_of_data_that_are_no_files_are_made_as_large_and_of_as_many_channels(scans):
    pictures = asked(scans).asked(UnitDataModule(shapes()), 0).pictures
    assert pictures.shape == (3, 3, 6, 10)
    assert pictures.min() >= -1
    assert pictures.max() <= 1


def test_a_set_is_named_by_what_is_asked_however_it_is_said(scans, tmp_path):
    copy = shutil.copytree(scans, tmp_path / "elsewhere")
    one = asked(scans)
    assert one.title == asked(copy).title
    assert one.title.startswith("a_digit-")
    assert QuerySet(seeds=[9, 3]).title == QuerySet(seeds=[3, 9]).title
    assert QuerySet(seeds=[9, 3]).title.startswith("seeds-3-9-")
    others = [asked(scans, invert=True), asked(scans, invert=True, inversions=2), asked(scans / "a digit.png")]
    others += [QuerySet(seeds=[3, 9]), QuerySet(seeds=[3, 4, 9])]
    assert len({each.title for each in [one, *others]}) == 6
    assert asked(scans, inversions=2).title == one.title  # of nothing that is inverted
    assert asked(scans, name="mine").title == "mine"
    assert QuerySet().title == DEFAULT
    Image.new("L", (8, 8)).save(copy / "a digit.png")
    assert asked(copy).title != one.title


def test_a_file_s_name_that_no_folder_can_have_names_no_folder(tmp_path):
    for name in ("..png", "=.png", "a b/c:d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(path, "PNG")
        title = asked(path).title
        assert QuerySet(seeds=[1], name=title).title == title


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seeds": [1], "pictures": ["a.png"]}, "pictures and seeds, expected one of them"),
        ({"seeds": [4, 1, 4]}, "seeds has 4 twice, expected every seed once"),
        ({"seeds": [-1]}, "seeds=-1, expected 0 to 2^63 - 1"),
        ({"seeds": []}, "seeds=[], expected one or more"),
        ({"pictures": []}, "pictures=[], expected one or more"),
        ({"invert": True}, "invert=true without pictures"),
        ({"seeds": [1], "invert": True}, "invert=true without pictures"),
        ({"pictures": ["a.png"], "inversions": 0}, "inversions=0, expected 1 or more"),
        ({"seeds": [1], "name": "default"}, "name=default, which is the run's own set"),
        ({"seeds": [1], "name": "a/b"}, "name=a/b, expected 1 to 80 letters"),
        ({"seeds": [1], "name": ""}, "name=, expected 1 to 80 letters"),
        ({"name": "mine"}, "name=mine of no queries"),
    ],
)
def test_what_cannot_be_asked_is_refused(given, words):
    with pytest.raises(ValueError, match=r"^queries: ") as refusal:
        QuerySet(**given)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_files_that_cannot_be_read_are_refused_by_their_paths(scans, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    data = UnitDataModule(shapes())
    for path, kind, words in (
        (scans / "none.png", FileNotFoundError, "none.png is missing, expected a picture or a folder of pictures"),
        (scans / "notes.txt", ValueError, "notes.txt cannot be read: it is no picture, or damaged"),
        (empty, ValueError, "empty has no image file"),
    ):
        with pytest.raises(kind, match=r"^queries: ") as refusal:
            _ = asked(path).content, asked(path).asked(data, 0)
        assert words in str(refusal.value)
        assert "data.source" not in str(refusal.value)


# -- of a run


@pytest.fixture(scope="module")
def finished(trained, tmp_path_factory):
    """The tiny members with the run's own set, as a command line makes it; copy it, do not touch it."""
    root = shutil.copytree(trained, tmp_path_factory.mktemp("finished") / "run")
    product.load(root).attribute()
    return root


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.slow
def test_another_set_touches_nothing_that_exists_and_asks_for_no_name(ddattr, run, scans):
    before, quiet = contents(run), "tracking=none"
    said = [
        ddattr("attribute", str(run), f"queries.pictures=['{scans}']", quiet),
        ddattr("attribute", str(run), "queries.seeds=[7,2]", "significance.level=0.1", quiet),
        ddattr("attribute", str(run), f"queries.pictures=['{scans}/noise.png']", "queries.invert=true", quiet),
    ]
    assert [each.status for each in said] == [0, 0, 0], said
    after = contents(run)
    assert {name: after[name] for name in before} == before
    assert list(query_sets(run)) == [DEFAULT, *sorted(set(query_sets(run)) - {DEFAULT})]
    assert len(query_sets(run)) == 4
    assert {name.partition("/")[0] for name in set(after) - set(before)} <= {"attribution", "wandb"}
    again = ddattr("attribute", str(run), "queries.seeds=[2,7]", "tracking=none", "significance.level=0.1")
    assert "attribute: already done" in again.out
    assert {name: content for name, content in contents(run).items() if name in after} == after

    assert "3 queries" in said[0].out
    assert "1 unlike the data: noise.png" in said[0].out
    assert "inverted: replayed to within" in said[2].out
    status = ddattr("status", str(run)).out
    for name in set(query_sets(run)) - {DEFAULT}:
        count = len(load_table(query_sets(run)[name] / "queries.csv"))
        assert f"  query set {name}: done, {count} queries" in status


@pytest.mark.slow
def test_a_picture_by_the_command_line_and_in_python_is_the_same_to_the_bit(ddattr, finished, scans, tmp_path):
    typed, called = (shutil.copytree(finished, tmp_path / name) for name in ("typed", "called"))
    files = [str(scans / "a digit.png"), str(scans / "below")]
    for options in ({}, {"invert": True, "inversions": 2}):
        words = [f"queries.{key}={str(value).lower()}" for key, value in options.items()]
        said = ddattr("attribute", str(typed), f"queries.pictures=['{files[0]}','{files[1]}']", *words, "tracking=none")
        assert said.status == 0, said.err
        found = product.load(called).attribute(pictures=files, **options)
        assert found.folder.name in query_sets(typed)
        one, other = (contents(root / "attribution" / found.name) for root in (typed, called))
        assert sorted(one) == sorted(other)
        for name in set(one) - {"manifest.json"}:
            assert one[name][1] == other[name][1], name


def test_in_python_a_set_has_its_own_tables_and_the_run_its_own(run, scans):
    loaded = product.load(run)
    found = loaded.attribute(pictures=scans)
    assert list(found.pictures) == [0, 1, 2]
    assert found.queries.name.tolist() == ["a digit.png", "below/b.jpg", "noise.png"]
    assert found.queries.unlike_data.tolist()[-1]
    best = found.best(1, k=3)
    assert best.support.is_monotonic_decreasing
    assert list(best) == ["unit", "name", "support", "p_value", "q_value", "z"]
    with pytest.raises(ValueError, match=r"^query=3, expected one of 0, 1, 2\."):
        found.best(3)
    assert list(loaded.sets) == [DEFAULT, found.name]
    assert loaded.queries.equals(loaded.sets[DEFAULT].queries)
    assert len(loaded.queries) == 4
    seeds = loaded.attribute(seeds=[1, 3])
    own = loaded.influence.query("method == 'denoised_gls' and query in [1, 3]").score
    assert seeds.influence.query("method == 'denoised_gls'").score.tolist() == pytest.approx(own.tolist(), rel=1e-3)


def test_a_training_picture_ranks_itself_first_by_pixels_and_one_of_noise_is_unlike_the_data(run, tmp_path):
    """Digits are of 17 greys, which bytes round: to 1/255."""
    loaded = product.load(run)
    for i in range(12):
        pixels = ((loaded.data.images[i, 0] + 1) * 127.5).round().byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.png")
    found = loaded.attribute(pictures=[tmp_path / f"{i:02d}.png" for i in range(12)])
    pixel = found.influence.query("method == 'pixel'").pivot(index="unit", columns="query", values="score")
    assert pixel.idxmax().tolist() == loaded.data.unit_of.tolist()
    assert not found.queries.unlike_data.any()


def test_other_queries_of_the_run_itself_are_told_where_to_go(ddattr, run):
    said = ddattr("attribute", str(run), "attribution.first_query=100")
    refused(said, "made with attribution.first_query=0 (now 100)", "set queries.seeds or queries.pictures")


def test_a_name_that_another_set_has_is_refused(ddattr, run, scans):
    pictures = f"queries.pictures=['{scans / 'noise.png'}']"
    assert ddattr("attribute", str(run), pictures, "queries.name=mine", "tracking=none").status == 0
    said = ddattr("attribute", str(run), "queries.seeds=[1]", "queries.name=mine", "tracking=none")
    refused(said, "mine: ", "was made with", "Set queries.name to another, or delete that folder.")


@pytest.mark.parametrize(
    ("verb", "words", "expected"),
    [
        ("attribute", ["queries.pictures=[none.png]"], "queries: none.png is missing"),
        ("attribute", ["queries.pictures=a.png"], "queries.pictures=a.png, expected a list of str"),
        ("attribute", ["queries.seeds=[1,1]"], "queries: seeds has 1 twice"),
        ("attribute", ["queries.seeds=[-1]"], "queries: seeds=-1, expected 0 to"),
        ("attribute", ["queries.seeds=[1]", "queries.pictures=[a.png]"], "pictures and seeds, expected one of them"),
        ("attribute", ["queries.invert=true"], "invert=true without pictures"),
        ("attribute", ["queries.seeds=[1]", "queries.name=default"], "name=default, which is the run's own set"),
        ("report", ["queries.seeds=[1]"], "which `attribute` asks and no other verb does"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_leaves_nothing(ddattr, finished, verb, words, expected):
    before = contents(finished)
    refused(ddattr(verb, str(finished), *words), expected)
    assert contents(finished) == before


def test_a_sampler_without_noise_inverts_nothing(ddattr, run, scans):
    words = [f"queries.pictures=['{scans / 'noise.png'}']", "queries.invert=true", "sampler=ddim"]
    refused(ddattr("attribute", str(run), *words, "tracking=none"), "adds no noise", "Set sampler=ddpm.")
    assert len(query_sets(run)) == 1


def test_a_set_of_other_members_is_none_of_the_run(ddattr, run, scans):
    """It was made before members were trained again with another config."""
    words = [*TINY, f"root={run}", "queries.seeds=[1]", "queries.name=mine", "tracking=none"]
    assert ddattr("attribute", *words).status == 0
    folder = run / "attribution" / "mine"
    made = load_json(folder / "manifest.json") | {"parents": {"members": "0" * 16}}
    made["fingerprint"] = Artifact(folder, made["config"], made["parents"]).fingerprint
    save_json(folder / "manifest.json", made)
    assert "query set mine: made with another config" in ddattr("status", str(run)).out
    with pytest.raises(ValueError, match=r"mine was made with parents\.members=0{16}.*Delete that folder, and"):
        _ = product.load(run).sets["mine"].queries


@pytest.mark.slow
def test_the_report_is_made_again_when_there_is_another_set(ddattr, reproduced, tmp_path, scans):
    root = shutil.copytree(reproduced.root, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    assert "report      done" in ddattr("status", str(root)).out
    assert ddattr("attribute", str(root), f"queries.pictures=['{scans}']", "queries.name=scans").status == 0
    assert "report      out of date" in ddattr("status", str(root)).out
    before = {name: contents(root / name) for name in ("members", "quality", "attribution")}
    said = ddattr("report", str(root))
    assert "already done" not in said.out
    assert "query set default: 6 queries" in said.out
    assert "query set scans: 3 queries" in said.out
    assert "scans" in (root / "report.html").read_text()
    assert {name: contents(root / name) for name in before} == before
    assert "report: already done" in ddattr("report", str(root)).out
    assert "nothing: all is done" in ddattr("status", str(root)).out
