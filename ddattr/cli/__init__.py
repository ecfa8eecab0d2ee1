"""`ddattr VERB [overrides]`: one Hydra app. Every refusal is one line on stderr and exit status 2."""

import argparse
import importlib
import io
import os
import select
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes, not threads: two threads a process spin against each other
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, and leave as one line

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ddattr.cli import completion
from ddattr.cli.help import VERBS, overview, page, version
from ddattr.cli.keys import composed, conf, meant_key
from ddattr.cli.primary import is_folder, override, own_experiment, parts, primary
from ddattr.cli.refusal import Refusal, refusal
from ddattr.cli.sweep import noted, reported
from ddattr.spelling import meant, nearest

DRY = "--dry-run"
_OF_HYDRA = ("hydra/launcher=", "hydra.launcher.", "hydra.sweep.", "hydra.run.", "hydra.output_subdir=")


def main() -> None:
    """The console script."""
    with (
        completion.unheard(),
        _refusing(),
        redirect_stderr(_WithoutPreamble(sys.stderr)),
        _until_terminated(),
        _until_nobody_reads(),
    ):
        dry = DRY in sys.argv[1:]
        sys.argv[1:] = [word for word in sys.argv[1:] if word != DRY]
        if (text := told(sys.argv[1:])) is not None:
            print(text)
            return
        completion.teach()
        sys.argv[1:] = arguments(sys.argv[1:])
        start = primary(parsed(sys.argv[1:]).overrides)
        with ExitStack() as around:
            if parsed(sys.argv[1:]).multirun:
                around.enter_context(reported(sys.argv[1:]))
            if dry:
                sys.argv[1:] = inert(sys.argv[1:], around.enter_context(TemporaryDirectory(prefix="ddattr-")))
            made: set[Path] = set()
            does = (lambda config: dry_job(config, made)) if dry else job
            hydra.main(version_base="1.3", config_path=conf(), config_name=start)(does)()


def inert(argv: Sequence[str], folder: str) -> list[str]:
    """Hydra's arguments without launcher; what Hydra writes of a sweep goes to the folder.

    Raises:
        HydraException: the launcher that is left out could not be had.
    """
    left_out = [word for word in argv if word.lstrip("+~").startswith(_OF_HYDRA)]
    composed(left_out)
    return [*(word for word in argv if word not in left_out), override(folder, "hydra.sweep.dir")]


@contextmanager
def _refusing() -> Iterator[None]:
    """Ends with the one line of an error that is the input's fault."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = refusal(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        sys.exit(2)


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


def told(argv: Sequence[str]) -> str | None:
    """What needs no run: a page of help, the version, the verbs that a line may go on with. None: run it."""
    if "--version" in argv:
        return version()
    asked = parsed(argv)
    if not argv or (asked.help and not asked.overrides):
        return overview()
    if asked.help:
        verb, *overrides = worded(asked.overrides)
        return page(verb.partition("=")[2], [] if asked.multirun else overrides)  # a sweep has many configs
    if asked.shell_completion and "COMP_LINE" in os.environ:
        return "\n".join(completion.verbs(os.environ["COMP_LINE"])) or None
    return None


def arguments(argv: Sequence[str]) -> list[str]:
    """Hydra's arguments: the verb becomes `stage=verb`, so that processes that start from argv find it too.

    Raises:
        Refusal: no verb, one that does not exist, or a word that is no override.
    """
    asked = parsed(argv)
    options = [word for word in argv if word not in asked.overrides]
    if options[-1:] in (["--info"], ["-i"]):
        options.append("all")  # or it would take the next word for its value
    if asked.hydra_help:  # of Hydra's own config, which has no verb
        return options
    shows = [bool(asked.cfg), bool(asked.info), asked.shell_completion]
    if sum(shows) + asked.multirun > 1:
        raise Refusal("ddattr: got several of -m, --cfg, --info and -sc, expected one. Leave out the others.")
    if asked.shell_completion:
        completion.check(asked.overrides)
    return options + worded(asked.overrides, optional=any(shows))  # argparse wants positional arguments side by side


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Options as Hydra reads them; `overrides` are all other words, wherever they stand.

    Raises:
        Refusal: an option that does not exist, or without its value.
    """

    def refuse(message: str) -> NoReturn:
        raise Refusal(f"ddattr: {message}. List the options: ddattr --hydra-help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(argv))


def worded(words: Sequence[str], optional: bool = False) -> list[str]:
    """Overrides, before them the verb as one; a run's folder is one as well.

    Raises:
        Refusal: no verb, unless it is optional; one that does not exist; a word that is no override; or two folders.
    """
    overrides = [word for word in words if word.startswith("~") or ("=" in word[1:] and not is_folder(word))]
    bare = [word for word in words if word not in overrides]
    verbs = [word.partition("=")[2] for word in overrides if word.startswith("stage=")]
    if not verbs and bare:
        verbs = [next((word for word in bare if word in VERBS), bare[0])]
        bare.remove(verbs[0])
    known = f"expected one of {', '.join(VERBS)}."
    if not verbs and not optional:
        raise Refusal(f"ddattr: no verb, {known} Example: ddattr plan")
    if verbs and (verb := verbs[-1]) not in VERBS:
        raise Refusal(f"ddattr: no verb {verb!r}, {known}{meant(nearest(verb, VERBS))}")
    folders = [word for word in bare if is_folder(word)]
    bare = [word for word in bare if word not in folders]
    if len(folders) + sum(word.startswith("run=") for word in overrides) > 1:
        raise Refusal(f"ddattr: {folders[0]!r} is one folder of several, expected one. Leave out the others.")
    if bare:
        keys = meant(*(f"{key}=" for key in meant_key(bare[0]))) or f" List the keys: ddattr {verb} --help"
        raise Refusal(f"ddattr: {bare[0]!r} is no override, expected key=value.{keys}")
    named = parts if verbs[-1:] == ["replay"] else lambda folder: [override(folder)]
    own = [f"stage={verb}" for verb in verbs[-1:]] + [word for folder in folders for word in named(folder)]
    return own + own_experiment([word for word in overrides if not word.startswith("stage=")])


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
    with noted():
        from ddattr.stages.recorded import opened

        stage = importlib.import_module(f"ddattr.stages.{config.stage}")
        stage.run(opened(config, HydraConfig.get().overrides.task))


def dry_job(config: DictConfig, made: set[Path]) -> None:
    """What that job would do, where `made` is what those before it would have made."""
    with noted():
        from ddattr.stages.dry import would
        from ddattr.stages.run import Run

        given = HydraConfig.get()
        if given.mode is RunMode.MULTIRUN:
            words = [word for word in given.overrides.task if not word.startswith("stage=")]
            print(f"job {given.job.num}: {shlex.join(['ddattr', config.stage, *words])}")
        would(Run(config, given.overrides.task), made)


if __name__ == "__main__":
    main()
