"""Linear denoisers in which every unit has an effect that is known, and studies of any members and pictures."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from conftest import LinearDenoiser
from torch import Tensor, nn

from ddattr.attribution.significance import TestSettings
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.diffusion.process import Process
from ddattr.diffusion.sampler import DDPM
from ddattr.ensemble.ensemble import Ensemble
from ddattr.validation.answers import Answers
from ddattr.validation.plan import Plan
from ddattr.validation.queries import Queries
from ddattr.validation.study import Study
from ddattr.validation.training import Training
from ddattr.validation.truth import Truth

SHAPE, SEEDS = (1, 2, 2), [4, 0, 9]
BOOK = Codebook(30, 8, 3)
LABELS = torch.tensor([0] * 20 + [1] * 6 + [2] * 4)  # groups of unequal size
PLAN = Plan(BOOK, {"label": LABELS}, 0, retrained_units=12, retrained_members=5, replicates=2, removal_sizes=(5,))
SETTINGS = TestSettings(0, neighbourhoods=(1,))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


EFFECTS = randn(3, 30, 4, seed=7)  # of every unit, at the members' seed and at either of the truth's


def network(model: Training) -> LinearDenoiser:
    """A member's own matrix, and in its constant the effects of the units that it saw."""
    member = 8 if model.member is None else model.member
    seen = model.units.float() @ EFFECTS[model.replicate]
    return LinearDenoiser(0.3 * randn(4, 4, seed=member), randn(4, seed=100 + member) + seen)


def members(book: Codebook = BOOK) -> Ensemble:
    """As many as a codebook has, on the data that it gives each."""
    return Ensemble([network(Training("", book.subset(k), k)) for k in range(book.members)])


def asked(process: Process, ensemble: Ensemble, steps: int = 1, real: int = 2, draws: int = 4) -> Queries:
    """Three generated queries, on a sampler that steps from the last timestep to the picture at once, and real ones."""
    reverse = DDPM(steps).reverse(process)
    factual = ensemble.pictures(ensemble.uniform[None], SEEDS, reverse, SHAPE)[0]
    return Queries(process, reverse, SEEDS, factual, randn(8, *SHAPE)[:real], draws, seed=0)


def study_of(
    plan: Plan,
    queries: Queries,
    ensemble: Ensemble,
    data: UnitDataModule | None = None,
    network: Callable[[Training], nn.Module] = network,
    **given,
) -> Study:
    """A study of pictures at random, a unit each, of which nothing is scored yet.

    Args:
        given: other arguments of `Answers`.
    """
    if data is None:
        units = plan.codebook.units
        data = UnitDataModule(
            Source(randn(units, *SHAPE, seed=1), LABELS if units == len(LABELS) else None), clusters=2
        )
    nothing = torch.zeros(len(ensemble), len(queries.factual), *SHAPE)
    given = {
        "influence": pd.DataFrame(),
        "jacobian": nothing,
        "denoised": nothing,
        "extractor": nn.Flatten(),
        "settings": SETTINGS,
    } | given
    answers = Answers(plan, queries, data, ensemble, **given)
    return Study(answers, Truth(plan, queries, network), Path("nowhere"), steps=100)
