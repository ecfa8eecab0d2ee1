"""What work costs: seconds of this process, and the most memory that it held meanwhile."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_before = 0  # the mark, when it was last reset


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
