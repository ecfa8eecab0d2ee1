"""Names of the methods that score units. METHOD@m is METHOD of m of the ensemble's members."""

ENSEMBLE = (  # scored by `attribute`, by pull; of real pictures, those that denoise are scored by `validate`
    "jvp", "jvp_gls", "posterior", "denoised", "denoised_gls", "denoised_posterior", "individual_centred", "individual",
    "last_step",
)  # fmt: skip
OUTPUTS = (  # what members' losses and pictures say
    "loss", "member_loss", "adjusted", "datamodel", "datamodel_trak", "datamodel_both", "member_picture",
    "datamodel_picture",
)  # fmt: skip
PEERS = ("gradient_dot", "unlearning", "trak", "dtrak")
TUNED = ("unlearning", "trak", "dtrak")  # their dampings, on held-out halves
SIMILARITY = ("pixel", "random", "feature")
AFFORDABLE = "@affordable"  # in a config: of as many members as a tuned peer's trainings would buy
IN_PART = ("denoised", "denoised_posterior", "loss", "datamodel")  # those that such members score
# those that a config may name
KNOWN = (*ENSEMBLE, *OUTPUTS, *PEERS, *SIMILARITY, *(name + AFFORDABLE for name in IN_PART))
