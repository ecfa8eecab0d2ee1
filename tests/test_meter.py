"""The meter: what is booked on a name is what its work cost, and the process's own peak is kept."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from ddattr.meter import Expense, Meter, joules, peak_memory_mb

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


def test_an_expense_counts_the_processor_and_not_the_waiting():
    """Half a second of sleep is on the clock alone; half a second of work is on both, also that of a child."""
    expense = Expense()
    time.sleep(0.5)
    slept = expense.read()
    assert slept["wall_seconds"] >= 0.5
    assert slept["cpu_seconds"] < 0.25
    work = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-S", "-c", work], check=True)
    assert 0.45 <= expense.read()["cpu_seconds"] - slept["cpu_seconds"] < 2


def test_an_expense_reads_the_processor_s_energy_also_past_the_counter_s_end(tmp_path, monkeypatch):
    monkeypatch.setattr("ddattr.meter._POWERCAP", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Expense().read()["energy_j"] is None  # there is no counter

    def count(zone: str, microjoules: int) -> None:
        (tmp_path / zone).mkdir(exist_ok=True)
        (tmp_path / zone / "energy_uj").write_text(f"{microjoules}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("99999999\n")

    count("intel-rapl:0", 90_000_000)
    count("intel-rapl:1", 1_000_000)
    count("intel-rapl:0:0", 5)  # a part of the first
    expense = Expense()
    count("intel-rapl:0", 20_000_000)
    count("intel-rapl:1", 3_500_000)
    assert expense.read()["energy_j"] == 30.0 + 2.5


def test_an_expense_adds_what_gpus_count(tmp_path, monkeypatch):
    spent = [1000, 5000]  # millijoules
    monkeypatch.setattr("ddattr.meter._POWERCAP", tmp_path)
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda place: place,
        nvmlDeviceGetTotalEnergyConsumption=lambda place: spent[place],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    expense = Expense()
    spent[:] = [3000, 5500]
    assert expense.read()["energy_j"] == 2.5


def test_a_counter_that_has_gone_round_is_read_by_where_it_starts_again():
    assert joules({"a": (7_000_000, 10_000_000)}, {"a": (1_000_000, 10_000_000)}) == 4.0
    assert joules({}, {}) is None
