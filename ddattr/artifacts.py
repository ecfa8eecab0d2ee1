"""Run folders that remember how they were made: manifests and fingerprints.

A folder is done when its manifest.json exists, and only then; the manifest is written last. `ddattr status` and
`verify` look at manifests alone, and wait for no import of what makes things.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from ddattr.files import digest, load_json, save_json
from ddattr.locks import held, locked

_ABOUT = {"manifest.json", "status.json", "last.ckpt"}  # of an artifact, or of its making, and no part of it
_ASIDE = {"wandb", "shards"}


def first_process() -> bool:
    """Whether this process is the only one, or rank 0 of those that a Trainer, or torchrun, has started together."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0) == 0


class Artifact:
    """One folder, made by one stage from a config subtree and its parents.

    Args:
        folder: where; it may move, nothing inside names it.
        config: what the result depends on, plain containers. Only this and the parents are fingerprinted.
        parents: fingerprints of what was read.
        remedy: how to make it, for errors: a command line.
        otherwise: what to do where it was made with another config: a sentence.
        title: what messages call it; the folder's name where none is given.
        view: whether it only shows others: it is made again, and not refused, where it was made with another config, or
            where a file beside it is gone.
        beside: names of files that are made with it, and lie in the run's folder, beside its own.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        parents: Mapping[str, str] | None = None,
        remedy: str = "",
        otherwise: str = "Choose another name= or root=, or delete that folder.",
        title: str = "",
        view: bool = False,
        beside: Iterable[str] = (),
    ):
        self.folder = folder
        self.config = dict(config)
        self.parents = dict(parents or {})
        self.remedy = remedy
        self.otherwise = otherwise
        self.title = title or folder.name
        self.view = view
        self.beside = tuple(beside)
        self.read: dict[str, str] = {}  # digests of parents' files, where fingerprints leave their bits open
        self.adopted: dict[str, Any] | None = None  # where it was taken from, if its work was done elsewhere
        self.fingerprint = fingerprint({"config": self.config, "parents": self.parents})

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None while the folder is not done."""
        return load_json(self.folder / "manifest.json")

    def done(self) -> bool:
        """Whether it was made, with this config.

        Raises:
            ValueError: it was made with another config or other parents; names the keys that differ.
        """
        manifest = self.manifest
        if manifest is None:
            return False
        if not {"fingerprint", "config", "parents"} <= set(manifest):
            raise ValueError(f"{self.folder / 'manifest.json'} is damaged. Delete its folder and make it again.")
        if manifest["fingerprint"] != self.fingerprint:
            if self.view:
                return False
            raise ValueError(self._mismatch(manifest))
        return not self.view or all((self.folder.parent / name).is_file() for name in manifest.get("beside") or {})

    def state(self) -> str:
        """`done`, `made with another config`, `out of date`, `running`, `dead`, `failed`, `interrupted` or `missing`.

        A process that works on it holds its lock, or that of one of its shards; one that status.json calls running, and
        which holds none, was killed.
        """
        try:
            if self.done():
                return "done"
        except ValueError:
            return "made with another config"
        if held(self.folder) or any(map(held, self.folder.glob("shards/*/*/"))):
            return "running"
        if self.view and self.manifest is not None:
            return "out of date"
        known = (load_json(self.folder / "status.json") or {}).get("state", "missing")
        return "dead" if known == "running" else known

    def require(self) -> "Artifact":
        """Itself, if done.

        Raises:
            FileNotFoundError: it is missing; says which command makes it.
        """
        if not self.done():
            raise FileNotFoundError(f"{self.title}: {self.folder} is missing. Make it: {self.remedy}")
        return self

    def verified(self, name: str) -> Path:
        """Path of one of its files, whose content is what the manifest says.

        Raises:
            FileNotFoundError, ValueError: the file is missing; it was changed or exchanged.
        """
        path, kept = self.folder / name, ((self.manifest or {}).get("files") or {}).get(name)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing, though its manifest is there. Delete its folder and make it again: {self.remedy}"
            )
        if kept is not None and not same_digest(kept, digest(path)):
            raise ValueError(
                f"{path} is damaged or not what its manifest says. Delete its folder and make it again: {self.remedy}"
            )
        return path

    def whole(self) -> "Artifact":
        """Itself, if done, and every file is what its manifest says.

        Raises:
            FileNotFoundError, ValueError: as `require` and `verified`; names the first that is not.
        """
        for name in (self.require().manifest or {}).get("files") or {}:
            self.verified(name)
        return self

    def make(self, seed: int, work: Callable[[], None], wait: bool = True) -> bool:
        """Does the work under the folder's lock, and writes the manifest if it succeeds; False if it was done already.

        Waits for another process that is making the same, and then finds it done. A process of rank above 0 does its
        share of the work only: locks and manifests are rank 0's.

        Args:
            wait: for another process that is making the same; else BlockingIOError is raised.
        Raises:
            ValueError: it was made with another config.
        """
        from ddattr.meter import Expense

        if self.done():
            return False
        if not first_process():
            work()
            return True
        with locked(self.folder, wait) as earlier:
            if self.done():
                return False
            expense = Expense()
            (self.folder / "manifest.json").unlink(missing_ok=True)  # a view's, which is of other files from here on
            self._clear()
            work()
            self._seal(self._describe(seed, {**expense.read(), "earlier_seconds": round(earlier, 2)}))
        return True

    def _clear(self) -> None:
        """Removes what a process that was killed had half written, beside its folder too; not in other artifacts, which
        lie in it."""
        for name in self.beside:
            for part in self.folder.parent.glob(f".{name}.*.part*"):
                part.unlink(missing_ok=True)
        for part in self.folder.rglob(".*.part*"):
            own = part.parent == self.folder or not (part.parent / ".lock").exists()
            if own and not _ASIDE & set(part.relative_to(self.folder).parts):
                part.unlink(missing_ok=True)

    def redrawn(self) -> None:
        """Takes up, into the manifest of a view that is done, files that another stage has drawn again."""
        if (manifest := self.manifest) is not None and first_process():
            self._seal(manifest | {"files": self.files(), "beside": self._beside()})

    def _seal(self, manifest: dict[str, Any]) -> None:
        save_json(self.folder / "manifest.json", manifest | {"checksum": checksum(manifest)})

    def files(self) -> dict[str, str]:
        """Digests of its files as they lie there, by their names below its folder."""
        names = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return {name: digest(self.folder / name) for name in own_files(names)}

    def _beside(self) -> dict[str, str]:
        """Digests of the files beside its folder, those that are there."""
        paths = (self.folder.parent / name for name in self.beside)
        return {path.name: digest(path) for path in paths if path.is_file()}

    def _describe(self, seed: int, cost: Mapping[str, float | None]) -> dict[str, Any]:
        from ddattr.provenance import provenance

        files = self.files()
        return {
            "fingerprint": self.fingerprint,
            "config": self.config,
            "parents": self.parents,
            "seed": seed,
            **provenance(),
            **cost,
            "disk_bytes": sum((self.folder / name).stat().st_size for name in files),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "read": self.read,
            "files": files,
            "beside": self._beside(),
            **({} if self.adopted is None else {"adopted": self.adopted}),
        }

    def _mismatch(self, manifest: Mapping[str, Any]) -> str:
        made, wanted = (
            _flat({**manifest["config"], "parents": manifest["parents"]}),
            _flat({**self.config, "parents": self.parents}),
        )
        keys = [key for key in sorted({*made, *wanted}) if made.get(key) != wanted.get(key)]
        differences = ", ".join(f"{k}={_short(made.get(k))} (now {_short(wanted.get(k))})" for k in keys[:4])
        more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
        return f"{self.title}: {self.folder} was made with {differences}{more}. {self.otherwise}"


def adopted(root: Path) -> dict[int, dict[str, Any]]:
    """Members of a run that were trained elsewhere, by number: their path, digests and date, as `adopt` noted them."""
    folders = sorted((root / "members").glob("[0-9]*/"))
    kept = {int(folder.name): load_json(folder / "manifest.json") or {} for folder in folders if folder.name.isdigit()}
    return {member: manifest["adopted"] for member, manifest in kept.items() if "adopted" in manifest}


def fingerprint(content: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of plain containers."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def checksum(manifest: Mapping[str, Any]) -> str:
    """Fingerprint of a manifest less its own checksum: whether a key of it was changed."""
    return fingerprint(json.loads(json.dumps({k: v for k, v in manifest.items() if k != "checksum"}, default=str)))


def own_files(names: Iterable[str]) -> list[str]:
    """Those of the files below a folder, by name, that are the artifact's: what its manifest has digests of.

    Not locks, status and checkpoints, not W&B's folders, and not the artifacts that lie in it.
    """
    paths = [PurePosixPath(name) for name in names]
    nested = {path.parent for path in paths if path.name in {".lock", *_ABOUT}} - {PurePosixPath()}
    return sorted(
        str(path)
        for path in paths
        if not ({path.name} & _ABOUT or path.name.startswith(".") or nested & set(path.parents))
        and not _ASIDE & set(path.parts[:-1])
    )


def same_digest(kept: str, found: str) -> bool:
    """Whether a digest is that of a manifest, where older ones have its first 16 hexadecimal digits."""
    return len(kept) >= 16 and found.startswith(kept)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
