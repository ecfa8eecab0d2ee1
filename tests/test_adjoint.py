"""The adjoint: closed forms, finite differences, the Jacobian that it is the transpose of, and what it costs."""

import pytest
import torch
from conftest import needs_cuda
from torch import nn

from ddattr.attribution.adjoint import adjoint, differentiated
from ddattr.attribution.jacobian import jacobian
from ddattr.diffusion.conditions import Given
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDIM, DDPM
from ddattr.ensemble.ensemble import Ensemble

SMALL, LARGE = (1, 2, 2), (1, 8, 8)


def curved(pictures):
    """A functional that no picture is a zero of, and whose derivative differs from pixel to pixel."""
    weights = torch.linspace(-1, 2, pictures[0].numel(), dtype=pictures.dtype, device=pictures.device)
    return (pictures.flatten(1) * weights).sum(1).sin() + 0.1 * pictures.flatten(1).square().sum(1)


def along(functional, pictures, response):
    """<derivative of the functional, Jacobian>."""
    return torch.einsum("qp,nqp->nq", differentiated(functional, pictures)[1].flatten(1), response.flatten(2))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_linear_denoisers_and_a_linear_functional_have_a_closed_form(make_linear, process, eta):
    """d x_0 / d v_k = sum over steps of the product of all later moves, times b f_k(x_t)."""
    ensemble, reverse = make_linear(4), DDIM(5, eta).reverse(process)
    tape = noise_tape([0, 3], 5, SMALL).double()
    a = torch.stack([member.a for member in ensemble.members])
    b = torch.stack([member.b for member in ensemble.members])
    toward = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    x, s = tape[0].flatten(1), torch.zeros(4, 2, 4, dtype=torch.float64)
    for step, z in zip(reverse, tape[1:].flatten(2), strict=True):
        move = step.a * torch.eye(4, dtype=torch.float64) + step.b * a.mean(0)
        s = s @ move.T + step.b * (torch.einsum("kij,qj->kqi", a, x) + b[:, None])
        x = x @ move.T + step.b * b.mean(0) + step.c * z
    found = adjoint(ensemble, tape, reverse, lambda pictures: pictures.flatten(1) @ toward)
    torch.testing.assert_close(found.value, x @ toward)
    torch.testing.assert_close(found.response, (s - s.mean(0)) @ toward)


@pytest.mark.parametrize("attention", [False, True])
def test_it_is_the_functionals_derivative_along_the_jacobian_in_double_precision(make_unets, reverse, tape, attention):
    ensemble, tape = Ensemble(make_unets(3, attention)).double(), tape.double()
    picture, response = jacobian(ensemble, tape, reverse)
    found = adjoint(ensemble, tape, reverse, curved)
    torch.testing.assert_close(found.value, curved(picture), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.response, along(curved, picture, response), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("attention", [False, True])
def test_in_single_precision_it_is_that_to_1e_4(make_unets, reverse, tape, attention):
    ensemble = Ensemble(make_unets(3, attention))
    picture, response = jacobian(ensemble, tape, reverse)
    expected = along(curved, picture, response).double()
    found = adjoint(ensemble, tape, reverse, curved).response
    assert ((found - expected).norm(dim=0) < 1e-4 * expected.norm(dim=0)).all()


def test_networks_agree_with_central_differences(make_unets, reverse, tape):
    """In float64 the differences err by step^2 and by rounding / step: about 1e-8 at a step of 1e-4."""
    ensemble, tape, step = Ensemble(make_unets(3, True)).double(), tape.double(), 1e-4
    moved = step * torch.eye(3, dtype=torch.float64)
    plus, minus = (ensemble.replay(ensemble.uniform.double() + side * moved, tape, reverse) for side in (1, -1))
    differences = (torch.stack([*map(curved, plus)]) - torch.stack([*map(curved, minus)])) / (2 * step)
    response = adjoint(ensemble, tape, reverse, curved).response
    torch.testing.assert_close(response, differences - differences.mean(0), rtol=1e-5, atol=1e-7)


def test_a_constant_functional_owes_itself_to_nobody(unets, reverse, tape):
    found = adjoint(unets, tape, reverse, lambda pictures: 0 * pictures.flatten(1).sum(1) + 7)
    assert torch.equal(found.value, torch.full((2,), 7.0))
    assert torch.equal(found.response, torch.zeros(3, 2, dtype=torch.float64))


def test_it_sums_to_0_and_identical_members_have_none(make_unets, unets, reverse, tape):
    found = adjoint(unets, tape, reverse, curved).response
    size = found.norm(dim=0)
    assert (found.sum(0).abs() < 1e-12 * size).all()
    alike = adjoint(Ensemble(make_unets(1) * 3), tape, reverse, curved).response
    assert (alike.norm(dim=0) < 1e-5 * size).all()


def test_a_query_does_not_depend_on_its_batch_and_members_may_be_permuted(make_unets, reverse, tape):
    members, order = make_unets(3), [2, 0, 1]
    together = adjoint(Ensemble(members), tape, reverse, curved).response
    for q in range(2):
        alone = adjoint(Ensemble(members, batch=1), tape[:, q : q + 1], reverse, curved).response
        torch.testing.assert_close(alone[:, 0], together[:, q], rtol=1e-4, atol=1e-5)
    permuted = adjoint(Ensemble([members[k] for k in order]), tape, reverse, curved).response
    torch.testing.assert_close(permuted, together[order], rtol=1e-4, atol=1e-5)


def test_under_conditions_every_query_has_its_own(process):
    """A network whose estimate is the condition times x: as if each query had members of its own."""

    class Scaled(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.size = size

        def forward(self, x, t, condition):
            return self.size * (1 + condition[:, None, None, None]) * torch.tanh(x)

    ensemble = Ensemble([Scaled(0.1), Scaled(0.3), Scaled(0.4)])
    reverse, tape = DDPM(4).reverse(process), noise_tape([5, 5], 4, SMALL)
    both = adjoint(ensemble.given(Given(torch.tensor([0.0, 1.0]))), tape, reverse, curved).response
    for q, condition in enumerate((0.0, 1.0)):
        alone = adjoint(ensemble.given(Given(torch.tensor([condition]))), tape[:, [q]], reverse, curved).response
        torch.testing.assert_close(both[:, [q]], alone)
    assert not torch.allclose(both[:, 0], both[:, 1])


def test_it_works_where_lightning_predicts(unets, reverse):
    expected = adjoint(unets, noise_tape([0, 3], 5, LARGE), reverse, curved)
    with torch.inference_mode():
        found = adjoint(unets, noise_tape([0, 3], 5, LARGE), reverse, curved)
    assert torch.equal(found.response, expected.response)


@pytest.mark.parametrize("n", [2, 5])
def test_a_step_asks_every_member_twice_and_of_the_queries_alone_whatever_their_number(process, n):
    """No tangent a weight: n members are asked 2 n pictures a step and query, and never more at once than queries."""
    seen = []

    class Counted(nn.Module):
        def forward(self, x, t):
            seen.append(len(x))
            return 0.1 * x

    adjoint(Ensemble([Counted() for _ in range(n)]), noise_tape([0, 1, 2], 4, SMALL), DDPM(4).reverse(process), curved)
    assert seen == [3] * (2 * n * 4)


@pytest.mark.parametrize(
    ("functional", "words"),
    [
        (lambda pictures: pictures.mean(), r"gives \(\), expected a number a picture, \(2,\)"),
        (lambda pictures: pictures.flatten(1), r"gives \(2, 64\), expected a number a picture"),
        (lambda pictures: 3.0, "gives float, expected a number a picture"),
        (lambda pictures: (pictures.flatten(1) > 0).float().sum(1), "has no derivative, expected one that torch makes"),
        (lambda pictures: pictures.flatten(1).sum(1).abs().log() * torch.inf, "is not finite, expected a number"),
    ],
)
def test_what_is_no_functional_is_refused(unets, reverse, tape, functional, words):
    with pytest.raises(ValueError, match=f"functional: .*{words}"):
        adjoint(unets, tape, reverse, functional)


def test_a_tape_of_another_length_is_refused(unets, reverse, tape):
    with pytest.raises(ValueError, match="noise tape: 5 rows, but 5 sampler steps need 6"):
        adjoint(unets, tape[:5], reverse, curved)


@needs_cuda
def test_a_gpu_has_the_adjoint_of_the_processor(make_unets, reverse, tape):
    here, there = (Ensemble(make_unets(3, True, (64, 128))) for _ in range(2))
    expected = adjoint(here, tape, reverse, curved).response
    response = adjoint(there.cuda(), tape.cuda(), reverse, curved).response.cpu()
    assert ((response - expected).norm(dim=0) < 1e-4 * expected.norm(dim=0)).all()
