"""The config that a command line starts from: conf/config.yaml, or the saved one of the run whose folder it names."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

from ddattr.archive import ENDINGS
from ddattr.stages.saved import NAME, PER_CALL, conf, named, read

_SAVED = "saved_config"
_PLAIN = re.compile(r"[A-Za-z./_-][\w./-]*", re.ASCII)


def is_folder(word: str) -> bool:
    """Whether a word of a command line is meant as a run's folder, or an archive: it exists, or looks like a path."""
    if "=" in word:  # a folder may have one in its name
        return os.sep in word and os.path.exists(word)
    return word.endswith(ENDINGS) or os.sep in word or os.path.isdir(word)


def override(folder: str, key: str = "run") -> str:
    """A folder as Hydra's override: processes that start from argv find it there."""
    if _PLAIN.fullmatch(folder) and folder.lower() not in ("null", "true", "false", "nan", "inf"):
        return f"{key}={folder}"
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + (found[2] and "\\'"), folder)
    return f"{key}='{quoted}'"


def parts(folder: str) -> list[str]:
    """An artifact's folder as overrides: the run that it lies in, and its place there; a run's as that alone."""
    for path in (Path(os.path.normpath(folder)), Path(os.path.abspath(folder))):
        for root in (path, *path.parents):
            if (root / NAME).is_file():
                own = [override(str(root))]
                return own if root == path else [*own, override(path.relative_to(root).as_posix(), "artifact")]
    raise FileNotFoundError(
        f"replay: {folder} lies in no run, expected an artifact in a folder with {NAME}. Name one as "
        "runs/digits/members/003."
    )


def own_experiment(words: Sequence[str]) -> list[str]:
    """Overrides that name data of one's own and no experiment: the one that goes by rule is theirs."""
    data = [word.partition("=")[2] for word in words if word.startswith("data=")]
    written = any(word.lstrip("+").startswith(("experiment=", "run=")) for word in words)
    return [*words] if not data or data[-1] == "digits" or written else ["experiment=own", *words]


def folder_of(words: Sequence[str]) -> str | None:
    """The folder that the overrides of a command line name; the last one counts.

    Raises:
        ValueError: it names several, as a sweep does.
    """
    given = [word for word in words if word.startswith("run=")]
    if not given:
        return None
    parsed = OverridesParser.create().parse_override(given[-1])
    if parsed.is_sweep_override():
        raise ValueError(f"ddattr: {given[-1]}, expected one folder: every run has a config of its own. Name one.")
    return None if parsed.value() is None else str(parsed.value())


def primary(words: Sequence[str]) -> str:
    """Name, for Hydra, of the config that a command line starts from.

    A group that the command line sets (`tracking=none`) is left out of a saved config, and stands among its defaults.

    Raises:
        FileNotFoundError, ValueError: there is no such folder or config, or one that is refused; an experiment is named
            as well.
    """
    folder = folder_of(words)
    if folder is None or ("stage=verify" in words and not os.path.isfile(os.path.join(folder, NAME))):
        return "config"  # an archive, or what an older run left, is looked at without a config
    keys = {word.lstrip("+").partition("=")[0] for word in words}
    if "experiment" in keys:
        raise ValueError(
            f"ddattr: experiment= and the folder {folder}, expected one of them: the folder has its config. "
            "Leave out one."
        )
    ConfigStore.instance().store(_SAVED, _started_from(Path(folder), read(Path(folder), named(words)), keys))
    return _SAVED


def _started_from(folder: Path, saved: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    """What Hydra composes: conf/config.yaml with a saved config in the place of its groups."""
    config = yaml.safe_load((Path(conf()) / "config.yaml").read_text())
    groups = [entry for entry in config.pop("defaults") if isinstance(entry, dict)]
    chosen = [
        entry
        for entry in groups
        if (keys | PER_CALL) & set(entry) or any(group.startswith("override ") for group in entry)
    ]
    for key, value in saved.items():
        if not any(key in entry for entry in chosen):
            config[key] = _linked(value, saved["seed"])
    return {"defaults": ["_self_", *chosen], **config, "root": str(folder)}


def _linked(node: Any, seed: int) -> Any:
    """Seeds that are the run's own follow it again, as conf/ has them: `seed=1` changes them all."""
    if isinstance(node, list):
        return [_linked(item, seed) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: "${seed}" if key == "seed" and value == seed else _linked(value, seed) for key, value in node.items()}
