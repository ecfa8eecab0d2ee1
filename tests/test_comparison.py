"""Runs beside one another: every number is a run's own, and training is what its manifests say."""

import shutil

import matplotlib.image
import pandas as pd
import pytest

from ddattr.files import load_table, save_json, save_table
from ddattr.tracking.comparison import COLUMNS, ESTIMATES, compare, growth
from ddattr.tracking.figures.fig14_comparison import draw

STATISTICS = {
    "members": ["spearman_jvp", "lds_loss_loss", "law_loss"],
    "power_by_members": ["z_nearest", "found_nearest"],
}


@pytest.fixture
def make_run_folder(tmp_path):
    """A run's folder with what a comparison reads: sizes 6 and 12, two orders of the smaller."""

    def make(name: str, units: int, fork: dict | None = None, value: float = 0.5, sizes=(6, 12)):
        root = tmp_path / name
        for table, statistics in STATISTICS.items():
            rows = [
                {"members": size, "order": order, "statistic": s, "value": value + i + order / 10}
                for size in sizes
                for order in range(2 if size < max(sizes) else 1)
                for i, s in enumerate(statistics)
            ]
            save_table(root / "validation" / f"{table}.csv", pd.DataFrame(rows))
        save_json(root / "validation" / "manifest.json", {"fingerprint": name})
        save_json(root / "codebook" / "codebook.json", {"N": units})
        training = {"steps": 100} | ({} if fork is None else {"fork": fork})
        save_json(root / "members" / "000" / "manifest.json", {"config": {"training": training}})
        return root

    return make


def test_training_is_every_member_s_and_the_base_s_once(make_run_folder):
    whole, forked = growth(make_run_folder("whole", 30)), growth(make_run_folder("forked", 30, {"steps": 10}))
    assert list(whole) == COLUMNS
    assert whole.groupby("members").training_steps.unique().tolist() == [600, 1200]
    assert forked.groupby("members").training_steps.unique().tolist() == [100 + 60, 100 + 120]
    assert (whole.forked.unique(), forked.forked.unique()) == ([False], [True])


def test_every_number_is_a_run_s_own(make_run_folder, tmp_path):
    roots = [make_run_folder("one", 30, value=0.1), make_run_folder("other", 3000, {"steps": 5}, value=0.7)]
    compare(pd.concat([growth(root) for root in roots]), tmp_path / "comparison")
    table = load_table(tmp_path / "comparison" / "comparison.csv")
    for root, units in zip(roots, (30, 3000), strict=True):
        own = pd.concat([load_table(root / "validation" / f"{name}.csv") for name in STATISTICS], ignore_index=True)
        part = table[table.run == root.name].reset_index(drop=True)
        pd.testing.assert_frame_equal(part[list(own)], own)
        assert part.units.unique() == [units]


@pytest.mark.parametrize("sizes", [(6, 12), (5, 7)], ids=["with members shared", "with none"])
def test_the_figure_is_drawn(make_run_folder, tmp_path, sizes):
    roots = [make_run_folder("one", 30), make_run_folder("other", 300, sizes=sizes)]
    compare(pd.concat([growth(root) for root in roots]), tmp_path / "comparison")
    pixels = matplotlib.image.imread(tmp_path / "comparison" / "fig14_comparison.png")[..., :3]
    assert min(pixels.shape[:2]) > 500
    assert pixels.std() > 0.02
    assert (tmp_path / "comparison" / "fig14_comparison.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("score", ["jvp_posterior", "jvp_gls"])
@pytest.mark.parametrize("runs", [("one", "other"), ("one",)])
def test_agreement_is_drawn_of_one_score_for_all_runs(make_run_folder, tmp_path, score, runs):
    """Of the best estimate, where every run has it, or else of the first order."""
    tables = [growth(make_run_folder(name, 30)) for name in ("one", "other")]
    more = [
        t[t.statistic == "spearman_jvp"].assign(statistic=f"spearman_{score}", value=9.0)
        for t in tables
        if t.run.iloc[0] in runs
    ]
    save_table(tmp_path / "comparison" / "comparison.csv", pd.concat([*tables, *more]))
    figure, _ = draw(tmp_path)
    axis = figure.axes[2]
    everywhere = len(runs) == 2
    assert axis.get_ylabel().endswith(ESTIMATES[f"spearman_{score if everywhere else 'jvp'}"])
    assert (max(max(line.get_ydata()) for line in axis.lines) == 9.0) == everywhere


@pytest.mark.parametrize(
    "gone",
    [
        "validation/manifest.json",
        "validation/members.csv",
        "validation/power_by_members.csv",
        "codebook/codebook.json",
        "members/000/manifest.json",
    ],
)
def test_a_run_that_is_not_validated_is_refused_by_name(make_run_folder, tmp_path, gone):
    root = make_run_folder("one", 30)
    (root / gone).unlink()
    with pytest.raises(FileNotFoundError, match=rf"^compare: \S+/one/{gone} is missing.*validate, with"):
        growth(root)


def test_a_curve_without_what_is_compared_is_refused(make_run_folder):
    root = make_run_folder("one", 30)
    path = root / "validation" / "members.csv"
    table = load_table(path)
    save_table(path, table[table.statistic != "law_loss"])
    with pytest.raises(ValueError, match=r"^compare: \S+/validation has no law_loss"):
        growth(root)


@pytest.fixture
def own(validated, tmp_path):
    """A copy of the validated run: a comparison is written into it."""
    return shutil.copytree(validated.root, tmp_path / "digits_small", ignore=shutil.ignore_patterns("wandb"))


def test_the_command_compares_again_only_what_changed(own, ddattr, make_run_folder):
    other = make_run_folder("other", 30)
    argv = ["compare", "experiment=digits_small", f"root={own}", f"against=[{other}]", "tracking=none"]
    said = ddattr(*argv)
    assert said.status == 0, said.err
    assert "digits_small, n=12, 480 steps: Spearman with retraining, first order " in said.out
    assert "other, n=12, 1,200 steps: Spearman with retraining, first order " in said.out
    assert "compare: already done" in ddattr(*argv).out
    save_json(other / "validation" / "manifest.json", {"fingerprint": "made again"})
    said = ddattr(*argv)
    assert said.status == 2
    assert "made again" in said.err


REFUSED = {
    "[]": "expected folders of runs",
    "3": "expected folders of runs",
    "[nowhere]": "nowhere/validation/manifest.json is missing",
    "[other,other/]": "other is there twice",
    "[digits_small]": "digits_small is there twice",
}


@pytest.mark.parametrize(("against", "expected"), REFUSED.items())
def test_the_command_refuses_in_one_line_and_leaves_nothing(ddattr, own, make_run_folder, against, expected):
    make_run_folder("other", 30)
    said = ddattr("compare", "experiment=digits_small", f"root={own}", f"against={against}", "tracking=none")
    assert said.status == 2
    assert expected in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not (own / "comparison").exists()


def test_a_run_made_with_another_config_is_not_compared(ddattr, own, make_run_folder):
    argv = [f"root={own}", f"against=[{make_run_folder('other', 30)}]", "tracking=none", "validation.lds_subsets=6"]
    said = ddattr("compare", "experiment=digits_small", *argv)
    assert said.status == 2
    assert "validation.lds_subsets=5 (now 6)" in said.err
