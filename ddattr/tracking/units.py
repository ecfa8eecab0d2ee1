"""Units in words: what units.parquet of a run calls them."""

from collections.abc import Callable
from pathlib import Path

from ddattr.files import load_table


def unit_names(root: Path) -> Callable[[int], str]:
    """A unit's name, and how many pictures it is where these are several; its number in a run without the table."""
    path = root / "units.parquet"
    if not path.exists():
        return lambda unit: f"unit {unit}"
    table = load_table(path).set_index("unit")

    def name(unit: int) -> str:
        pictures = int(table["pictures"][unit])
        return str(table["name"][unit]) + (f" ({pictures:,} pictures)" if pictures > 1 else "")

    return name
