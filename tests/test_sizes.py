"""Runs of several sizes: powers that were put in come out, and a phantom's length is what codewords give."""

import itertools
import shutil

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from ddattr.codebook import Codebook, contrast
from ddattr.files import load_json, load_table, save_json, save_table
from ddattr.tracking import sizes
from ddattr.tracking.figures import ALL
from ddattr.tracking.figures.style import STYLE

QUERIES = 6


@pytest.fixture
def make_root(tmp_path):
    """A run's folder with what is read of it: lengths that are powers of N, each query with a factor of its own."""

    def make(units: int, radius: float = -0.2, phantom: float = -0.45, length: float = -0.5, first: int = 0):
        root = tmp_path / f"run_{units}_{first}"
        folder, query = root / "attribution" / "default", np.arange(first, first + QUERIES)
        save_json(root / "codebook" / "codebook.json", {"n": 18, "h": 8, "N": units})
        save_json(folder / "manifest.json", {"fingerprint": str(units)})
        passes = np.arange(QUERIES) < 2
        columns = {"radius": radius, "phantom_radius": phantom, "jacobian_norm": length}
        own = pd.DataFrame({"query": query} | {name: (1.5**query) * units**b for name, b in columns.items()})
        tests = {"p_value": 0.2, "attributable": passes, "resolution": [1, 5, 5, 20, 20, -1], "level": 0.05}
        save_table(folder / "radius.csv", own[["query", "radius", "phantom_radius"]].assign(**tests))
        save_table(folder / "queries.csv", own[["query", "jacobian_norm"]])
        near = pd.DataFrame({"set": "nearest:1", "query": query, "z": query - first, "q_value": 0.5})
        label = pd.DataFrame({"set": "label:1", "query": query, "z": 9.0, "q_value": 0.01})
        save_table(folder / "sets.parquet", pd.concat([near, label]))
        return root

    return make


def test_powers_of_n_are_recovered(make_root):
    _, fitted = sizes.of_roots([make_root(units) for units in (150, 300, 600, 1200)])
    rows = fitted.set_index("statistic")
    wanted = {"radius": -0.2, "phantom_radius": -0.45, "phantom_length": -0.5}
    wanted |= {"radius_less_phantom": 0.25, "draws": 0.05}
    for name, exponent in wanted.items():
        assert rows.loc[name, ["exponent", "low", "high", "least", "most"]].tolist() == pytest.approx([exponent] * 5)
        assert rows.loc[name, ["queries", "sizes"]].tolist() == [QUERIES, 4]


def test_the_order_of_runs_does_not_matter_and_only_shared_queries_are_fitted(make_root):
    roots = [make_root(150), make_root(600, first=3), make_root(300)]
    one, other = sizes.of_roots(roots), sizes.of_roots(roots[::-1])
    for left, right in zip(one, other, strict=True):
        pd.testing.assert_frame_equal(left, right)
    assert one[1].queries.unique().tolist() == [3]


def test_an_exponent_s_range_without_one_size_holds_the_size_that_is_off(make_root):
    """Three sizes on a power of 0, and one below them: without it the exponent is 0."""
    roots = [make_root(units, radius=0) for units in (100, 200, 400)] + [make_root(800, radius=-0.1)]
    row = sizes.of_roots(roots)[1].set_index("statistic").loc["radius"]
    assert row.most == pytest.approx(0, abs=1e-12)
    assert row.least < row.exponent < 0


def test_one_phantom_s_length_is_that_of_all_codewords_by_enumeration(make_root):
    """Of a Jacobian at random: the root mean square over every codeword of 8 of 18 members."""
    jacobian = torch.randn(18, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian -= jacobian.mean(0)
    every = torch.zeros(Codebook(1, 18, 8).capacity, 18, dtype=torch.bool)
    every.scatter_(1, torch.tensor(list(itertools.combinations(range(18), 8))), True)
    wanted = (contrast(every).double() @ jacobian).square().sum(1).mean().sqrt().item()
    root = make_root(150)
    table = load_table(root / "attribution" / "default" / "queries.csv")
    save_table(root / "attribution" / "default" / "queries.csv", table.assign(jacobian_norm=jacobian.norm().item()))
    assert sizes.of_queries(root).phantom_length.tolist() == pytest.approx([wanted] * QUERIES, rel=1e-6)


def test_every_number_of_a_run_is_its_queries(make_root):
    table, _ = sizes.of_roots([make_root(600), make_root(150)])
    assert table.units.unique().tolist() == [150, 600]
    found = table[table.units == 600].set_index("statistic")
    assert found.loc["attributable/unit", "value"] == pytest.approx(2 / 6)
    assert found.loc["attributable/label", "value"] == 1
    assert found.loc["resolved", "value"] == pytest.approx(5 / 6)
    assert found.loc["radius_passes", "value"] == 0
    assert found.loc["z_nearest", "value"] == pytest.approx(2.5)
    assert found.loc["resolution", "value"] == pytest.approx(12.5)
    assert found.loc["resolution_share", "value"] == pytest.approx(12.5 / 600)
    assert found.loc["smallest_q", "value"] == pytest.approx(600 / (43758 - 600 + 1))
    assert found.loc["radius_over_phantom", "value"] == pytest.approx(600**0.25)
    lengths = 1.5 ** np.arange(QUERIES) * 600**-0.2
    row = found.loc["radius"]
    assert (row.value, row.low, row.high) == pytest.approx((np.median(lengths), lengths[0], lengths[-1]))


def test_a_resolution_that_most_queries_lack_is_infinite(make_root):
    roots = [make_root(units) for units in (150, 300)]
    for root in roots:
        path = root / "attribution" / "default" / "radius.csv"
        save_table(path, load_table(path).assign(resolution=[5, -1, -1, -1, -1, -1]))
    table = sizes.of_roots(roots)[0].set_index(["units", "statistic"])
    assert table.loc[(150, "resolution"), "value"] == np.inf


@pytest.mark.parametrize(("second", "first"), [(150, 3), (300, 99)], ids=["one size", "no query in common"])
def test_nothing_to_fit_is_refused(make_root, second, first):
    with pytest.raises(ValueError, match=r"^compare: . numbers of units, . queries .* Give all runs one"):
        sizes.of_roots([make_root(150), make_root(second, first=first)])


@pytest.mark.parametrize("gone", ["manifest.json", "radius.csv", "queries.csv", "sets.parquet"])
def test_a_run_that_was_not_attributed_is_refused_by_name(make_root, gone):
    root = make_root(150)
    (root / "attribution" / "default" / gone).unlink()
    with pytest.raises(FileNotFoundError, match=rf"^compare: \S+/default/{gone} is missing.*ddattr attribute"):
        sizes.of_roots([root, make_root(300)])


def test_the_figure_is_drawn_with_the_fitted_powers(make_root, tmp_path):
    roots = [make_root(units) for units in (150, 300, 600, 1200)]
    sizes.write(sizes.of_roots(roots), tmp_path / "one" / "sizes")
    pixels = matplotlib.image.imread(tmp_path / "one" / "sizes" / "fig15_sizes.png")[..., :3]
    assert min(pixels.shape[:2]) > 500
    assert pixels.std() > 0.02
    with plt.rc_context(STYLE):
        figure, table = ALL["fig15_sizes"].draw(tmp_path / "one")
    left = figure.axes[0]
    lines = [line for line in left.lines if len(line.get_xdata()) == 2 and line.get_label().startswith("_child")]
    slopes = [np.diff(np.log(line.get_ydata()))[0] / np.diff(np.log(line.get_xdata()))[0] for line in lines]
    assert slopes == pytest.approx([-0.2, -0.45, -0.5, -0.2], abs=1e-6)
    assert (left.get_xscale(), left.get_yscale()) == ("log", "log")
    pd.testing.assert_frame_equal(table, load_table(tmp_path / "one" / "sizes" / "sizes.csv"))
    plt.close(figure)


@pytest.mark.slow
def test_the_command_tells_runs_of_two_samples_from_others(reproduced, ddattr, tmp_path):
    """The same run twice, the second as if of fewer pictures and with fewer units replayed, and as if of an older
    config; without a validation."""
    one, other = (
        shutil.copytree(reproduced.root, tmp_path / name, ignore=shutil.ignore_patterns("wandb"))
        for name in ("one", "other")
    )
    path = other / "codebook" / "codebook.json"
    save_json(path, load_json(path) | {"N": 64})
    config = other / "config.yaml"
    was = config.read_text()
    config.write_text(was.replace("sample: null", "sample: 64").replace("ablation_units: 16", "ablation_units: 4"))
    argv = ["compare", "experiment=digits_small", f"root={one}", f"against=[{other}]", "tracking=none"]
    said = ddattr(*argv)
    assert said.status == 0, said.err
    assert "compare: 2 runs, differing in their number of pictures" in said.out
    assert "the radius goes as N^0.00" in said.out
    assert {path.name for path in (one / "sizes").glob("*.csv")} == {"sizes.csv", "exponents.csv", "fig15_sizes.csv"}
    assert "compare: already done" in ddattr(*argv).out
    config.write_text("".join(line for line in was.splitlines(True) if "sample: null" not in line))
    assert "compare: 2 ensembles" in ddattr(*argv).out
    for key in ("members: 12", "batch: 32"):
        config.write_text(was.replace(key, f"{key}1"))
        assert "validate" in ddattr(*argv).err
