"""Influence: the streamed scores equal brute force from displacements, and their signs mean what they say."""

import pytest
import torch

from ddattr.attribution.influence import (
    Response,
    directions,
    displacement_scores,
    gram,
    norm,
    pixel_distance,
    projections,
    pull,
    scores,
    similarity,
)
from ddattr.attribution.jacobian import first_order
from ddattr.codebook import Codebook, contrast

MEMBERS, QUERIES, UNITS, SHAPE = 6, 3, 14, (2, 3, 4)
CODEWORDS = Codebook(UNITS, MEMBERS, 2).codewords(torch.arange(UNITS))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def factual() -> torch.Tensor:
    return randn(QUERIES, *SHAPE, seed=1)


@pytest.fixture
def units() -> torch.Tensor:
    return randn(UNITS, *SHAPE, seed=2)


@pytest.fixture(params=[False, True], ids=["centred", "offset"])
def response(request) -> Response:
    members = randn(MEMBERS, QUERIES, *SHAPE)
    return Response(members - members.mean(0), randn(QUERIES, *SHAPE, seed=3) if request.param else None)


def assert_equal_scores(first, second, **tolerance):
    assert first.keys() == second.keys() == {"pull", "norm"}
    for measure in first:
        torch.testing.assert_close(first[measure], second[measure], **tolerance)


def test_a_displacement_is_the_first_order_plus_the_offset(response):
    expected = first_order(response.members, contrast(CODEWORDS))
    if response.offset is not None:
        expected = expected + response.offset
    torch.testing.assert_close(response.displacement(CODEWORDS), expected)


def test_scores_equal_brute_force_from_displacements(response, factual, units):
    streamed = scores(response, factual, units, CODEWORDS)
    assert_equal_scores(streamed, displacement_scores(response.displacement(CODEWORDS), factual, units))


def test_displacement_scores_are_the_definitions(factual, units):
    displacement = randn(UNITS, QUERIES, *SHAPE)
    measured = displacement_scores(displacement, factual, units)
    for i in range(UNITS):
        for q in range(QUERIES):
            toward = (units[i] - factual[q]) / (units[i] - factual[q]).norm()
            torch.testing.assert_close(measured["pull"][i, q], -(displacement[i, q] * toward).sum())
            torch.testing.assert_close(measured["norm"][i, q], displacement[i, q].norm())


def test_scores_of_float32_tensors_are_those_of_float64(response, factual, units):
    single = Response(*(None if part is None else part.float() for part in response))
    streamed = scores(single, factual.float(), units.float(), CODEWORDS)
    assert_equal_scores(streamed, scores(response, factual, units, CODEWORDS), rtol=1e-4, atol=1e-5)


def test_streaming_in_blocks_equals_all_at_once(response, factual, units):
    together = scores(response, factual, units, CODEWORDS)
    blocks = [scores(response, factual, units[part], CODEWORDS[part]) for part in (slice(0, 5), slice(5, UNITS))]
    assert_equal_scores({measure: torch.cat([block[measure] for block in blocks]) for measure in together}, together)


def test_a_query_s_scores_do_not_depend_on_the_others(response, factual, units):
    together = scores(response, factual, units, CODEWORDS)
    for q in range(QUERIES):
        part = Response(*(None if p is None else p[..., q : q + 1, :, :, :] for p in response))
        alone = scores(part, factual[q : q + 1], units, CODEWORDS)
        assert_equal_scores(alone, {measure: score[:, q : q + 1] for measure, score in together.items()})


def test_permuting_members_with_the_codewords_changes_nothing(response, factual, units):
    order = [3, 0, 5, 1, 4, 2]
    permuted = scores(Response(response.members[order], response.offset), factual, units, CODEWORDS[:, order])
    assert_equal_scores(permuted, scores(response, factual, units, CODEWORDS))


@pytest.mark.parametrize("factor", [2.0, -0.5])
def test_scaling_the_response_scales_the_scores(response, factual, units, factor):
    scaled = scores(Response(*(None if p is None else factor * p for p in response)), factual, units, CODEWORDS)
    plain = scores(response, factual, units, CODEWORDS)
    assert_equal_scores(scaled, {"pull": factor * plain["pull"], "norm": abs(factor) * plain["norm"]})


def test_turning_all_pictures_together_changes_nothing(response, factual, units):
    """Scores depend on lengths and angles of pictures only."""
    pixels = units[0].numel()
    rotation = torch.linalg.qr(randn(pixels, pixels, seed=4)).Q

    def turn(x):
        return None if x is None else (x.flatten(-3) @ rotation).reshape(x.shape)

    turned = scores(Response(*map(turn, response)), turn(factual), turn(units), CODEWORDS)
    assert_equal_scores(turned, scores(response, factual, units, CODEWORDS))


@pytest.mark.parametrize("sign", [1, -1])
def test_pull_is_plus_or_minus_the_norm_along_the_unit_s_direction(factual, units, sign):
    """Removing the unit moves the picture straight away from its image: pull = norm; straight at it: pull = -norm."""
    away = -sign * directions(factual, units).reshape(UNITS, QUERIES, *SHAPE) * randn(UNITS, 1, 1, 1, 1).abs()
    measured = displacement_scores(away, factual, units)
    assert (measured["norm"] > 0).all()
    torch.testing.assert_close(measured["pull"], sign * measured["norm"])


def test_pull_is_the_norm_when_the_members_that_saw_a_unit_hold_its_image(factual, units):
    """Members that saw unit 4 draw pictures moved toward its image; without them the picture moves straight away."""
    toward = units[4] - factual
    saw = CODEWORDS[4].double().reshape(-1, 1, 1, 1, 1)
    measured = scores(Response((saw - saw.mean()) * toward), factual, units, CODEWORDS)
    torch.testing.assert_close(measured["pull"][4], measured["norm"][4], rtol=1e-6, atol=0)
    assert (measured["pull"][4] > 0).all()


def test_pull_never_exceeds_the_norm(response, factual, units):
    measured = scores(response, factual, units, CODEWORDS)
    assert (measured["pull"].abs() <= measured["norm"] * (1 + 1e-9)).all()


def test_directions_have_length_1_and_point_at_the_units(factual, units):
    toward = directions(factual, units)
    torch.testing.assert_close(toward.norm(dim=-1), torch.ones(UNITS, QUERIES, dtype=torch.float64))
    away = (units[:, None] - factual).flatten(2)
    torch.testing.assert_close(toward * away.norm(dim=-1, keepdim=True), away)


def test_projections_are_the_response_along_the_directions(response, factual, units):
    expected = torch.einsum("nqp,uqp->nuq", response.members.flatten(2), directions(factual, units))
    torch.testing.assert_close(projections(response.members, factual, units), expected)


def test_a_unit_whose_image_is_the_picture_has_no_direction(response, factual, units):
    """There is nowhere to move away from: its pull is exactly 0, for few units and for many."""
    units[7] = factual[1]
    for copies in (1, 5):
        measured = scores(response, factual, units.repeat(copies, 1, 1, 1), CODEWORDS.repeat(copies, 1))
        brute = displacement_scores(response.displacement(CODEWORDS), factual, units)
        assert measured["pull"][7, 1] == 0
        assert_equal_scores(measured, {measure: score.repeat(copies, 1) for measure, score in brute.items()})


def test_gram_and_norm_are_inner_products_and_lengths(response):
    j = response.members.flatten(2)
    for q, matrix in enumerate(gram(response.members)):
        torch.testing.assert_close(matrix, j[:, q] @ j[:, q].T)
    displacement = torch.einsum("un,nqp->uqp", contrast(CODEWORDS).double(), j)
    torch.testing.assert_close(norm(gram(response.members), CODEWORDS), displacement.norm(dim=-1))


def test_a_response_that_does_not_vary_has_no_influence(factual, units):
    """Contrasts sum to 0: what all members share cancels, to the rounding of float32 contrasts."""
    measured = scores(Response(torch.ones(MEMBERS, QUERIES, *SHAPE)), factual, units, CODEWORDS)
    for score in measured.values():
        torch.testing.assert_close(score, torch.zeros_like(score), rtol=0, atol=1e-5)


def test_complementary_codewords_have_opposite_pull_and_equal_norm(response, factual, units):
    if response.offset is not None:
        return
    bits = Codebook(UNITS, MEMBERS, 3).codewords(torch.arange(UNITS))
    first, second = (scores(response, factual, units, codewords) for codewords in (bits, ~bits))
    assert_equal_scores(first, {"pull": -second["pull"], "norm": second["norm"]}, rtol=1e-5, atol=1e-6)


def test_pull_subtracts_the_offset():
    projected, offset = randn(MEMBERS, UNITS, QUERIES), randn(UNITS, QUERIES, seed=5)
    torch.testing.assert_close(pull(projected, CODEWORDS, offset), pull(projected, CODEWORDS) - offset)


def test_the_distance_in_pixels_is_that_of_the_clipped_picture(units):
    """Of many near duplicates, too: what is the same is at a distance of exactly 0."""
    pictures = 2 * randn(QUERIES, *SHAPE, seed=6)
    found = pixel_distance(pictures, units)
    for i in range(UNITS):
        for q in range(QUERIES):
            torch.testing.assert_close(found[i, q], (units[i] - pictures[q].clamp(-1, 1)).norm())
    same = randn(1, *SHAPE, seed=7).clamp(-1, 1).float()
    assert (pixel_distance(same, same.expand(100, *SHAPE)) == 0).all()


def test_no_two_distances_become_ties():
    """Single precision is too coarse where all units are far."""
    distance = torch.cat([torch.ones(3), torch.tensor([1e-4, 2e-4])])[:, None]
    found = similarity(distance)
    assert found.dtype == torch.float64
    assert found[3] > found[4]


def test_similarity_falls_from_1_with_the_distance_in_the_query_s_median():
    distance = torch.linspace(0, 8, 9, dtype=torch.float64)[:, None] * torch.tensor([1.0, 10.0]).double()
    found = similarity(distance, 0.5)
    assert (found[0] == 1).all()
    assert (found.diff(dim=0) < 0).all()
    torch.testing.assert_close(found[4], torch.full((2,), -2.0, dtype=torch.float64).exp())  # at the median
    torch.testing.assert_close(found[:, 0], found[:, 1])
    torch.testing.assert_close(similarity(distance, 1.0) ** 4, found)
    assert (similarity(torch.zeros(3, 1)) == 1).all()  # all units are the picture


def test_a_unit_at_0_7_of_the_median_distance_counts_for_a_standard_normal_s_density_at_1():
    """Of the density at 0; and whatever the median is."""
    distance = torch.tensor([0.0, 0.7, 1.0, 1.4, 2.1], dtype=torch.float64)[:, None]
    expected = (-torch.tensor([0.0, 1.0, 1 / 0.7, 2.0, 3.0], dtype=torch.float64).square() / 2).exp()[:, None]
    for median in (1.0, 30.0):
        torch.testing.assert_close(similarity(median * distance), expected)
