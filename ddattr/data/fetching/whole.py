"""A folder that is whole or absent."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MADE = ".fetched.json"  # in the folder: what it was made of


@contextmanager
def whole(folder: Path, made_of: Mapping[str, Any]) -> Iterator[Path | None]:
    """An empty folder to fill, which takes its name when the block succeeds; None where it is filled already.

    What a killed process left is done again. The block writes whose the data is, and under which licence, into the
    file LICENCES, which is printed.

    Args:
        made_of: what decides the content.
    Raises:
        ValueError: the folder holds something else; another process is filling it.
    """
    wanted = json.dumps(made_of, sort_keys=True)
    if os.path.lexists(folder):
        made = fetched(folder)
        if made != wanted:
            raise ValueError(f"fetch: {folder} was made of {made}, now {wanted}. Delete it, or set fetch.folder.")
        yield None
        _say(f"already done, {folder}", folder)
        return
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    handle = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _empty(part)
        yield part
        (part / _MADE).write_text(wanted)
        os.replace(part, folder)
        _say(f"done, {folder}", folder)
    except BlockingIOError:
        raise ValueError(f"fetch: another process is filling {folder}. Wait for it.") from None
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(handle)


def fetched(folder: Path) -> str:
    """What a folder that is there was made of.

    Raises:
        ValueError: it was not fetched.
    """
    made = _read(folder / _MADE)
    if made is None:
        raise ValueError(f"fetch: {folder} is there, and was not fetched. Move it away, or set fetch.folder.")
    return made


def _say(what: str, folder: Path) -> None:
    print(f"fetch: {what}\n{(folder / 'LICENCES').read_text().rstrip()}", flush=True)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
