"""Where every number of the page comes from: a row for the base, if any, the members together and each artifact."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ddattr.artifacts import adopted
from ddattr.files import load_json
from ddattr.tracking.ledger import folders, ledger


def provenance(root: Path) -> pd.DataFrame:
    """Command, commit, seed, fingerprint, device, cost and torch of every artifact that is done.

    A stage of many artifacts has the command, commit and seed of its first; a member that was trained elsewhere has a
    row of its own, with the path that it came from and when.
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
        if name == "members":
            rows += [_elsewhere(member, of) for member, of in adopted(root).items()]
    return pd.DataFrame(rows)


def _elsewhere(member: int, of: Mapping[str, Any]) -> dict[str, Any]:
    digests = ", ".join(f"{name} {digest[:16]}" for name, digest in of["files"].items())
    return {
        "artifact": f"member {member}",
        "command": f"trained elsewhere, adopted on {of['date']} from {of['path']}",
        "fingerprint": digests,
    }
