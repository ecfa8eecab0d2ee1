"""Ensembles: mean and spread of a run's numbers over seeds, again by hand."""

import shutil

import pandas as pd
import pytest
from conftest import TINY
from omegaconf import OmegaConf

from ddattr.files import load_table, save_table
from ddattr.stages.compare import alike
from ddattr.stages.saved import text
from ddattr.tracking.ensembles import ensembles, lines, numbers

SPEARMAN = "ablation/agreement/ablation/jvp/spearman"


@pytest.fixture
def make_root(tmp_path):
    """A run's folder with what is read of it: one number in the agreement, two queries."""

    def make(name: str, spearman: float, passing: int, lds: float | None = None, **interval: float):
        root, folder = tmp_path / name, tmp_path / name / "attribution" / "default"
        row = {"truth": "ablation", "method": "jvp", "measure": "norm", "statistic": "spearman", "mean": spearman}
        row |= interval
        save_table(folder / "agreement_summary.csv", pd.DataFrame([row]))
        passed = [i < passing for i in range(2)]
        radius = {"query": [0, 1], "attributable": passed, "resolution": [5, -1], "level": 0.05}
        save_table(folder / "radius.csv", pd.DataFrame(radius))
        sets = {"set": ["label:0", "label:1"] * 2, "query": [0, 0, 1, 1], "q_value": [0.01, 0.9, 0.2, 0.3]}
        save_table(folder / "sets.parquet", pd.DataFrame(sets))
        save_table(folder / "calibration.csv", pd.DataFrame({"test": ["discovery"], "rejected": [spearman / 10]}))
        if lds is not None:
            names = {"kind": "transfer", "target": "loss", "queries": "generated", "method": "denoised_posterior"}
            save_table(
                root / "validation" / "lds_summary.csv", pd.DataFrame([names | {"statistic": "lds", "mean": lds}])
            )
        return root

    return make


def test_numbers_of_a_run_are_its_tables(make_root):
    assert numbers(make_root("one", 0.9, 1, 0.6)) == {
        SPEARMAN: 0.9,
        "attributable/unit": 0.5,
        "attributable/label": 0.5,
        "resolved": 0.5,
        "calibration/discovery": pytest.approx(0.09),
        "lds/transfer/loss/generated/denoised_posterior": 0.6,
    }


def test_the_spread_is_over_runs_and_of_what_all_have(make_root):
    roots = [
        make_root(f"seed_{i}", value, i, lds) for i, (value, lds) in enumerate([(0.9, 0.6), (0.8, None), (1.0, 0.5)])
    ]
    table = ensembles(roots).set_index("statistic")
    spread = ["runs", "mean", "sd", "low", "high"]
    assert table.loc[SPEARMAN, spread].tolist() == pytest.approx([3, 0.9, 0.1, 0.8, 1.0])
    assert table.loc["attributable/unit", spread].tolist() == pytest.approx([3, 0.5, 0.5, 0.0, 1.0])
    assert table.interval_low.isna().all()
    assert not any(name.startswith("lds/") for name in table.index)
    assert f"{SPEARMAN}: 0.900, sd 0.100, 0.800 to 1.000 over 3 ensembles" in lines(table.reset_index())


def test_the_mean_of_runs_has_the_interval_that_independent_errors_add_to(make_root):
    """Half widths in squares, below and above apart; where one run has none, none."""
    roots = [make_root(f"seed_{i}", v, 1, low=v - 0.03, high=v + 0.04) for i, v in enumerate((0.8, 0.9, 0.7, 0.8))]
    row = ensembles(roots).set_index("statistic").loc[SPEARMAN]
    assert row.interval_low == pytest.approx(0.8 - 0.03 / 4**0.5)
    assert row.interval_high == pytest.approx(0.8 + 0.04 / 4**0.5)
    assert f"{SPEARMAN}: 0.800 [0.79, 0.82], sd" in lines(ensembles(roots))[0]
    assert ensembles([*roots, make_root("none", 0.8, 1)]).interval_low.isna().all()


def test_a_run_that_was_not_attributed_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^compare: \S+radius.csv is missing\. Make it: ddattr attribute"):
        numbers(tmp_path)


def test_the_command_tells_runs_that_differ_in_their_seed_from_others(reproduced, ddattr, tmp_path):
    """The same run twice, the second as if of another seed; without a validation."""
    one, other = (
        shutil.copytree(reproduced.root, tmp_path / name, ignore=shutil.ignore_patterns("wandb"))
        for name in ("one", "other")
    )
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 3"))
    argv = ["compare", "experiment=digits_small", f"root={one}", f"against=[{other}]", "tracking=none"]
    said = ddattr(*argv)
    assert said.status == 0, said.err
    assert "compare: 2 ensembles, differing in their seed" in said.out
    table = load_table(one / "ensembles" / "ensembles.csv").set_index("statistic")
    assert table.loc[SPEARMAN, "sd"] == 0
    assert "compare: already done" in ddattr(*argv).out
    config.write_text(config.read_text().replace("members: 12", "members: 13"))
    assert "validate" in ddattr(*argv).err


def test_a_run_of_before_a_key_is_alike_to_one_of_its_default_and_to_no_other(compose, tmp_path):
    new = OmegaConf.to_container(compose(*TINY), resolve=True)
    old = {key: {**value} if isinstance(value, dict) else value for key, value in new.items() if key != "conditions"}
    del old["codebook"]["design"], old["data"]["similarity"]
    other = {**new, "codebook": {**new["codebook"], "design": "orthogonal"}}
    for name, config in (("new", new), ("old", old), ("other", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text(config))
    assert alike([tmp_path / "new", tmp_path / "old"])
    assert not alike([tmp_path / "new", tmp_path / "other"])
