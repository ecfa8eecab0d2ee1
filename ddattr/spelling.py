"""What somebody may have meant by a word that nobody knows."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is spelled most alike, the word itself perhaps; None when none is alike."""
    found = get_close_matches(word, list(known), n=1)
    return found[0] if found else None


def meant(*words: str | None) -> str:
    """The question that an error ends with, after a space; nothing where there is nothing to ask."""
    known = [word for word in words if word is not None]
    return f" Did you mean {' or '.join(known)}?" if known else ""
