"""Where every number of the page comes from: a row for the base, if any, the members together and each artifact."""

from pathlib import Path

import pandas as pd

from ddattr.artifacts import load_json
from ddattr.attribution.queries import query_sets


def provenance(root: Path) -> pd.DataFrame:
    """Command, commit, seed, fingerprint, device, cost and torch of every artifact that is done."""
    folders = {
        "base": [root / "base"],
        "members": sorted((root / "members").glob("*")),
        "quality": [root / "quality"],
        **{f"attribution/{name}": [folder] for name, folder in query_sets(root).items()},
        "validation": [root / "validation"],
    }
    rows = []
    for name, parts in folders.items():
        manifests = [found for folder in parts if (found := load_json(folder / "manifest.json"))]
        if not manifests:
            continue
        first = manifests[0]
        rows.append(
            {
                "artifact": name,
                "command": first.get("command"),
                "commit": first.get("commit"),
                "seed": first.get("seed"),
                "fingerprint": first.get("fingerprint"),
                "device": first.get("device"),
                "seconds": sum(m.get("wall_seconds", 0) for m in manifests),
                "peak MB": max(m.get("peak_memory_mb", 0) for m in manifests),
                "torch": first.get("versions", {}).get("torch"),
            }
        )
    return pd.DataFrame(rows)
