"""The Jacobian: closed forms, finite differences, and the published algorithm restated."""

import inspect
import sys

import pytest
import torch
from conftest import LinearDenoiser, needs_cuda, torchs_forward_mode
from torch import nn
from torch.func import jvp

from ddattr.attribution.agreement import relative_error
from ddattr.attribution.counterfactual import counterfactual, factual
from ddattr.attribution.jacobian import first_order, instability, jacobian
from ddattr.codebook import Codebook, contrast
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDIM, DDPM
from ddattr.diffusion.tangents import pushed
from ddattr.ensemble.ensemble import Ensemble

SMALL, LARGE = (1, 2, 2), (1, 8, 8)


def picture_of(ensemble, tape, reverse, v):
    """y(v, eps) by the definition: a plain weighted sum of the members at every step."""
    x = tape[0]
    for step, z in zip(reverse, tape[1:], strict=True):
        estimate = sum(v[k] * ensemble.members[k](x, step.t) for k in range(len(ensemble)))
        x = step.a * x + step.b * estimate + step.c * z
    return x


def published(ensemble, tape, reverse):
    """The uncentred Jacobian of Dai & Gifford 2023: one jvp of the whole sampler for every weight."""
    v = ensemble.uniform.to(tape)
    with torchs_forward_mode():
        columns = [
            jvp(lambda v: picture_of(ensemble, tape, reverse, v), (v,), (e,))[1]
            for e in torch.eye(len(ensemble)).to(tape)
        ]
    return torch.stack(columns)


def centred(response):
    return response - response.mean(0)


@pytest.fixture
def small_tape():
    return noise_tape([0, 3], 5, SMALL).double()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_linear_denoisers_have_a_closed_form(make_linear, process, small_tape, eta):
    """x' = (a + b mean(A)) x + b mean(b_k) + c z, so that dx'/dv_k = (a + b mean(A)) dx/dv_k + b f_k(x)."""
    ensemble, reverse = make_linear(4), DDIM(5, eta).reverse(process)
    picture, response = jacobian(ensemble, small_tape, reverse)
    a = torch.stack([member.a for member in ensemble.members])
    b = torch.stack([member.b for member in ensemble.members])
    x, s = small_tape[0].flatten(1), torch.zeros(4, 2, 4, dtype=torch.float64)
    for step, z in zip(reverse, small_tape[1:].flatten(2), strict=True):
        move = step.a * torch.eye(4) + step.b * a.mean(0)
        s = s @ move.T + step.b * (torch.einsum("kij,qj->kqi", a, x) + b[:, None])
        x = x @ move.T + step.b * b.mean(0) + step.c * z
    torch.testing.assert_close(picture.flatten(1), x)
    torch.testing.assert_close(response.flatten(2), centred(s))


def test_linear_denoisers_agree_with_reverse_mode(make_linear, small_tape, reverse):
    ensemble = make_linear(4)
    exact = torch.autograd.functional.jacobian(
        lambda v: picture_of(ensemble, small_tape, reverse, v), ensemble.uniform.double()
    )
    _, response = jacobian(ensemble, small_tape, reverse)
    torch.testing.assert_close(response, centred(exact.movedim(-1, 0)))


@pytest.mark.parametrize("attention", [False, True])
def test_networks_agree_with_central_differences(make_unets, reverse, tape, attention):
    """In float64 the differences err by step^2 and by rounding / step: about 1e-8 at a step of 1e-4."""
    ensemble, step = Ensemble(make_unets(2, attention)).double(), 1e-4
    tape = tape.double()
    picture, response = jacobian(ensemble, tape, reverse)
    uniform = ensemble.uniform.double()
    with torchs_forward_mode():
        difference = [
            picture_of(ensemble, tape, reverse, uniform + step * e)
            - picture_of(ensemble, tape, reverse, uniform - step * e)
            for e in torch.eye(2, dtype=torch.float64)
        ]
        torch.testing.assert_close(picture, picture_of(ensemble, tape, reverse, uniform))
    torch.testing.assert_close(response, centred(torch.stack(difference) / (2 * step)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", [False, True])
def test_it_equals_the_published_algorithm(make_unets, reverse, tape, attention):
    """One jvp of the whole sampler for every weight, then centred; to 1e-4 in float32."""
    ensemble = Ensemble(make_unets(3, attention))
    _, response = jacobian(ensemble, tape, reverse)
    assert relative_error(response, centred(published(ensemble, tape, reverse))).max() < 1e-4


def test_the_picture_is_the_factual(unets, reverse, tape):
    picture, _ = jacobian(unets, tape, reverse)
    torch.testing.assert_close(picture, factual(unets, [0, 3], reverse, LARGE))


def test_it_works_where_lightning_predicts(unets, reverse):
    """In inference mode, with a tape that was drawn there: torch 2.11 and 2.13 differ in what they allow."""
    expected = jacobian(unets, noise_tape([0, 3], 5, LARGE), reverse)
    with torch.inference_mode():
        found = jacobian(unets, noise_tape([0, 3], 5, LARGE), reverse)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("members_per_step", [None, 1, 2])
def test_it_sums_to_0_over_members(unets, reverse, tape, members_per_step):
    _, response = jacobian(unets, tape, reverse, members_per_step)
    assert (response.sum(0).flatten(1).norm(dim=1) < 1e-5 * instability(response)).all()


@pytest.mark.parametrize("tangents", [1, 2, 3, 100])
def test_the_chunk_of_tangents_changes_nothing(unets, reverse, tape, tangents):
    _, expected = jacobian(unets, tape, reverse)
    _, response = jacobian(unets, tape, reverse, tangents=tangents)
    torch.testing.assert_close(response, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch", "passes"), [(1024, 1), (4, 2), (3, 3), (1, 3)])
def test_directions_times_queries_stay_within_the_ensemble_s_batch(unets, reverse, tape, batch, passes, monkeypatch):
    """Two queries and three directions: as many directions together as keep their product within the batch."""
    seen = []

    def counted(f, x, part):
        seen.append(len(part))
        return pushed(f, x, part)

    monkeypatch.setattr(sys.modules[jacobian.__module__], "pushed", counted)
    jacobian(Ensemble(list(unets.members), batch), tape, reverse, members_per_step=1)
    assert max(seen) * 2 <= max(batch, 2)
    assert len(seen) == passes * (len(reverse) - 1)


def test_a_query_does_not_depend_on_its_batch(make_unets, reverse, tape):
    picture, together = jacobian(Ensemble(make_unets(3)), tape, reverse)
    for q in range(2):
        alone_picture, alone = jacobian(Ensemble(make_unets(3), batch=1), tape[:, q : q + 1], reverse)
        torch.testing.assert_close(alone_picture[0], picture[q], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone[:, 0], together[:, q], rtol=1e-4, atol=1e-5)


def test_permuting_members_permutes_the_jacobian(make_unets, reverse, tape):
    members, order = make_unets(3), [2, 0, 1]
    picture, response = jacobian(Ensemble(members), tape, reverse)
    permuted_picture, permuted = jacobian(Ensemble([members[k] for k in order]), tape, reverse)
    torch.testing.assert_close(permuted_picture, picture, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted, response[order], rtol=1e-4, atol=1e-5)


def test_the_rotating_jacobian_takes_turns_by_place(make_linear, small_tape, reverse):
    """Members that all take a turn at every step may stand in any order; where one is asked, it hangs on which."""
    ensemble, order = make_linear(3), [2, 0, 1]
    permuted = Ensemble([ensemble.members[k] for k in order])
    for m, alike in ((3, True), (1, False)):
        _, response = jacobian(ensemble, small_tape, reverse, members_per_step=m)
        _, other = jacobian(permuted, small_tape, reverse, members_per_step=m)
        assert torch.allclose(other, response[order], rtol=1e-8) == alike


@pytest.mark.parametrize("members_per_step", [None, 1])
def test_identical_members_have_no_influence(make_unets, reverse, tape, members_per_step):
    """Within rounding of 0, relative to the uncentred Jacobian."""
    ensemble = Ensemble(make_unets(1) * 3)
    _, response = jacobian(ensemble, tape, reverse, members_per_step)
    assert (instability(response) < 1e-5 * instability(published(ensemble, tape, reverse))).all()


def test_all_members_at_every_step_is_the_exact_one(unets, reverse, tape):
    for exact, rotating in zip(jacobian(unets, tape, reverse), jacobian(unets, tape, reverse, 3), strict=True):
        assert torch.equal(exact, rotating)


def test_one_step_makes_the_first_order_exact(unets, make_process):
    """With one step the picture is linear in the weights; from the last timestep, so that the step is a large one."""
    reverse = DDPM(1).reverse(make_process(timestep_spacing="trailing"))
    codewords = Codebook(3, 3, 1).codewords(torch.arange(3))
    _, response = jacobian(unets, noise_tape([0, 3], 1, LARGE), reverse)
    displacement = counterfactual(unets, codewords, [0, 3], reverse, LARGE) - factual(unets, [0, 3], reverse, LARGE)
    torch.testing.assert_close(first_order(response, contrast(codewords)), displacement, rtol=1e-4, atol=2e-6)


def test_the_first_order_is_right_to_first_order(make_linear, small_tape, reverse):
    """A change of the weights ten times smaller leaves an error a hundred times smaller."""
    ensemble = make_linear(4)
    picture, response = jacobian(ensemble, small_tape, reverse)
    change = torch.tensor([[0.2, -0.1, 0.15, -0.25]], dtype=torch.float64)
    errors = []
    for size in (1e-2, 1e-3):
        exact = picture_of(ensemble, small_tape, reverse, ensemble.uniform.double() + size * change[0]) - picture
        errors.append((exact - first_order(response, size * change)[0]).norm().item())
    assert 50 < errors[0] / errors[1] < 200


@pytest.mark.parametrize("m", [1, 2, 3])
def test_rotation_is_exact_when_members_share_their_derivative(make_linear, small_tape, reverse, m):
    """Denoisers with one A and different b: every J_j is A."""
    ensemble = make_linear(5, spread=0.0)
    _, exact = jacobian(ensemble, small_tape, reverse)
    _, rotating = jacobian(ensemble, small_tape, reverse, m)
    torch.testing.assert_close(rotating, exact)


def test_rotation_over_more_members_errs_less(make_linear, process):
    """Each step averages m of 6 derivatives; the mean over 10 ensembles of the error falls with m, to 0 at m = 6. The
    ensembles are blocks of one, as none sees another's pixels."""
    reverse, tape = DDPM(10).reverse(process), noise_tape([0], 10, SMALL).double().repeat(1, 1, 10, 1, 1)
    apart = [make_linear(6, seed=seed).members for seed in range(10)]
    blocks = [torch.block_diag(*(members[k].a for members in apart)) for k in range(6)]
    shifts = [torch.cat([members[k].b for members in apart]) for k in range(6)]
    ensemble = Ensemble([LinearDenoiser(*pair) for pair in zip(blocks, shifts, strict=True)])

    def responses(members: int | None = None) -> torch.Tensor:
        return jacobian(ensemble, tape, reverse, members)[1][:, 0].unflatten(1, (10, 1))  # ensembles as queries

    errors = torch.stack([relative_error(responses(m), responses()).mean() for m in (1, 2, 4, 6)])
    assert errors[0] > errors[1] > errors[2] > errors[3] == 0


@pytest.mark.parametrize(("n", "m"), [(4, 1), (4, 2), (5, 2), (5, 3), (3, 3)])
def test_rotation_takes_every_member_in_turn(process, n, m):
    """m derivatives a step, and after any step none was asked twice more than another; the first step asks none, as
    its tangents are 0."""
    asked = []

    class Recording(nn.Module):
        def __init__(self, k):
            super().__init__()
            self.k = k

        def forward(self, x, t):
            if type(x) is not torch.Tensor:  # it carries tangents
                asked.append(self.k)
            return 0.1 * x

    jacobian(Ensemble([Recording(k) for k in range(n)]), noise_tape([0], 9, SMALL), DDPM(9).reverse(process), m)
    assert len(asked) == 8 * m
    for step in range(1, 9):
        times = [asked[: step * m].count(k) for k in range(n)]
        assert max(times) - min(times) <= 1


def test_the_picture_of_the_rotating_jacobian_is_exact(unets, reverse, tape):
    torch.testing.assert_close(jacobian(unets, tape, reverse, 1)[0], jacobian(unets, tape, reverse)[0])


@pytest.mark.parametrize("m", [None, 2])
@pytest.mark.parametrize("attention", [False, True])
def test_a_rounded_jacobian_is_near_that_in_float32(make_unets, reverse, tape, attention, m):
    """Within 0.1: members differ by a fraction of what they say, of which 8 bits are kept."""
    ensemble = Ensemble(make_unets(3, attention))
    _, full = jacobian(ensemble, tape, reverse, m)
    picture, rounded = jacobian(ensemble.rounded(torch.bfloat16), tape, reverse, m)
    assert picture.dtype == rounded.dtype == torch.float32
    error = relative_error(rounded, full)
    assert (error > 0).all()
    assert (error < 0.1).all()
    assert rounded.mean(0).abs().max() < 1e-6  # the sum over members is not rounded: it is centred as ever


@needs_cuda
def test_a_rounded_jacobian_on_a_gpu_is_near_that_in_float32(make_unets, reverse, tape):
    ensemble, tape = Ensemble(make_unets(3, True)).to("cuda"), tape.to("cuda")
    _, full = jacobian(ensemble, tape, reverse)
    picture, rounded = jacobian(ensemble.rounded(torch.bfloat16), tape, reverse)
    assert picture.dtype == rounded.dtype == torch.float32
    error = relative_error(rounded, full)
    assert (error > 0).all()
    assert (error < 0.1).all()


@pytest.mark.parametrize("members_per_step", [0, -1, 4])
def test_an_impossible_number_of_members_per_step_is_refused(unets, reverse, tape, members_per_step):
    with pytest.raises(ValueError, match=f"jacobian: members_per_step={members_per_step}, expected 1 to 3"):
        jacobian(unets, tape, reverse, members_per_step)


def test_a_tape_of_another_length_is_refused(unets, reverse, tape):
    with pytest.raises(ValueError, match="noise tape: 5 rows, but 5 sampler steps need 6"):
        jacobian(unets, tape[:5], reverse)


def test_first_order_refuses_weights_of_another_ensemble():
    with pytest.raises(ValueError, match="first_order: weights for 4 members, a response of 3"):
        inspect.unwrap(first_order)(torch.zeros(3, 1, 2), torch.zeros(5, 4))  # without the tests' own check of shapes


def test_instability_is_the_length_of_a_query_s_jacobian():
    response = torch.randn(3, 2, *SMALL, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(instability(response), torch.stack([response[:, q].norm() for q in range(2)]))


@needs_cuda
@pytest.mark.parametrize("members_per_step", [None, 2])
def test_a_gpu_has_the_jacobian_of_the_processor(make_unets, reverse, tape, members_per_step):
    here, there = (Ensemble(make_unets(3, True, (64, 128))) for _ in range(2))
    _, expected = jacobian(here, tape, reverse, members_per_step)
    _, response = jacobian(there.cuda(), tape.cuda(), reverse, members_per_step)
    assert relative_error(response.cpu(), expected).max() < 1e-4
