"""Where every number of the page comes from: a row for the base, if any, the members together and each artifact."""

from pathlib import Path

import pandas as pd

from ddattr.artifacts import load_json
from ddattr.tracking.ledger import folders, ledger


def provenance(root: Path) -> pd.DataFrame:
    """Command, commit, seed, fingerprint, device, cost and torch of every artifact that is done.

    A stage of many artifacts has the command, commit and seed of its first.
    """
    rows, costs = [], ledger(root).set_index("stage")
    for name, parts in folders(root).items():
        if name not in costs.index or name == "figures":
            continue
        first = next(found for folder in parts if (found := load_json(folder / "manifest.json")))
        cost = costs.loc[name]
        rows.append(
            {
                "artifact": name,
                "command": first.get("command"),
                "commit": first.get("commit"),
                "seed": first.get("seed"),
                "fingerprint": first.get("fingerprint"),
                "device": cost.device,
                "seconds": cost.wall_seconds,
                "processor seconds": cost.cpu_seconds,
                "peak MB": cost.memory_mb,
                "disk MB": cost.disk_mb,
                "torch": first.get("versions", {}).get("torch"),
            }
        )
    return pd.DataFrame(rows)
