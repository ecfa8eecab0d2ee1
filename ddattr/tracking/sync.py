"""Offline runs of a folder, sent to W&B, also where it was moved: logs name staged files by whole paths."""

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as protocol

from ddattr.files import atomic

STAGED = "artifacts/staging"  # below a run's folder: files of tables and artifacts until they are sent
LIMIT = 600  # seconds that a run has to be sent
HEADER, BLOCK = 7, 1 << 15
WHOLE, FIRST, MIDDLE, LAST = range(1, 5)


def offline(root: Path) -> list[Path]:
    """Folders of the runs that a run's folder holds and that were logged offline, in the order of their beginning.

    One that was killed before it had written a record is left out: W&B would refuse it, and what resumed it.
    """
    logs = sorted(root.glob("wandb/offline-run-*/*.wandb"))
    return [log.parent for log in logs if next(_unpacked(log.read_bytes()), None)]


def send(root: Path) -> int:
    """Sends what was not sent yet, by `wandb sync`, which marks what it has sent; gives the number of runs.

    Raises:
        FileNotFoundError, ValueError: there are none; W&B did not take them.
    """
    left_behind, runs = waiting(root), offline(root.absolute())
    for folder in left_behind:  # one by one: a resumed run's second log goes on where the first has ended
        settle(folder, _before(folder, runs))
        command = [sys.executable, "-m", "wandb", "sync", str(folder)]
        with suppress(subprocess.TimeoutExpired):  # a log that its writer left open may be waited for without end
            subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
    left = [folder.name for folder in left_behind if not _sent(folder)]  # the command's status is 0 even so
    if left:
        raise ValueError(f"tracking: W&B did not take all of {', '.join(left)}. Give the same command again.")
    return len(left_behind)


def waiting(root: Path) -> list[Path]:
    """Those of a folder's offline runs that were not sent yet.

    Raises:
        FileNotFoundError: it has none at all.
    """
    runs = offline(root.absolute())
    if not runs:
        raise FileNotFoundError(f"tracking: {root / 'wandb'} has no offline runs. Make some with tracking=offline.")
    return [folder for folder in runs if not _sent(folder)]


def _sent(folder: Path) -> bool:
    return any(folder.glob("*.wandb.synced"))


def settle(folder: Path, had: Collection[Hashable] = ()) -> int:
    """Makes a log ready to be sent: moved, it names its staged files where they are now; gives how many it moved.

    A log whose files are where it says is left alone.

    Args:
        had: rows of history, by `_row`, of logs of the same run before it: a resumed run logs them again, and they are
            taken out.
    """
    moved = left = 0
    for log in folder.glob("*.wandb"):
        content, found = log.read_bytes(), []
        for packed in _unpacked(content):
            record = protocol.Record.FromString(packed)  # type: ignore[attr-defined]
            stale = 0
            for entry in record.artifact.manifest.contents if record.HasField("artifact") else ():
                here = folder.absolute() / STAGED / os.path.basename(entry.local_path)
                if entry.local_path and not os.path.exists(entry.local_path) and here.is_file():
                    entry.local_path, stale = str(here), stale + 1
            moved += stale
            if _row(record) in had:
                left += 1
            else:
                found.append(record.SerializeToString() if stale else packed)
        if moved or left:
            with atomic(log) as part:
                part.write_bytes(_packed(content[:HEADER], found))
    return moved


def _before(folder: Path, runs: Sequence[Path]) -> set[Hashable]:
    """Rows of history of the same run's logs, of those before a folder's."""
    same = [run for run in runs[: runs.index(folder)] if _id(run) == _id(folder)]
    logs = [log for run in same for log in run.glob("*.wandb")]
    records = (protocol.Record.FromString(packed) for log in logs for packed in _unpacked(log.read_bytes()))  # type: ignore[attr-defined]
    return {row for record in records if (row := _row(record)) is not None}


def _id(folder: Path) -> str:
    return folder.name.split("-", 3)[-1]  # offline-run-TIME-ID


def _row(record: Any) -> Hashable:
    """What tells rows of history apart: W&B's step, ours and what is measured there; None of any other record."""
    row = {(item.key or "/".join(item.nested_key)): item.value_json for item in record.history.item}
    return (row.get("_step"), row.get("trainer/global_step"), frozenset(row)) if row else None


def _unpacked(content: bytes) -> Iterator[bytes]:
    """Records of a log, up to where its writer got.

    Source: LevelDB's log format, https://github.com/google/leveldb/blob/main/doc/log_format.md, behind W&B's header.
    """
    place, parts = HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        check, length, kind = struct.unpack_from("<IHB", content, place)
        part = content[place + HEADER : place + HEADER + length]
        if kind == 0 or len(part) < length or zlib.crc32(part, zlib.crc32(bytes([kind]))) != check:
            return
        place, parts = place + HEADER + length, parts + part
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""


def _packed(header: bytes, records: list[bytes]) -> bytes:
    """A log of records: the inverse of `_unpacked`."""
    log = bytearray(header)
    for record in records:
        rest, first = memoryview(record), True
        while first or rest:
            left = BLOCK - len(log) % BLOCK
            if left < HEADER:
                log += bytes(left)
                continue
            part, rest = rest[: left - HEADER], rest[left - HEADER :]
            kind = (LAST if not first else WHOLE) if not rest else (FIRST if first else MIDDLE)
            log += struct.pack("<IHB", zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind) + part
            first = False
    return bytes(log)
