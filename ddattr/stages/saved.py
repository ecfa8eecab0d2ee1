"""The config that a run's folder keeps: its text, and its reading, which runs nothing that the folder names.

A folder may come from anybody, and what a config names is instantiated. So a saved config is plain, and names no
constructors but those of conf/, schedulers and networks of diffusers, and what the user's own command line names.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import ddattr
from ddattr.schema import KEYS
from ddattr.spelling import meant, nearest

_RUN = re.compile(r"\w[\w.=+-]{0,99}")
FORMAT = 1  # raised when a key of an older one means something else, or is gone
NAME = "config.yaml"
_SEAL = "\n# checksum: "
# of a command line, and of no run
PER_CALL = {"stage", "run", "root", "member", "unit", "part", "power", "artifact", "output", "path", "against"}
PER_CALL |= {"fetch", "queries", "functional"}
KEPT = KEYS - PER_CALL
_DIFFUSERS = re.compile(r"diffusers(\.[a-z0-9_]+)*\.[A-Z][A-Za-z0-9]*(Scheduler|Model)")
_TARGETS = re.compile(r"""_target_['"]?\s*[:=]\s*['"]?([\w.]+)""")


def conf() -> str:
    """The folder conf/: inside an installed package, beside the package in a checkout."""
    package = Path(ddattr.__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"conf: no config.yaml in {package}/conf nor beside the package. Install ddattr again.")


def text(config: Mapping[str, Any]) -> str:
    """A config as a folder keeps it: less what is of one call, and with its checksum as a last line."""
    kept = {key: value for key, value in config.items() if key not in PER_CALL}
    content = OmegaConf.to_yaml(OmegaConf.create({"format": FORMAT, **kept})).rstrip()
    return f"{content}{_SEAL}{_checksum(content)}"


def whole(text: str) -> bool | None:
    """Whether a kept config is as ddattr wrote it; None where an older version did, which said nothing of that."""
    content, sealed, found = text.rstrip().rpartition(_SEAL)
    return found == _checksum(content) if sealed else None


def _checksum(text: str) -> str:
    """16 hexadecimal digits of its SHA-256; not from `artifacts`, which imports torch."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def renewed(folder: Path, config: Mapping[str, Any]) -> str | None:
    """What a folder is to keep of a resolved config from now on; None where it keeps that already.

    Where a call is tracked, and how its work is spread, no result depends on: a folder keeps what its first call said.
    Of a Trainer's options it keeps those that conf/ has.
    """
    config = {**config, "trainer": {k: v for k, v in config["trainer"].items() if k in _trainer_keys()}}
    try:
        found = (folder / NAME).read_text()
        kept = _parsed(folder / NAME, found)
    except (OSError, ValueError):
        return text(config)
    wanted = dict(config)
    if isinstance(kept.get("tracking"), dict) and isinstance(kept.get("trainer"), dict):
        wanted["tracking"] = kept["tracking"]
        wanted["trainer"] = kept["trainer"] | {"precision": config["trainer"].get("precision")}
    return None if _plain(text(wanted)) == kept and whole(found) is not False else text(wanted)


def named(words: Collection[str]) -> set[str]:
    """The constructors that the overrides of a command line name; not those in the name of a run's folder."""
    own = (word for word in words if not word.startswith("run="))
    return {target for word in own for target in _TARGETS.findall(word)}


def read(folder: Path, trusted: Collection[str] = ()) -> dict[str, Any]:
    """The config that a run's folder keeps, vetted: nothing that it names has been imported.

    Args:
        trusted: constructors, as `_target_` names them, that the user vouches for.
    Raises:
        FileNotFoundError: there is no such folder, or no config in it.
        ValueError: the config is damaged, of another format, or has what no saved config has; a constructor among it
            that is none of ours and not trusted.
    """
    path = folder / NAME
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder, expected that of a run. Name another, or begin it: ddattr reproduce root={folder}"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, expected in the folder of a run. If an older ddattr made it, give its own overrides "
            f"once, and they are kept: ddattr train member=0 experiment=NAME root={folder}"
        )
    return vetted(path, path.read_text(), trusted)


def vetted(path: Path, text: str, trusted: Collection[str] = ()) -> dict[str, Any]:
    """The config of a file's text, as `read` vets it.

    Raises:
        ValueError: as `read`.
    """
    config = _parsed(path, text)
    if (found := config.pop("format", None)) != FORMAT:
        raise ValueError(f"{path} has format={found}, expected {FORMAT}. Use the ddattr that wrote it, or a newer one.")
    for key in sorted(set(config) - KEPT):
        raise ValueError(
            f"{path}: key {key} is unknown, expected one of {', '.join(sorted(KEPT))}.{meant(nearest(key, KEPT))} "
            "Remove it from that file."
        )
    config.setdefault("conditions", None)  # of before there were any
    for key in sorted(KEPT - set(config)):
        raise ValueError(f"{path}: key {key} is missing. {_again(path)}")
    for key in sorted(KEPT - {"name", "seed"} - ({"conditions"} if config["conditions"] is None else set())):
        if not isinstance(config[key], dict) or "_target_" not in config[key]:
            raise ValueError(f"{path}: {key} is {config[key]}, expected the keys of a constructor. {_again(path)}")
    for key, value in config.items():
        _vet(path, key, value, set(trusted) | _ours())
    try:
        checked_name(config["name"])  # which is in the names of folders before anything is built
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for key in sorted(set(config["trainer"]) - _trainer_keys()):
        raise ValueError(f"{path}: key trainer.{key} is of no saved config. Give it with each call: +trainer.{key}=...")
    if config["data"]["_target_"].endswith("UnitDataModule"):
        config["data"].setdefault("similarity", "pixels")  # of before there was a choice
    if config["codebook"]["_target_"].endswith("codebook.encode"):
        config["codebook"].setdefault("design", "random")  # of before words could be orthogonal
    if config["significance"]["_target_"].endswith("TestSettings"):
        config["significance"].pop("draws", None)  # of before the p of sets was in closed form
    if config["tracking"].get("mode") == "online":  # a folder sends nothing: whoever calls may
        config["tracking"]["mode"] = "offline"
    return config


def checked_name(name: Any) -> str:
    """The run's name, of a folder and of a W&B group.

    Raises:
        ValueError: one that cannot be both.
    """
    if name is None or not _RUN.fullmatch(str(name)):
        raise ValueError(
            f"name={name}, expected 1 to 100 letters, digits, _ . = + or -, the first a letter, a digit or _. Set name."
        )
    return str(name)


def _again(path: Path) -> str:
    return f"Delete that file, and give the overrides of the run once: ddattr train member=0 root={path.parent}"


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return _plain(text)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(f"{path} is damaged: {said or type(error).__name__}. {_again(path)}") from None


def _plain(text: str) -> dict[str, Any]:
    """Plain containers of YAML; interpolations stand as they are written. No aliases, which can be without end."""
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError("it has aliases")
    config = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(config, dict):
        raise ValueError("it has no keys")
    return {str(key): value for key, value in config.items()}


def _vet(path: Path, key: str, value: Any, targets: Collection[str]) -> None:
    """Raises ValueError at the first thing, at or below a key, that no saved config has."""
    name = key.rpartition(".")[2]
    if "${" in name or (name.startswith("_") and name not in ("_target_", "_partial_")):
        raise ValueError(f"{path}: key {key} is of no saved config. Remove it from that file.")
    if name == "_target_" and not (isinstance(value, str) and (value in targets or _DIFFUSERS.fullmatch(value))):
        raise ValueError(
            f"{path}: {key}={value} is no constructor of ddattr's: it could run anything. If you trust it, name it "
            f"yourself: {key}={value}"
        )
    if isinstance(value, dict):
        for inner, item in value.items():
            _vet(path, f"{key}.{inner}", item, targets)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _vet(path, f"{key}.{place}", item, targets)
    elif not isinstance(value, str | int | float | None):  # a bool is an int
        raise ValueError(f"{path}: {key} is a {type(value).__name__}, expected plain text. Remove it from that file.")
    elif isinstance(value, str) and "${" in value:
        raise ValueError(f"{path}: {key}={value} is an interpolation, expected a value. Write the value in that file.")


@cache
def _trainer_keys() -> frozenset[str]:
    """Options of a Trainer that a folder may set: those that conf/ does."""
    files = (yaml.safe_load(path.read_text()) for path in (Path(conf()) / "trainer").glob("*.yaml"))
    return frozenset(key for file in files for key in file if key != "defaults")


@cache
def _ours() -> frozenset[str]:
    """The constructors that the files of conf/ name."""
    files = (yaml.safe_load(path.read_text()) for path in Path(conf()).rglob("*.yaml"))
    return frozenset(target for file in files for target in _targets(file))


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for key, value in node.items():
            if key != "fetch":  # which is in no saved config: a folder can have nothing fetched
                yield from _targets(value)
