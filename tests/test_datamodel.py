"""Datamodels: explicit refits, the limits of the ridge, and a control variate that leaves no bias."""

import itertools

import pytest
import torch

from ddattr.attribution.datamodel import (
    RIDGES,
    adjusted_means,
    kernel_ridge,
    rbf_kernel,
    subset_means,
)
from ddattr.codebook import Codebook

WORDS = Codebook(30, 12, 5).codewords(torch.arange(30))  # more units than members


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def additive(words: torch.Tensor, effects: torch.Tensor, noise: float = 0.0, seed: int = 9) -> torch.Tensor:
    """Outputs of members that add up the effects of what they saw, to a constant of 3."""
    return 3 + words.T.double() @ effects + noise * randn(words.shape[1], effects.shape[1], seed=seed)


def prior(units: int, queries: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A kernel and relevances of no special form."""
    return rbf_kernel(randn(units, 3, seed=5)), randn(units, queries, seed=6).exp()


def posterior_mean(design, y, covariance, noise):
    """C X^T (X C X^T + noise)^-1 (y - mean), X and y centred: Rasmussen & Williams, eq. 2.23, with a free constant."""
    x = design - design.mean(0)
    gram = x @ covariance @ x.T + noise * torch.eye(len(x), dtype=x.dtype)
    return covariance @ x.T @ torch.linalg.solve(gram, y - y.mean())


def refitted(outputs, words, kernel, relevant, ridge, q):
    """Effects at a ridge, and the error of members that are predicted by a refit on all others."""
    design, y = words.T.double(), outputs[:, q]
    covariance = relevant[:, q, None] * kernel * relevant[:, q]
    x = design - design.mean(0)
    noise = ridge * (x @ covariance @ x.T).diagonal().mean()
    wrong = []
    for k in range(len(y)):
        rest = torch.arange(len(y)) != k
        effects = posterior_mean(design[rest], y[rest], covariance, noise)
        wrong.append(y[k] - y[rest].mean() - (design[k] - design[rest].mean(0)) @ effects)
    error = torch.stack(wrong).square().mean() / (y - y.mean()).square().mean()
    return posterior_mean(design, y, covariance, noise), error


def test_subset_means_are_the_difference_of_two_means():
    outputs = randn(12, 3)
    expected = [outputs[word].mean(0) - outputs[~word].mean(0) for word in WORDS]
    torch.testing.assert_close(subset_means(outputs, WORDS), torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_subset_means_are_unbiased_over_all_codewords_that_units_could_have_held():
    """Three units, each with any of the C(4, 2) codewords: the mean of the 216 estimates is the effects."""
    every = Codebook(6, 4, 2).codewords(torch.arange(6))
    effects, noise = randn(3, 2), randn(4, 2, seed=1)
    drawn = [every[list(ranks)] for ranks in itertools.product(range(6), repeat=3)]
    estimates = [subset_means(noise + additive(words, effects), words) for words in drawn]
    torch.testing.assert_close(torch.stack(estimates).mean(0), effects, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ridge", RIDGES)
def test_effects_are_the_posterior_mean(ridge):
    outputs, (kernel, relevant) = randn(12, 3), prior(30, 3)
    found = kernel_ridge(outputs, WORDS, kernel, relevant, (ridge,))
    expected = [refitted(outputs, WORDS, kernel, relevant, ridge, q)[0] for q in range(3)]
    torch.testing.assert_close(found.effects, torch.stack(expected, 1))


@pytest.mark.parametrize("ridge", [RIDGES[0], 1.0, RIDGES[-1]])
def test_the_error_is_that_of_members_left_out_and_the_rest_refitted(ridge):
    outputs, (kernel, relevant) = randn(12, 3), prior(30, 3)
    found = kernel_ridge(outputs, WORDS, kernel, relevant, (ridge,))
    expected = [refitted(outputs, WORDS, kernel, relevant, ridge, q)[1] for q in range(3)]
    torch.testing.assert_close(found.error, torch.stack(expected))


def test_the_ridge_is_the_one_of_smallest_error_among_refits():
    """From little noise to nothing but noise: every query has its own."""
    kernel, relevant = prior(30, 4)
    size = torch.tensor([1.0, 1.0, 0.3, 0.0], dtype=torch.float64)
    spread = torch.tensor([0.0, 0.3, 1.0, 1.0], dtype=torch.float64)
    outputs = additive(WORDS, size * (relevant * (torch.linalg.cholesky(kernel) @ randn(30, 4))))
    outputs = outputs + spread * randn(12, 4, seed=2)
    found = kernel_ridge(outputs, WORDS, kernel, relevant)
    for q in range(4):
        errors = torch.stack([refitted(outputs, WORDS, kernel, relevant, ridge, q)[1] for ridge in RIDGES])
        assert found.ridge[q] == RIDGES[int(errors.argmin())]
        torch.testing.assert_close(found.error[q], errors.min())


def test_noise_is_not_predictable():
    """Left-out members of 100 noisy outputs: predicted by the mean of the 11 others they err by (12 / 11)^2. The best
    of 8 ridges finds a little by chance, but 0.7 of the variance is left, with a false-alarm rate far below 1e-6."""
    error = kernel_ridge(randn(12, 100), WORDS, torch.eye(30, dtype=torch.float64), torch.ones(30, 100).double()).error
    assert 0.7 < error.mean() < 1.3


def test_without_noise_and_with_members_enough_a_small_ridge_finds_the_effects():
    words = Codebook(6, 12, 5).codewords(torch.arange(6))
    effects = randn(6, 2)
    found = kernel_ridge(additive(words, effects), words, *prior(6, 2), (1e-10,))
    torch.testing.assert_close(found.effects, effects, rtol=1e-5, atol=1e-5)


def test_a_small_ridge_explains_every_output_of_fewer_members_than_units():
    outputs = randn(12, 3)
    effects = kernel_ridge(outputs, WORDS, *prior(30, 3), (1e-10,)).effects
    explained = WORDS.T.double() @ effects
    torch.testing.assert_close(explained - explained.mean(0), outputs - outputs.mean(0), rtol=1e-5, atol=1e-5)


def test_a_large_ridge_is_the_prior_times_the_covariance_with_the_output():
    """To first order in 1 / ridge: D K D X^T y / (ridge size), and the error of the others' mean, (n / (n - 1))^2."""
    outputs, (kernel, relevant) = randn(12, 3), prior(30, 3)
    found = kernel_ridge(outputs, WORDS, kernel, relevant, (1e8,))
    x = WORDS.T.double() - WORDS.T.double().mean(0)
    for q in range(3):
        covariance = relevant[:, q, None] * kernel * relevant[:, q]
        size = (x @ covariance @ x.T).diagonal().mean()
        torch.testing.assert_close(
            found.effects[:, q] * 1e8, covariance @ (x.T @ outputs[:, q]) / size, rtol=1e-5, atol=1e-6
        )
    torch.testing.assert_close(found.error, torch.full((3,), (12 / 11) ** 2, dtype=torch.float64), rtol=1e-6, atol=0)


def test_equal_units_with_equal_relevance_rank_as_by_subset_means():
    """K = 1 and D = 1 and a large ridge: the covariance with having seen the unit, which is h (n - h) / n times the
    difference of means."""
    outputs = randn(12, 2)
    found = kernel_ridge(outputs, WORDS, torch.eye(30, dtype=torch.float64), torch.ones(30, 2).double(), (1e6,)).effects
    means = subset_means(outputs, WORDS)
    torch.testing.assert_close(found / found.norm(dim=0), means / means.norm(dim=0), rtol=1e-4, atol=1e-6)


def test_effects_are_linear_in_the_outputs_and_blind_to_their_mean():
    outputs, (kernel, relevant) = randn(12, 3), prior(30, 3)
    found, moved = (kernel_ridge(y, WORDS, kernel, relevant) for y in (outputs, 7 - 2 * outputs))
    torch.testing.assert_close(moved.effects, -2 * found.effects)
    torch.testing.assert_close(moved.error, found.error)
    assert torch.equal(moved.ridge, found.ridge)


def test_the_prior_s_size_does_not_matter_its_shape_does():
    outputs, (kernel, relevant) = randn(12, 3), prior(30, 3)
    found = kernel_ridge(outputs, WORDS, kernel, relevant)
    torch.testing.assert_close(kernel_ridge(outputs, WORDS, 5 * kernel, 100 * relevant).effects, found.effects)
    assert not torch.allclose(kernel_ridge(outputs, WORDS, kernel, relevant.flip(0)).effects, found.effects)


def test_a_unit_of_no_relevance_has_no_effect():
    kernel, relevant = prior(30, 3)
    relevant[4] = 0
    effects = kernel_ridge(randn(12, 3), WORDS, kernel, relevant).effects
    assert (effects[4] == 0).all()
    assert (effects.abs().sum(1) > 0).sum() == 29


def test_the_order_of_members_units_and_queries_changes_nothing():
    outputs, (kernel, relevant) = randn(12, 3), prior(30, 3)
    effects = kernel_ridge(outputs, WORDS, kernel, relevant).effects
    member, unit, query = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (12, 30, 3))
    permuted = kernel_ridge(
        outputs[member][:, query], WORDS[unit][:, member], kernel[unit][:, unit], relevant[unit][:, query]
    )
    torch.testing.assert_close(permuted.effects, effects[unit][:, query])


def test_a_right_prior_finds_more_than_none():
    """300 queries of effects drawn from the prior, with as much noise as signal: the error of the posterior mean is
    the smaller one of both in nearly all of them, and never larger than the effects' own on average."""
    kernel, relevant = prior(30, 300)
    effects = relevant * (torch.linalg.cholesky(kernel) @ randn(30, 300, seed=1))
    signal = WORDS.T.double() @ effects
    outputs = signal + (signal - signal.mean(0)).std(0) * randn(12, 300, seed=2)
    found = kernel_ridge(outputs, WORDS, kernel, relevant, (1.0,)).effects
    wrong = (found - effects).square().sum(0)
    assert (wrong < (subset_means(outputs, WORDS) - effects).square().sum(0)).double().mean() > 0.9
    assert wrong.mean() < effects.square().sum(0).mean()


def test_no_surrogate_leaves_the_subset_means():
    outputs = randn(12, 3)
    torch.testing.assert_close(
        adjusted_means(outputs, WORDS, torch.zeros(30, 3, dtype=torch.float64)), subset_means(outputs, WORDS)
    )


@pytest.mark.parametrize("scale", [1.0, -0.5, 1e3])
def test_a_surrogate_that_is_the_effects_in_other_units_gives_the_effects(scale):
    """The scale is fitted, so its size does not matter."""
    effects = randn(30, 3)
    adjusted = adjusted_means(additive(WORDS, effects), WORDS, scale * effects)
    torch.testing.assert_close(adjusted, effects, rtol=1e-5, atol=1e-5)


def balanced(units: int = 36) -> torch.Tensor:
    """Codewords of 5 of 12 such that every member saw as many units: all rotations of one word, and again."""
    word = torch.zeros(12, dtype=torch.bool)
    word[[0, 1, 4, 6, 9]] = True
    words = torch.stack([word.roll(3 * (i // 12) + i) for i in range(units)])
    assert (words.sum(0) == 5 * units // 12).all()
    return words


@pytest.mark.parametrize("constant", [1.0, -7.0, 1000.0])
def test_a_constant_in_the_surrogate_is_a_constant_in_the_estimate(constant):
    """Where every member saw as many units, it adds the same to every member's prediction: of that no unit's estimate
    may depend, though the scales of the two halves of members differ."""
    words = balanced()
    outputs, surrogate = randn(12, 3), randn(36, 3, seed=1)
    found = adjusted_means(outputs, words, surrogate)
    moved = adjusted_means(outputs, words, surrogate + constant) - found
    torch.testing.assert_close(moved, moved[:1].expand(36, 3), rtol=1e-5, atol=1e-5)
    assert (moved.abs() > 1e-3).all()


@pytest.mark.parametrize("constant", [0.0, 1.0, -7.0, 0.1, 1 / 3])
def test_a_surrogate_that_is_a_constant_leaves_the_subset_means(constant):
    """It predicts the same for every member: nothing is explained."""
    outputs, words = randn(12, 3), balanced()
    surrogate = torch.full((36, 3), constant, dtype=torch.float64)
    torch.testing.assert_close(adjusted_means(outputs, words, surrogate), subset_means(outputs, words))


def test_a_constant_output_is_no_effect_of_any_unit():
    """However many units a member saw; to float32, as the contrasts are."""
    outputs, surrogate = randn(12, 3), randn(30, 3, seed=1)
    found, moved = (adjusted_means(y, WORDS, surrogate) for y in (outputs, outputs + 50))
    torch.testing.assert_close(moved, found, rtol=1e-4, atol=1e-4)


def drawn_codebooks(count: int):
    """Codewords of 5 of 12 for 30 units, every draw independent of every other."""
    for seed in range(count):
        order = torch.rand(30, 12, generator=torch.Generator().manual_seed(seed)).argsort(1)
        yield torch.zeros(30, 12, dtype=torch.bool).scatter_(1, order[:, :5], True)


@pytest.mark.parametrize("alike", [0.0, 1.0, -2.0], ids=["useless", "good", "wrong sign"])
def test_a_control_variate_is_unbiased_whatever_the_surrogate(alike):
    """Over 1,500 redrawn codebooks, the same noise of the members in all: the mean of every one of 30 effects within
    4.7 of its standard errors, false-alarm rate 8e-5."""
    surrogate = randn(30, 1, seed=1)
    effects = alike * surrogate + randn(30, 1)
    noise = randn(12, 1, seed=2)
    found = torch.stack([adjusted_means(noise + additive(w, effects), w, surrogate) for w in drawn_codebooks(1500)])
    assert ((found.mean(0) - effects).abs() < 4.7 * found.std(0) / 1500**0.5).all()


def test_a_good_control_variate_leaves_less_noise():
    """Effects of which the surrogate explains nine tenths of the variance: half the noise is gone, at least."""
    surrogate = 3 * randn(30, 1, seed=1)
    effects = surrogate + randn(30, 1)
    plain, adjusted = [], []
    for words in drawn_codebooks(500):
        outputs = additive(words, effects)
        plain.append(subset_means(outputs, words))
        adjusted.append(adjusted_means(outputs, words, surrogate))
    assert torch.stack(adjusted).var(0).mean() < 0.5 * torch.stack(plain).var(0).mean()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_kernel_is_gaussian_in_median_distances(scale):
    features = randn(9, 3)
    kernel = rbf_kernel(features, scale)
    torch.testing.assert_close(kernel, kernel.T)
    torch.testing.assert_close(kernel.diagonal(), torch.ones(9, dtype=torch.float64))
    assert torch.linalg.eigvalsh(kernel).min() > -1e-12
    distance = torch.stack([(one - other).norm() for one, other in itertools.combinations(features, 2)])
    between = torch.stack([kernel[i, j] for i, j in itertools.combinations(range(9), 2)])
    torch.testing.assert_close(between, torch.exp(-((distance / distance.median() / scale) ** 2) / 2))
    torch.testing.assert_close(rbf_kernel(7 * features - 1, scale), kernel)
