"""Files that are written whole or not at all, and read with one line where they are missing or damaged.

A write goes to a temporary name in the same folder, is flushed to disk, and renamed; torch and pandas, which take
seconds to import, are imported where a tensor or a table is read or written.
"""

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ddattr.locks import check_lock

if TYPE_CHECKING:
    import pandas
    import torch


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; it takes the name `path`, whole and on disk, if the block succeeds.

    Raises:
        OSError: the file system did not take it, a full disk among others; names `path`, whichever library wrote. Or
            another process works in its folder, though this one holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part{path.suffix}")  # machines may share a folder
    try:
        with written(path):
            yield part
            check_lock(path)
            with open(part, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Around what a library writes to a path.

    Raises:
        OSError: as `atomic`.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = error.errno if isinstance(error, OSError) else _code(error)
        if code in (None, errno.ENOLCK):
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def save_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"], about: Mapping[str, Any] | None = None) -> None:
    """Tensors as safetensors.

    Args:
        about: what the file says of them, plain containers. It is one entry: the library keeps several in no order.
    """
    from safetensors.torch import save_file

    metadata = None if about is None else {"ddattr": json.dumps(about, sort_keys=True)}
    with atomic(path) as part:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part, metadata)


def load_tensors(path: Path) -> "dict[str, torch.Tensor]":
    """Tensors of a safetensors file.

    Raises:
        FileNotFoundError, ValueError: it is missing; it is truncated or foreign.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Delete its folder and make it again.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete its folder and make it again.") from None


def load_about(path: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors; nothing, where `save_tensors` was given nothing.

    Raises:
        ValueError: it is truncated or foreign.
    """
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("ddattr", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete its folder and make it again.") from None


def save_table(path: Path, table: "pandas.DataFrame | Iterable[pandas.DataFrame]") -> None:
    """A table, as CSV or Parquet by the path's ending; what comes in parts is Parquet, a row group a part."""
    import pandas as pd

    with atomic(path) as part:
        if not isinstance(table, pd.DataFrame):
            _save_parts(part, table)
        elif path.suffix == ".parquet":
            table.to_parquet(part, index=False)
        else:
            table.to_csv(part, index=False, float_format="%.8g")


def _save_parts(path: Path, parts: "Iterable[pandas.DataFrame]") -> None:
    """None is held when the next is made. A column of nothing, in the first part, is one of text."""
    import pyarrow as arrow
    from pyarrow.parquet import ParquetWriter

    writer = None
    try:
        for part in parts:
            if writer is None:
                schema = arrow.Schema.from_pandas(part, preserve_index=False)
                for place, field in enumerate(schema):
                    if arrow.types.is_null(field.type):
                        schema = schema.set(place, field.with_type(arrow.string()))
                writer = ParquetWriter(path, schema)
            part = part.reindex(columns=writer.schema.names)  # those that a later part lacks, too
            writer.write_table(arrow.Table.from_pandas(part, writer.schema, preserve_index=False))
            del part
    finally:
        if writer is not None:
            writer.close()


def load_table(path: Path) -> "pandas.DataFrame":
    """A table, from CSV or Parquet by the path's ending."""
    import pandas as pd

    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


def save_text(path: Path, content: str) -> None:
    """Text, with a line break at its end."""
    with atomic(path) as part:
        part.write_text(content + "\n")


def save_json(path: Path, content: Any) -> None:
    """Plain containers as JSON."""
    save_text(path, json.dumps(content, indent=2, default=str))


def load_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ValueError(f"{path} is damaged. Delete its folder and make it again.") from None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _code(error: SafetensorError) -> int | None:
    """The system's number of an error, which safetensors has in words."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None
