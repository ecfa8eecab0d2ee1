"""ddattr: whose pictures does this generated picture owe itself to?

Shapes: N units, n members, h weight of a codeword, Q queries, T steps, pictures (C, H, W).
Scores are (units, queries); a larger one means that the unit supports the picture more.
"""

from ddattr.attribution.counterfactual import counterfactual, factual
from ddattr.attribution.influence import norm, pull
from ddattr.attribution.jacobian import first_order, jacobian
from ddattr.codebook import Codebook
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.process import Process
from ddattr.diffusion.sampler import DDIM, DDPM
from ddattr.ensemble.ensemble import Ensemble

__all__ = [
    "DDIM",
    "DDPM",
    "Codebook",
    "Ensemble",
    "Process",
    "counterfactual",
    "factual",
    "first_order",
    "jacobian",
    "noise_tape",
    "norm",
    "pull",
]
