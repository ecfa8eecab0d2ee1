"""The meter: what is booked on a name is what its work cost, and the process's own peak is kept."""

import sys
import time

import pytest
import torch

from ddattr.meter import Meter, peak_memory_mb

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets a process's peak of memory")


def hold(megabytes: int) -> float:
    return torch.ones(megabytes * 2**20 // 4).sum().item()


@LINUX
def test_memory_is_the_peak_within_and_not_the_one_before():
    """To within what else a process allocates: a tenth of what is held."""
    meter = Meter()
    with meter.measure("large"):
        hold(400)
    with meter.measure("small"):
        hold(40)
    assert abs(meter.memory_mb["large"] - meter.memory_mb["small"] - 360) <= 40


def test_the_process_s_own_peak_is_never_forgotten():
    hold(300)
    highest = peak_memory_mb()
    with Meter().measure("nothing"):
        pass
    assert peak_memory_mb() >= highest


def test_seconds_add_up_on_a_name_the_highest_peak_stands_and_names_may_share():
    meter = Meter()
    for megabytes in (100, 1):
        started = time.process_time()
        with meter.measure("one", "other"):
            hold(megabytes)
        spent = time.process_time() - started
        if megabytes == 100:
            first, peak = meter.seconds["one"], meter.memory_mb["one"]
            assert 0 < first <= spent
    assert meter.seconds["one"] > first
    assert meter.memory_mb["one"] == peak
    assert meter.seconds["one"] == meter.seconds["other"]
    assert meter.memory_mb["one"] == meter.memory_mb["other"]


def test_what_fails_is_not_booked():
    meter = Meter()
    with pytest.raises(RuntimeError), meter.measure("one"):
        raise RuntimeError
    assert meter.seconds == {}
