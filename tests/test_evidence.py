"""Figures of a validation, from its tables alone: an interval that does not hold its mean stops none of them."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddattr.attribution.methods import METHODS, label_of, shown
from ddattr.files import load_table, save_table
from ddattr.tracking.figures import EVIDENCE, draw_evidence
from ddattr.tracking.figures.fig9_removal import COLOURS
from ddattr.tracking.figures.fig12_cost import side_by_side
from ddattr.tracking.figures.forest import reach
from ddattr.tracking.figures.style import marks_of


@pytest.fixture
def folder(tmp_path):
    """Summaries of two methods; the interval of one lies above its mean, as a bootstrap of few rows may."""
    rows = [
        {"method": "jvp", "mean": 0.2, "low": 0.1, "high": 0.4},
        {"method": "pixel", "mean": 0.2, "low": 0.25, "high": 0.4},
    ]
    tables = {
        "lds_summary": [
            r | {"kind": "transfer", "target": t, "queries": "generated", "statistic": s, "ceiling": 0.8}
            for r in rows
            for t in ("loss", "distance")
            for s in ("lds", "lds_less_pixel")
        ],
        "groups_summary": [
            r | {"target": "loss", "queries": "generated", "statistic": s} for r in rows for s in ("top1", "ndcg3")
        ],
        "sets": [
            {"set": f"label:{k}", "size": 3, "query": 0, "pull_first_order": 0.1 * k, "pull_retraining": 0.2 * k}
            for k in range(3)
        ],
        "agreement_summary": [
            r | {"truth": "retraining", "measure": "pull", "statistic": "spearman", "ceiling": 0.8} for r in rows
        ],
        "members": [
            {"members": n, "order": 0, "statistic": s, "value": 0.1 * n}
            for n in (3, 6)
            for s in (
                "spearman_jvp",
                "spearman_pixel",
                "lds_loss_loss",
                "law_loss",
                "lds_loss_member_loss",
                "lds_distance_jvp",
                "law_distance",
                "lds_distance_member_picture",
                "lds_loss_jvp",
                "lds_loss_denoised_posterior",
                "lds_distance_denoised_posterior",
            )
        ],
        "power_by_members": [
            {"members": n, "order": 0, "statistic": f"{kind}_{which}{end}", "value": 0.1 * n}
            for n in (3, 6)
            for kind in ("z", "found")
            for which in ("nearest", "nearest:5")
            for end in ("", "_predicted")
        ],
        "removal": [
            {"method": m, "size": 5, "query": q, "pull_first_order": 0.1, "pull_retraining": 0.2}
            for m in ("jvp", "pixel")
            for q in range(5)
        ],
        "removal_summary": [r | {"size": 5, "statistic": "l2"} for r in rows],
        "cost": [{"method": m, "seconds": s} for m, s in (("jvp", 100.0), ("pixel", 0.0))],
        "planted_summary": [
            {"method": "loss", "statistic": s, "share": share, "value": 0.9, "low": 0.95, "high": 1.0}
            for s in ("recall_at_1", "mean_z")
            for share in (0.05, 0.01)
        ],
    }
    for name, table in tables.items():
        save_table(tmp_path / "validation" / f"{name}.csv", pd.DataFrame(table))
    return tmp_path / "validation"


@pytest.mark.parametrize("name", EVIDENCE)
def test_a_mean_outside_its_interval_is_drawn(folder, name):
    figure, table = EVIDENCE[name].draw(folder.parent)
    figure.canvas.draw()
    assert sum(len(axis.containers) for axis in figure.axes) > 0
    assert len(table)
    plt.close(figure)


def test_a_figure_is_written_beside_the_validation_with_the_numbers_behind_it(folder):
    (folder / "planted_summary.csv").unlink()
    draw_evidence(folder)
    found = {path.name for path in (folder / "figures").iterdir()}
    assert found == {f"{name}.{e}" for name in EVIDENCE if name != "fig13_planted" for e in ("png", "pdf", "csv")}


def test_arms_are_never_negative_and_end_at_the_interval():
    below, above = reach(np.array([0.2, 0.2]), np.array([0.1, 0.25]), np.array([0.4, 0.4]))
    assert below.tolist() == pytest.approx([0.1, 0.0])
    assert above.tolist() == pytest.approx([0.2, 0.2])


def test_methods_of_a_family_have_marks_of_their_own():
    marks = marks_of(["jvp", "jvp_posterior", "denoised_posterior", "denoised_posterior@9", "pixel"])
    assert marks == {
        "jvp": "o",
        "jvp_posterior": "s",
        "denoised_posterior": "o",
        "denoised_posterior@9": "s",
        "pixel": "o",
    }


EVERY = [method.key for method in METHODS if method.key != "leave_one_out"]


def many(folder, name: str, **columns):
    """A summary of all methods, a third of them with a larger mean than the others."""
    rows = [
        {"method": m, "mean": (7 * i % 31) / 31, "low": 0.0, "high": 1.0, "ceiling": 0.9, **columns}
        for i, m in enumerate([*EVERY, "denoised_posterior@9", "dtrak_oracle"])
    ]
    save_table(folder / f"{name}.csv", table := pd.DataFrame(rows))
    return table.set_index("method")["mean"]


TABLES = {
    "fig7_retraining": ("agreement_summary", {"measure": "pull", "statistic": "spearman"}),
    "fig8_lds": ("lds_summary", {"kind": "transfer", "target": "loss", "queries": "generated", "statistic": "lds"}),
    "fig9_removal": ("removal_summary", {"size": 5, "statistic": "l2"}),
    "fig10_groups": ("groups_summary", {"target": "loss", "queries": "generated", "statistic": "top1"}),
}


@pytest.mark.parametrize("name", TABLES)
def test_eight_rows_at_most_are_drawn_the_largest_on_top_and_the_others_are_in_the_table(folder, name):
    summary, columns = TABLES[name]
    means = many(folder, summary, **columns)
    figure, table = EVIDENCE[name].draw(folder.parent)
    axis = figure.axes[0]
    drawn = shown(means.index)
    assert len(drawn) == 8
    wanted = means[drawn].sort_values(ascending=False, kind="stable")
    assert [label.get_text() for label in axis.get_yticklabels()] == [label_of(name) for name in wanted.index]
    assert axis.get_yticks().tolist() == list(range(8, 0, -1))
    dots = [c.lines[0].get_xydata()[0] for c in axis.containers if len(c.lines[0].get_xdata())]
    assert [x for x, _ in sorted(dots, key=lambda dot: -dot[1])] == pytest.approx(wanted.tolist())
    assert set(table.method.dropna()) == set(means.index)
    plt.close(figure)


def test_ablation_and_the_ceiling_are_lines_and_no_rows(folder):
    means = many(folder, "agreement_summary", measure="pull", statistic="spearman")
    (folder / "members.csv").unlink()
    figure, _ = EVIDENCE["fig7_retraining"].draw(folder.parent)
    (axis,) = figure.axes
    lines = {line.get_label(): line.get_xdata()[0] for line in axis.lines if not line.get_label().startswith("_")}
    assert lines == {"ceiling: noise of the seeds": 0.9, "exact ablation": pytest.approx(means["ablation"])}
    plt.close(figure)


def test_costs_are_of_what_is_shown_and_each_is_named(folder):
    columns = TABLES["fig8_lds"][1]
    means = many(folder, "lds_summary", **columns)
    table = load_table(folder / "lds_summary.csv")
    save_table(folder / "lds_summary.csv", pd.concat([table, table.assign(target="distance")]))
    save_table(folder / "cost.csv", pd.DataFrame({"method": means.index, "seconds": 10.0}))
    figure, _ = EVIDENCE["fig12_cost"].draw(folder.parent)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [label_of(name) for name in shown(means.index)]
    for axis in figure.axes:
        places = sorted(c.lines[0].get_xdata()[0] for c in axis.containers)
        assert len(places) == 8
        assert np.exp(np.log(places).mean()) == pytest.approx(10)
        assert min(b / a for a, b in pairwise(places)) > 1.05
    plt.close(figure)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=12).map(sorted))
def test_points_stand_at_their_cost_and_of_like_cost_about_their_mean_in_its_order(costs):
    costs = np.array(costs)
    drawn = side_by_side(costs)
    alone = np.array(
        [all(not 0.8 <= a / b <= 1.25 for k, b in enumerate(costs) if k != j) for j, a in enumerate(costs)]
    )
    np.testing.assert_allclose(drawn[alone], costs[alone])
    assert np.exp(np.log(drawn).mean()) == pytest.approx(np.exp(np.log(costs).mean()))
    if costs[-1] < 1.25 * costs[0]:
        assert (np.diff(drawn) > 0).all()


def test_every_size_that_was_removed_has_a_colour(folder):
    """A line a method, and on it a dot a size; none over another."""
    methods = ("random", "jvp", "dtrak", "pixel")
    rows = [
        {"method": m, "size": size, "query": q, "l2": 1.0, "pull_first_order": 0.1, "pull_retraining": 0.2}
        for m in methods
        for size in (1, 5)
        for q in (0, 1)
    ]
    means = [
        {"method": m, "size": size, "statistic": s, "mean": size + k, "low": size + k - 1, "high": size + k + 1}
        for k, m in enumerate(methods)
        for size in (1, 5)
        for s in ("l2", "l2_less_jvp")
    ]
    save_table(folder / "removal.csv", pd.DataFrame(rows))
    save_table(folder / "removal_summary.csv", pd.DataFrame(means))
    figure, _ = EVIDENCE["fig9_removal"].draw(folder.parent)
    drawn = [c.lines[0] for c in figure.axes[0].containers if len(c.lines[0].get_xdata())]
    assert len(drawn) == len({line.get_ydata()[0] for line in drawn}) == 8
    values = {
        size: {x for line in drawn if line.get_color() == colour for x in line.get_xdata()}
        for size, colour in zip((1, 5), COLOURS, strict=False)
    }
    assert values == {size: {size + k for k in range(4)} for size in (1, 5)}
    plt.close(figure)


def test_a_removed_set_is_one_point_however_many_methods_name_it_and_chance_has_its_own(folder):
    """Of two queries: pull and pixels name the same set, D-TRAK another one, and chance that of pull for query 1."""
    rows = [
        {"method": m, "size": 5, "query": q, "l2": 1.0, "pull_first_order": pull + q, "pull_retraining": 0.2}
        for m, pulls in (("jvp", (1, 2)), ("pixel", (1, 2)), ("dtrak", (3, 4)), ("random", (0, 2)))
        for q, pull in enumerate(pulls)
    ]
    save_table(folder / "removal.csv", pd.DataFrame(rows))
    means = [
        {"method": m, "size": 5, "statistic": "l2", "mean": 1.0, "low": 0.9, "high": 1.1} for m in ("jvp", "random")
    ]
    save_table(folder / "removal_summary.csv", pd.DataFrame(means))
    figure, _ = EVIDENCE["fig9_removal"].draw(folder.parent)
    points = {str(drawn.get_label()): len(drawn.get_offsets()) for drawn in figure.axes[1].collections}
    assert points == {"best 5": 4, "random 5": 2}
    plt.close(figure)
