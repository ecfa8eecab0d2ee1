"""A run in a notebook."""

import shutil

import pandas as pd
import pytest
import torch
from conftest import TINY, composed

from ddattr import jacobian, load
from ddattr.attribution.methods import SUPPORT, TESTED
from ddattr.files import load_table, load_tensors, save_table
from ddattr.stages import attribute
from ddattr.stages.run import Run


@pytest.fixture(scope="module")
def attributed(trained, tmp_path_factory):
    """The tiny members, and what `attribute` made of them."""
    root = shutil.copytree(trained, tmp_path_factory.mktemp("attributed") / "run")
    attribute.run(Run(composed(*TINY, f"root={root}")))
    return root


@pytest.mark.slow
def test_from_nothing_to_the_best_units_of_a_picture(attributed, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(attributed, tmp_path / "moved" / "run").parent)
    # begins
    import ddattr

    run = ddattr.load("run")
    picture = run.pictures[2]
    best = run.best(2, k=3)
    near = run.data.images[best.unit[0]]
    # ends
    assert picture.shape == near.shape == (1, 8, 8)
    assert list(best) == ["unit", "name", "support", "p_value", "q_value", "z"]
    assert len(best) == 3
    assert best.support.is_monotonic_decreasing


def test_best_units_are_those_of_the_tables(attributed):
    best = load(attributed).best(1, k=12)
    table = load_table(attributed / "attribution" / "default" / "influence.parquet")
    table = table[(table["query"] == 1) & (table.measure == "pull")].set_index(["method", "unit"])
    assert sorted(best.unit) == list(range(12))
    for row in best.itertuples():
        assert row.support == table.score[SUPPORT, row.unit]
        tested = table.loc[(TESTED, row.unit)]
        assert (row.p_value, row.q_value, row.z) == (tested.p_value, tested.q_value, tested.z)


def test_units_have_their_names_where_the_run_has_them(attributed, tmp_path):
    root = shutil.copytree(attributed, tmp_path / "run")
    (root / "units.parquet").unlink(missing_ok=True)
    assert "name" not in load(root).best(0)
    with pytest.raises(FileNotFoundError, match=r"^[^\n]*units.parquet is missing[^\n]*$"):
        _ = load(root).units
    names = pd.DataFrame({"unit": range(12), "name": [f"digit {i}" for i in range(12)], "label": 7, "pictures": 1})
    save_table(root / "units.parquet", names)
    best = load(root).best(0, k=2)
    assert list(best.name) == [f"digit {unit}" for unit in best.unit]
    assert len(load(root).units) == 12


def test_what_was_made_is_as_it_lies_in_the_folder(attributed):
    run = load(str(attributed))
    stored = load_tensors(attributed / "attribution" / "default" / "queries.safetensors")
    assert list(run.pictures) == stored["seeds"].tolist() == run.queries["query"].tolist()
    assert torch.equal(torch.stack(list(run.pictures.values())), stored["factual"])
    assert set(run.influence["query"]) == set(run.pictures)
    assert run.config["training"]["steps"] == 20
    assert len(run.ensemble) == run.codebook.members == 6
    assert repr(run) == f"ddattr.load('{attributed}')"


def test_the_tape_makes_the_pictures_again(attributed):
    run = load(attributed)
    again, _ = jacobian(run.ensemble, run.tape([3]), run.reverse, members_per_step=2)
    torch.testing.assert_close(again[0], run.pictures[3], rtol=1e-4, atol=1e-4)
    assert run.process is not None


def test_what_was_not_made_says_which_command_makes_it(trained, attributed, tmp_path):
    run = load(trained)
    for name in ("queries", "influence", "attributions", "pictures"):
        with pytest.raises(FileNotFoundError, match=rf"^[^\n]* is missing. Make it: ddattr attribute {trained}$"):
            getattr(run, name)
    root = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(root / "members" / "002")
    with pytest.raises(FileNotFoundError, match=rf"member 2 of 6 is missing. Train it: ddattr train {root} member=2$"):
        _ = load(root).ensemble
    with pytest.raises(ValueError, match=r"^query=9, expected one of 0, 1, 2, 3. Name it by its seed.$"):
        load(attributed).best(9)
