"""Every YAML file composes, and its keys are the constructor's; experiments are what they say they are."""

import inspect
import re
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import composed
from diffusers import DDPMScheduler
from hydra.utils import get_object, instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ddattr import cli
from ddattr.codebook import default_weight
from ddattr.diffusion.sampler import DDPM
from ddattr.files import load_json, load_tensors
from ddattr.schema import KEYS, check_keys
from ddattr.stages import train, training
from ddattr.stages.run import Run

CONF = Path(cli.conf())
GROUPS = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.glob("*/*.yaml"))
OWN = "experiment/own"  # whose nulls a rule fills in: test_rule
EXPERIMENTS = [name.partition("/")[2] for name in GROUPS if name.startswith("experiment/") and name != OWN]
IDX = ("paper_mnist", "fashion", "fashion_small")  # experiments on files that do not come with the product
# emoji are built of made pictures in test_fetching
FETCHED = (*IDX, "emoji", "emoji_32", "emoji_faces", "emoji_base", "emoji_artists")
SWEEPS = sorted((CONF.parent / "sweeps").glob("*.yaml"))


def override(name: str) -> list[str]:
    group, _, option = name.rpartition("/")
    return [f"{group}={option}", *(["name=x"] if group == "experiment" else [])]


@pytest.mark.parametrize("name", [name for name in GROUPS if name != OWN])
def test_every_file_composes_to_keys_that_somebody_reads(name):
    config = composed(*override(name))
    check_keys(config)
    assert set(config) == KEYS
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("name", [name for name in GROUPS if not name.startswith("experiment/")])
def test_every_file_names_its_constructor_and_gives_it_what_it_takes(name):
    node = composed(*override(name))[name.partition("/")[0]]
    signature = inspect.signature(get_object(node._target_))
    given_ = set(node) - {"_target_"}
    assert given_ <= set(signature.parameters)


@pytest.mark.parametrize(
    "name",
    [
        "diffusion/linear",
        "unet/small",
        "sampler/ddim",
        "sampler/ddpm",
        "data/digits",
        "tracking/none",
        "tracking/offline",
        "trainer/default",
    ],
)
def test_every_light_file_builds_what_its_group_is_called_after(name):
    assert instantiate(composed(*override(name))[name.partition("/")[0]], _convert_="all") is not None


@pytest.mark.parametrize("experiment", [e for e in EXPERIMENTS if e not in FETCHED])
def test_every_experiment_builds_its_codebook_process_and_member(experiment):
    run = Run(composed(f"experiment={experiment}", "tracking=none"))
    assert run.config.name == experiment
    assert run.codebook.phantoms > 0
    assert len(run.reverse) == run.config.sampler.steps
    run.check()
    assert training.build(run, run.codebook.members - 1).steps == run.config.training.steps


def test_the_default_is_digits_with_18_members_of_weight_8():
    run = Run(composed())
    assert (run.config.name, run.config.root, run.seed) == ("digits", "runs/digits", 0)
    assert (run.codebook.units, run.codebook.members, run.codebook.weight) == (1797, 18, 8)
    assert run.config.attribution.queries >= 16
    assert run.config.attribution.ablation_units == 64


def test_digits_clusters_is_a_hundred_units_of_64_members():
    run = Run(composed("experiment=digits_clusters"))
    assert (run.codebook.units, run.codebook.members, run.codebook.weight) == (100, 64, 28)
    assert run.data.kind == "cluster"


@pytest.mark.parametrize("experiment", [e for e in EXPERIMENTS if e not in (*FETCHED, "digits_labels")])  # of ten units
@pytest.mark.parametrize("members", [24, 32])
def test_members_is_one_dial_of_every_experiment(experiment, members):
    """Nothing that follows from it is pinned: the weight, the sizes of ensembles, those of parts."""
    run = Run(composed(f"experiment={experiment}", f"codebook.members={members}", "tracking=none"))
    run.check()
    assert run.codebook.weight == default_weight(members)
    assert run.validation is not None


def test_an_experiment_that_pins_the_weight_says_so_in_its_file():
    for path in (CONF / "experiment").glob("*.yaml"):
        assert not re.search(r"\bsizes:", path.read_text())
        pinned = [line for line in path.read_text().splitlines() if "weight:" in line]
        assert all("pinned" in line for line in pinned)


@pytest.mark.parametrize(("members", "weight"), [(18, 8), (64, 28), (12, 5), (32, 14)])
def test_the_weights_that_experiments_had_are_what_the_dial_gives(members, weight):
    assert default_weight(members) == weight


@pytest.mark.slow
@settings(max_examples=15)
@given(
    members=st.integers(2, 64),
    weight=st.integers(1, 63),
    seed=st.integers(0, 2**63 - 1),
    steps=st.integers(1, 10**6),
    draws=st.sampled_from(["common", "independent"]),
)
def test_overrides_arrive_and_the_suggested_command_brings_them_back(members, weight, seed, steps, draws):
    given_ = [
        f"codebook.members={members}",
        f"codebook.weight={weight}",
        f"seed={seed}",
        f"training.steps={steps}",
        f"training.draws={draws}",
    ]
    run = Run(composed(*given_), ["stage=plan", *given_])
    config = run.resolved()
    assert config["codebook"] == {
        "_target_": "ddattr.codebook.encode",
        "members": members,
        "weight": weight,
        "seed": seed,
        "design": "random",
    }
    assert (config["seed"], config["data"]["seed"]) == (seed, seed)
    assert (config["training"]["steps"], config["training"]["draws"]) == (steps, draws)
    verb, *overrides = shlex.split(run.command("plan"))[1:]
    assert Run(composed(f"stage={verb}", *overrides)).resolved() == config


@pytest.fixture
def idx_files(tmp_path) -> list[str]:
    """Overrides that point at a small MNIST of random pictures."""

    def write(name: str, array: np.ndarray) -> Path:
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / name).write_bytes(header + array.tobytes())
        return tmp_path / name

    draw = np.random.default_rng(0)
    images = write("images", draw.integers(0, 256, (40, 28, 28), np.uint8))
    labels = write("labels", draw.integers(0, 10, 40, np.uint8))
    source = [f"data.source.images={images}", f"data.source.labels={labels}"]
    return [*source, "quality.extractor_steps=2", f"root={tmp_path / 'run'}"]  # 400 would be all that these tests take


def test_paper_mnist_is_the_published_setting(idx_files):
    run = Run(composed("experiment=paper_mnist", *idx_files))
    config, scheduler = run.resolved(), run.process.scheduler
    assert (run.codebook.members, run.codebook.weight) == (16, 8)
    training = config["training"]
    assert (training["batch"], training["learning_rate"], training["steps"]) == (128, 2e-4, 19_500)
    assert (training["weight_decay"], training["ema"], training["draws"]) == (0, None, "independent")
    assert isinstance(scheduler, DDPMScheduler)
    assert torch.equal(scheduler.betas, torch.linspace(1e-4, 0.02, 1000))
    assert isinstance(run.build("sampler"), DDPM)
    assert len(run.reverse) == 1000
    network = run.network(0)
    channels = [block.resnets[0].out_channels for block in network.down_blocks]
    assert channels == [128 * multiple for multiple in (1, 2, 2)]
    assert (network.config.in_channels, network.config.sample_size) == (1, [28, 28])
    assert run.data.shape == (1, 28, 28)


def test_the_published_optimiser_is_adam_at_a_constant_rate(idx_files):
    """AdamW without weight decay is Adam; the reference has no schedule."""
    module = training.build(Run(composed("experiment=paper_mnist", *idx_files)), 0)
    assert [module._rate(step) for step in (0, 1, 9_750, 19_499)] == [1, 1, 1, 1]


def test_fashion_has_clusters_for_units_and_32_members(idx_files):
    run = Run(composed("experiment=fashion", *idx_files, "data.clusters=30"))
    assert (run.data.kind, run.codebook.units, run.codebook.members) == ("cluster", 30, 32)
    assert composed("experiment=fashion").data.clusters == 100


@pytest.mark.slow
@pytest.mark.parametrize("experiment", IDX)
def test_experiments_on_idx_files_train_a_step_on_files_of_their_format(idx_files, experiment):
    run = Run(
        composed(
            f"experiment={experiment}",
            *idx_files,
            "member=3",
            "training.steps=1",
            "training.batch=2",
            "training.epoch_steps=1",
            "data.clusters=30",
            "data.holdout=0",
            "tracking=none",
        )
    )
    before = run.network(3).state_dict()
    train.run(run)
    folder = run.member_artifact(3).folder
    after = load_tensors(folder / "member.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert load_json(folder / "status.json")["state"] == "done"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_is_a_grid_whose_command_composes(path):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] in ("grid", "random", "bayes")
    assert {"name", "goal"} <= set(sweep.get("metric", {"name", "goal"}))
    command = [word for word in sweep["command"] if not word.startswith("${")]
    assert command[0] == "ddattr"
    verb, *fixed = command[1:]
    assert verb in cli.VERBS
    for name, parameter in sweep["parameters"].items():
        values = parameter.get("values", [parameter.get("value", parameter.get("min"))])
        for value in (values[0], values[-1]):
            Run(composed(f"stage={verb}", *fixed, f"{name}={value}"))


def test_the_sweep_over_members_names_every_member_of_its_experiment():
    sweep = yaml.safe_load((CONF.parent / "sweeps" / "members.yaml").read_text())
    fixed = [word for word in sweep["command"] if "=" in word]
    assert sweep["parameters"]["member"]["values"] == list(range(Run(composed(*fixed)).codebook.members))


def test_a_whole_number_is_one_that_may_have_decimals_and_no_other_type_is():
    assert Run(composed("experiment=digits", "sampler=ddim", "sampler.eta=1")).config.sampler.eta == 1
    for wrong in ("sampler.eta=true", "sampler.eta=much", "sampler.steps=2.5"):
        with pytest.raises(ValueError, match=r"^sampler\.\w+=\S+ is a \w+, expected (int|float)\. Set sampler\.\w+\.$"):
            Run(composed("experiment=digits", "sampler=ddim", wrong))
