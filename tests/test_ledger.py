"""The ledger: sums and maxima over manifests, nothing that none of them says."""

import json

import pandas as pd
import pytest

from ddattr.tracking.ledger import ledger, said


def made(root, folder: str, **manifest) -> None:
    (root / folder).mkdir(parents=True)
    (root / folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def run(tmp_path):
    cost = {"wall_seconds": 3000.0, "cpu_seconds": 2000.5, "earlier_seconds": 0, "peak_memory_mb": 300, "device": "A"}
    more = {"device_memory_mb": None, "disk_bytes": 1_500_000, "energy_j": 3600.0}
    made(tmp_path, "members/000", **cost, **more)
    made(tmp_path, "members/001", **{**cost, "peak_memory_mb": 400, "earlier_seconds": 70.0, "device": "B"}, **more)
    (tmp_path / "members" / "002").mkdir()  # not done
    made(tmp_path, "quality", wall_seconds=12.3, peak_memory_mb=500, device="A")  # of an older version
    made(tmp_path, "validation/retraining/full", **{**cost, "device_memory_mb": 2048})
    return tmp_path


def test_members_are_added_up_and_the_highest_memory_stands(run):
    table = ledger(run).set_index("stage")
    assert list(table.index) == ["members", "quality", "retraining"]
    row = table.loc["members"]
    assert (row.artifacts, row.wall_seconds, row.cpu_seconds, row.earlier_seconds) == (2, 6000, 4001, 70)
    assert (row.memory_mb, row.disk_mb, row.energy_j, row.device) == (400, 3.0, 7200, "A; B")
    assert table.device_memory_mb.isna().tolist() == [True, True, False]


def test_what_no_manifest_says_is_not_said(run):
    row = ledger(run).set_index("stage").loc["quality"]
    assert row[["cpu_seconds", "earlier_seconds", "disk_mb", "energy_j"]].isna().all()
    assert said(run) == [
        "members (2)         processor 1:06:41, clock 1:40:00, earlier attempts 0:01:10, memory 400 MB, disk 3.0 MB, "
        "energy 2.0 Wh",
        "quality             clock 0:00:12, memory 500 MB",
        "retraining          processor 0:33:20, clock 0:50:00, memory 300 MB, on the device 2,048 MB",
    ]


def test_a_run_of_nothing_has_cost_nothing(tmp_path):
    assert ledger(tmp_path).empty
    assert said(tmp_path) == []


def test_a_run_keeps_its_ledger_beside_its_page(reproduced):
    """Every stage but the figures, which it is written with."""
    table = pd.read_csv(reproduced.root / "costs.csv")
    assert table.stage.tolist() == ["members", "quality", "attribution/default"]
    assert (table.cpu_seconds > 0).all()
    assert (table.disk_mb > 0).all()
    pd.testing.assert_frame_equal(table.iloc[:, :3], ledger(reproduced.root).iloc[:3, :3])
