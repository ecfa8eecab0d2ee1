"""The pages of `--help`, from the docstrings of stages/ and the comments of conf/; torch is not imported for them."""

import ast
import importlib.util
import shutil
import textwrap
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple

import ddattr
from ddattr.cli.keys import comments, composed, flat, options, plain

RUN = ("experiment", "name", "root", "run", "seed")


class Page(NamedTuple):
    """What the page of a verb shows beside its docstring: keys, whole groups among them, and command lines."""

    keys: tuple[str, ...]
    examples: tuple[str, ...]


PAGES = {  # in the order in which a newcomer needs them
    "reproduce": Page(
        (*RUN, "codebook.members", "training.steps", "attribution.queries", "tracking", "hydra/launcher"),
        ("ddattr reproduce experiment=digits_small", "ddattr reproduce codebook.members=24 name=more"),
    ),
    "plan": Page(
        (
            *RUN,
            "codebook.members",
            "codebook.weight",
            "codebook.design",
            "data.units",
            "data.clusters",
            "training.steps",
            "significance.level",
            "power",
        ),
        ("ddattr plan", "ddattr plan codebook.members=24 codebook.weight=null"),
    ),
    "train": Page(
        (
            *RUN,
            "member",
            "codebook.members",
            "codebook.weight",
            "unet",
            "training",
            "conditions",
            "trainer",
            "tracking",
            "hydra/launcher",
        ),
        ("ddattr train member=3", "ddattr train -m 'member=range(0,18)' hydra/launcher=processes"),
    ),
    "evaluate": Page((*RUN, "quality", "sampler", "trainer", "tracking"), ("ddattr evaluate",)),
    "attribute": Page(
        (
            *RUN,
            "part",
            "queries",
            "functional",
            "attribution",
            "significance",
            "sampler",
            "trainer",
            "tracking",
            "hydra/launcher",
        ),
        (
            "ddattr attribute",
            "ddattr attribute -m 'part=range(0,4)' hydra/launcher=processes",
            "ddattr attribute runs/digits 'queries.pictures=[a.png,scans/]'",
            "ddattr attribute runs/digits 'queries.seeds=[100,101]'",
            "ddattr attribute runs/digits queries.held_out=true",
            "ddattr attribute runs/digits functional=logit functional.label=3",
        ),
    ),
    "report": Page((*RUN, "tracking"), ("ddattr report experiment=digits_small", "ddattr report runs/digits_small")),
    "status": Page(RUN, ("ddattr status experiment=digits_small", "ddattr status runs/digits_small")),
    "verify": Page(
        ("experiment", "root", "run", "seed"), ("ddattr verify runs/digits", "ddattr verify runs/digits.zip")
    ),
    "replay": Page(
        (*RUN, "artifact", "unit", "queries.pictures", "trainer"),
        ("ddattr replay runs/digits/members/003", "ddattr replay runs/digits/quality trainer.accelerator=cpu"),
    ),
    "sync": Page(RUN, ("ddattr sync runs/digits_small",)),
    "export": Page(
        (*RUN, "member", "output"),
        ("ddattr export runs/digits", "ddattr export runs/digits member=3 output=member-3"),
    ),
    "subsets": Page(
        (*RUN, "codebook.members", "codebook.weight", "data.units", "training"),
        ("ddattr subsets experiment=digits_small",),
    ),
    "adopt": Page(
        (*RUN, "member", "path", "tracking"),
        ("ddattr adopt runs/digits member=3 path=mine.safetensors",),
    ),
    "validate": Page(
        (*RUN, "validation", "data.holdout", "attribution.queries", "tracking"),
        ("ddattr validate experiment=digits_small",),
    ),
    "retrain": Page(
        (*RUN, "unit", "part", "member", "validation.retrained_members", "validation.replicates", "training"),
        ("ddattr retrain unit=3", "ddattr retrain unit=label:3", "ddattr retrain -m 'part=range(0,8)'"),
    ),
    "compare": Page(
        (*RUN, "against", "tracking"),
        ("ddattr compare experiment=digits_clusters 'against=[runs/digits]'",),
    ),
    "dashboard": Page(
        (*RUN, "tracking"),
        ("ddattr dashboard", "ddattr dashboard tracking=online tracking.entity=TEAM"),
    ),
    "fetch": Page(("experiment", "fetch"), ("ddattr fetch experiment=fashion_small", "ddattr fetch experiment=emoji")),
}
VERBS = list(PAGES)


def version() -> str:
    """The program and its version; a checkout that nobody installed has none."""
    try:
        return f"ddattr {metadata.version('ddattr')}"
    except metadata.PackageNotFoundError:
        return "ddattr, of a checkout that is not installed"


def overview() -> str:
    """The page of `ddattr` alone."""
    assert ddattr.__doc__ is not None
    lines = [_entry(verb, described(verb).partition("\n")[0], 13) for verb in VERBS]
    return "\n".join(
        [
            ddattr.__doc__.partition("\n")[0],
            "\nusage: ddattr VERB [FOLDER] [key=value ...]",
            "\nverbs:",
            *lines,
            "\nexample, everything on a small scale in about a minute:",
            "  ddattr reproduce experiment=digits_small",
            "\na run knows its config, and FOLDER is a run's:",
            "  ddattr status runs/digits_small",
            "\nwhere to go on:",
            "  ddattr VERB --help                    the main keys of a verb",
            "  ddattr VERB --cfg job                 all keys",
            "  ddattr VERB -m key=1,2                a job for every value",
            "  ddattr VERB --dry-run                 what it would do; writes nothing",
            '  eval "$(ddattr -sc install=bash)"     completes verbs and keys in this shell',
            "  ddattr --hydra-help                   options of Hydra, which composes keys",
        ]
    )


def page(verb: str, overrides: Sequence[str]) -> str:
    """The page of a verb: its docstring, its keys as overrides leave them, examples."""
    config = composed([f"stage={verb}", *overrides])
    values, said, choices = plain(config), comments(config), dict(config.hydra.runtime.choices)
    rows: list[tuple[str, str]] = []
    for key in PAGES[verb].keys:
        others = [option for option in options(key) if option != choices[key]] if key in choices else []
        if others:
            rows.append((f"{key}={choices[key]}", f"or {', '.join(others)}"))
        if key not in ("experiment", "hydra/launcher"):
            rows += [(f"{name}={_shown(value)}", said.get(name, "")) for name, value in flat(_at(values, key), key)]
    column = min(34, max(len(setting) for setting, _ in rows) + 2)
    return "\n".join(
        [
            "\n\n".join(_filled(part) for part in f"ddattr {verb}: {described(verb)}".split("\n\n")),
            "\nkeys, as they are set now:",
            *(_entry(setting, comment, column) for setting, comment in rows),
            "\nexamples:",
            *(f"  {example}" for example in PAGES[verb].examples),
            f"\nAll keys: ddattr {verb} --cfg job. A job for every value: -m key=1,2. What it would do: --dry-run",
        ]
    )


def described(verb: str) -> str:
    """A stage's docstring, less the command line that it begins with; the module is read, not imported."""
    found = importlib.util.find_spec(f"ddattr.stages.{verb}")
    assert found is not None
    assert found.origin is not None
    with open(found.origin) as source:
        return (ast.get_docstring(ast.parse(source.read())) or "").partition("`: ")[2]


def _at(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _shown(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _width() -> int:
    return min(120, shutil.get_terminal_size().columns)


def _filled(text: str) -> str:
    return textwrap.fill(text, _width())


def _entry(name: str, text: str, column: int) -> str:
    """A line of a list, which goes on in its own column."""
    head = f"  {name:<{column}}" if len(name) < column else f"  {name}  "
    below = " " * (column + 2)
    return textwrap.fill(text, _width(), initial_indent=head, subsequent_indent=below, break_long_words=False) or (
        head.rstrip()
    )
