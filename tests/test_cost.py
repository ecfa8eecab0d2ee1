"""Cost: sums over the manifests of the models that a method asked."""

import json

import pytest
import torch

from ddattr.codebook import Codebook
from ddattr.validation.cost import costs
from ddattr.validation.retraining import Validation


@pytest.fixture
def plan() -> Validation:
    return Validation(
        Codebook(12, 6, 2), {"label": torch.arange(12) % 3}, 0, units=2, members=2, tuning=4, removed=(1,)
    )


@pytest.fixture
def root(tmp_path, plan):
    """Every member took 2 s and 1,000 bytes, every other model 3 s and 500."""

    def make(folder, seconds, memory, size):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"wall_seconds": seconds, "peak_memory_mb": memory}))
        (folder / "member.safetensors").write_bytes(b"0" * (size - (folder / "manifest.json").stat().st_size))

    for k in range(6):
        make(tmp_path / "members" / f"{k:03d}", 2.0, 300.0, 1000)
    for model in [plan.full(0), *plan.tuning_models()]:
        make(tmp_path / "validation" / "retraining" / model.name, 3.0, 400.0, 500)
    make(tmp_path / "attribution", 50.0, 900.0, 100)
    make(tmp_path / "validation" / "scores", 9.0, 700.0, 100)
    return tmp_path


def test_a_method_costs_the_models_it_asks_and_the_scoring(root, plan):
    methods = ["jvp", "loss", "trak", "gradient_dot", "pixel", "datamodel_trak"]
    seconds = {"loss": 1.5, "trak": 7.0, "dtrak": 7.0, "gradient_dot": 2.5, "datamodel_trak": 1.5}
    table = costs(root, plan, 100, seconds, methods).set_index("method")
    assert table.trainings.to_dict() == {"jvp": 6, "loss": 6, "trak": 5, "gradient_dot": 1, "pixel": 0,
                                         "datamodel_trak": 11}  # fmt: skip
    assert table.training_steps.to_dict() == {m: 100 * count for m, count in table.trainings.items()}
    assert table.seconds.to_dict() == {"jvp": 62.0, "loss": 13.5, "trak": 22.0, "gradient_dot": 5.5, "pixel": 0.0,
                                       "datamodel_trak": 28.5}  # fmt: skip
    assert table.memory_mb.to_dict() == {"jvp": 900.0} | dict.fromkeys(methods[1:], 700.0)
    assert table.disk_mb["jvp"] == pytest.approx(6e-3)
    assert table.disk_mb["trak"] == pytest.approx(2.5e-3)
    assert table.disk_mb["pixel"] == 0
