"""Artifacts at W&B: what a run read and what it made, by fingerprints and digests; no file of theirs is uploaded."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddattr.artifacts import Artifact
from ddattr.tracking.wandb import RunLogger, client


class Node(NamedTuple):
    """An artifact as W&B shows it.

    Args:
        place: its folder, below that of the run; the first part of it is its type.
        files: their digests, by their names below it.
    """

    place: str
    fingerprint: str
    config: Mapping[str, Any]
    files: Mapping[str, str]


def node(root: Path, artifact: Artifact) -> Node:
    """That of a folder, with the files that lie there now."""
    kept = artifact.manifest or {"files": artifact.files()}  # which reads them: only of what is being made
    return Node(
        artifact.folder.relative_to(root).as_posix(), artifact.fingerprint, artifact.config, kept.get("files") or {}
    )


def log_lineage(loggers: Sequence[RunLogger], made: Node, read: Sequence[Node]) -> None:
    """Logs what a run read and made. The same artifact again is the same version, whichever run logs it.

    Nothing more is logged where W&B's client has given up: it would wait again for a server that is away.
    """
    for logger in loggers:
        for one in (*read, made):
            if logger.trouble is not None:
                break
            with logger.sparing():  # not `use_artifact`, which refuses offline what `wandb sync` sends later
                logger.experiment._log_artifact(
                    _drawn(logger.experiment.group, one),
                    aliases=["latest", one.fingerprint],
                    is_user_created=one is not made,  # by another run
                    use_after_commit=one is not made,
                )


def _drawn(group: str, one: Node) -> Any:
    """W&B's artifact: its version is the digest of these references, so of the bits that they name."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"{group}-{one.place}")[:128]
    about = {"fingerprint": one.fingerprint, "config": dict(one.config)}
    artifact = client().Artifact(name, type=one.place.partition("/")[0], metadata=about)
    for file, digest in {"fingerprint": one.fingerprint, **one.files}.items():
        artifact.add_reference(f"ddattr:{one.place}/{file}#{digest}", name=file, checksum=False)
    return artifact
