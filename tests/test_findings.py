"""Findings: every number of a line and of a metric is in the tables, and a table that is missing has no line."""

import pandas as pd
import pytest

from ddattr.files import save_table
from ddattr.tracking.findings import findings, metrics

COLUMNS = ["truth", "kind", "share", "copies", "target", "queries", "removed", "test", "level"]
COLUMNS += ["method", "measure", "size", "statistic"]  # of summaries, in their order, before the numbers


@pytest.fixture
def folder(tmp_path):
    """The summaries of a validation, small enough to read."""
    interval = {"low": 0.1, "high": 0.9}

    def rows(**methods):
        return [{"method": m, "mean": v, **interval} for m, v in methods.items()]

    few = {"loss@9": 0.1, "denoised_posterior@9": 0.41}
    tables = {
        "agreement_summary": [
            r | {"truth": "retraining", "measure": "pull", "statistic": s, "ceiling": 0.85, "reliability": 0.72}
            for s, r in [("spearman", r) for r in rows(pixel=0.37, jvp=0.49)] + [("pearson", r) for r in rows(jvp=0.66)]
        ],
        "lds_summary": [
            r | {"kind": k, "target": "loss", "queries": "real", "ceiling": 0.7, "reliability": 0.49, "statistic": s}
            for k, s, r in [("transfer", "lds", r) for r in rows(**few, loss=0.6, dtrak=0.45)]
            + [("transfer", "lds_less_dtrak", r) for r in rows(loss=-0.14)]
            + [("self", "lds", r) for r in rows(loss=0.97)]
        ],
        "groups_summary": [
            r | {"target": "loss", "queries": "generated", "statistic": s}
            for s in ("top1", "ndcg3")
            for r in rows(loss=0.75)
        ]
        + [
            r | {"target": "pull", "queries": "generated", "statistic": "spearman"}
            for r in rows(pixel=0.43, jvp=0.52, jvp_gls=0.9, leave_one_out=0.8)
        ],
        "discoveries_summary": [
            {"method": "denoised_gls", "statistic": s, "mean": m, **interval}
            for s, m in (
                ("units_found", 32.9),
                ("pull_found", 0.069),
                ("pull_others", 0.012),
                ("above_0_found", 0.82),
                ("above_0_others", 0.59),
            )
        ],
        "removal_summary": [
            r | {"size": size, "statistic": "l2"} for size in (5, 20) for r in rows(jvp=size / 10, random=size / 20)
        ],
        "calibration_summary": [
            {"test": "unit", "level": 0.05, "statistic": "rejected", "mean": 0.049, "low": 0.04, "high": 0.06}
        ],
        "sets": [{"set": "label:0", "query": 0, "pull_first_order": 0.1, "pull_retraining": 0.2}],
        "removal": [{"method": "jvp", "size": 5, "query": 0, "pull_first_order": 0.1, "pull_retraining": 0.2}],
        "sets_summary": [{"statistic": "spearman", "mean": 0.55, "low": 0.35, "high": 0.67, "sets": 10}],
        "false_attribution_summary": [
            {"removed": r, "statistic": "unchanged", "mean": m, **interval}
            for r, m in (("nearest", 0.41), ("random", 0.84))
        ],
        "planted_summary": [
            {"share": 0.05, "copies": 116, "method": m, "statistic": "recall_at_1", "value": v}
            for m, v in (("denoised_gls", 0.9), ("denoised_toward", 0.3), ("loss", 0.98))
        ],
    }
    for name, table in tables.items():
        frame = pd.DataFrame(table)
        order = sorted(frame, key=lambda column: COLUMNS.index(column) if column in COLUMNS else len(COLUMNS))
        save_table(tmp_path / "validation" / f"{name}.csv", frame[order])
    return tmp_path / "validation"


def test_lines_say_what_the_tables_say(folder):
    assert findings(folder) == [
        "agreement with retraining (Spearman, pull): jvp 0.49 [0.10, 0.90], pixel 0.37 [0.10, 0.90]; ceiling 0.85, "
        "split-half reliability 0.72",
        "LDS, loss of held-out pictures: dtrak 0.45 [0.10, 0.90], denoised_posterior@9 0.41 [0.10, 0.90]; ceiling "
        "0.70, split-half reliability 0.49",
        "remove 20 and retrain, L2 of the picture: jvp 2.00 [0.10, 0.90], random 1.00 [0.10, 0.90]",
        "leave one group out, top-1 on loss: loss 0.75 [0.10, 0.90]; a whole group's pull, first order against "
        "retraining, Spearman 0.55 [0.35, 0.67]",
        "leave one group out, Spearman with its pull: leave_one_out 0.80 [0.10, 0.90], jvp 0.52 [0.10, 0.90], pixel "
        "0.43 [0.10, 0.90]",
        "planted units found first, by their share of the data: loss 1/20 0.98; denoised_gls 1/20 0.90; "
        "denoised_toward 1/20 0.30",
        "of the units left out 33 pass a query: their mean pull by retraining is 0.069 (above 0 for 82%), others' 0.012"
        " (59%)",
        "false positives at 0.05 among pictures that no member saw: unit 0.049 [0.040, 0.060]",
    ]


def test_metrics_have_text_and_whole_numbers_of_their_row_in_the_key(folder):
    found = metrics(folder)
    assert found["agreement/retraining/jvp/pull/spearman"] == 0.49
    assert found["lds/transfer/loss/real/dtrak"] == 0.45
    assert found["lds/transfer/loss/real/loss/lds_less_dtrak"] == -0.14
    assert found["lds/self/loss/real/loss"] == 0.97
    assert found["groups/loss/generated/loss/ndcg3"] == 0.75
    assert found["removal/random/5/l2"] == 0.25
    assert found["sets/spearman"] == 0.55
    assert found["calibration/unit/rejected"] == 0.049
    assert found["false_attribution/random/unchanged"] == 0.84
    assert found["planted/116/loss/recall_at_1"] == 0.98
    assert found["groups/pull/generated/leave_one_out/spearman"] == 0.8
    assert found["discoveries/denoised_gls/above_0_others"] == 0.59
    assert len(found) == 3 + 6 + 6 + 5 + 4 + 1 + 1 + 2 + 3


def test_a_summary_of_any_name_has_metrics_and_norm_is_left_out_of_the_key(tmp_path):
    table = {"measure": ["norm", "pull"], "share": [0.5, 0.25], "statistic": "top", "value": [1.0, 2.0], "low": 0.0}
    save_table(tmp_path / "new_summary.csv", pd.DataFrame(table))
    assert metrics(tmp_path) == {"new/top": 1.0, "new/pull/top": 2.0}


@pytest.mark.parametrize(
    "name",
    [
        "agreement_summary",
        "lds_summary",
        "groups_summary",
        "removal_summary",
        "discoveries_summary",
        "calibration_summary",
        "planted_summary",
    ],
)
def test_a_table_that_was_not_asked_for_has_no_line(folder, name):
    whole, count = findings(folder), len(metrics(folder))
    (folder / f"{name}.csv").unlink()
    part = findings(folder)
    assert len(part) == len(whole) - (2 if name == "groups_summary" else 1)
    assert set(part) < set(whole)
    assert len(metrics(folder)) < count
