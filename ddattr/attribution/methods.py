"""Every method that scores units, in the order in which tables and figures show them: the one list.

METHOD@m is METHOD of m of the ensemble's members; METHOD_oracle a peer with the tuning that is best on the very truth.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

EQUAL_COST = "@equal_cost"  # in a config: of as many members as a tuned peer's trainings would buy
FUNCTIONAL = "functional_gls"  # whose p-values say that a unit matters to one number of a picture
TESTED = "denoised_gls"  # whose p-values say that a unit matters
SUPPORT = "denoised_posterior"  # what units are ranked by
WITH_GRADIENTS = "denoised_dtrak"  # the same, near being what D-TRAK says, of one model's gradients
LEFT_OUT = "leave_one_out"  # what training at another seed without each unit says


class Family(StrEnum):
    """What a method looks at."""

    DISPLACEMENT = "displacement"  # where a picture goes when a unit is removed, on its noise tape
    DENOISING = "denoising"  # what members make of the noised picture: any picture
    LOSS = "loss"  # how well members denoise it
    PICTURES = "pictures"  # how far members' own pictures are from it
    PEER = "peer"  # gradients of one model of all units
    SIMILARITY = "similarity"  # of pictures: no model, and no zero
    VARIANT = "variant"  # another measure of displacement or denoising, of tables of their own
    RETRAINED = "retrained"  # models without each unit, at the members' seed
    TRUTH = "truth"  # not a score: what others are held against


@dataclass(frozen=True)
class Method:
    """One way to score every unit on every query; larger means that the unit supports the picture more.

    Args:
        key: its name in tables and configs.
        label: in words, of figures.
        needs: beside the members: `full`, the model of all units; `halves`, those that it is tuned on; `gradients`, the
            full model's, projected by traker; `left_out`, a model without each unit or group.
        few: whether members as few as a tuned peer's trainings buy are asked, too: METHOD@m.
        shown: whether it is among the few that figures and summaries show.
        reference: whether others are held against it, query by query.
    """

    key: str
    label: str
    family: Family
    needs: tuple[str, ...] = ()
    few: bool = False
    shown: bool = False
    reference: bool = False

    @property
    def scored_by_attribute(self) -> bool:
        """Whether `attribute` scores it, by its pull; `validate` scores all others, and real queries' denoising."""
        return self.family in (Family.DISPLACEMENT, Family.DENOISING) and not self.needs

    @property
    def tuned(self) -> bool:
        """Whether it has dampings or projections that are chosen on held-out halves."""
        return self.family is Family.PEER and "halves" in self.needs


D = Family.DISPLACEMENT
N = Family.DENOISING
L = Family.LOSS
V = Family.VARIANT
METHODS = (
    Method("jvp", "JVP, pull", D, shown=True, reference=True),
    Method("jvp_gls", "JVP, others discounted", D),
    Method("jvp_posterior", "JVP, posterior", D, shown=True),
    Method("denoised", "denoising", N, few=True),
    Method(TESTED, "denoising, others discounted", N),
    Method(SUPPORT, "denoising, posterior", N, few=True, shown=True),
    Method(WITH_GRADIENTS, "denoising, D-TRAK's order", N, needs=("full", "gradients"), few=True),
    Method("individual_centred", "individuals, centred", D),
    Method("individual", "individual members", D),
    Method("last_step", "last step", D),
    Method("loss", "ensemble's loss", L, few=True),
    Method("member_loss", "members' loss", L),
    Method("adjusted", "members' loss, adjusted", L, needs=("full", "halves")),
    Method("datamodel", "datamodel, features", L, few=True),
    Method("datamodel_trak", "datamodel, gradients", L, needs=("full", "gradients"), few=True),
    Method("datamodel_both", "datamodel, both", L, needs=("full", "gradients"), few=True, shown=True),
    Method("member_picture", "members' pictures", Family.PICTURES),
    Method("datamodel_picture", "datamodel of pictures", Family.PICTURES),
    Method("gradient_dot", "gradient dot", Family.PEER, needs=("full",)),
    Method("unlearning", "unlearning", Family.PEER, needs=("full", "halves")),
    Method("trak", "TRAK", Family.PEER, needs=("full", "halves", "gradients")),
    Method("dtrak", "D-TRAK", Family.PEER, needs=("full", "halves", "gradients"), shown=True, reference=True),
    Method(LEFT_OUT, "leaving each out", Family.RETRAINED, needs=("full", "left_out"), shown=True),
    Method("feature", "feature similarity", Family.SIMILARITY),
    Method("pixel", "pixel similarity", Family.SIMILARITY, shown=True, reference=True),
    Method("random", "random", Family.SIMILARITY, shown=True),
    Method("denoised_toward", "denoising, from picture to unit", V),
    Method("denoised_norm", "denoising, length", V),
    Method("jvp_distinctive", "JVP, distinctive direction", V),
    Method("jvp_feature", "JVP, features", V),
    Method("jvp_region", "JVP, bright region", V),
    Method("jvp_norm", "JVP, length", V),
    Method("functional", "functional", V),
    Method(FUNCTIONAL, "functional, others discounted", V),
    Method("functional_posterior", "functional, posterior", V),
    Method("ablation", "exact ablation", Family.TRUTH),
)
NOT_NAMED = (Family.VARIANT, Family.RETRAINED, Family.TRUTH)  # scores of tables alone
_BY_KEY = {method.key: method for method in METHODS}


def keys(*families: Family) -> list[str]:
    """Of the methods of some families."""
    return [method.key for method in METHODS if method.family in families]


def method_of(name: str) -> Method:
    """The method of a name in a table: METHOD, METHOD@m or METHOD_oracle."""
    return _BY_KEY[name.partition("@")[0].removesuffix("_oracle")]


def label_of(name: str) -> str:
    """A name of a table in words."""
    _, _, size = name.partition("@")
    tuned = ", oracle tuning" if name.endswith("_oracle") else ""
    return method_of(name).label + tuned + (f", {size} members" if size else "")


def ordered(names: Iterable[str]) -> list[str]:
    """Names of a table in the order of `METHODS`; those of few members, and oracles, behind their own method."""
    return sorted(set(names), key=lambda name: (METHODS.index(method_of(name)), name))


def shown(names: Iterable[str]) -> list[str]:
    """At most eight, and leave_one_out, in order, that figures and summaries show; all others are in the tables."""
    few = f"{SUPPORT}@"  # of few members, this alone
    plain = (name for name in ordered(names) if "@" not in name or name.startswith(few))
    return [name for name in plain if method_of(name).shown and not name.endswith("_oracle")]


def nameable() -> list[str]:
    """What a config may name: every score, and those of few members as METHOD@equal_cost."""
    scores = [method for method in METHODS if method.family not in NOT_NAMED]
    return [method.key for method in scores] + [method.key + EQUAL_COST for method in scores if method.few]
