"""Completion in a shell: Hydra's, which knows keys and no verbs. It is asked with the line so far in COMP_LINE."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr

from ddattr.cli.help import VERBS
from ddattr.cli.refusal import Refusal


@contextmanager
def unheard() -> Iterator[None]:
    """Keeps errors out of a line that somebody is typing."""
    if "COMP_LINE" not in os.environ:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        yield


def check(words: Sequence[str]) -> None:
    """Raises Refusal for what no shell is completed by."""
    known = [f"{what}={shell}" for what in ("install", "uninstall", "query") for shell in ("bash", "fish", "zsh")]
    if len(words) != 1 or words[0] not in known or (words[0].startswith("query=") and "COMP_LINE" not in os.environ):
        raise Refusal(f'ddattr: -sc {" ".join(words)}, expected install=bash. Type: eval "$(ddattr -sc install=bash)"')


def verbs(line: str) -> list[str]:
    """The verbs that the last word of a line may become; none when it has one already."""
    *before, word = line.split(" ")[1:] or [""]
    if any(earlier in VERBS or earlier.startswith("stage=") for earlier in before) or "=" in word:
        return []
    return [verb for verb in VERBS if verb.startswith(word)]


def teach() -> None:
    """Leaves of the line what Hydra understands: the verb is no override of its."""
    line = os.environ.get("COMP_LINE")
    if line is not None:
        program, *before, word = line.split(" ")
        options = [earlier for earlier in before if earlier in ("-m", "--multirun")]
        overrides = [earlier.strip("'\"") for earlier in before if "=" in earlier]
        os.environ["COMP_LINE"] = " ".join([program, *options, *overrides, word])
