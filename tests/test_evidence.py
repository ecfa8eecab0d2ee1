"""Figures of a validation, from its tables alone: an interval that does not hold its mean stops none of them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ddattr.artifacts import save_table
from ddattr.tracking import evidence, names


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
                *(
                    f"{kind}_{which}{end}"
                    for kind in ("z", "found")
                    for which in ("nearest", "nearest:5")
                    for end in ("", "_foretold")
                ),
            )
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
        save_table(tmp_path / f"{name}.csv", pd.DataFrame(table))
    return tmp_path


@pytest.mark.parametrize(
    "name", ["fig7_retraining", "fig8_lds", "fig9_removal", "fig10_groups", "fig11_law", "fig12_cost", "fig13_planted"]
)
def test_a_mean_outside_its_interval_is_drawn(folder, name):
    figure = evidence.EVIDENCE[name](folder)
    figure.canvas.draw()
    assert sum(len(axis.containers) for axis in figure.axes) > 0
    plt.close(figure)


def test_arms_are_never_negative_and_end_at_the_interval():
    below, above = evidence._reach(np.array([0.2, 0.2]), np.array([0.1, 0.25]), np.array([0.4, 0.4]))
    assert below.tolist() == pytest.approx([0.1, 0.0])
    assert above.tolist() == pytest.approx([0.2, 0.2])


def test_a_table_that_was_not_asked_for_has_no_figure(tmp_path):
    assert all(draw(tmp_path) is None for draw in evidence.EVIDENCE.values())


def test_methods_of_part_of_the_ensemble_are_named_and_follow_the_whole_one_s():
    drawn = names.ordered(["random", "denoised@9", "pixel", "denoised", "jvp", "pixel"])
    assert drawn == ["jvp", "denoised", "denoised@9", "pixel", "random"]
    assert [names.named(m) for m in drawn[1:3]] == ["denoising", "denoising, 9 members"]


def test_labels_of_points_of_like_cost_are_apart_and_each_near_its_own():
    names, x = pd.Series(list("abcdef")), pd.Series([1.0, 1.0, 50.0, 2000.0, 2100.0, 1900.0])
    y = pd.Series([0.1, 0.9, 0.5, 0.40, 0.41, 0.42])
    placed = {name: (at, height) for name, at, height in evidence._labels(names, x, y, 0.05)}
    assert set(placed) == set(names)
    assert len({placed[name][0] for name in "def"}) == 1
    assert (placed["d"][0] > 2100, placed["c"][0] < 50, placed["a"][0] > 1) == (True, True, True)
    heights = [placed[name][1] for name in "def"]  # in the order of their points, the middle one where it is
    assert np.diff(heights).tolist() == pytest.approx([0.05, 0.05])
    assert heights[1] == pytest.approx(0.41)
    assert [placed[name][1] for name in "abc"] == pytest.approx([0.1, 0.9, 0.5])  # nothing is in their way


def test_labels_that_face_each_other_are_apart():
    """Those right of the first points and left of the middle ones share the space between them."""
    names, x, y = pd.Series(list("abc")), pd.Series([1.0, 100.0, 5000.0]), pd.Series([0.50, 0.51, 0.505])
    placed = {name: (at, height) for name, at, height in evidence._labels(names, x, y, 0.1)}
    assert placed["a"][0] < placed["b"][0] < placed["c"][0]
    assert placed["b"][1] - placed["a"][1] == pytest.approx(0.1)
    assert placed["c"][1] == pytest.approx(0.505)


def test_any_number_of_methods_can_be_removed_and_told_apart(tmp_path):
    """All that there are, a line each, and on it a colour for every size; none over another."""
    methods = ("random", *list(names.METHODS)[:12])
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
    save_table(tmp_path / "removal.csv", pd.DataFrame(rows))
    save_table(tmp_path / "removal_summary.csv", pd.DataFrame(means))
    figure = evidence.removal(tmp_path)
    drawn = [c.lines[0] for c in figure.axes[0].containers if len(c.lines[0].get_xdata())]
    assert len(drawn) == len({line.get_ydata()[0] for line in drawn}) == 26
    values = {
        size: {x for line in drawn if line.get_color() == colour for x in line.get_xdata()}
        for size, colour in zip((1, 5), evidence.COLOURS, strict=False)
    }
    assert values == {size: {size + k for k in range(13)} for size in (1, 5)}
    plt.close(figure)


def test_a_removed_set_is_one_point_however_many_methods_name_it_and_chance_has_its_own(tmp_path):
    """Of two queries: pull and pixels name the same set, D-TRAK another one, and chance that of pull for query 1."""
    rows = [
        {"method": m, "size": 5, "query": q, "l2": 1.0, "pull_first_order": pull + q, "pull_retraining": 0.2}
        for m, pulls in (("jvp", (1, 2)), ("pixel", (1, 2)), ("dtrak", (3, 4)), ("random", (0, 2)))
        for q, pull in enumerate(pulls)
    ]
    save_table(tmp_path / "removal.csv", pd.DataFrame(rows))
    means = [
        {"method": m, "size": 5, "statistic": "l2", "mean": 1.0, "low": 0.9, "high": 1.1} for m in ("jvp", "random")
    ]
    save_table(tmp_path / "removal_summary.csv", pd.DataFrame(means))
    figure = evidence.removal(tmp_path)
    points = {str(drawn.get_label()): len(drawn.get_offsets()) for drawn in figure.axes[1].collections}
    assert points == {"best 5": 4, "random 5": 2}
    plt.close(figure)
