"""What a run is when nobody says: by the size and number of its pictures, and never against what is given."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import composed
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from ddattr.codebook import encode, fewest_units, smallest
from ddattr.schema import check_keys
from ddattr.stages import plan
from ddattr.stages.rule import named, open_keys, ruled
from ddattr.stages.run import Run

OPEN = composed("experiment=own", "data=folder")


def data(side: int, count: int, units: int = 30) -> SimpleNamespace:
    return SimpleNamespace(shape=(3, side, side), images=range(count), units=units, kind="folder")


def rule(side: int, count: int, units: int = 30, **given_) -> tuple:
    """Channels, steps and members."""
    config = OmegaConf.merge(OPEN, given_)
    said = ruled(config, data(side, count, units))
    assert f"{count:,} pictures of 3 x {side} x {side}, {units:,} units by folder" in said
    return config.unet.block_out_channels, config.training.steps, config.codebook.members


sides, counts = st.integers(4, 300), st.integers(2, 10**7)


@given(sides, sides, counts, counts)
def test_larger_and_more_pictures_get_no_less(one, other, few, many):
    (one, other), (few, many) = sorted((one, other)), sorted((few, many))
    small, large = rule(one, few), rule(other, many)
    assert len(small[0]) <= len(large[0])
    assert sum(small[0]) <= sum(large[0])
    assert small[1] <= large[1]


@given(st.integers(1, 10**5))
def test_members_are_20_or_as_many_as_let_one_unit_show(units):
    assert rule(8, 100, units + 30)[2] == max(20, smallest(units + 30, 0.01))


@given(st.integers(3, 40), st.integers(0, 100))
def test_of_few_units_every_member_sees_some(units, seed):
    """And one member more would leave one without, or be beyond the rule."""
    members = rule(8, 100, units, seed=seed)[2]
    assert fewest_units(encode(units, members, seed=seed)) <= units
    if members < max(20, smallest(units, 0.01)):
        with pytest.raises(ValueError, match=r"^codebook: "):
            encode(units, members + 1, seed=seed)


def test_2000_small_pictures_get_what_the_digits_experiment_has():
    assert rule(8, 2000)[:2] == ([16, 32], 800)


@given(sides, counts)
def test_what_is_given_is_not_changed(side, count):
    config = OmegaConf.merge(OPEN, {"training": {"steps": 7}, "unet": {"block_out_channels": [4, 8]}})
    ruled(config, data(side, count))
    assert (config.training.steps, config.unet.block_out_channels) == (7, [4, 8])
    untouched = [key for key in OPEN if key not in ("codebook", "training", "unet")]
    assert all(config[key] == OPEN[key] for key in untouched if not OmegaConf.is_missing(OPEN, key))
    assert not open_keys(config)
    assert ruled(OmegaConf.merge(config, {"training": {"steps": None}}), data(side, count)).endswith(
        f"training.steps={rule(side, count)[1]}"
    )


@pytest.mark.parametrize("side", [4, 12, 16, 20, 28, 32, 64])
def test_the_network_of_the_rule_takes_the_pictures(side):
    """As many blocks as channels, and nothing that the schema does not know."""
    config = OmegaConf.merge(OPEN, {"name": "x"})
    ruled(config, data(side, 100))
    check_keys(config)
    assert len(config.unet.down_block_types) == len(config.unet.up_block_types) == len(config.unet.block_out_channels)
    config.stage = "plan"
    run = Run(config)
    run.data = SimpleNamespace(shape=(3, side, side))
    seen = torch.zeros(1, 3, side, side)
    assert run.network(0)(seen, torch.zeros(1, dtype=torch.long)).shape == seen.shape


@pytest.mark.parametrize(
    ("data", "key", "place", "name"),
    [
        ("folder", "path", "/somewhere/my cats/", "my-cats"),
        ("folder", "path", "pictures", "pictures"),
        ("folder", "path", "x/ünï 日本", "ünï-日本"),
        ("arrays", "path", "/data/cifar.train.npz", "cifar"),
        ("hub", "path", "someone/emoji", "emoji"),
        ("idx", "images", "data/t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte"),
    ],
)
def test_a_run_bears_the_name_of_its_data(data, key, place, name):
    config = composed("experiment=own", f"data={data}", f"data.source.{key}='{place}'")
    named(config)
    assert config.name == name
    given_ = composed("experiment=own", f"data={data}", f"data.source.{key}='{place}'", "name=mine")
    named(given_)
    assert given_.name == "mine"


def pictures(root, count: int = 30) -> None:
    for place in range(count):
        path = root / f"{place % 10}" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(place).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


@pytest.mark.usefixtures("untimed")
def test_a_folder_alone_is_enough_for_a_plan(tmp_path, monkeypatch, ddattr):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures(tmp_path / "my cats")
    said = ddattr("plan", "data=folder", "data.source.path=my cats")
    assert said.status == 0, said.err
    first = said.out.splitlines()[0]
    assert first.startswith("by rule, for 29 pictures of 3 x 8 x 8, 10 units by folder: ")
    for value in first.partition("folder: ")[2].replace(", ", ",").split():
        again = ddattr("plan", "data=folder", "data.source.path=my cats", value)
        assert value.partition("=")[0] not in again.out.splitlines()[0]


def test_the_values_of_the_rule_are_saved(tmp_path, monkeypatch):
    """So that the folder's config has nothing open."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures(tmp_path / "cats")
    words = ["experiment=own", "data=folder", f"data.source.path={tmp_path / 'cats'}", f"root={tmp_path / 'run'}"]
    run = Run(composed(*words), words)
    run.save_config()
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["name"] == "cats"
    assert saved["unet"]["block_out_channels"] == [16, 32]
    assert (saved["codebook"]["members"], saved["training"]["steps"]) == (run.codebook.members, 600)
    assert not open_keys(OmegaConf.create(saved))


def test_data_of_an_experiment_have_no_rule(make_run):
    run = make_run()
    assert run.rule == ""
    assert plan.describe(run.codebook)
