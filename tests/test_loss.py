"""Influence on the loss: the Gram form against the loss itself, and its first order against autograd."""

import itertools

import pytest
import torch

from ddattr.attribution.influence import pull
from ddattr.attribution.loss import loss_change, loss_draws, loss_projections, residual_gram
from ddattr.codebook import Codebook, ablation, contrast
from ddattr.ensemble.ensemble import Ensemble

SHAPE = (1, 2, 2)
CODEWORDS = Codebook(6, 4, 2).codewords(torch.arange(6))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(ensemble, process, pictures, times, noise, v):
    """The simple loss of the denoiser f_e . v, by its definition; differentiable in v."""
    total = 0
    for t, z in zip(times.tolist(), noise, strict=True):
        each, when = z.expand_as(pictures), torch.full((len(pictures),), t)
        noisy = process.scheduler.add_noise(pictures, each, when)
        estimate = sum(v[k] * ensemble.member(k, noisy, t) for k in range(len(ensemble)))
        total = total + (estimate - z).square().flatten(1).mean(1)
    return total / len(times)


@pytest.fixture
def asked(process):
    """Three pictures and five draws, in float64."""
    times, noise = loss_draws(5, process, SHAPE, seed=0)
    return randn(3, *SHAPE, seed=1), times, noise.double()


@pytest.fixture
def linear(make_linear):
    return make_linear(4)


@pytest.fixture
def gram(linear, process, asked):
    return residual_gram(linear, process, *asked)


def test_draws_are_the_middles_of_equal_stretches_and_their_noise_is_standard(make_process):
    """4 x 4,000 values: the mean within 4 / sqrt(16000), false-alarm rate 6e-5; so has the mean square, of error
    sqrt(2 / 16000)."""
    times, noise = loss_draws(4, make_process(100), (1, 50, 80), seed=0)
    assert times.tolist() == [12, 37, 62, 87]
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 4 / 16_000**0.5
    assert abs(noise.square().mean() - 1) < 4 * (2 / 16_000) ** 0.5


@pytest.mark.parametrize("draws", [1, 3, 100, 250])
def test_every_draw_is_at_a_timestep_that_exists(process, draws):
    times, noise = loss_draws(draws, process, SHAPE, seed=0)
    assert len(times) == len(noise) == draws
    assert times.min() >= 0
    assert times.max() < process.timesteps
    assert (times.diff() >= 0).all()


def test_the_noise_of_a_draw_has_an_address(process):
    """By seed and number: another number of draws changes none of it, and no two draws share theirs."""
    _, noise = loss_draws(3, process, SHAPE, seed=5)
    assert torch.equal(loss_draws(7, process, SHAPE, seed=5)[1][:3], noise)
    for a, b in itertools.combinations([*noise, *loss_draws(3, process, SHAPE, seed=5 + 2**32)[1]], 2):
        assert not torch.equal(a, b)


def test_the_diagonal_is_every_member_s_own_loss(linear, process, asked, gram):
    pictures, times, noise = asked
    for k, member in enumerate(linear.members):
        own = [
            process.loss(member, pictures, z.expand_as(pictures), t.expand(3))
            for t, z in zip(times, noise, strict=True)
        ]
        torch.testing.assert_close(gram[:, k, k], torch.stack(own).mean(0))


def test_any_weights_of_sum_1_have_the_loss_v_g_v(linear, process, asked, gram):
    for seed in range(5):
        v = torch.softmax(2 * randn(4, seed=seed), 0)
        torch.testing.assert_close(gram @ v @ v, loss_of(linear, process, *asked, v))


def test_a_gram_is_symmetric_and_nowhere_negative(gram):
    torch.testing.assert_close(gram, gram.mT)
    assert (torch.linalg.eigvalsh(gram) > -1e-12).all()


def test_the_change_is_the_loss_without_the_unit_less_the_loss_of_all(linear, process, asked, gram):
    """The weights are float32: to 1e-6."""
    whole = loss_of(linear, process, *asked, linear.uniform.double())
    ablated = [loss_of(linear, process, *asked, u) for u in ablation(CODEWORDS).double()]
    torch.testing.assert_close(loss_change(gram, CODEWORDS), torch.stack(ablated) - whole, rtol=1e-6, atol=1e-6)


def test_the_change_has_the_sign_of_support(process, asked):
    """Members 0 and 1 know the noise, 2 and 3 answer 0: a unit that the first two saw supports every picture."""
    pictures, times, noise = asked

    class Answer(torch.nn.Module):
        def __init__(self, share):
            super().__init__()
            self.share = share

        def forward(self, x, t):
            return self.share * noise[times.tolist().index(t)].expand_as(x)

    gram = residual_gram(Ensemble([Answer(share) for share in (1.0, 1.0, 0.0, 0.0)]), process, pictures, times, noise)
    change = loss_change(gram, torch.tensor([[True, True, False, False], [False, False, True, True]]))
    assert (change[0] > 0).all()
    assert (change[1] < 0).all()


def test_a_unit_that_no_member_saw_changes_nothing(gram):
    nobody = torch.zeros(1, 4, dtype=torch.bool)
    torch.testing.assert_close(loss_change(gram, nobody), torch.zeros(1, 3, dtype=torch.float64))


def test_identical_members_have_no_influence_on_the_loss(make_linear, process, asked):
    """Within rounding of 0, relative to the loss."""
    gram = residual_gram(Ensemble([make_linear(1).members[0]] * 4), process, *asked)
    assert (loss_change(gram, CODEWORDS).abs() < 1e-6 * gram[:, 0, 0]).all()


def test_permuting_members_changes_nothing(linear, process, asked, gram):
    order = [2, 0, 3, 1]
    permuted = residual_gram(Ensemble([linear.members[k] for k in order]), process, *asked)
    torch.testing.assert_close(permuted, gram[:, order][:, :, order])
    torch.testing.assert_close(loss_change(permuted, CODEWORDS[:, order]), loss_change(gram, CODEWORDS))


def test_a_picture_does_not_depend_on_its_batch(linear, process, asked, gram):
    pictures, times, noise = asked
    small = Ensemble(list(linear.members), batch=1)
    alone = [residual_gram(small, process, picture[None], times, noise) for picture in pictures]
    torch.testing.assert_close(torch.cat(alone), gram)


def test_the_first_order_is_the_derivative_of_the_loss(linear, process, asked, gram):
    """Against autograd through the loss itself, at u_0; less the response to the total weight, which no contrast
    sees."""
    slope = torch.autograd.functional.jacobian(lambda v: loss_of(linear, process, *asked, v), linear.uniform.double())
    a = loss_projections(gram)
    torch.testing.assert_close(a - a.mean(0), slope.mean(1) - slope.T)
    w = contrast(CODEWORDS).double()
    torch.testing.assert_close(-w @ a, w @ slope.T, rtol=1e-6, atol=1e-6)


def test_the_first_order_is_what_pull_says_of_the_projections(gram):
    """Signs are one: `pull` of a is the first order of the loss change, unit by unit."""
    a = loss_projections(gram)[:, None].expand(-1, len(CODEWORDS), -1)
    torch.testing.assert_close(pull(a, CODEWORDS), -contrast(CODEWORDS).double() @ loss_projections(gram))


def test_what_the_first_order_misses_is_the_square_of_the_change(linear, process, asked, gram):
    """The loss is quadratic in the weights: moved by s w_i it errs by s^2 w_i G w_i, so not at all in the limit."""
    w, u = contrast(CODEWORDS).double(), linear.uniform.double()
    whole = loss_of(linear, process, *asked, u)
    second = torch.einsum("un,qnm,um->uq", w, gram, w)
    for size in (1.0, 0.1, 1e-3):
        moved = torch.stack([loss_of(linear, process, *asked, u + size * each) for each in w]) - whole
        missed = moved + size * w @ loss_projections(gram)
        torch.testing.assert_close(missed, size**2 * second, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(loss_change(gram, CODEWORDS) + w @ loss_projections(gram), second, rtol=1e-6, atol=1e-6)


def test_the_ensemble_loses_less_than_its_members_do_on_average(gram):
    """Jensen: by the members' spread, which is what the centred Gram's diagonal holds."""
    centred = gram - gram.mean(1, keepdim=True) - gram.mean(2, keepdim=True) + gram.mean((1, 2), keepdim=True)
    spread = centred.diagonal(dim1=1, dim2=2).mean(1)
    assert (spread > 0).all()
    torch.testing.assert_close(gram.diagonal(dim1=1, dim2=2).mean(1) - gram.mean((1, 2)), spread)
