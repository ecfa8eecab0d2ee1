"""Query sets of a run: queries that were asked together lie together, in `attribution/<query set>/`.

The run's own set is `default`. A run made before there were others has it in `attribution/` itself, where it is read.
"""

from pathlib import Path

DEFAULT = "default"


def default_folder(root: Path) -> Path:
    """Where the run's own set lies, or will."""
    folder = root / "attribution"
    return folder if (folder / "manifest.json").exists() else folder / DEFAULT


def query_sets(root: Path) -> dict[str, Path]:
    """Folder of every set that is done, by its name: `default` first."""
    made = {path.parent.name: path.parent for path in sorted((root / "attribution").glob("*/manifest.json"))}
    own = default_folder(root)
    return ({DEFAULT: own} if (own / "manifest.json").exists() else {}) | made


def located(root: Path, need: str) -> Path:
    """Where `stage/file` of a run is; of attribution/, that of the run's own set."""
    stage, _, name = need.partition("/")
    return default_folder(root) / name if stage == "attribution" else root / need
