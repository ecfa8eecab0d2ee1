"""`ddattr VERB [overrides]`: one Hydra app. Every refusal is one line on stderr and exit status 2."""

import importlib
import io
import os
import pkgutil
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes, not threads: two threads a process spin against each other
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, and leave as one line

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import ddattr.stages

VERBS = sorted(m.name for m in pkgutil.iter_modules(ddattr.stages.__path__) if m.name != "run")


class Refusal(Exception):
    """Input that cannot be used, in one line; travels between the processes of a sweep."""


def conf() -> str:
    """The folder conf/: inside an installed package, beside the package in a checkout."""
    package = Path(ddattr.__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise Refusal(f"conf: no config.yaml in {package}/conf nor beside the package. Install ddattr again.")


def main() -> None:
    """The console script."""
    try:
        with redirect_stderr(_WithoutPreamble(sys.stderr)), _until_terminated(), _until_nobody_reads():
            sys.argv[1:] = arguments(sys.argv[1:])
            hydra.main(version_base="1.3", config_path=conf(), config_name="config")(job)()
    except Refusal as refusal:
        sys.exit(_say(str(refusal)))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(_say(f"config: {one_line(error)}"))
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def _until_terminated() -> Iterator[None]:
    """SIGTERM ends the process as an exception does, so that it ends the processes that it started."""

    def stop(signum: int, _: Any) -> None:
        signal.signal(signum, signal.SIG_IGN)  # once is enough
        sys.exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():  # which alone may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _until_nobody_reads() -> Iterator[None]:
    """Ends quietly, as SIGPIPE would, when who reads stdout has seen enough: `ddattr plan | head -3`.

    Errors pass, those of other pipes too.
    """
    try:
        yield
        sys.stdout.flush()  # here and not at exit, where nothing can catch it
    except BaseException as error:
        if not _unread():
            raise
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # for what is flushed at exit
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise


def _unread() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:  # a stand-in, as notebooks have
        return False
    pipe = select.poll()
    pipe.register(stdout, 0)
    return any(event & select.POLLERR for _, event in pipe.poll(0))


def arguments(argv: list[str]) -> list[str]:
    """Hydra's arguments: the verb becomes `stage=verb`, so that processes that start from argv find it too.

    Raises:
        Refusal: no verb, or one that does not exist.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: ddattr VERB [overrides]\nverbs: {', '.join(VERBS)}\nexample: ddattr reproduce experiment=digits")
        sys.exit(0)
    if argv and "=" not in argv[0] and not argv[0].startswith("-"):
        argv = [f"stage={argv[0]}", *argv[1:]]
    verbs = [a.partition("=")[2] for a in argv if a.startswith("stage=")]
    if not verbs:
        raise Refusal(f"ddattr: no verb, expected one of {', '.join(VERBS)}. Example: ddattr plan")
    if verbs[-1] not in VERBS:
        raise Refusal(f"ddattr: no verb {verbs[-1]!r}, expected one of {', '.join(VERBS)}.")
    overrides = [a for a in argv if a.startswith("~") or ("=" in a and not a.startswith("-"))]
    return [a for a in argv if a not in overrides] + overrides  # argparse wants positional arguments side by side


class _WithoutPreamble(io.TextIOBase):
    """stderr less the line that Hydra puts before an exception; an error is one line."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith("Error executing job with overrides") else self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()


def job(config: DictConfig) -> None:
    """One job of the app: a verb on a composed config. Runs in a sweep's worker as well."""
    from ddattr.stages.run import Run

    stage = importlib.import_module(f"ddattr.stages.{config.stage}")
    try:
        stage.run(Run(config, HydraConfig.get().overrides.task))
    except Exception as error:
        line = refusal(error)
        if line is None:
            raise
        raise Refusal(line) from None


def refusal(error: BaseException) -> str | None:
    """The line of an error that is the input's fault; None for a bug, which keeps its traceback.

    Ours to refuse are ValueErrors raised in this package's own lines, and whatever the file system refuses.
    """
    while error.__cause__ is not None and isinstance(error, HydraException):
        error = error.__cause__
    if isinstance(error, HydraException | OmegaConfBaseException):
        return f"config: {one_line(error)}"
    if isinstance(error, FileNotFoundError | ValueError) and _is_ours(error):
        return one_line(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}. Set root= to a folder that you may write to."
    return None


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, nor Hydra's advice to add the key with `+`, which is refused as well."""
    text = " ".join(str(error).split()).partition(" Config search path")[0]
    return re.sub(r"Could not override '(.*?)'\..*", r"key \1 is unknown. List the keys: ddattr plan --cfg job", text)


def _is_ours(error: BaseException) -> bool:
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next:
        trace = trace.tb_next
    return str(Path(ddattr.__file__).resolve().parent) in str(Path(trace.tb_frame.f_code.co_filename).resolve())


def _say(line: str) -> int:
    print(line, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
