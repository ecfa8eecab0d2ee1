"""ddattr: which training pictures does this generated picture depend on?

Shapes: N units, n members, h weight of a codeword, Q queries, T steps, pictures (C, H, W).
Scores are (units, queries); a larger one means that the unit supports the picture more.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Codebook": "codebook",
    "DDIM": "diffusion.sampler",
    "DDPM": "diffusion.sampler",
    "Ensemble": "ensemble.ensemble",
    "Estimator": "attribution.estimator",
    "Process": "diffusion.process",
    "counterfactual": "attribution.counterfactual",
    "denoised": "attribution.denoising",
    "distinctive": "attribution.denoising",
    "factual": "attribution.counterfactual",
    "first_order": "attribution.jacobian",
    "jacobian": "attribution.jacobian",
    "load": "stages.loaded",
    "loss_draws": "attribution.loss",
    "noise_tape": "diffusion.noise",
    "norm": "attribution.influence",
    "posterior": "attribution.posterior",
    "projections": "attribution.influence",
    "pull": "attribution.influence",
    "pull_significance": "attribution.significance",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Public names, imported when first used: the command line starts, and sets its threads, before torch does."""
    if name not in _HOME:
        raise AttributeError(f"module 'ddattr' has no attribute {name!r}")
    return getattr(import_module(f"ddattr.{_HOME[name]}"), name)
