"""Leave one group out: parity with scikit-learn, and what is perfect."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from ddattr.validation.groups import group_scores, ndcg, top_one


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_group_s_score_is_the_sum_of_its_units_in_order_of_the_groups_numbers():
    scores, group_of = randn(9, 2), torch.tensor([7, 2, 2, 40, 7, 7, 2, 40, 2])
    expected = [sum(scores[i] for i in range(9) if group_of[i] == g) for g in (2, 7, 40)]
    torch.testing.assert_close(group_scores(scores, group_of), torch.stack(expected))


def test_the_order_of_units_changes_no_group():
    scores, group_of = randn(9, 2), torch.arange(9) % 3
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(group_scores(scores[order], group_of[order]), group_scores(scores, group_of))


def test_groups_of_one_unit_are_the_units():
    scores = randn(9, 2)
    assert torch.equal(group_scores(scores, torch.arange(9)), scores)


def test_top_one_is_1_where_both_name_the_same_group():
    scores, effect = randn(5, 40), randn(5, 40, seed=1)
    expected = [float(np.argmax(scores[:, q]) == np.argmax(effect[:, q])) for q in range(40)]
    assert top_one(scores, effect).tolist() == expected
    assert 0 < sum(expected) < 40
    assert (top_one(effect.exp(), effect) == 1).all()


def test_top_one_of_chance_is_one_in_the_number_of_groups():
    """10,000 queries, 5 groups: within 4 standard errors of 0.004, false-alarm rate 6e-5."""
    assert abs(top_one(randn(5, 10_000), randn(5, 10_000, seed=1)).mean() - 0.2) < 4 * 0.004


@given(groups=st.integers(2, 9), k=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_ndcg_is_scikit_learn_s(groups, k, seed):
    """Whose gains may not be negative."""
    scores, effect = randn(groups, 4, seed=seed), randn(groups, 4, seed=seed + 1)
    for q, found in enumerate(ndcg(scores, effect, k)):
        gain = effect[:, q].clamp_min(0)
        if gain.any():
            expected = ndcg_score(gain[None].numpy(), scores[:, q][None].numpy(), k=k)
            assert found.item() == pytest.approx(expected)
        else:
            assert found.isnan()


@given(groups=st.integers(2, 9), seed=st.integers(0, 10**6))
def test_the_best_order_of_groups_has_ndcg_1_and_no_order_more(groups, seed):
    effect = randn(groups, 4, seed=seed)
    effect[0] = 1.0
    torch.testing.assert_close(ndcg(effect.exp(), effect), torch.ones(4, dtype=torch.float64))
    found = ndcg(randn(groups, 4, seed=seed + 1), effect)
    assert (found >= 0).all()
    assert (found <= 1 + 1e-12).all()


def test_ndcg_discounts_by_the_logarithm_of_the_rank():
    effect = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    found = [ndcg(torch.arange(4.0)[:, None].roll(shift, 0), effect).item() for shift in range(1, 5)]
    assert found == pytest.approx([1, 1 / math.log2(3), 0.5, 0])


def test_a_group_that_helps_when_removed_gains_nothing():
    """A negative effect counts as none."""
    scores, effect = randn(5, 3), randn(5, 3, seed=1)
    effect[0] = 1.0
    assert torch.equal(ndcg(scores, effect), ndcg(scores, effect.clamp_min(0)))


def test_where_no_group_has_an_effect_there_is_no_ndcg():
    assert ndcg(randn(5, 3), -randn(5, 3).abs()).isnan().all()
