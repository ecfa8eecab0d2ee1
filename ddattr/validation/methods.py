"""Names of the methods that score units. METHOD@m is METHOD of m of the ensemble's members."""

ENSEMBLE = (  # scored by `attribute`, by pull; of real pictures, those that denoise are scored by `validate`
    "jvp",
    "jvp_gls",
    "posterior",
    "denoised",
    "denoised_gls",
    "denoised_posterior",
    "individual_centred",
    "individual",
    "last_step",
)
TESTED = "denoised_gls"  # whose p-values say that a unit matters
OF_LOSS = (
    "loss",
    "member_loss",
    "adjusted",
    "datamodel",
    "datamodel_trak",
    "datamodel_both",
)  # what members' losses say
OF_PICTURES = ("member_picture", "datamodel_picture")
PEERS = ("gradient_dot", "unlearning", "trak", "dtrak")
TUNED = ("unlearning", "trak", "dtrak")  # dampings and projections, on held-out halves
SIMILARITY = ("pixel", "random", "feature")
AFFORDABLE = "@affordable"  # in a config: of as many members as a tuned peer's trainings would buy
IN_PART = ("denoised", "denoised_posterior", "loss", "datamodel")  # those that such members score
IN_PART_BESIDE_ONE = ("datamodel_trak", "datamodel_both")  # and with the model of all units, for one member fewer
_WHOLE = (*ENSEMBLE, *OF_LOSS, *OF_PICTURES, *PEERS, *SIMILARITY)
KNOWN = (*_WHOLE, *(name + AFFORDABLE for name in (*IN_PART, *IN_PART_BESIDE_ONE)))  # what a config may name
