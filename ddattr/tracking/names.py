"""Methods in words, in the order in which figures show them."""

from collections.abc import Iterable

METHODS = {
    "jvp": "JVP, pull",
    "jvp_gls": "JVP, others discounted",
    "jvp_posterior": "JVP, posterior",
    "ablation": "exact ablation, pull",
    "denoised": "denoising",
    "denoised_gls": "denoising, others discounted",
    "denoised_posterior": "denoising, posterior",
    "denoised_toward": "denoising, from picture to unit",
    "jvp_distinctive": "JVP, distinctive direction",
    "jvp_feature": "JVP, features",
    "jvp_region": "JVP, bright region",
    "jvp_norm": "JVP, length",
    "denoised_norm": "denoising, length",
    "loss": "ensemble's loss",
    "member_loss": "members' loss",
    "adjusted": "members' loss, adjusted",
    "datamodel": "datamodel, features",
    "datamodel_trak": "datamodel, gradients",
    "datamodel_both": "datamodel, both",
    "member_picture": "members' pictures",
    "datamodel_picture": "datamodel of pictures",
    "individual_centred": "individuals, centred",
    "individual": "individual members",
    "last_step": "last step",
    "trak": "TRAK",
    "trak_oracle": "TRAK, oracle tuning",
    "dtrak": "D-TRAK",
    "dtrak_oracle": "D-TRAK, oracle tuning",
    "gradient_dot": "gradient dot",
    "unlearning": "unlearning",
    "unlearning_oracle": "unlearning, oracle tuning",
    "feature": "feature similarity",
    "pixel": "pixel similarity",
    "random": "random",
    "another_seed": "another training seed",
}


def named(method: str) -> str:
    """A method in words; METHOD@m is that of m members."""
    base, _, size = method.partition("@")
    return METHODS[base] + (f", {size} members" if size else "")


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods as `METHODS` has them, those of part of the ensemble behind the whole one's."""
    places = list(METHODS)
    return sorted(set(methods), key=lambda method: (places.index(method.partition("@")[0]), "@" in method))
