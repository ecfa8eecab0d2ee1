"""How far two files are apart that ought to be the same: in bits, and of tables and tensors in numbers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from ddattr.files import load_table


def difference(kept: Path, made: Path) -> str:
    """What is different in a file that was made again, in words: numbers for tables and tensors.

    The absolute difference is the largest of all numbers, the relative one that over the largest absolute value of the
    same tensor or column.

    Raises:
        ValueError: a file of another kind than its name says.
    """
    if kept.suffix == ".safetensors":
        return _apart("tensor", load_file(kept), load_file(made))
    if kept.suffix in (".csv", ".parquet"):
        return _apart("column", _columns(kept), _columns(made))
    return "other bits"


def _columns(path: Path) -> dict[str, np.ndarray]:
    table: pd.DataFrame = load_table(path)
    return {str(name): table[name].to_numpy() for name in table}


def _apart(what: str, kept: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray]) -> str:
    if other := sorted(set(kept) ^ set(made)):
        return f"{what} {other[0]} is in one of them only"
    reshaped = [name for name in kept if kept[name].shape != made[name].shape]
    if reshaped:
        name = reshaped[0]
        return f"{what} {name} is of {_shape(made[name])}, not of {_shape(kept[name])}"
    words, numbers = [], {}
    for name in kept:
        if all(np.issubdtype(part.dtype, np.number) or part.dtype == bool for part in (kept[name], made[name])):
            numbers[name] = _numbers(kept[name].astype(np.float64), made[name].astype(np.float64))
        elif count := int((kept[name].astype(str) != made[name].astype(str)).sum()):
            words.append(f"{count} of {kept[name].size} entries of {what} {name}")
    if not words and not any(absolute for absolute, _ in numbers.values()):
        return "the same values in other bits"
    if numbers:
        absolute, relative = (max(numbers, key=lambda name: numbers[name][place]) for place in (0, 1))
        words.insert(
            0,
            f"largest difference {numbers[absolute][0]:.2g} ({what} {absolute}), relative {numbers[relative][1]:.2g} "
            f"({what} {relative})",
        )
    return ", ".join(words)


def _numbers(kept: np.ndarray, made: np.ndarray) -> tuple[float, float]:
    """Largest difference, and that over the largest value; infinite where one is no finite number and the other is."""
    same = (kept == made) | (np.isnan(kept) & np.isnan(made))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.nan_to_num(np.abs(kept - made), nan=np.inf, posinf=np.inf))
    largest = float(apart.max(initial=0.0))
    finite = np.abs(kept[np.isfinite(kept)])
    scale = float(finite.max(initial=0.0))
    return largest, largest / scale if scale else (np.inf if largest else 0.0)


def _shape(part: np.ndarray) -> str:
    return " x ".join(map(str, part.shape)) or "one number"
