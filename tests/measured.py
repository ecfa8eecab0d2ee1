"""What benchmarks measure, as one table at the end: every figure beside a floor or a reference of the same run.

`pytest tests/benchmarks --benchmark-enable`: in one process, whatever `-n` says, so that none measures its neighbour.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
import torch


class Figure(NamedTuple):
    """One row of the table.

    Args:
        name: what is measured.
        ours: in `unit`.
        beside: the floor, the peer or the reference.
        theirs: of the same run, in the same unit.
    """

    name: str
    ours: float
    unit: str
    beside: str
    theirs: float

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs


@pytest.fixture
def figure(record_property) -> Callable[..., Figure]:
    """Adds a row to the table; who takes it measures, and is skipped where measuring is not asked for."""

    def add(name: str, ours: float, unit: str, beside: str, theirs: float) -> Figure:
        row = Figure(name, ours, unit, beside, theirs)
        record_property("figure", tuple(row))
        return row

    return add


def seconds(call: Callable[[], object], device: str = "cpu") -> float:
    """Of the processor, all its threads together; or of the GPU, with everything that it was asked before."""
    if device == "cpu":
        started = time.process_time()
        call()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def medians(calls: dict[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of calls in turns: what else the machine does then falls on all of them."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(seconds(call, device))
    return {name: statistics.median(times) for name, times in found.items()}


def rows(properties: Iterable[tuple[str, object]]) -> list[Figure]:
    """Figures among what a test has recorded."""
    return [Figure(*value) for name, value in properties if name == "figure"]  # type: ignore[misc]


def table(figures: list[Figure]) -> str:
    """In Markdown, as the results pages have it."""
    lines = ["| figure | ours | floor or reference, same run | | ratio |", "|---|---|---|---|---|"]
    for f in figures:
        lines.append(f"| {f.name} | {f.ours:.4g} {f.unit} | {f.beside} | {f.theirs:.4g} {f.unit} | {f.ratio:.3g} |")
    return "\n".join(lines)


def pytest_cmdline_main(config: pytest.Config) -> None:
    """One process and one table, where something is measured: pytest-benchmark's own has no reference beside it."""
    if config.getoption("benchmark_enable"):
        config.option.numprocesses, config.option.dist, config.option.tx = 0, "no", []
        config.option.benchmark_quiet = True


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter) -> None:
    """The table of all that was measured."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    figures = [row for report in reports if report.when == "call" for row in rows(report.user_properties)]
    if figures:
        terminalreporter.section("measured")
        terminalreporter.write_line(table(figures))
