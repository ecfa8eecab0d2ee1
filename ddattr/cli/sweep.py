"""A sweep: what became of each of its jobs, and the command line that goes on with those that failed.

Hydra names the first failure alone. Here every job, in whichever process, leaves a note in a folder that the parent
names in the environment: empty when the job begins, and then what became of it. A job that is killed leaves it empty.
"""

import itertools
import json
import math
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from ddattr.cli.keys import loader
from ddattr.cli.primary import folder_of
from ddattr.cli.refusal import Refusal, refusal

NOTES = "DDATTR_SWEEP"


class Note(NamedTuple):
    """What became of a job: a line when it failed, with the traceback when it is a bug."""

    line: str | None
    trace: str | None = None


SILENT = Note("ended without a word: killed, perhaps for want of memory, or with the one beside it that was")
NEVER = Note("did not begin")
_ARRAY = (
    "slurm: a job of the array failed or was killed; others of it may still run. Give the same line again: what is "
    "done is skipped, what runs is waited for, what was begun goes on."
)


@contextmanager
def noted() -> Iterator[None]:
    """Around a job: a failure in a sweep is noted, and goes on as an error that travels between processes."""
    if HydraConfig.get().mode is not RunMode.MULTIRUN:
        yield
        return
    _leave("")
    try:
        yield
    except BrokenPipeError:  # nobody reads any more: no failure
        raise
    except Exception as error:
        line = refusal(error)
        if line is not None:
            _leave(json.dumps(Note(line)))
            raise Refusal(line) from None
        trace = traceback.format_exc()
        _leave(json.dumps(Note(trace.splitlines()[-1], trace)))
        raise RuntimeError(trace) from None
    _leave(json.dumps(Note(None)))


def _leave(text: str) -> None:
    folder = os.environ.get(NOTES, "")
    if os.path.isdir(folder):  # on another machine it is not: the first failure is told there, as Hydra does
        Path(folder, str(HydraConfig.get().job.num)).write_text(text)


@contextmanager
def reported(argv: Sequence[str]) -> Iterator[None]:
    """Around a multirun: names every job that failed, then the command line that goes on with exactly these.

    Exits with status 2, or with 1 when one was a bug, whose traceback comes first, or was killed.
    """
    with TemporaryDirectory(prefix="ddattr-", ignore_cleanup_errors=True) as folder:
        os.environ[NOTES] = folder
        try:
            yield
        except BrokenPipeError:
            raise
        except Exception as error:
            array = type(error).__module__.partition(".")[0] == "submitit"  # of whose jobs others may still run
            notes = {int(path.name): _read(path) for path in Path(folder).iterdir()}
            every = jobs(argv) if notes else []  # none: refused before a job began
            found = {place: notes.get(place, NEVER) for place in range(len(every))}
            failed = {place: note for place, note in found.items() if note.line is not None}
            if array:
                failed = {place: note for place, note in failed.items() if note not in (SILENT, NEVER)}
            if not failed and not array:
                raise
            if failed:
                _say(argv, every, failed)
            else:
                print(error, file=sys.stderr)
            if array:
                print(_ARRAY, file=sys.stderr)
                sys.exit(2 if failed and not any(note.trace for note in failed.values()) else 1)
            sys.exit(1 if any(note.trace or note in (SILENT, NEVER) for note in failed.values()) else 2)
        finally:
            del os.environ[NOTES]


def _read(path: Path) -> Note:
    try:
        return Note(*json.loads(path.read_text()))
    except ValueError:
        return SILENT


def _say(argv: Sequence[str], every: Sequence[dict[str, str]], failed: dict[int, Note]) -> None:
    traces = [note.trace for note in failed.values() if note.trace is not None]
    for trace in {_lines(trace): trace for trace in traces}.values():  # one bug fails many jobs, at the same lines
        print(trace, end="", file=sys.stderr)
    for place, note in failed.items():
        name = " ".join(f"{key}={value}" for key, value in every[place].items())
        print(f"{name}: {note.line}" if name else note.line, file=sys.stderr)
    if len(every) > 1:
        again = going_on(argv, [every[place] for place in failed])
        print(f"{len(failed)} of {len(every)} jobs failed. Mend what they say, and go on: {again}", file=sys.stderr)


def _lines(trace: str) -> tuple[str, ...]:
    return tuple(line for line in trace.splitlines() if line.startswith("  File "))


def jobs(argv: Sequence[str]) -> list[dict[str, str]]:
    """The keys that a command line sweeps, with their values in every job, in Hydra's order."""
    words = [word for word in argv if "=" in word and not word.startswith("-")]
    with loader() as config:
        overrides = OverridesParser.create(config).parse_overrides(words)
    values = {override.get_key_element(): override for override in overrides}  # the last of a key counts
    swept = {key: list(o.sweep_string_iterator()) for key, o in values.items() if o.is_sweep_override()}
    return [dict(zip(swept, job, strict=True)) for job in itertools.product(*swept.values())]


def going_on(argv: Sequence[str], failed: Sequence[dict[str, str]]) -> str:
    """The command line of exactly these jobs of another; several, where they are no grid."""
    verb = [word.partition("=")[2] for word in argv if word.startswith("stage=")][-1]
    words = [word for word in argv if not word.startswith(("stage=", "run="))]
    folder = folder_of(argv)
    own = ["ddattr", verb] if folder is None else ["ddattr", verb, folder]
    lines = []
    for grid in grids(failed):
        given = [_set(word, grid) for word in words]
        lines.append(shlex.join([*own, *given]))
    return "; ".join(lines)


def _set(word: str, grid: dict[str, list[str]]) -> str:
    key = word.partition("=")[0]
    return f"{key}={','.join(grid[key])}" if key in grid else word


def grids(chosen: Sequence[dict[str, str]]) -> list[dict[str, list[str]]]:
    """Grids of values that hold exactly the chosen points: one, when they are a grid."""
    points = [dict(point) for point in dict.fromkeys(tuple(point.items()) for point in chosen)]
    values = {key: list(dict.fromkeys(point[key] for point in points)) for key in points[0]}
    if math.prod(map(len, values.values())) == len(points):
        return [values]
    first = next(key for key, several in values.items() if len(several) > 1)
    return [grid for value in values[first] for grid in grids([p for p in points if p[first] == value])]
