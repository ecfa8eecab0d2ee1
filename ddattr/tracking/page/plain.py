"""The card's words, for a reader who knows no statistics.

p is said as how often chance alone, in who was given which pictures, would look as strong; the level of q as how often
luck would find something where nothing mattered, beside how often something was found. Of many findings that is about
the share of wrong ones; of a few it is not, so no sentence calls it so. Neither is the probability that one is true.
"""

from typing import NamedTuple

from ddattr.tracking.page.owed import NEAREST, Owed
from ddattr.tracking.page.without import Without

_KINDS = {"image": "picture", "near": "picture", "cluster": "group of look-alikes", NEAREST: "group of look-alikes"}
_ALL = {"image": "that are the same", "near": "that are nearly the same", "cluster": "that look alike"}
_CLOSER = "Look\N{NO-BREAK SPACE}closer\N{NO-BREAK SPACE}↓"
_MILLION = 1_000_000


class Told(NamedTuple):
    """What is known of a picture beside what it owes itself to.

    Args:
        query: what it is called.
        origin: `drawn` by the ensemble, `given`, or given and drawn `again`.
        unlike: whether it is farther from every training picture than real ones are.
        name: of the unit or set.
        pictures: training pictures of that.
        shown: how many of them are on the card.
        kinds: of sets that were tested beside units.
        members, unseen: models, and how many of them saw nothing of a unit.
        level: q at and below which a finding is called sure.
        found, asked: for how many pictures something of this kind was found, and of how many.
        validated: whether the run has been compared with retraining.
        p_by: what p is by, where it is not by randomisation.
    """

    query: str
    origin: str
    unlike: bool
    name: str
    pictures: int
    shown: int
    kinds: list[str]
    members: int
    unseen: int
    level: float
    found: int
    asked: int
    validated: bool
    p_by: str = ""

    @property
    def lucky(self) -> bool:
        """Whether luck would find as many, if nothing mattered."""
        return self.found <= self.level * self.asked


def words(owed: Owed, told: Told, without: Without | None, amplified: int) -> dict[str, str]:
    """Text by the element that shows it; empty where there is none.

    Args:
        amplified: how many times as strong the change is shown.
    """
    them = "it" if told.pictures == 1 else "them"
    return {
        "name": told.query,
        "origin": {
            "drawn": f"drawn by {told.members} models together",
            "given": "given, not drawn by the models",
            "again": "given, and drawn again by the models",
        }[told.origin],
        "wary": "It is unlike every training picture: be wary of what is said here." if told.unlike else "",
        "verb": "is attributed to" if told.origin == "drawn" else "the models know from",
        **(_sure(owed, told, them) if owed.passes else _unsure(owed, told)),
        "without": f"Without {them}" if owed.passes else "Without",
        "how": _how(owed, told, without, them),
        "changes": f"What changes (\N{MULTIPLICATION SIGN} {amplified})" if amplified > 1 else "What changes",
        "change": "" if without is None else f"{way(without.change)} on average",
        "amount": "" if without is None else _amount(without),
        "record": f"For the record: {_record(owed, told)}. {_CLOSER}" if owed.tried else _CLOSER,
    }


def _record(owed: Owed, told: Told) -> str:
    return f"p = {owed.p:.2g}, q = {owed.q:.2g}" + (f", by {told.p_by}" if told.p_by else "")


def _sure(owed: Owed, told: Told, them: str) -> dict[str, str]:
    they = "it" if told.pictures == 1 else "they"
    chosen = f"these {told.shown} look most like this one" if told.pictures > told.shown else ""
    return {
        "owed": told.name,
        "about": "; ".join(filter(None, (_about(owed, told.pictures), chosen))),
        "sure": f"If {they} made no difference, a result as strong would turn up by chance {times(owed.p)}.",
        "allowed": _allowed(owed, told),
        "result": f"The result: models that saw {f'more of {them}' if len(owed.units) != 1 else them} in training pull "
        f"this picture more strongly towards {them}.",
        "not": _not(told, them),
    }


def _unsure(owed: Owed, told: Told) -> dict[str, str]:
    others = [*(_kind(kind, 1) for kind in told.kinds if kind != NEAREST), "group of look-alikes"]
    some = ", ".join(dict.fromkeys(others))
    return {
        "owed": "nothing that can be named",
        "about": f"Of {owed.tried:,} {_kind(owed.kind)} none passes the test, nor does any "
        f"{' or '.join(some.rsplit(', ', 1))}. These look most like it: whether they mattered, the test cannot tell.",
        "sure": f"The strongest of {owed.tried:,} tried would look as strong by chance {times(owed.p)}. Of so "
        "many, that may be luck."
        if owed.tried
        else "Nothing could be tested.",
        "allowed": "The page calls something sure only where luck, if nothing mattered, would find as much for at most "
        f"about {one_in(told.level, 'picture')}.",
        "result": "",
        "not": "This does not say that no training picture mattered: small effects stay hidden from "
        f"{told.members} models.",
    }


def _allowed(owed: Owed, told: Told) -> str:
    if owed.kind == NEAREST:
        tried = "Groups were tried from the largest down to this one"
    else:
        tried = f"All {owed.tried:,} {_kind(owed.kind)} were tried"
    luck = ", no more than luck would find" if told.lucky else ""
    return (
        f"{tried}, which is allowed for: if none mattered, luck would find one for at most about "
        f"{one_in(told.level, 'picture')}. Here one was found for {told.found} of {told.asked}{luck}."
    )


def _not(told: Told, them: str) -> str:
    were, their = ("it was", "its") if told.pictures == 1 else ("they were", "their")
    said = f"It does not say that {were} copied, nor how large {their} share is"
    if told.validated:
        return f"{said}. Whether models trained anew without {them} agree: see “Is it true?” below."
    return f"{said}, nor what models trained anew without {them} would draw."


def _how(owed: Owed, told: Told, without: Without | None, them: str) -> str:
    few = f"the {told.unseen} of {told.members} models that never saw {them}"
    if not owed.passes:
        return "Nothing is named, so there is nothing to leave out."
    if without is not None and without.how == "exact":
        return f"Drawn anew from the same noise by {few}."
    if without is not None and len(owed.units) == 1:
        return f"An estimate (first order) of what {few} draw from the same noise."
    if without is not None:
        return "An estimate (first order): what changes without each of them, added up."
    if told.origin == "given":
        return "The models did not draw this picture, so they cannot draw it without."
    if not owed.units:
        return "Not drawn: which pictures these are is not known here."
    return f"Not drawn: each of the {told.members} models saw some of {them}. The test does not need it."


def _amount(without: Without) -> str:
    said = "of the way from black to white"
    if without.by_lot is None:
        return f"{said}."
    return f"{said}; removing as many models at random changes it by about {way(without.by_lot)}."


def _about(owed: Owed, pictures: int) -> str:
    if pictures <= 1:
        return "one training picture" if pictures else ""
    if owed.kind == NEAREST:
        return "" if pictures == len(owed.units) else f"{pictures:,} training pictures in all"
    if owed.kind in _ALL:
        return f"{pictures:,} training pictures {_ALL[owed.kind]}"
    return f"all {pictures:,} training pictures {'with' if owed.kind == 'label' else 'of'} this {owed.kind}"


def name_of(owed: Owed, named: str | None, unit: str) -> str:
    """What a unit, which is named, or a set is called; `unit` is the kind of units that a neighbourhood is of."""
    if owed.kind == NEAREST:
        size = int(owed.item.partition(":")[2])
        like = "training picture" if unit in ("image", "near") else unit
        return f"the {like} most like it" if size == 1 else f"the {size:,} {_plural(like)} most like it"
    return named or (owed.item.replace(":", " ", 1) if owed.unit is None else f"{owed.kind} {owed.item}")


def times(p: float) -> str:
    """A probability as how often it comes about: once in so many times, to two digits."""
    if p < 1 / _MILLION:
        return "less than once in a million times"
    return f"about once in {float(f'{1 / p:.2g}'):,.0f} times" if p < 0.7 else "nearly every time"


def one_in(level: float, noun: str) -> str:
    """A share of some things as one of so many."""
    return f"1 {noun} in {round(1 / level):,}"


def way(share: float) -> str:
    """A mean change of a picture, a share of the way from black to white."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%" if share >= 0.0995 else f"{100 * share:.2g}\N{NO-BREAK SPACE}%"


def _kind(kind: str, count: int = 2) -> str:
    noun = _KINDS.get(kind, kind)
    if count == 1:
        return noun
    head, of, rest = noun.partition(" of ")
    return _plural(head) + of + rest


def _plural(noun: str) -> str:
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else noun + "s"
