"""The ensemble: eq. 7 restated, and invariance to order, batch and absent members."""

import pytest
import torch
from conftest import needs_cuda
from torch import nn

from ddattr.attribution.jacobian import jacobian
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDPM, trajectory
from ddattr.ensemble.ensemble import Ensemble, _precision

SHAPE = (1, 8, 8)


class Untouchable(nn.Module):
    """A network that nobody may ask."""

    def forward(self, x, t):
        raise AssertionError("a member without weight was called")


@pytest.fixture
def x() -> torch.Tensor:
    return noise_tape([0, 1, 2], 0, SHAPE)[0]


@pytest.fixture
def reverse(process):
    return DDPM(4).reverse(process)


def test_the_weighted_denoiser_is_the_weighted_sum_of_members(unets, x):
    """f_e . v (x, t) = sum_k v_k f(x, t, theta_k): eq. 7 of the slides."""
    weights = torch.tensor([[0.2, 0.5, 0.3], [1.5, -0.5, 0.0]])
    estimate = unets.weighted(weights)(x, 7)
    for row, v in zip(estimate, weights, strict=True):
        torch.testing.assert_close(row, sum(v[k] * unets.members[k](x, 7) for k in range(3)))


def test_every_row_of_pictures_has_its_own_weights(unets):
    rows = noise_tape([0, 1, 2, 3], 0, SHAPE)[0].reshape(2, 2, *SHAPE)
    estimate = unets.weighted(torch.eye(3)[:2])(rows, 7)
    for k in range(2):
        torch.testing.assert_close(estimate[k], unets.members[k](rows[k], 7))


def test_one_hot_weights_are_the_member_alone(unets, x):
    estimate = unets.weighted(torch.eye(3))(x, 7)
    assert torch.equal(estimate, unets.outputs(x, 7))
    assert torch.equal(estimate, torch.stack([unets.member(k, x, 7) for k in range(3)]))


def test_permuting_members_with_their_weights_changes_nothing(make_unets, x):
    members, weights, order = make_unets(3), torch.tensor([[0.2, 0.5, 0.3]]), [2, 0, 1]
    permuted = Ensemble([members[k] for k in order]).weighted(weights[:, order])(x, 7)
    torch.testing.assert_close(permuted, Ensemble(members).weighted(weights)(x, 7))


def test_identical_members_are_one_member_whatever_the_weights(make_unets, x):
    network = make_unets(1)[0]
    estimate = Ensemble([network] * 3).weighted(torch.tensor([[0.2, 0.5, 0.3]]))(x, 7)
    torch.testing.assert_close(estimate[0], network(x, 7))


@pytest.mark.parametrize("batch", [1, 2, 5, 1000])
def test_the_batch_changes_nothing_beyond_rounding(make_unets, reverse, batch):
    members, weights = make_unets(3), torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    expected = Ensemble(members).pictures(weights, [0, 1, 2], reverse, SHAPE)
    pictures = Ensemble(members, batch).pictures(weights, [0, 1, 2], reverse, SHAPE)
    torch.testing.assert_close(pictures, expected, rtol=0, atol=1e-5)


def test_a_batch_is_never_exceeded(make_unets, x):
    sizes = []

    class Counting(nn.Module):
        def forward(self, x, t):
            sizes.append(len(x))
            return x

    Ensemble([Counting()] * 2, batch=2).weighted(torch.full((4, 2), 0.5))(x.expand(4, *x.shape), 7)
    assert max(sizes) == 2
    assert sum(sizes) == 4 * 2 * len(x)


def test_a_picture_depends_on_its_own_seed_and_weights_only(unets, reverse):
    weights = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    together = unets.pictures(weights, [0, 5, 5 + 2**32], reverse, SHAPE)
    assert not torch.allclose(together[:, 1], together[:, 2])
    for q, seed in enumerate([0, 5, 5 + 2**32]):
        for row in range(2):
            alone = unets.pictures(weights[row : row + 1], [seed], reverse, SHAPE)[0, 0]
            torch.testing.assert_close(together[row, q], alone, rtol=0, atol=1e-5)


def test_pictures_are_the_last_state_on_the_seeds_tape(unets, reverse):
    weights = torch.tensor([[0.2, 0.5, 0.3]])

    def plain(x, t):
        return sum(weights[0, k] * unets.members[k](x, t) for k in range(3))

    *_, expected = trajectory(plain, reverse, noise_tape([4, 6], 4, SHAPE))
    torch.testing.assert_close(unets.pictures(weights, [4, 6], reverse, SHAPE)[0], expected)


def test_the_same_call_gives_the_same_bits(unets, reverse):
    weights = torch.tensor([[0.2, 0.5, 0.3]])
    first, second = (unets.pictures(weights, [4, 6], reverse, SHAPE) for _ in range(2))
    assert torch.equal(first, second)


def test_a_member_without_weight_is_never_called(make_unets, reverse):
    network = make_unets(1)[0]
    ensemble = Ensemble([network, Untouchable(), network])
    pictures = ensemble.pictures(torch.tensor([[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]), [0], reverse, SHAPE)
    torch.testing.assert_close(pictures[0], pictures[1])


def test_a_member_is_evaluated_only_on_the_rows_that_give_it_weight(x):
    asked = []

    class Recording(nn.Module):
        def forward(self, x, t):
            asked.append(len(x))
            return x

    Ensemble([Recording(), Recording()]).weighted(torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]))(
        x.expand(3, *x.shape), 7
    )
    assert asked == [3 * len(x), len(x)]


@pytest.mark.parametrize("n", [1, 3, 7])
def test_uniform_weights_are_equal_and_sum_to_1(n):
    uniform = Ensemble([nn.Identity()] * n).uniform
    assert len(uniform) == n
    assert (uniform == uniform[0]).all()
    torch.testing.assert_close(uniform.sum(), torch.tensor(1.0))


def relative(x, truth) -> float:
    return ((x - truth).norm() / truth.norm()).item()


def test_members_are_frozen_and_in_evaluation_mode(make_unets):
    networks = [network.train() for network in make_unets(2)]
    ensemble = Ensemble(networks)
    assert len(ensemble) == 2
    for network in networks:
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_weights_of_another_ensemble_are_refused(unets):
    with pytest.raises(ValueError, match="ensemble: weights for 4 members, but it has 3"):
        unets.weighted(torch.full((1, 4), 0.25))


def test_a_replay_is_in_float32_whatever_surrounds_it(make_unets, reverse):
    """Training in half precision must not reach the pictures that attributions are made from."""
    ensemble = Ensemble(make_unets(3, attention=True))
    tape = noise_tape([0, 1], 4, SHAPE)
    plain, exact = ensemble.pictures(ensemble.uniform[None], [0, 1], reverse, SHAPE), jacobian(ensemble, tape, reverse)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ensemble.members[0](tape[0], 7)
        assert not torch.equal(rounded, ensemble.member(0, tape[0], 7))  # autocast does change what it reaches
        assert torch.equal(ensemble.pictures(ensemble.uniform[None], [0, 1], reverse, SHAPE), plain)
        for inside, outside in zip(jacobian(ensemble, tape, reverse), exact, strict=True):
            assert torch.equal(inside, outside)


def test_a_rounded_ensemble_says_in_float32_what_networks_multiply_in_bfloat16(make_unets):
    """The one it was made from stays as it is, and so do the weights."""
    ensemble, x = Ensemble(make_unets(2, attention=True)), noise_tape([0, 1], 0, SHAPE)[0]
    before = ensemble.member(1, x, 7)
    said = ensemble.rounded(torch.bfloat16).member(1, x, 7)
    assert said.dtype == torch.float32
    assert 0 < relative(said, before) < 0.02  # bfloat16 keeps 8 bits: 0.004 a rounding
    for full in (ensemble, ensemble.rounded(torch.float32), ensemble.rounded(torch.bfloat16).rounded(torch.float32)):
        assert torch.equal(full.member(1, x, 7), before)
    assert {p.dtype for p in ensemble.parameters()} == {torch.float32}


def test_sums_over_rounded_members_are_not_rounded(make_unets):
    rounded, x = Ensemble(make_unets(3)).rounded(torch.bfloat16), noise_tape([0, 1], 0, SHAPE)[0]
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.7, 0.3]])
    expected = torch.einsum("rn,n...->r...", weights, rounded.outputs(x, 7))
    torch.testing.assert_close(rounded.weighted(weights)(x, 7), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def rounded():
    """A process that lets matrix products be rounded, as Lightning advises."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def test_rounded_products_are_for_others_and_left_to_them(rounded, x):
    """The switches are the process's: a replay turns them off while a member is asked, errors included."""
    matmul, seen = torch.backends.mkldnn.matmul, []

    class Watching(nn.Module):
        def forward(self, x, t):
            seen.append(matmul.fp32_precision)
            raise ArithmeticError

    assert matmul.fp32_precision == "bf16"
    with pytest.raises(ArithmeticError):
        Ensemble([Watching()]).member(0, x, 7)
    assert seen == ["ieee"]
    assert matmul.fp32_precision == "bf16"


def test_a_gpu_s_tf32_is_for_others_and_left_to_them(rounded):
    knobs = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    assert [knob.fp32_precision for knob in knobs] == ["tf32", "tf32"]
    with _precision("cuda", torch.float32):
        assert [knob.fp32_precision for knob in knobs] == ["ieee", "ieee"]
    assert [knob.fp32_precision for knob in knobs] == ["tf32", "tf32"]


@needs_cuda
@pytest.mark.parametrize("attention", [False, True])
def test_a_gpu_draws_the_pictures_of_the_processor_at_any_batch(make_unets, process, attention):
    """To 1e-5, over 25 steps of networks wide enough for TF32, which would miss it a hundredfold."""
    reverse, seeds, weights = DDPM(25).reverse(process), list(range(40)), torch.tensor([[0.2, 0.5, 0.3]])
    here, there = (Ensemble(make_unets(3, attention, (64, 128))) for _ in range(2))
    expected = here.pictures(weights, seeds, reverse, SHAPE)
    drawn = there.cuda().pictures(weights, seeds, reverse, SHAPE, "cuda")
    alone = torch.cat([there.pictures(weights, [seed], reverse, SHAPE, "cuda") for seed in seeds], 1)
    for pictures in (drawn, alone):
        assert (pictures.cpu() - expected).norm() < 1e-5 * expected.norm()
