"""Scoring of more and more pictures, and of codewords alone: processor seconds, and memory beside the mapped pictures.

`pytest tests/benchmarks/test_a_million_pictures.py --benchmark-enable -s`, up to PICTURES=1000000 and
UNITS=100000000 of the environment; with SCALE=FOLDER every size is added to its scale.csv, which scale.py draws.
Pictures of 3 x 32 x 32 are bytes by seed, and so is what 64 members make of 8 queries; each size is scored by a process
of its own. Nothing here asserts a timing.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scale
import torch
from measured import medians
from torch import Tensor

from ddattr.attribution.influence import norm
from ddattr.attribution.loss import loss_change
from ddattr.attribution.posterior import posterior
from ddattr.attribution.significance import TestSettings, benjamini_hochberg, norm_significance, ordered, ranks
from ddattr.attribution.tables import tabulate
from ddattr.codebook import Codebook, encode
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.pictures import Pictures, blocks
from ddattr.data.source import Source
from ddattr.files import load_table
from ddattr.provenance import provenance

MEMBERS, QUERIES, SHAPE = 64, 8, (3, 32, 32)
KEPT, BEST = 1000, 10
MOST = int(os.environ.get("PICTURES", 100_000))
PICTURES = [MOST // 10, MOST * 3 // 10, MOST]
UNITS = sorted({100_000, int(os.environ.get("UNITS", 10_000_000)) // 10, int(os.environ.get("UNITS", 10_000_000))})
BLOCK = 1 << 16  # codewords together


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def peak(found: dict[str, float], name: str) -> Iterator[None]:
    """Seconds of the processor and of the clock, and the most memory in megabytes: anonymous, which nobody can take
    back, and all that is resident, pages of mapped files too."""
    ended, most = threading.Event(), {"RssAnon": 0, "VmRSS": 0}

    def watch() -> None:
        while not ended.wait(0.02):
            held = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
            for kind in most:
                most[kind] = max(most[kind], int(held[kind].split()[0]))

    thread, started, clock = threading.Thread(target=watch), time.process_time(), time.perf_counter()
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        found[f"{name}, s"] = time.process_time() - started
        found[f"{name}, s of the clock"] = time.perf_counter() - clock
        found[f"{name}, MB"] = most["RssAnon"] / 1024
        found[f"{name}, MB with mapped pages"] = most["VmRSS"] / 1024


def alone(call: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """What a call finds in a process that has done nothing before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(call, *args).result()


def report(title: str, sizes: list[int], found: list[dict[str, float]], at: tuple[int, ...] = ()) -> None:
    """A line a figure: at every size, the exponent between the last two, and what it says `at` further sizes."""
    print(
        f"\n{title:<28}" + "".join(f"{size:>14,}" for size in sizes) + "  exponent" + "".join(f"{n:>16,}" for n in at)
    )
    for name in found[0]:
        values = [one[name] for one in found]
        slope = np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2]) if sizes[-1] > sizes[-2] else np.nan
        more = "".join(f"{values[-1] * (n / sizes[-1]) ** slope:>16,.0f}" for n in at)
        print(f"{name:<28}" + "".join(f"{value:>14,.1f}" for value in values) + f"{slope:>10.2f}" + more)


def kept(of: str, units: int, found: dict[str, float], name: str) -> None:
    """A size's row, where there is a folder for it."""
    if folder := os.environ.get("SCALE"):
        of_run = provenance()
        spent = (found[f"{name}, {what}"] for what in ("s", "s of the clock", "MB", "MB with mapped pages"))
        row = dict(zip(scale.COLUMNS, [of, units, *spent, of_run["device"], of_run["commit"]], strict=True))
        scale.add(Path(folder), row)


# -- pictures


def written(path: Path, count: int) -> None:
    """Random bytes, some at a time."""
    draw = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, count, 10_000):
            file.write(draw.integers(0, 256, (min(10_000, count - start), *SHAPE), np.uint8).tobytes())


def scored(path: Path, count: int) -> dict[str, float]:
    """All tables of the queries, of pictures that members were asked to denoise."""
    found: dict[str, float] = {}
    with peak(found, "data"):
        pixels = np.memmap(path, np.uint8, "r", shape=(count, *SHAPE))
        data = UnitDataModule(Source(Pictures(pixels), None), holdout=64, similarity="pixels")
    made = randn(MEMBERS, QUERIES, *SHAPE)
    tensors = {
        "seeds": torch.arange(QUERIES),
        "factual": randn(QUERIES, *SHAPE, seed=1),
        "denoised": made - made.mean(0),
    }
    codebook, settings = encode(data.units, MEMBERS), TestSettings(0)
    with peak(found, "tables"):
        tables = tabulate(tensors, codebook, data, settings, kept=KEPT)
    tested = tables.influence.query("method == 'denoised_gls'")
    assert tested.groupby("query").unit.nunique().between(KEPT, 8 * KEPT).all()
    assert tables.radius.attributable.mean() <= 0.5  # nothing matters: of 8 queries, five at 0.05 each, 2e-5
    return found


def read(path: Path, count: int) -> dict[str, float]:
    """Every picture once, as numbers: what no score of all of them does without."""
    found: dict[str, float] = {}
    pixels = Pictures(np.memmap(path, np.uint8, "r", shape=(count, *SHAPE)))
    with peak(found, "read"):
        for block in blocks(pixels):
            block.sum()
    return found


def test_scoring_of_pictures(tmp_path, figure):
    found = []
    for count in PICTURES:
        written(tmp_path / "pixels", count)
        found.append(alone(scored, tmp_path / "pixels", count))
        kept("pictures", count, found[-1], "tables")
    report("pictures", PICTURES, found, (1_000_000,))
    last, floor = found[-1], alone(read, tmp_path / "pixels", PICTURES[-1])
    size = PICTURES[-1] * np.prod(SHAPE) / 2**20
    figure(f"all tables of {PICTURES[-1]:,} pictures", last["tables, s"], "s", "every picture read", floor["read, s"])
    figure("memory of that", last["tables, MB"], "MB", "all pictures as bytes", size)


def test_bins_of_the_posterior(figure):
    """Of a million units 16,384 distances are told apart: what is lost to the fit of every distance, and what is saved.

    Effects fall with the rank by distance, steeply and then slowly, and vary by half of it.
    """
    rank = torch.randperm(10**6, generator=torch.Generator().manual_seed(2)).double()[:, None]
    expected = 4 * torch.exp(-rank / 2000) + 0.3 * torch.exp(-rank / 50_000)
    truth = expected * (1 + randn(10**6, 1, seed=3).double() / 2)
    score, deviation = truth + randn(10**6, 1, seed=4).double(), torch.ones_like(truth)
    found, whole = {}, {}
    spent = medians(
        {
            "bins": lambda: found.update(of=posterior(score, deviation, rank)),
            "whole": lambda: whole.update(of=posterior(score, deviation, rank, places=10**6)),
        },
        1,
    )
    moved = (found["of"] - whole["of"]).square().mean().sqrt().item()
    missed = [(of["of"] - truth).square().mean().sqrt().item() for of in (found, whole)]
    assert moved < 0.005  # deviations of a score; three seeds have 0.0008 to 0.0011
    assert missed[0] < 1.001 * missed[1]
    figure("posterior of 1,000,000 units, in bins", spent["bins"], "s", "a fit of every distance", spent["whole"])
    figure("what it is off by", missed[0], "deviations", "off by, of every distance", missed[1])


# -- codewords alone


def streamed(code: Codebook, gram: Tensor, phantoms: Tensor, level: float) -> dict[str, tuple[Tensor, Tensor]]:
    """By norm and by loss, of every query: the best units, and how many pass.

    Both have one null for all units, the phantoms' scores, so p is a rank among these: counts of ranks are all that
    Benjamini and Hochberg take, and their number is the phantoms'.
    """
    of = {"norm": norm, "loss": loss_change}
    nulls = {name: ordered(score(gram, phantoms)) for name, score in of.items()}
    counts = {name: torch.zeros(len(phantoms) + 2, len(gram), dtype=torch.long) for name in of}
    best = dict.fromkeys(of, (torch.empty(0, len(gram), dtype=gram.dtype), torch.empty(0, len(gram), dtype=torch.long)))
    for start in range(0, code.units, BLOCK):
        units = torch.arange(start, min(start + BLOCK, code.units))
        words = code.codewords(units)
        for name, score in of.items():
            found = score(gram, words)
            rank = ranks(found, nulls[name])
            counts[name].scatter_add_(0, rank, torch.ones_like(rank))
            scores = torch.cat([best[name][0], found])
            held = torch.cat([best[name][1], units[:, None].expand_as(found)])
            kept = scores.topk(BEST, 0)
            best[name] = kept.values, held.gather(0, kept.indices)
    passing = {}
    for name, of_rank in counts.items():
        reached = of_rank.cumsum(0)
        p = torch.arange(len(of_rank), dtype=torch.float64)[:, None] / (1 + len(phantoms))
        passes = (p * code.units <= level * reached) & (reached > 0)
        passing[name] = torch.where(passes, reached, 0).amax(0)
    return {name: (best[name][1], passing[name]) for name in of}


def products(queries: int = QUERIES) -> Tensor:
    """Of the members' responses to every query: the Gram matrix of `norm`, and of their residuals that of the loss."""
    response = randn(queries, MEMBERS, 256).double()
    return response @ response.mT / 256


def of_codewords(units: int) -> dict[str, float]:
    found: dict[str, float] = {}
    code, gram = Codebook(units, MEMBERS, 28), products()
    with peak(found, "words"):
        for start in range(0, units, BLOCK):
            code.codewords(torch.arange(start, min(start + BLOCK, units)))
    with peak(found, "words, norm and loss"):
        streamed(code, gram, code.sample_phantoms(100_000), 0.05)
    return found


@pytest.mark.parametrize("level", [0.05, 0.9, 1.0])
def test_ranks_in_blocks_are_benjamini_and_hochberg_s(level, monkeypatch):
    """With as many that pass, and the same best units, as all scores at once say."""
    monkeypatch.setitem(globals(), "BLOCK", 700)
    code, gram = Codebook(3000, MEMBERS, 28), products(3)
    phantoms, words = code.sample_phantoms(5000), code.codewords(torch.arange(3000))
    for name, (best, passing) in streamed(code, gram, phantoms, level).items():
        score = {"norm": norm, "loss": loss_change}[name]
        _, p = norm_significance(score(gram, words), score(gram, phantoms))
        assert torch.equal((benjamini_hochberg(p) <= level).sum(0), passing)
        assert torch.equal(best, score(gram, words).topk(BEST, 0).indices)


def test_scoring_of_codewords_alone(figure):
    found = []
    for units in UNITS:
        found.append(alone(of_codewords, units))
        kept("codewords", units, found[-1], "words, norm and loss")
    report("units", UNITS, found, (10**8, 10**9))
    last = found[-1]
    figure(
        f"norm and loss of {UNITS[-1]:,} codewords",
        last["words, norm and loss, s"],
        "s",
        "the codewords alone",
        last["words, s"],
    )
    assert max(one["words, norm and loss, MB"] for one in found) < 1000  # 0.6 GB of any number


# -- the figure


def test_exponents_are_those_of_powers_and_a_size_has_one_row(tmp_path):
    """Seconds as N^0.8, memory as N^0.1 past the constant; below it anything; two sizes give no exponent."""
    sizes = {"pictures": [1000, 40_000, 100_000, 1_000_000], "codewords": [100_000, 1_000_000]}
    for of, counts in sizes.items():
        for n in [*counts, counts[-1]]:
            spent = (77.0 if n == 1000 else n**0.8, 1.0, 5 * n**0.1, 9.0)
            scale.add(tmp_path, dict(zip(scale.COLUMNS, [of, n, *spent, "cpu", "abc"], strict=True)))
    table = load_table(tmp_path / "scale.csv")
    assert table.groupby("of").units.apply(list).to_dict() == sizes
    scale.main(tmp_path)
    fitted = load_table(tmp_path / "exponents.csv")
    assert set(fitted.of) == {"pictures"}
    assert fitted.set_index("statistic").exponent.to_dict() == pytest.approx(
        {"processor_seconds": 0.8, "anonymous_mb": 0.1, "resident_mb": 0.0}, abs=1e-6
    )
    assert (tmp_path / "scale.png").stat().st_size > 10_000
