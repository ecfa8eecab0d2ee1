"""Remove and retrain: which units go, and what is left to train on."""

import itertools

import pytest
import torch
from ddattr.validation.removal import best, removals
from ddattr.validation.retraining import Validation
from hypothesis import given
from hypothesis import strategies as st

from ddattr.codebook import Codebook


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(units=st.integers(2, 30), share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_the_best_are_as_many_as_asked_for_and_none_that_stays_is_better(units, share, seed):
    size = 1 + int(share * (units - 2))
    score = randn(units, seed=seed).round(decimals=1)  # with ties
    mask = best(score, size)
    assert mask.sum() == size
    assert score[mask].min() >= score[~mask].max()


def test_larger_sets_hold_the_smaller_ones():
    score = randn(20)
    masks = [best(score, size) for size in range(1, 20)]
    assert all((small <= large).all() for small, large in itertools.pairwise(masks))


def test_the_order_of_units_changes_nothing():
    score, order = randn(20), torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(best(score[order], 5), best(score, 5)[order])


@pytest.mark.parametrize("size", [0, -1, 20, 21])
def test_nothing_and_everything_cannot_be_removed(size):
    with pytest.raises(
        ValueError, match=rf"^removal: {size} of 20 units, expected 1 to 19\. Set validation\.removed\.$"
    ):
        best(randn(20), size)


def test_every_method_size_and_query_gets_a_model_of_all_other_units():
    scores = {"jvp": randn(20, 3), "pixel": randn(20, 3, seed=1)}
    found = removals(scores, [4, 0, 9], [2, 5])
    assert {(r.method, r.size, r.query) for r in found} == {
        (method, size, query) for method in scores for size in (2, 5) for query in (4, 0, 9)
    }
    for removal in found:
        column = scores[removal.method][:, [4, 0, 9].index(removal.query)]
        assert torch.equal(removal.model.units, ~best(column, removal.size))


def test_models_have_names_of_their_own_and_the_draws_of_the_full_one():
    """The common draws at the first seed, so that the difference is the removed units'."""
    found = removals({"jvp": randn(20, 3), "pixel": randn(20, 3, seed=1)}, [0, 1, 2], [2, 5])
    assert len({removal.model.name for removal in found}) == len(found) == 12
    assert all(removal.model.member is None and removal.model.replicate == 0 for removal in found)


def test_the_same_units_are_one_model_whoever_names_them():
    score = randn(20, 1)
    found = removals({"jvp": score, "pixel": 3 * score.exp(), "random": -score}, [4], [2, 5])
    names = {(removal.method, removal.size): removal.model.name for removal in found}
    assert names["jvp", 2] == names["pixel", 2] != names["random", 2]
    assert len({(removal.model.name, *removal.model.units.tolist()) for removal in found}) == 4


def test_the_model_without_one_unit_is_that_of_its_group():
    """Left out already, it is not trained again."""
    plan = Validation(Codebook(20, 8, 3), {}, 0, groups="unit", removed=(1,))
    groups = {model.name: model for model in plan.group_models(0)}
    for removal in removals({"jvp": randn(20, 3)}, [0, 1, 2], [1]):
        group = groups[removal.model.name]
        assert torch.equal(removal.model.units, group.units)
        assert removal.model[2:] == group[2:]


def test_a_model_s_name_does_not_depend_on_what_else_is_removed():
    scores = {"jvp": randn(20, 3), "pixel": randn(20, 3, seed=1)}
    few = {r.model.name: r.model.units for r in removals({"pixel": scores["pixel"][:, 1:]}, [1, 2], [5])}
    many = {r.model.name: r.model.units for r in removals(scores, [0, 1, 2], [2, 5])}
    assert all(torch.equal(many[name], units) for name, units in few.items())
