"""What the members say: by one linear step, where the first order is exact and everything can be written out."""

import itertools
from collections.abc import Callable

import pytest
import torch
from additive import SHAPE, asked, randn, study_of

from ddattr.attribution.estimator import Estimator, draw_members
from ddattr.attribution.influence import Response, pixel_distance, similarity
from ddattr.attribution.significance import TestSettings
from ddattr.codebook import Codebook, contrast
from ddattr.ensemble.ensemble import Ensemble
from ddattr.validation.answers import Answers
from ddattr.validation.metrics import lds
from ddattr.validation.plan import Plan


@pytest.fixture
def ensemble(make_linear) -> Ensemble:
    return make_linear(8, dtype=torch.float32)


@pytest.fixture
def make_answers(make_process, ensemble) -> Callable[..., Answers]:
    """Answers of eight members, of their own Jacobian; keywords go to the plan."""

    def make(units: int = 40, steps: int = 1, settings: TestSettings | None = None, **sizes) -> Answers:
        sizes = {"retrained_units": 0, "lds_subsets": 0, "groups": None, "removal_queries": 0, "peers": ()} | sizes
        plan = Plan(Codebook(units, 8, 3), {}, 0, **sizes)
        queries = asked(make_process(timestep_spacing="trailing"), ensemble, steps)
        given = {} if settings is None else {"settings": settings}
        given["jacobian"] = queries.jacobian(list(ensemble.members), None)
        return study_of(plan, queries, ensemble, **given).answers

    return make


@pytest.fixture
def answers(make_answers) -> Answers:
    return make_answers()


def test_ablations_of_one_step_are_the_first_order(answers):
    """And the mean picture of those that never saw the unit, less the factual."""
    found, codewords = answers.ablations(answers.codewords), answers.codewords
    assert torch.equal(codewords, answers.plan.codebook.codewords(torch.arange(40)))
    torch.testing.assert_close(found, Response(answers.jacobian).displacement(codewords), rtol=1e-4, atol=1e-5)
    alone = torch.stack([answers.queries.drawn_by([network]) for network in answers.ensemble.members])
    expected = torch.stack([alone[~codeword].mean(0) - answers.queries.factual for codeword in codewords])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_over_many_steps_the_first_order_predicts_the_sign_and_not_the_size(make_answers):
    """So that the exactness above is the sampler's, not the test's."""
    answers = make_answers(steps=20)
    first = Response(answers.jacobian).displacement(answers.codewords)
    exact = answers.ablations(answers.codewords)
    assert torch.nn.functional.cosine_similarity(first.flatten(2), exact.flatten(2), dim=2).median() > 0.8
    assert not torch.allclose(first, exact, rtol=0.01, atol=1e-3)


def test_the_estimator_is_of_pixels_at_the_settings_share(make_answers):
    answers = make_answers(settings=TestSettings(0, gls_share=0.3))
    pictures, said = randn(4, *SHAPE, seed=5), randn(8, 40, 4, seed=6).double()
    near = similarity(pixel_distance(pictures, answers.data.unit_images))
    found, expected = answers.estimator(pictures), Estimator(answers.codewords, near, 0.3)
    assert all(torch.equal(*pair) for pair in zip(found.estimate(said), expected.estimate(said), strict=True))


def test_members_are_asked_as_queries_ask_anybody(answers):
    queries, members = answers.queries, list(answers.ensemble.members)
    assert torch.equal(answers.gram, queries.gram(answers.ensemble))
    assert torch.equal(answers.denoised_real, queries.denoised(answers.ensemble, queries.real))
    assert torch.equal(answers.member_distances, queries.distances(members))
    assert answers.networks(torch.tensor([5, 2])) == [members[5], members[2]]


def test_phantoms_are_at_most_as_many_as_the_settings_say(make_answers):
    assert len(make_answers(settings=TestSettings(0, phantoms=7)).phantoms) == 7
    assert len(make_answers().phantoms) == 56 - 40


def test_sub_ensembles_are_the_whole_one_and_some_members_in_several_orders(make_answers, ensemble):
    """Sizes of the whole ensemble and more are left out, or it would be there twice."""
    answers = make_answers(ensemble_sizes=(5, 3, 8, 1000), ensemble_orders=3, members_per_step=None)
    found = answers.sub_ensembles
    assert [(len(part.members), part.order) for part in found] == [
        (8, 0),
        *itertools.product((5,), range(3)),
        *itertools.product((3,), range(3)),
    ]
    assert found[0].jacobian is answers.jacobian
    for part in found:
        assert torch.equal(part.members, draw_members(len(part.members), 8, 0, part.order))
        expected = answers.queries.jacobian(answers.networks(part.members), None)
        torch.testing.assert_close(part.jacobian, expected)


def test_what_later_tables_take_is_prepared_and_nothing_that_is_not_asked_for(make_answers):
    for subsets, units, expected in ((0, 5, set()), (5, 0, {"reweighted", "gram"})):
        answers = make_answers(lds_subsets=subsets, retrained_units=units)
        answers.prepare()
        assert {"reweighted", "gram", "sub_ensembles"} & set(vars(answers)) == expected
    answers = make_answers(lds_subsets=5, retrained_units=5)
    answers.prepare()
    assert {"reweighted", "gram", "sub_ensembles"} <= set(vars(answers))


def test_of_one_step_the_sets_scores_add_up_to_their_exact_displacement(make_answers):
    """So that their self LDS is 1."""
    removed, _, exact, first = make_answers(lds_subsets=30).reweighted
    torch.testing.assert_close(removed.float() @ first, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lds(first, exact, removed), torch.ones(3, dtype=torch.float64), rtol=0, atol=0.02)


@pytest.mark.parametrize(("units", "size"), [(2, 2), (3, 3), (8, 3), (40, 3), (56, 3)])
def test_sets_are_of_three_units_whose_contrasts_are_summed_however_many_units_there_are(make_answers, units, size):
    answers = make_answers(units=units, lds_subsets=20)
    removed, weights, _, _ = answers.reweighted
    assert removed.shape == (20, units)
    assert (removed.sum(1) == size).all()
    assert len({tuple(mask.tolist()) for mask in removed}) > (5 if units > 3 else 0)
    for mask, row in zip(removed, weights, strict=True):
        torch.testing.assert_close(row, 1 / 8 + sum(contrast(answers.codewords[i]) for i in mask.nonzero()[:, 0]))
    torch.testing.assert_close(weights.sum(1), torch.ones(20))


@pytest.mark.parametrize(("subsets", "sets"), [(5, 16), (16, 16), (20, 20)])
def test_there_are_as_many_sets_as_half_data_models_and_16_at_least(make_answers, subsets, sets):
    assert len(make_answers(lds_subsets=subsets).reweighted.removed) == sets


def test_weights_move_by_the_length_of_three_contrasts(make_answers):
    """Contrasts are orthogonal on average: three are as long as root 3 times one."""
    answers = make_answers(units=56, lds_subsets=200)
    moved = (answers.reweighted.weights - 1 / 8).square().sum(1).mean()
    one = contrast(answers.codewords).square().sum(1).mean()
    assert moved / one == pytest.approx(3, rel=0.25)


def test_the_direction_is_that_to_the_nearest_unit(make_answers):
    """Removing three units of eight, along the direction from each picture to the image next to it."""
    answers = make_answers(units=8, lds_subsets=20)
    removed, _, exact, first = answers.reweighted
    moved = answers.ablations(answers.codewords)  # of one step they add up
    for q, picture in enumerate(answers.queries.factual):
        near = min(answers.data.unit_images, key=lambda image: (image - picture).norm())
        along = (moved[:, q] * (near - picture)).flatten(1).sum(1) / (near - picture).norm()
        torch.testing.assert_close(first[:, q], -along, rtol=1e-4, atol=1e-5)
        for mask, row in zip(removed, exact, strict=True):
            torch.testing.assert_close(row[q], -along[mask].sum(), rtol=1e-4, atol=1e-5)


def test_sets_have_an_address_and_the_jacobian_does_not_move_the_exact_ones(make_answers):
    answers, other = make_answers(lds_subsets=16), make_answers(lds_subsets=20)
    other.jacobian = 2 * other.jacobian
    assert torch.equal(other.reweighted.removed[:16], answers.reweighted.removed)
    torch.testing.assert_close(other.reweighted.exact[:16], answers.reweighted.exact)
    torch.testing.assert_close(other.reweighted.first_order, 2 * answers.reweighted.first_order)
