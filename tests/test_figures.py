"""Figures: drawn from artifacts alone, labelled, and backed by the numbers that they show."""

import shutil

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, composed

from ddattr.attribution.methods import label_of
from ddattr.files import load_table, save_table
from ddattr.stages.run import Run
from ddattr.tracking.figures import ALL, EVIDENCE, FIGURES, draw_all, folder_of, style
from ddattr.tracking.figures.fig4_correlation import methods
from ddattr.tracking.figures.style import STYLE


@pytest.fixture(scope="module")
def drawn(reproduced) -> dict:
    """Every figure, as matplotlib has it, and its table."""
    with plt.rc_context(STYLE):
        made = {name: module.draw(reproduced.root) for name, module in FIGURES.items()}
    yield made
    plt.close("all")


def plots(figure) -> list:
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


def test_figures_are_found_in_the_order_of_their_numbers_each_where_its_tables_are():
    assert [int(name.partition("_")[0][3:]) for name in ALL] == list(range(len(ALL)))
    assert {*FIGURES, *EVIDENCE, "fig14_comparison", "fig15_sizes"} == set(ALL)
    assert (folder_of("fig9_removal"), folder_of("fig14_comparison")) == ("validation/figures", "comparison")
    assert list(FIGURES) == [
        "fig0_samples",
        "fig1_codebook",
        "fig2_fid",
        "fig3_convergence",
        "fig4_correlation",
        "fig5_attribution",
        "fig6_resolution",
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_a_png_a_pdf_and_the_csv_behind_it(reproduced, name):
    folder = reproduced.root / "figures"
    pixels = matplotlib.image.imread(folder / f"{name}.png")[..., :3]
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.02
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    pdf = (folder / f"{name}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert b"/Type3" not in pdf
    assert len(load_table(folder / f"{name}.csv")) > 0


@pytest.mark.parametrize("name", FIGURES)
def test_the_csv_is_what_was_drawn(drawn, reproduced, name):
    table = drawn[name][1].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        load_table(reproduced.root / "figures" / f"{name}.csv"), table, rtol=1e-6, check_dtype=False
    )


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("fig0_samples", "fig5_attribution")])
def test_axes_are_labelled(drawn, name):
    axes = plots(drawn[name][0])
    assert any(axis.get_xlabel() for axis in axes)
    assert any(axis.get_ylabel() or axis.get_yticklabels() for axis in axes)


@pytest.mark.parametrize("name", ALL)
def test_a_figure_says_its_number_and_what_it_needs(name):
    number = name.partition("_")[0].removeprefix("fig")
    assert ALL[name].CAPTION.startswith(f"Figure {number}. ")
    assert ALL[name].__doc__.startswith(f"Figure {number}: ")
    assert all(need.count("/") == 1 for need in ALL[name].NEEDS)


def test_a_figure_whose_tables_are_missing_is_not_drawn(tmp_path):
    draw_all(tmp_path, ALL)
    assert not list(tmp_path.rglob("*"))


def test_drawing_reads_only(reproduced, drawn):
    """The pictures of a second drawing are those of the first: nothing random is in them."""
    with plt.rc_context(STYLE):
        again, table = FIGURES["fig3_convergence"].draw(reproduced.root)
    first = drawn["fig3_convergence"]
    pd.testing.assert_frame_equal(table, first[1])
    for one, other in zip(again.axes[0].get_lines(), first[0].axes[0].get_lines(), strict=True):
        assert np.array_equal(one.get_xydata(), other.get_xydata())


def test_the_codebook_shows_the_codewords_and_the_balance(drawn):
    figure, table = drawn["fig1_codebook"]
    code = Run(composed(f"experiment={SMALL}")).codebook
    top, below = plots(figure)
    assert np.array_equal(np.asarray(top.images[0].get_array()), table.drop(columns="unit").to_numpy().astype(bool))
    assert (table.drop(columns="unit").sum(1) == code.weight).all()
    assert [bar.get_height() for bar in below.patches] == code.balance.tolist()


def test_the_quality_figure_shows_every_individual_and_the_means_of_the_ensembles(drawn):
    figure, table = drawn["fig2_fid"]
    for axis, measure in zip(plots(figure), ("fid", "kid"), strict=True):
        dots = axis.collections[0].get_offsets()[:, 1]
        assert np.allclose(dots, table[table.kind == "individual"][measure])
        mean = table[table.kind == "ensemble"].groupby("members")[measure].mean()
        assert any(np.array_equal(line.get_xydata(), list(mean.items())) for line in axis.get_lines())
        assert measure.upper() in axis.get_ylabel()
        assert "32 pictures" in axis.get_ylabel()


def test_the_quality_figure_says_whose_features_they_are(drawn):
    text = " ".join(t.get_text() for t in drawn["fig2_fid"][0].texts) + drawn["fig2_fid"][0].get_suptitle()
    assert "Inception" in text


def test_the_bars_of_convergence_cover_pictures_as_well_as_orders(tmp_path):
    """A size is an experiment: 6 orders of one ensemble draw the same 64 tapes, which are hard or easy for all of them.

    95 % of the bars cover the mean over all tapes and orders, false alarm at 4.5 standard errors; bars that take the
    orders for independent cover a quarter.
    """
    sizes, orders, tapes = 400, 6, 64
    draw = np.random.default_rng(0).standard_normal
    distances = 5 + draw((sizes, 1, tapes)) + 0.05 * draw((sizes, orders, 1)) + 0.2 * draw((sizes, orders, tapes))
    rows = [
        (k + 1, order, d.mean(), d.std(ddof=1) / tapes**0.5, "to_all")
        for k, of_size in enumerate(distances)
        for order, d in enumerate(of_size)
    ]
    columns = ["members", "order", "distance_mean", "distance_sem", "kind"]
    (tmp_path / "quality").mkdir()
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "quality" / "convergence.csv", index=False)
    figure, _ = FIGURES["fig3_convergence"].draw(tmp_path)
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()
    plt.close(figure)
    covered = np.mean([low < 5 < high for (_, low), (_, high) in bars])
    assert len(bars) == sizes
    assert abs(covered - 0.95) < 4.5 * (0.95 * 0.05 / sizes) ** 0.5


def test_convergence_ends_at_0_for_the_whole_ensemble(drawn):
    axis = plots(drawn["fig3_convergence"][0])[0]
    assert axis.get_ylim()[0] == 0
    ends = [line.get_xydata()[-1].tolist() for line in axis.get_lines() if len(line.get_xydata()) > 1]
    assert [12.0, 0.0] in ends


def test_correlation_shows_every_method_at_its_mean(drawn):
    figure, table = drawn["fig4_correlation"]
    assert [label.get_text() for label in plots(figure)[0].get_yticklabels()] == [label_of(name) for name in methods()]
    for axis, measure in zip(plots(figure), ("norm", "pull"), strict=True):
        shown = sorted(
            float(x) for line in axis.get_lines() for x in line.get_xdata() if line.get_marker() in ("o", "s")
        )
        rows = table[(table.measure == measure) & table.statistic.isin(["pearson", "spearman"])]
        assert np.allclose(shown, sorted(rows[rows.method.isin(methods())]["mean"]))


def test_correlation_shows_retraining_too_once_it_is_validated(validated):
    """With a line for exact ablation, which is then a method as well, and the ceiling of the seeds."""
    with plt.rc_context(STYLE):
        figure, table = FIGURES["fig4_correlation"].draw(validated.root)
    assert [axis.get_xlabel() for axis in plots(figure)] == [
        "correlation with\nexact ablation",
        "correlation with\nexact ablation",
        "correlation with\nretraining",
    ]
    rows = table[(table.truth == "retraining") & (table.measure == "pull")]
    axis = plots(figure)[2]
    shown = sorted(float(x) for line in axis.get_lines() for x in line.get_xdata() if line.get_marker() in ("o", "s"))
    wanted = rows[rows.method.isin([*methods(), "ablation"]) & rows.statistic.isin(["pearson", "spearman"])]
    assert len(wanted) == 2 * (len(methods()) + 1)
    assert np.allclose(shown, sorted(wanted["mean"]))
    (ceiling,) = [line.get_xdata()[0] for line in axis.get_lines() if line.get_label() == "ceiling of Spearman"]
    assert ceiling == rows[rows.statistic == "spearman"].ceiling.iloc[0]
    plt.close(figure)


@pytest.fixture
def make_passing(reproduced, tmp_path):
    """A copy of the run in which the best units of some queries have these q, all others 0.5."""

    def make(smallest: dict[int, float]):
        root = tmp_path / "passing"
        shutil.copytree(reproduced.root, root, ignore=shutil.ignore_patterns("members", "wandb", "figures"))
        table = load_table(root / "attribution" / "default" / "influence.parquet")
        tested = table[table.method == "denoised_gls"]
        table.loc[tested.index, "q_value"] = 0.5
        for query, q in smallest.items():
            p = tested[tested["query"] == query].p_value
            table.loc[p.index[p == p.min()], "q_value"] = q  # also of those that tie with the best
        save_table(root / "attribution" / "default" / "influence.parquet", table)
        units = {"unit": range(128), "name": [f"picture {u}" for u in range(128)], "pictures": [1, 3] * 64}
        save_table(root / "units.parquet", pd.DataFrame(units))
        return root

    return make


def words(figure) -> str:
    texts = [*figure.texts, *(text for axis in figure.axes for text in axis.texts)]
    titles = [axis.get_title(loc) for axis in figure.axes for loc in ("left", "center")]
    return "\n".join([*(text.get_text() for text in texts), *titles, *(axis.get_xlabel() for axis in figure.axes)])


def test_counterfactuals_are_of_queries_with_a_unit_that_passes_and_the_others_are_counted(make_passing):
    root = make_passing({4: 0.04, 1: 0.0001, 2: 0.06})
    with plt.rc_context(STYLE):
        figure, table = FIGURES["fig5_attribution"].draw(root)
    said = words(figure)
    assert [query for query in range(6) if f"query {query}" in said] == [1, 4]
    assert said.index("query 1") < said.index("query 4")
    best = table[(table["rank"] == 1) & table["query"].isin([1, 4])]
    for row in best.itertuples():
        name = f"picture {row.unit}" + (" (3 pictures)" if row.unit % 2 else "")
        q = {1: "q < 0.001", 4: "q = 0.04"}[row.query] if row.measure == "pull" else ""
        assert f"{name}\n{q}" in said
    assert "unit of largest norm, not a test" in said
    assert "passes at q ≤ 0.05: 2 of 6; with none: 4" in said
    assert len(table) == 24
    plt.close(figure)


def test_four_are_drawn_of_more_queries_that_pass(make_passing):
    with plt.rc_context(STYLE):
        figure, _ = FIGURES["fig5_attribution"].draw(make_passing({q: 0.01 + q / 1000 for q in range(6)}))
    said = words(figure)
    assert [query for query in range(6) if f"query {query}" in said] == [0, 1, 2, 3]
    assert "6 of 6, the 4 surest drawn; with none: 0" in said
    plt.close(figure)


def test_where_no_unit_passes_there_is_no_unit_to_see(make_passing):
    with plt.rc_context(STYLE):
        figure, _ = FIGURES["fig5_attribution"].draw(make_passing({3: 0.051}))
    said = words(figure)
    assert "No single unit passes at q ≤ 0.05, for any of 6 queries" in said
    assert "query 3\nsmallest q = 0.051" in said
    assert sum(len(axis.images) for axis in figure.axes) == 4
    assert "picture" not in said
    plt.close(figure)


def test_resolution_shows_a_line_for_every_query_and_marks_what_was_resolved(drawn, reproduced):
    figure, table = drawn["fig6_resolution"]
    lines = [line.get_xydata() for line in plots(figure)[0].get_lines()]
    for _, rows in table.groupby("query"):
        assert any(np.array_equal(line, rows[["size", "z"]].to_numpy()) for line in lines)
    marked = sum(len(dots.get_offsets()) for dots in plots(figure)[0].collections)
    radius = load_table(reproduced.root / "attribution" / "default" / "radius.csv")
    assert marked == (radius.resolution > 0).sum()


def test_colours_are_told_apart_in_grey_and_by_the_colour_blind():
    """Okabe & Ito 2008, and no two of the same lightness side by side in one figure."""
    palette = {"#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#777777"}
    used = {getattr(style, name) for name in ("BLUE", "ORANGE", "GREEN", "RED", "SKY", "GREY")}
    assert used <= palette


def test_figures_need_the_artifacts_and_nothing_else(reproduced, tmp_path):
    """No weights, no data, no config: a folder that was moved, less its members."""
    root = tmp_path / "moved"
    shutil.copytree(reproduced.root, root, ignore=shutil.ignore_patterns("members", "wandb", "figures", "*.html"))
    with plt.rc_context(STYLE):
        figure, table = FIGURES["fig5_attribution"].draw(root)
    plt.close(figure)
    assert len(table) == 24
