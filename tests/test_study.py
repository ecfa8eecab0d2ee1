"""What tables look at: the pull of a whole set, of one linear step, where the first order is exact."""

import pytest
import torch
from additive import SEEDS, SHAPE, asked, study_of

from ddattr.attribution.jacobian import first_order
from ddattr.codebook import Codebook, contrast
from ddattr.ensemble.ensemble import Ensemble
from ddattr.validation.plan import Plan
from ddattr.validation.study import Study


@pytest.fixture
def ensemble(make_linear) -> Ensemble:
    return make_linear(8, dtype=torch.float32)


@pytest.fixture
def study(make_process, ensemble) -> Study:
    queries = asked(make_process(timestep_spacing="trailing"), ensemble)
    plan = Plan(Codebook(40, 8, 3), {}, 0, groups=None)
    return study_of(plan, queries, ensemble, jacobian=queries.jacobian(list(ensemble.members), None))


def test_of_one_step_a_set_s_pull_is_that_of_its_exact_displacement(study, ensemble):
    answers, queries, removed = study.answers, study.answers.queries, torch.arange(40) % 9 == 0
    weights = ensemble.uniform + contrast(answers.codewords[removed]).sum(0)
    for q in range(3):
        moved = ensemble.pictures(weights[None], SEEDS, queries.reverse, SHAPE)[0, q] - queries.factual[q]
        first, exact = study.set_pull(removed, moved, q)
        assert first == pytest.approx(exact, rel=1e-4, abs=1e-5)
        toward = answers.data.unit_images[removed].mean(0) - queries.factual[q]
        assert exact == pytest.approx(-float((moved * toward).sum() / toward.norm()), rel=1e-4, abs=1e-5)


def test_a_set_of_one_unit_has_that_unit_s_pull(study):
    """Positive when removal moves the picture away from it."""
    answers, removed = study.answers, torch.arange(40) == 7
    moved = first_order(answers.jacobian, contrast(answers.codewords[removed]))[0]
    away = answers.queries.factual[0] - answers.data.unit_images[7]
    first, exact = study.set_pull(removed, moved[0], 0)
    assert first == pytest.approx(exact, rel=1e-4)
    assert study.set_pull(removed, away, 0)[1] == pytest.approx(float(away.norm()), rel=1e-5)


def test_a_study_begins_without_scores_and_removals_and_is_of_its_members_plan(study):
    assert study.plan is study.answers.plan
    assert study.seed == study.plan.seed
    assert not study.scores
    assert not study.removals
