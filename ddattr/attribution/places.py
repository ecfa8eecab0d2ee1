"""Where the query sets of a run lie, and which are there. Paths alone: what only looks at a run imports no torch.

Queries that were asked together lie together, in `attribution/<query set>/`. The run's own set is `default`; a run made
before there were others has it in `attribution/` itself, where it is read.
"""

from pathlib import Path

DEFAULT = "default"
FUNCTIONALS = "functionals"  # in a set's folder, a folder for each that its queries were asked


def default_folder(root: Path) -> Path:
    """Where the run's own set lies, or will."""
    folder = root / "attribution"
    return folder if (folder / "manifest.json").exists() else folder / DEFAULT


def query_sets(root: Path) -> dict[str, Path]:
    """Folder of every set that is done, by its name: `default` first."""
    made = {path.parent.name: path.parent for path in sorted((root / "attribution").glob("*/manifest.json"))}
    own = default_folder(root)
    return ({DEFAULT: own} if (own / "manifest.json").exists() else {}) | made


def functionals(folder: Path) -> list[Path]:
    """Folder of every functional that a query set was asked, those that are done."""
    return [path.parent for path in sorted((folder / FUNCTIONALS).glob("*/manifest.json"))]


def shown_in(folder: Path) -> Path:
    """The file of a set's pictures as people see them: decoded ones, where members make latents."""
    decoded = folder / "shown.safetensors"
    return decoded if decoded.is_file() else folder / "queries.safetensors"


def located(root: Path, need: str) -> Path:
    """Where `stage/file` of a run is; of attribution/, that of the run's own set."""
    stage, _, name = need.partition("/")
    return default_folder(root) / name if stage == "attribution" else root / need
