"""cost.csv: what the models that a method asks cost at the members' pace, and its scoring."""

import json

import pytest
import torch

from ddattr.codebook import Codebook
from ddattr.validation.plan import Plan
from ddattr.validation.tables.cost import costs


@pytest.fixture
def plan() -> Plan:
    labels, sizes = torch.arange(12) % 3, {"retrained_units": 5, "retrained_members": 2, "tuning_subsets": 4}
    return Plan(Codebook(12, 6, 2), {"label": labels}, 0, removal_sizes=(1,), **sizes)


@pytest.fixture
def root(tmp_path, plan):
    """Every member took 2 s and 1,000 bytes, every other model 3 s and 500; a base, if it is asked, 20 s and 3,000."""

    def make(folder, seconds, memory, size):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"wall_seconds": seconds, "peak_memory_mb": memory}))
        (folder / "below").mkdir()
        (folder / "below" / "weights").write_bytes(b"0" * (size - (folder / "manifest.json").stat().st_size))

    for k in range(6):
        make(tmp_path / "members" / f"{k:03d}", 2.0, 300.0, 1000)
    make(tmp_path / "base", 20.0, 350.0, 3000)
    for model in [plan.full(0), *plan.tuning_models()]:
        make(tmp_path / "validation" / "retraining" / model.name, 3.0, 400.0, 500)
    make(tmp_path / "attribution" / "default", 50.0, 900.0, 100)
    make(tmp_path / "validation" / "scores", 9.0, 5000.0, 100)  # of all methods together: no one's memory
    return tmp_path


def test_a_method_costs_the_models_it_asks_and_the_scoring(root, plan):
    methods = [
        "jvp",
        "jvp_gls",
        "loss",
        "trak",
        "gradient_dot",
        "pixel",
        "datamodel_trak",
    ]  # no fork: the base is not theirs
    seconds = {"loss": 1.5, "trak": 7.0, "dtrak": 7.0, "gradient_dot": 2.5, "datamodel_trak": 1.5}
    table = costs(root, plan, 100, seconds, MEMORY, methods).set_index("method")
    assert table.trainings.to_dict() == {
        "jvp": 6,
        "jvp_gls": 6,
        "loss": 6,
        "trak": 5,
        "gradient_dot": 1,
        "pixel": 0,
        "datamodel_trak": 7,
    }
    assert table.training_steps.to_dict() == {m: 100 * count for m, count in table.trainings.items()}
    assert table.seconds.to_dict() == {
        "jvp": 62.0,
        "jvp_gls": 62.0,
        "loss": 13.5,
        "trak": 17.0,
        "gradient_dot": 4.5,
        "pixel": 0.0,
        "datamodel_trak": 22.5,
    }
    assert table.memory_mb.to_dict() == {
        "jvp": 900.0,
        "jvp_gls": 900.0,
        "loss": 700.0,
        "trak": 1200.0,
        "gradient_dot": 400.0,
        "pixel": 0.0,
        "datamodel_trak": 1200.0,
    }
    assert table.disk_mb["jvp"] == pytest.approx(6e-3)
    assert table.disk_mb["trak"] == pytest.approx(2.5e-3)
    assert table.disk_mb["pixel"] == 0


MEMORY = {"loss": 700, "trak": 1200, "dtrak": 1100, "denoised_posterior@5": 200, "feature": 50}
SECONDS = {"loss": 1.5, "trak": 7.0, "dtrak": 7.0, "gradient_dot": 2.5, "datamodel_trak": 1.5, "feature": 0.5}
METHODS = [
    "jvp",
    "loss",
    "member_loss",
    "trak",
    "gradient_dot",
    "unlearning",
    "pixel",
    "random",
    "feature",
    "datamodel_trak",
    "adjusted",
]
OF_MEMBERS, FREE = ["jvp", "loss", "member_loss", "datamodel_trak", "adjusted"], ["pixel", "random", "feature"]


def test_members_that_are_forks_cost_their_own_steps_and_their_base_once(root, plan):
    """30 steps each of six members, and 100 of the base; every other model is trained whole."""
    whole = costs(root, plan, 100, SECONDS, MEMORY, METHODS).set_index("method")
    forks = costs(root, plan, 100, SECONDS, MEMORY, METHODS, fork=30).set_index("method")
    others = whole.trainings - 6 * whole.index.isin(OF_MEMBERS)
    assert others.to_dict() == {
        "jvp": 0,
        "loss": 0,
        "member_loss": 0,
        "trak": 5,
        "gradient_dot": 1,
        "unlearning": 5,
        "pixel": 0,
        "random": 0,
        "feature": 0,
        "datamodel_trak": 1,
        "adjusted": 5,
    }
    for method in METHODS:
        more = int(method in OF_MEMBERS)
        assert forks.trainings[method] == whole.trainings[method] + more
        assert forks.training_steps[method] == 100 * others[method] + (6 * 30 + 100) * more
        pace = (6 * 2.0 + 20.0) / (6 * 30 + 100)  # of forks and base
        assert forks.training_seconds[method] == pytest.approx(forks.training_steps[method] * pace)
        assert forks.scoring_seconds[method] == whole.scoring_seconds[method]
        assert forks.disk_mb[method] == pytest.approx(whole.disk_mb[method] + 3e-3 * more)


@pytest.mark.parametrize(("fork", "others", "steps"), [(None, 0, 500), (30, 1, 250)])
def test_part_of_the_ensemble_costs_its_members_and_its_own_scoring(root, plan, fork, others, steps):
    """And the base that forks have in common; nothing of `attribute`, which asks all members."""
    seconds = {"denoised_posterior@5": 4.0, "denoised_posterior": 1.0, "dtrak": 7.0, "adjusted": 1.0}
    table = costs(root, plan, 100, seconds, MEMORY, ["denoised_posterior@5", "denoised_posterior"], fork).set_index(
        "method"
    )
    assert table.trainings.tolist() == [5 + others, 6 + others]
    assert table.training_steps.tolist()[0] == steps
    assert table.scoring_seconds.tolist() == [4.0, 51.0]
    assert table.memory_mb.tolist() == [350.0 if fork else 300.0, 900.0]  # of training; of `attribute`
    assert table.disk_mb.tolist() == pytest.approx([5e-3 + 3e-3 * others, 6e-3 + 3e-3 * others])


@pytest.mark.parametrize("fork", [None, 30])
def test_similarities_ask_no_model(root, plan, fork):
    table = costs(root, plan, 100, SECONDS, MEMORY, FREE, fork).set_index("method")
    assert (table[["trainings", "training_steps", "training_seconds", "disk_mb"]] == 0).all(axis=None)
    assert table.seconds.to_dict() == {"pixel": 0.0, "random": 0.0, "feature": 0.5}
    assert table.memory_mb.to_dict() == {"pixel": 0.0, "random": 0.0, "feature": 50.0}


@pytest.mark.parametrize(
    ("peers", "more"),
    [(("trak", "dtrak"), 5), (("dtrak",), 5), (("gradient_dot", "unlearning"), 0), ((), 0)],
)
def test_the_surrogate_s_models_are_part_of_what_is_adjusted_by_it(root, plan, peers, more):
    """The surrogate is dtrak, or features, which cost no model."""
    seconds = dict.fromkeys((*peers, "adjusted", "feature"), 1.0)
    table = costs(root, plan, 100, seconds, MEMORY, ["adjusted"])
    assert table.trainings.tolist() == [6 + more]
    assert table.training_seconds.tolist() == [(6 + more) * 2.0]
    assert table.scoring_seconds.tolist() == [1.0 + ("dtrak" in peers)]


def test_features_of_gradients_are_of_the_model_of_all_units_and_cost_what_makes_them(root, plan):
    """Either of the two peers does; no tuning changes them, so that the models for tuning are not theirs."""
    for peer in ("trak", "dtrak"):
        table = costs(root, plan, 100, {peer: 1.0}, MEMORY, ["datamodel_trak", "datamodel_both", "datamodel"])
        assert table.trainings.tolist() == [7, 7, 6]
        assert table.scoring_seconds.tolist() == [1.0, 1.0, 0.0]


def test_a_datamodel_of_some_members_that_asks_the_model_of_all_units_costs_one_training_more(root, plan):
    """With gradients of it: as many trainings as one more member."""
    seconds = {"datamodel_both@4": 2.0, "datamodel@5": 2.0, "trak": 7.0}
    table = costs(root, plan, 100, seconds, MEMORY, ["datamodel_both@4", "datamodel@5"])
    assert table.trainings.tolist() == [5, 5]
    assert table.scoring_seconds.tolist() == [9.0, 2.0]
    assert table.memory_mb.tolist() == [1200.0, 300.0]


def test_the_order_of_d_trak_costs_the_model_of_all_units_and_its_gradients(root, plan):
    """As many trainings as one member more; and, of the whole ensemble, what `attribute` took."""
    seconds = {"denoised_dtrak@4": 2.0, "denoised_dtrak": 1.0, "dtrak": 7.0}
    table = costs(root, plan, 100, seconds, MEMORY, ["denoised_dtrak@4", "denoised_dtrak"])
    assert table.trainings.tolist() == [5, 7]
    assert table.scoring_seconds.tolist() == [9.0, 58.0]


def test_leaving_each_out_costs_a_training_a_group_and_the_model_of_all_units(root, plan):
    """Three labels, and no member."""
    table = costs(root, plan, 100, SECONDS, MEMORY, ["leave_one_out"])
    assert table.trainings.tolist() == [4]
    assert table.training_steps.tolist() == [400]
    assert table.training_seconds.tolist() == [4 * 2.0]
    assert table.scoring_seconds.tolist() == [0.0]
