"""The ledger: what every stage of a run has cost, from the manifests of what it made."""

from collections.abc import Iterable
from functools import partial
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddattr.artifacts import adopted
from ddattr.attribution.places import query_sets
from ddattr.files import load_json

if TYPE_CHECKING:
    import pandas


def folders(root: Path) -> dict[str, list[Path]]:
    """Folders of a run's artifacts, by the stage that made them, in the order in which they are made."""
    return {
        "base": [root / "base"],
        "members": sorted((root / "members").glob("*")),
        "quality": [root / "quality"],
        **{f"attribution/{name}": [folder] for name, folder in query_sets(root).items()},
        "retraining": sorted((root / "validation" / "retraining").glob("*")),
        "validation": [root / "validation"],
        "figures": [root / "figures"],
    }


def ledger(root: Path) -> "pandas.DataFrame":
    """A row for every stage that has made something.

    `artifacts` counts these. Sums over them: `wall_seconds` and `cpu_seconds` of the processes that made them,
    `earlier_seconds` of attempts that were killed or failed, `disk_mb`, `energy_j` (of the whole machine while they
    were made, so work side by side counts each time). Maxima: `memory_mb` and `device_memory_mb` of a process. NaN
    where none of them says: an older version made them, or the machine does not tell.
    """
    import pandas as pd  # not for `status`, which is not to be waited for

    return pd.DataFrame(_rows(root))


def _rows(root: Path) -> list[dict[str, Any]]:
    """The ledger in plain containers; None where it has NaN."""
    rows = []
    for stage, parts in folders(root).items():
        made = [found for folder in parts if (found := load_json(folder / "manifest.json"))]
        if not made:
            continue
        of = partial(_told, made)
        disk = _sum(of("disk_bytes"))
        rows.append(
            {
                "stage": stage,
                "artifacts": len(made),
                "wall_seconds": _sum(of("wall_seconds")),
                "cpu_seconds": _sum(of("cpu_seconds")),
                "earlier_seconds": _sum(of("earlier_seconds")),
                "memory_mb": max(of("peak_memory_mb"), default=None),
                "device_memory_mb": max(of("device_memory_mb"), default=None),
                "disk_mb": None if disk is None else disk / 1e6,
                "energy_j": _sum(of("energy_j")),
                "device": "; ".join(sorted({manifest["device"] for manifest in made if manifest.get("device")})),
            }
        )
    return rows


def _told(manifests: Iterable[dict[str, Any]], key: str) -> list[float]:
    return [float(manifest[key]) for manifest in manifests if manifest.get(key) is not None]


def _sum(values: list[float]) -> float | None:
    return fsum(values) if values else None


def said(root: Path) -> list[str]:
    """The ledger in lines, one a stage: what is not known is left out."""
    lines, elsewhere = [], len(adopted(root))
    for row in _rows(root):
        many = f"{row['stage']} ({row['artifacts']})" if row["artifacts"] > 1 else row["stage"]
        if row["stage"] == "members" and elsewhere:
            many = f"members ({row['artifacts']}, of which {elsewhere} trained elsewhere, at an unknown cost) "
        known = [
            (row["cpu_seconds"], "processor {}", _time),
            (row["wall_seconds"], "clock {}", _time),
            (row["earlier_seconds"] or None, "earlier attempts {}", _time),
            (row["memory_mb"], "memory {} MB", _count),
            (row["device_memory_mb"], "on the device {} MB", _count),
            (row["disk_mb"], "disk {} MB", lambda mb: f"{mb:,.1f}"),
            (row["energy_j"], "energy {} Wh", lambda joules: f"{joules / 3600:,.1f}"),
        ]
        parts = [text.format(shown(value)) for value, text, shown in known if value is not None]
        lines.append(f"{many:<20}{', '.join(parts)}")
    return lines


def _time(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds // 60 % 60)
    return f"{hours}:{minutes:02d}:{int(seconds % 60):02d}"


def _count(number: float) -> str:
    return f"{number:,.0f}"
