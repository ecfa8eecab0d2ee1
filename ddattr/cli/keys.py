"""The keys of conf/: where they stand, what they are set to, what is said beside them, and which one was meant."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ddattr.cli.primary import primary
from ddattr.spelling import nearest
from ddattr.stages.saved import conf


@contextmanager
def loader() -> Iterator[ConfigLoader]:
    """Hydra's reader of conf/."""
    with hydra.initialize_config_dir(conf(), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def composed(overrides: Sequence[str] = ()) -> DictConfig:
    """The config of a command line, and under `hydra` what is Hydra's own."""
    name = primary(overrides)
    with loader():
        return hydra.compose(name, list(overrides), return_hydra_config=True)


def options(group: str) -> list[str]:
    """What a group may be set to."""
    with loader() as config:
        return config.get_group_options(group)


def flat(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every key at and below a path, dotted, with its value; constructors are nothing to set."""
    if not isinstance(node, dict):
        yield path, node
        return
    for key, value in node.items():
        if key not in ("_target_", "_partial_"):
            yield from flat(value, f"{path}.{key}" if path else key)


def plain(config: DictConfig) -> dict[str, Any]:
    """A config as plain containers, less what is Hydra's own."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return OmegaConf.to_container(own, resolve=True)  # type: ignore[return-value]


def comments(config: DictConfig) -> dict[str, str]:
    """What conf/ says beside the keys of a config; where the chosen file of a group is silent, another may speak."""
    folder, said = Path(conf()), _beside(Path(conf()) / "config.yaml", "")
    choices = config.hydra.runtime.choices
    for group in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        if group not in ("experiment", "hydra"):
            for path in sorted(folder.glob(f"{group}/*.yaml"), key=lambda path: path.stem == choices.get(group)):
                said |= _beside(path, f"{group}.")
    return said


def _beside(path: Path, prefix: str) -> dict[str, str]:
    text = path.read_text()
    lines = text.splitlines()

    def walk(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if comment := re.search(r"\s# (.*)", lines[key.start_mark.line]):
                below = takewhile(
                    lambda line: line.startswith(" " * comment.start() + " # "), lines[key.start_mark.line + 1 :]
                )
                yield prefix + key.value, " ".join([comment[1], *(line[comment.start(1) :] for line in below)])
            yield from walk(value, f"{prefix}{key.value}.")

    return dict(walk(yaml.compose(text), prefix))


def meant_key(path: str) -> list[str]:
    """The keys that a wrong one may stand for: those of that name in every group, or the one spelled like it."""
    known = _known()
    if same := [path] if path in known else [key for key, _ in flat(known, "") if key.rpartition(".")[2] == path]:
        return same
    found, node = [], known
    for part in path.split("."):
        match = nearest(part, node) if isinstance(node, dict) else None
        if match is None:
            return []
        found.append(match)
        node = node[match]
    return [".".join(found)]


def beside_key(path: str) -> list[str]:
    """The keys of the group that a wrong one is in, or those that stand in none."""
    node: Any = _known()
    for part in path.split(".")[:-1]:
        node = node.get(part) if isinstance(node, dict) else None
    return [key for key in node if not key.startswith("_")] if isinstance(node, dict) else []


def _known() -> dict[str, Any]:
    """All keys, with the options that the command line chooses, whatever is wrong with its other words."""
    groups = [str(path.parent.relative_to(conf())) for path in Path(conf()).rglob("*.yaml")]
    try:
        config = composed(
            ["stage=plan", *(word for word in sys.argv[1:] if word.partition("=")[0] in (*groups, "run"))]
        )
    except HydraException:
        config = composed(["stage=plan"])
    known = {"experiment": None, **plain(config), "hydra/launcher": None}
    del known["stage"]  # which is typed as the verb
    return known
