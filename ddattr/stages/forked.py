"""A copy of this process that goes on as another command line of the app: what is imported is not imported again."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import torch
from hydra.core.global_hydra import GlobalHydra

_ALLOCATOR = "jemalloc_bg_thd"  # pyarrow's, which minds forks itself


class Fork:
    """A command line in a copy of this process, as `subprocess.Popen` has one in a process that is started.

    Args:
        entry: of the app, see `entry`.
        words: verb and overrides.
        environment: of the copy.
    """

    def __init__(self, entry: Callable[[], object], words: Sequence[str], environment: Mapping[str, str]):
        self._process = get_context("fork").Process(target=_go_on, args=(entry, words, environment))
        self._process.start()

    def poll(self) -> int | None:
        """Exit status, minus a signal's number; None while it runs."""
        return self._process.exitcode

    def wait(self) -> int:
        """The same, once it has ended."""
        self._process.join()
        status = self._process.exitcode
        assert status is not None  # of a process that was joined
        return status

    def terminate(self) -> None:
        """Asks it to end."""
        self._process.terminate()


def entry() -> Callable[[], object] | None:
    """What a copy of this process goes on with: `main` of the app, if it is the program that runs here.

    None where a copy would not work: another thread may hold a lock that the copy, which has no such thread, waits for;
    and no accelerator outlives a fork.
    """
    main = getattr(sys.modules["__main__"], "main", None)
    threads = _threads()
    alone = len(threads) - threads.count(_ALLOCATOR) == 1  # 0 where forks are not to be relied on: not Linux
    app = getattr(main, "__module__", None) == "ddattr.cli"
    return main if app and alone and not torch.accelerator.is_available() else None


def _threads() -> list[str]:
    """Names of this process's threads, those of libraries too; none of one that ends meanwhile."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):
            names.append(path.read_text().strip())
    return names


def _go_on(entry: Callable[[], object], words: Sequence[str], environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    sys.argv[1:] = words
    GlobalHydra.instance().clear()  # of the line that was forked
    entry()
