"""metrics.csv: one row a step, and a curve that never folds back."""

import pytest

from ddattr.files import load_table
from ddattr.tracking.history import History


def written(path, steps) -> History:
    history = History(path)
    for step in steps:
        history.log_metrics({"train/loss": float(step)}, step)
    history.save()
    return history


def test_metrics_of_one_step_share_a_row_and_rows_are_in_order(tmp_path):
    history = History(tmp_path / "metrics.csv")
    history.log_metrics({"b": 2.0}, 20)
    history.log_metrics({"a": 1.0}, 10)
    history.log_metrics({"c": 3.0}, 20)
    history.save()
    table = load_table(tmp_path / "metrics.csv")
    assert table.step.tolist() == [10, 20]
    assert table.set_index("step").loc[20, ["b", "c"]].tolist() == [2, 3]
    assert table.set_index("step").loc[20].isna().sum() == 1


def test_a_history_survives_a_resume(tmp_path):
    written(tmp_path / "metrics.csv", [10, 20])
    resumed = History(tmp_path / "metrics.csv")
    resumed.resume(20)
    resumed.log_metrics({"train/loss": 30.0}, 30)
    resumed.save()
    assert load_table(tmp_path / "metrics.csv").step.tolist() == [10, 20, 30]


@pytest.mark.parametrize(("step", "kept"), [(0, []), (10, [10]), (15, [10]), (30, [10, 20, 30]), (99, [10, 20, 30])])
def test_rows_past_the_resumed_step_are_dropped(tmp_path, step, kept):
    written(tmp_path / "metrics.csv", [10, 20, 30])
    resumed = History(tmp_path / "metrics.csv")
    resumed.resume(step)
    assert sorted(resumed.rows) == kept


def test_a_resumed_history_is_that_of_an_undisturbed_run(tmp_path):
    undisturbed = written(tmp_path / "a.csv", [10, 20, 30])
    written(tmp_path / "c.csv", [10, 20])
    resumed = History(tmp_path / "c.csv")
    resumed.resume(10)
    for step in (20, 30):
        resumed.log_metrics({"train/loss": float(step)}, step)
    resumed.save()
    assert (tmp_path / "c.csv").read_bytes() == undisturbed.path.read_bytes()


def test_an_empty_history_writes_nothing(tmp_path):
    History(tmp_path / "metrics.csv").save()
    assert not list(tmp_path.iterdir())
