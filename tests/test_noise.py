"""Noise has an address: equal bits wherever and whenever it is drawn."""

from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from ddattr.diffusion.noise import Check, Stream, Subset, TrainingDraws, generator, noise_tape, seeded_torch

SHAPE = (1, 4, 4)
MASKS = st.lists(st.booleans(), min_size=1, max_size=40).filter(any)
KINDS = ["images", "noise", "times"]


def draws(owned, seed: int = 0, batch: int = 16, member: int | None = None) -> TrainingDraws:
    return TrainingDraws(seed, torch.as_tensor(owned), batch, 100, SHAPE, member)


def test_parts_of_a_stream_keep_their_addresses():
    """Or other units would be retrained, and others verified, than in runs that were made."""
    assert {part.name: part.value for part in Subset} == {
        "MEMBERS": 0,
        "UNITS": 1,
        "HALVES": 2,
        "GROUPS": 3,
        "TRIPLES": 4,
    }
    assert {part.name: part.value for part in Check} == {"CODEWORDS": 0, "UNITS": 1, "SETS": 2, "KEPT": 3}


def test_an_address_gives_the_same_bits_in_any_order():
    addresses = [
        (stream, member, step, attempt)
        for stream in Stream
        for member in (None, 0, 3)
        for step in (0, 7)
        for attempt in (0, 2)
    ]
    forward = {address: generator(0, *address).random(5) for address in addresses}
    for address in reversed(addresses):
        assert np.array_equal(generator(0, *address).random(5), forward[address])


def test_different_addresses_give_different_bits():
    seeds = (0, 1, 5, 5 + 2**32, 2**64 - 1)
    first = [
        generator(seed, stream, member, step, attempt).integers(2**63)
        for seed in seeds
        for stream in Stream
        for member in (None, 0, 1)
        for step in (0, 1)
        for attempt in (0, 1)
    ]
    assert len(set(first)) == len(first)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed={seed}, expected 0 to 2\\^64 - 1"):
        generator(seed, Stream.TAPE)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_a_query_s_tape_does_not_depend_on_the_others(seeds):
    together = noise_tape(seeds, 3, SHAPE)
    assert together.shape == (4, len(seeds), *SHAPE)
    assert together.dtype == torch.float32
    for q, seed in enumerate(seeds):
        assert torch.equal(together[:, q], noise_tape([seed], 3, SHAPE)[:, 0])


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 5, 7), (1, 8, 8)])
def test_a_shorter_tape_is_a_prefix(shape):
    assert torch.equal(noise_tape([0, 9], 7, shape)[:4], noise_tape([0, 9], 3, shape))


@pytest.mark.parametrize("seed", [0, 5, 2**40])
def test_the_tape_is_standard_normal(seed):
    """Kolmogorov-Smirnov; false-alarm rate 1e-3 for each of the 3 cases."""
    assert kstest(noise_tape([seed], 50, (3, 16, 16)).flatten().numpy(), "norm").pvalue > 1e-3


def test_queries_and_steps_of_a_tape_are_uncorrelated():
    """Largest of 66 correlations of 4,096 pairs; false-alarm rate about 66 * 6e-7 = 4e-5 at 5 standard errors."""
    rows = noise_tape([0, 1, 5, 5 + 2**32], 2, (1, 64, 64)).flatten(0, 1).flatten(1)
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 5 / sqrt(4096)


def test_seeds_that_share_their_low_32_bits_give_different_tapes():
    assert not torch.equal(noise_tape([5], 1, SHAPE), noise_tape([5 + 2**32], 1, SHAPE))


def test_seeded_torch_restores_the_global_state():
    before = torch.get_rng_state()
    with seeded_torch(0, Stream.INITIALISATION):
        torch.rand(1000)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_torch_restores_the_global_state_after_an_error():
    def fail():
        with seeded_torch(0, Stream.INITIALISATION):
            torch.rand(1)
            raise KeyError

    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_torch_does_not_depend_on_the_global_state():
    def weights() -> torch.Tensor:
        with seeded_torch(0, Stream.INITIALISATION, 2):
            return torch.nn.Linear(40, 40).weight

    first = weights()
    torch.randn(3)
    assert torch.equal(weights(), first)


def test_seeded_torch_differs_between_addresses():
    addresses = [(seed, stream, member) for seed in (0, 5, 5 + 2**32) for stream in Stream for member in (None, 0, 1)]
    values = []
    for address in addresses:
        with seeded_torch(*address):
            values.append(tuple(torch.rand(4).tolist()))
    assert len(set(values)) == len(addresses)


@pytest.mark.parametrize("seed", [0, 5, 5 + 2**32])
def test_seeded_torch_initialises_a_layer_uniformly(seed):
    """Kolmogorov-Smirnov; false-alarm rate 1e-3 for each of the 3 cases."""
    with seeded_torch(seed, Stream.INITIALISATION):
        weight = torch.nn.Linear(100, 100).weight.detach()
    bound = 1 / sqrt(100)
    assert kstest(weight.flatten().numpy(), "uniform", (-bound, 2 * bound)).pvalue > 1e-3


@given(MASKS, st.integers(0, 2**64 - 1), st.integers(0, 10**6), st.none() | st.integers(0, 63))
def test_a_member_never_takes_an_image_that_it_does_not_own(owned, seed, step, member):
    taken = draws(owned, seed, member=member).images(step)
    assert taken.shape == (16,)
    assert torch.tensor(owned)[taken].all()


def test_a_member_that_owns_one_image_in_a_thousand_finds_it():
    owned = torch.zeros(1000, dtype=torch.bool)
    owned[123] = True
    assert (draws(owned, batch=2).images(0) == 123).all()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30), st.integers(0, 1000))
def test_members_take_the_same_image_unless_one_does_not_own_the_other_s(pairs, step):
    first, second = torch.tensor(pairs).T
    if not (first.any() and second.any()):
        return
    a, b = draws(first).images(step), draws(second).images(step)
    assert ((a == b) | ~second[a] | ~first[b]).all()


@given(MASKS, st.integers(0, 1000), st.data())
def test_removing_an_image_changes_only_the_slots_that_drew_it(owned, step, data):
    owned = torch.tensor(owned)
    if owned.sum() < 2:
        return
    removed = data.draw(st.sampled_from(owned.nonzero()[:, 0].tolist()))
    fewer = owned.clone()
    fewer[removed] = False
    before, after = draws(owned).images(step), draws(fewer).images(step)
    assert torch.equal(before != after, before == removed)


def test_common_noise_and_times_are_the_same_whatever_a_member_owns():
    first, second = draws([True, False, True]), draws([False, True, True])
    for step in (0, 3):
        assert torch.equal(first.noise(step), second.noise(step))
        assert torch.equal(first.times(step), second.times(step))


@pytest.mark.parametrize("kind", KINDS)
def test_independent_draws_differ_between_members(kind):
    values = [getattr(draws([True] * 50, member=member), kind)(4) for member in (None, 0, 1)]
    assert not any(torch.equal(a, b) for a, b in [(values[0], values[1]), (values[0], values[2]), values[1:]])


@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_a_step_do_not_depend_on_earlier_steps(kind):
    fresh, used = draws([True] * 50), draws([True] * 50)
    for step in range(3):
        getattr(used, kind)(step)
    assert torch.equal(getattr(fresh, kind)(3), getattr(used, kind)(3))
    assert not torch.equal(getattr(fresh, kind)(3), getattr(used, kind)(2))


def test_images_are_uniform_over_the_owned():
    """Chi-square over 30 owned images of 100; false-alarm rate 1e-3."""
    owned = torch.zeros(100, dtype=torch.bool)
    owned[torch.arange(0, 90, 3)] = True
    source = draws(owned, batch=100)
    taken = torch.cat([source.images(step) for step in range(100)])
    assert chisquare(torch.bincount(taken, minlength=100)[owned].numpy()).pvalue > 1e-3


def test_times_are_uniform_over_all_timesteps():
    """Chi-square; false-alarm rate 1e-3."""
    source = draws([True], batch=100)
    times = torch.cat([source.times(step) for step in range(100)])
    assert times.min() >= 0
    assert times.max() < 100
    assert chisquare(torch.bincount(times, minlength=100).numpy()).pvalue > 1e-3


def test_training_noise_is_standard_normal_of_the_asked_shape():
    """Kolmogorov-Smirnov; false-alarm rate 1e-3."""
    noise = torch.stack([draws([True]).noise(step) for step in range(40)])
    assert noise.shape == (40, 16, *SHAPE)
    assert noise.dtype == torch.float32
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3


def test_a_member_that_owns_nothing_is_refused():
    with pytest.raises(ValueError, match="owns no image"):
        draws([False, False])


def test_one_half_of_all_slots_is_mirrored():
    """20,000 of them: within 4.5 standard errors, false-alarm rate 7e-6; at every step anew, and the same again."""
    made = draws([True] * 5, batch=1000)
    flips = torch.stack([made.flips(step) for step in range(20)])
    assert abs(flips.double().mean() - 0.5) < 4.5 * 0.5 / 20_000**0.5
    assert torch.equal(flips[3], made.flips(3))
    assert len({tuple(row.tolist()) for row in flips}) == 20
