"""Everything that a table of the validation may look at, and when it can be made."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from ddattr.attribution.influence import directions
from ddattr.attribution.jacobian import first_order
from ddattr.codebook import contrast
from ddattr.validation.answers import Answers
from ddattr.validation.plan import Plan
from ddattr.validation.removal import Removal
from ddattr.validation.scores import Scores
from ddattr.validation.truth import Truth


class Phase(Enum):
    """When a table can be made: of the members alone, of the retrained models, of those without the best units too."""

    MEMBERS = 1
    RETRAINED = 2
    REMOVED = 3


@dataclass
class Study:
    """What the members say, what retraining says, and every method's scores between them.

    Args:
        answers: of the members.
        truth: of the retrained models.
        root: the run's folder.
        steps: of one training, whole.
        fork: steps of a member, when members are forks of one base.
        scores: of all methods; empty while there are none.
        spent: seconds and megabytes of scoring, by method, and what was tuned.
        removals: models without the best units.
    """

    answers: Answers
    truth: Truth
    root: Path
    steps: int
    fork: int | None = None
    scores: Scores = field(default_factory=dict)
    spent: dict[str, Any] = field(default_factory=dict)
    removals: Sequence[Removal] = ()

    @property
    def plan(self) -> Plan:
        return self.answers.plan

    @property
    def seed(self) -> int:
        return self.plan.seed

    def set_pull(
        self, removed: Bool[Tensor, "units"], moved: Float[Tensor, "*image"], query: int
    ) -> tuple[float, float]:
        """(first order, by retraining) of the pull of a whole set on the direction of its mean image.

        Args:
            removed: mask of its units.
            moved: the query's displacement by retraining without them.
            query: its place among the generated ones.
        """
        answers = self.answers
        picture = answers.queries.factual[query : query + 1]
        toward = directions(picture, answers.data.unit_images[removed].mean(0, keepdim=True))[0, 0]
        weights = contrast(answers.codewords[removed]).sum(0, keepdim=True)
        predicted = first_order(answers.jacobian[:, query : query + 1], weights)[0, 0]
        return -float(predicted.flatten() @ toward), -float(moved.flatten() @ toward)
