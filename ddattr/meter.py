"""What work costs: seconds, processor time, memory, and energy where the machine counts it."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_before = 0  # the mark, when it was last reset
_POWERCAP = Path("/sys/class/powercap")  # Linux's counters of a processor's energy, for root alone on most machines


class Expense:
    """What is spent from the moment that it is made, in this process and in those that it began and has waited for."""

    def __init__(self) -> None:
        self.clock, self.processor, self.energy = time.monotonic(), _processor_seconds(), _energy()
        if torch.accelerator.is_available():
            torch.accelerator.reset_peak_memory_stats()

    def read(self) -> dict[str, float | None]:
        """`wall_seconds`, `cpu_seconds`; `peak_memory_mb`, of this process so far; `device_memory_mb`, the most that
        tensors took of an accelerator; `energy_j`, of the whole processor and all GPUs, whoever used them.

        None of what the machine does not have, or does not tell this user.
        """
        on_device = torch.accelerator.is_available()
        return {
            "wall_seconds": round(time.monotonic() - self.clock, 2),
            "cpu_seconds": round(_processor_seconds() - self.processor, 2),
            "peak_memory_mb": peak_memory_mb(),
            "device_memory_mb": torch.accelerator.max_memory_allocated() // 2**20 if on_device else None,
            "energy_j": joules(self.energy, _energy()),
        }


def joules(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    """Between two readings of the same counters, each (microjoules, where it starts again at 0; 0: never).

    None where there is no counter. One that has passed its end once is told; twice is not.
    """
    spent = [(after[name][0] - count) % end if end else after[name][0] - count for name, (count, end) in before.items()]
    return round(sum(spent) / 1e6, 1) if spent else None


def _energy() -> dict[str, tuple[int, int]]:
    """Counters of energy that can be read, by name: of processors (RAPL), of NVIDIA's GPUs where pynvml is there."""
    found = {}
    for zone in _POWERCAP.glob("intel-rapl:?"):  # a whole package each; AMD's have that name as well
        with suppress(OSError, ValueError):
            numbers = [int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj")]
            found[zone.name] = (numbers[0], numbers[1] + 1)
    with suppress(Exception):  # no pynvml, no driver, or a GPU that does not count
        import pynvml

        pynvml.nvmlInit()
        for place in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(place)
            found[f"gpu:{place}"] = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) * 1000, 0)
    return found


def _processor_seconds() -> float:
    return sum(os.times()[:4])


class Meter:
    """Seconds of processor time and peak of memory in megabytes, by the name of what they were spent on.

    Where the system cannot reset a process's high-water mark of memory (it is Linux that can), the peak is that of the
    process so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory_mb: dict[str, int] = {}

    @contextmanager
    def measure(self, *names: str) -> Iterator[None]:
        """Books what is done within it on each of the names: seconds add up, and the highest peak stands."""
        global _before
        _before = peak_memory_mb()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        started = time.process_time()
        yield
        seconds, mark = time.process_time() - started, _mark()
        self.seconds |= {name: self.seconds.get(name, 0.0) + seconds for name in names}
        self.memory_mb |= {name: max(self.memory_mb.get(name, 0), mark) for name in names}


def peak_memory_mb() -> int:
    """The most resident memory that this process ever held."""
    return max(_before, _mark())


def _mark() -> int:
    """The high-water mark of resident memory since it was last reset."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    marks = [int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:")]
    return marks[0] if marks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
