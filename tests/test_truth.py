"""The truth: what models retrained without units say, of linear denoisers in which every unit's effect is known."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from additive import BOOK, EFFECTS, LABELS, PLAN, asked, members, network, study_of

from ddattr.ensemble.ensemble import Ensemble
from ddattr.validation.plan import Plan
from ddattr.validation.queries import Queries
from ddattr.validation.training import Training
from ddattr.validation.truth import Truth


@pytest.fixture
def ensemble() -> Ensemble:
    return members()


@pytest.fixture
def queries(make_process, ensemble) -> Queries:
    return asked(make_process(timestep_spacing="trailing"), ensemble)


@pytest.fixture
def make_truth(queries, ensemble):
    def make(plan: Plan = PLAN) -> Truth:
        return study_of(plan, queries, ensemble).truth

    return make


@pytest.mark.parametrize("fork", [None, Fraction(1, 4)])
def test_the_truth_is_what_a_unit_does_whatever_the_truth_s_members_that_saw_it(queries, make_truth, fork):
    """Of five members one to five saw a unit; were it removed from the 3 of 8 that see every unit of the whole
    ensemble, one step would move by 3/8 of its effect. At every seed."""
    plan = replace(PLAN, fork=fork)
    saw = BOOK.codewords(plan.retraining_units)[:, plan.retraining_members].sum(1)
    assert len(saw.unique()) > 1
    (step,) = queries.reverse
    moved = -3 / 8 * step.b * EFFECTS[1:, plan.retraining_units]
    expected = moved[:, :, None].expand(-1, -1, 3, -1).reshape(2, 12, 3, *queries.shape)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(make_truth(plan).displacements, expected, rtol=1e-4, atol=1e-4)


def test_the_truth_of_all_members_is_not_scaled(queries, make_truth):
    """All units were seen by the usual number: the displacement is that of the pictures themselves."""
    plan = replace(PLAN, retrained_units=5, retrained_members=8, replicates=1)
    again = {base.member: network(base) for base in plan.bases()}
    for unit, found in zip(plan.retraining_units.tolist(), make_truth(plan).displacements[0], strict=True):
        changed = {model.member: network(model) for model in plan.unit(unit)}
        assert len(changed) == 3
        pictures = queries.drawn_by([changed.get(k, again[k]) for k in range(8)])
        torch.testing.assert_close(found, pictures - queries.drawn_by(list(again.values())))


def test_groups_are_removed_from_the_model_of_all_units_of_their_own_seed(queries, make_truth):
    """By how much its pictures move, of one step the group's effects; and by how much its loss rises. None of the
    truth's seeds is the members' own, 0, at which models without a group are asked for by name."""
    truth = make_truth()
    (step,) = queries.reverse
    for r in range(3):
        full = network(PLAN.full(r))
        for label in range(3):
            moved = -step.b * EFFECTS[r, label == LABELS].sum(0)
            expected = moved.expand(3, -1).reshape(3, *queries.shape)
            torch.testing.assert_close(truth.without_groups(r)[label], expected, rtol=1e-4, atol=1e-4)
            without = network(Training("", label != LABELS, None, r))
            losses = queries.losses([without, full])
            torch.testing.assert_close(truth.losses_without_groups(r)[label], losses[0] - losses[1])
    assert torch.equal(truth.group_displacements, torch.stack([truth.without_groups(r) for r in (1, 2)]))
    assert torch.equal(truth.group_losses, torch.stack([truth.losses_without_groups(r) for r in (1, 2)]))
    assert truth.group_losses.shape == (2, 3, 5)


def test_half_data_models_are_better_with_less_loss_and_pictures_nearer_to_the_factual(queries, make_truth):
    plan = replace(PLAN, lds_subsets=6)
    found = make_truth(plan).half_targets
    assert found["loss"].shape == (2, 6, 5)
    assert found["distance"].shape == (2, 6, 3)
    for r in (1, 2):
        networks = [network(Training("", mask, None, r)) for mask in plan.half_masks()[:6]]
        assert torch.equal(found["loss"][r - 1], -queries.losses(networks))
        assert torch.equal(found["distance"][r - 1], -queries.distances(networks))


def test_pictures_of_a_model_are_made_once(queries, ensemble):
    loaded = []
    truth = study_of(
        PLAN, queries, ensemble, network=lambda model: (loaded.append(model.name), network(model))[1]
    ).truth
    assert truth.pictures(PLAN.full(0)) is truth.pictures(PLAN.full(0))
    torch.testing.assert_close(truth.pictures(PLAN.full(0)), queries.drawn_by([network(PLAN.full(0))]))
    assert loaded == ["full/seed-0"]
