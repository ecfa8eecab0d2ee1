"""Power: closed forms, and what draws of members and of queries would find."""

import math

import pytest
import torch
from torch.special import ndtr

from ddattr.attribution.power import expected_power, members_needed

Z05, Z80 = 1.6448536, 0.8416212  # normal quantiles at 0.95 and 0.8


@pytest.mark.parametrize("mean", [0.5, 1.5, 3.0])
def test_equal_effects_have_the_textbook_sample_size(mean):
    """n ((z_level + z_power) / mean)^2; Cohen 1988."""
    z = torch.full((10,), mean)
    assert members_needed(z, 18) == pytest.approx(18 * ((Z05 + Z80) / mean) ** 2, rel=1e-5)
    assert expected_power(z, 1.0) == pytest.approx(float(ndtr(torch.tensor(mean - Z05, dtype=torch.float64))), rel=1e-5)


def test_one_query_is_taken_for_all():
    assert members_needed(torch.tensor([1.5]), 18) == pytest.approx(members_needed(torch.full((9,), 1.5), 18))


def test_without_members_a_test_finds_its_level():
    assert expected_power(torch.randn(50) + 2, 0.0, level=0.05) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_it_is_the_share_that_an_ensemble_of_that_size_finds(ratio):
    """Effects that differ from query to query: theory against 200,000 draws; off by less than 0.004, the standard
    error of a share, 0.0011, times 3.5: a false alarm in 1 of 2,000 seeds."""
    draw = torch.Generator().manual_seed(0)
    effect = 1.5 + 0.8 * torch.randn(200_000, generator=draw)
    now, then = (effect * r**0.5 + torch.randn(200_000, generator=draw) for r in (1.0, ratio))
    found = (then > Z05).double().mean().item()
    assert abs(expected_power(now, ratio) - found) < 0.004


def test_more_members_find_more_and_the_answer_reaches_its_power():
    z = torch.linspace(0.2, 3.5, 16)
    powers = [expected_power(z, ratio) for ratio in (0.1, 1.0, 10.0, 100.0)]
    assert powers == sorted(powers)
    for power in (0.5, 0.8):
        assert expected_power(z, members_needed(z, 18, power=power) / 18) == pytest.approx(power, abs=1e-6)


def test_where_nothing_is_there_no_number_of_members_finds_it():
    assert math.isinf(members_needed(torch.full((8,), -0.5), 18))
    assert math.isinf(members_needed(torch.tensor([-9.0, 9.0] * 10), 18))  # half of the queries have the other sign
