"""The ledger: what every stage of a run has cost, from the manifests of what it made."""

from pathlib import Path

import pandas as pd

from ddattr.artifacts import adopted, load_json
from ddattr.attribution.queries import query_sets


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


def ledger(root: Path) -> pd.DataFrame:
    """A row for every stage that has made something.

    `artifacts` counts these. Sums over them: `wall_seconds` and `cpu_seconds` of the processes that made them,
    `earlier_seconds` of attempts that were killed or failed, `disk_mb`, `energy_j` (of the whole machine while they
    were made, so work side by side counts each time). Maxima: `memory_mb` and `device_memory_mb` of a process. NaN
    where none of them says: an older version made them, or the machine does not tell.
    """
    rows = []
    for stage, parts in folders(root).items():
        made = pd.DataFrame([found for folder in parts if (found := load_json(folder / "manifest.json"))])
        if made.empty:
            continue
        wanted = ("wall_seconds", "cpu_seconds", "earlier_seconds", "disk_bytes", "energy_j")
        total = {key: made[key].astype(float).sum(min_count=1) for key in wanted if key in made}
        most = {key: made[key].astype(float).max() for key in ("peak_memory_mb", "device_memory_mb") if key in made}
        rows.append(
            {
                "stage": stage,
                "artifacts": len(made),
                "wall_seconds": total.get("wall_seconds"),
                "cpu_seconds": total.get("cpu_seconds"),
                "earlier_seconds": total.get("earlier_seconds"),
                "memory_mb": most.get("peak_memory_mb"),
                "device_memory_mb": most.get("device_memory_mb"),
                "disk_mb": total["disk_bytes"] / 1e6 if "disk_bytes" in total else None,
                "energy_j": total.get("energy_j"),
                "device": "; ".join(sorted(set(made.get("device", pd.Series(dtype=str)).dropna()))),
            }
        )
    return pd.DataFrame(rows)


def said(root: Path) -> list[str]:
    """The ledger in lines, one a stage: what is not known is left out."""
    lines, elsewhere = [], len(adopted(root))
    for row in ledger(root).to_dict("records"):
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
        parts = [text.format(shown(value)) for value, text, shown in known if pd.notna(value)]
        lines.append(f"{many:<20}{', '.join(parts)}")
    return lines


def _time(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds // 60 % 60)
    return f"{hours}:{minutes:02d}:{int(seconds % 60):02d}"


def _count(number: float) -> str:
    return f"{number:,.0f}"
