"""The schema of a config is its constructors' signatures: whatever nothing reads is refused."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ddattr.spelling import meant, nearest

_PACKAGE = Path(__file__).resolve().parent
PLAIN = (int, float, bool, str)
KEYS = {
    "stage",
    "name",
    "root",
    "run",
    "seed",
    "member",
    "unit",
    "part",
    "power",
    "artifact",
    "output",
    "path",
    "against",
    "fetch",
    "data",
    "codebook",
    "conditions",
    "diffusion",
    "unet",
    "training",
    "sampler",
    "quality",
    "attribution",
    "significance",
    "queries",
    "functional",
    "validation",
    "tracking",
    "trainer",
}


def raised_here(error: BaseException) -> bool:
    """Whether an error was raised by a line of this package, and not by a library that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next:
        trace = trace.tb_next
    return trace is not None and _PACKAGE in Path(trace.tb_frame.f_code.co_filename).resolve().parents


def check_keys(config: DictConfig) -> None:
    """Raises ValueError when a key, added with `+` perhaps, is read by nothing: constructors are the schema."""
    unknown = sorted(set(config) - KEYS)
    if unknown:
        raise ValueError(
            f"key {unknown[0]} is unknown, expected one of {', '.join(sorted(KEYS))}."
            f"{meant(nearest(unknown[0], KEYS))} Remove {unknown[0]}=."
        )
    for key, node in config.items():
        _check_node(str(key), node)


def _check_node(path: str, node: Any) -> None:
    if OmegaConf.is_list(node):
        for i, item in enumerate(node):
            _check_node(f"{path}.{i}", item)
    if not OmegaConf.is_dict(node):
        return
    if "_target_" in node:
        known = inspect.signature(_constructor(path, node._target_)).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for key in node:
            if key not in ("_target_", "_partial_") and key not in known and not open_ended:
                raise ValueError(
                    f"key {path}.{key} is unknown, expected one of {', '.join(known)}."
                    f"{meant(nearest(str(key), known))} Remove {path}.{key}=."
                )
            if key in known:
                _check_value(f"{path}.{key}", node[key], known[key])
    for key, child in node.items():
        _check_node(f"{path}.{key}", child)


def _constructor(path: str, target: Any) -> Any:
    """Raises ValueError when there is none of that name."""
    try:
        return get_object(target)
    except Exception as error:  # of whatever module it names
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(
            f"{path}._target_={target}, expected a constructor's name: {said}. Set {path}._target_."
        ) from None


def _check_value(path: str, value: Any, parameter: inspect.Parameter) -> None:
    """Raises ValueError when a value is not what the constructor's annotation says: its type, choice and range."""
    kinds = [_Kind(kind) for kind in _union(parameter.annotation)]
    if (value is None and parameter.default is None) or not all(kind.known for kind in kinds):
        return
    fitting = [kind for kind in kinds if kind.fits(value)]
    if not fitting:
        expected = " or ".join(dict.fromkeys(kind.name for kind in kinds))
        if kinds[0].listed:
            raise ValueError(f"{path}={value}, expected {expected}. Set '{path}=[...]'.")
        if get_origin(kinds[0].type) is Literal:
            raise ValueError(f"{path}={value}, expected {expected}. Set {path}.")
        raise ValueError(f"{path}={value} is a {type(value).__name__}, expected {expected}. Set {path}.")
    group, _, key = path.partition(".")
    for item in value if fitting[0].listed else [value]:
        if not all(bound.admits(item) for bound in fitting[0].bounds):
            possible = " and ".join(str(bound) for bound in fitting[0].bounds)
            raise ValueError(f"{group}: {key}={item}, expected {possible}. Set {path}.")


def _union(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


class _Kind:
    """What one part of an annotation admits: a plain type, a choice, or a list of them; perhaps within bounds."""

    def __init__(self, annotation: Any):
        self.listed = get_origin(annotation) is Sequence
        inner = get_args(annotation)[0] if self.listed else annotation
        annotated = get_origin(inner) is Annotated
        self.type = get_args(inner)[0] if annotated else inner
        self.types = _union(self.type)  # several in a list of either
        self.bounds = [_Bound(extra) for extra in get_args(inner)[1:]] if annotated else []

    @property
    def known(self) -> bool:
        """Whether a config's value can be held against it."""
        return all(one in (*PLAIN, NoneType) or get_origin(one) is Literal for one in self.types)

    @property
    def name(self) -> str:
        """In words."""
        if get_origin(self.type) is Literal:
            return f"one of {', '.join(map(str, get_args(self.type)))}"
        name = "/".join("null" if one is NoneType else one.__name__ for one in self.types)
        return f"a list of {name}" if self.listed else name

    def fits(self, value: Any) -> bool:
        """Whether a value, or every one of a list, is of this type, or of this choice."""
        if self.listed:
            return OmegaConf.is_list(value) and all(self._is_one(item) for item in value)
        return self._is_one(value)

    def _is_one(self, value: Any) -> bool:
        if get_origin(self.type) is Literal:
            return value in get_args(self.type)
        return any(type(value) is one or (one is float and type(value) is int) for one in self.types)


class _Bound:
    """One of `annotated_types`: Ge, Gt, Le or Interval."""

    def __init__(self, bound: Any):
        self.ge, self.gt, self.le = (getattr(bound, name, None) for name in ("ge", "gt", "le"))

    def admits(self, value: Any) -> bool:
        """Whether a number lies within; NaN does not."""
        low = value >= self.ge if self.ge is not None else self.gt is None or value > self.gt
        return value is None or (low and (self.le is None or value <= self.le))

    def __str__(self) -> str:
        low = f"{self.ge}" if self.ge is not None else f"more than {self.gt}"
        return f"{low} to {self.le}" if self.le is not None else f"{low} or more" if self.gt is None else low
