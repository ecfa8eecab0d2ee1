"""power_by_members.csv: what some members of an ensemble find, and what the whole one's z predicts of it."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
import torch
from additive import PLAN, SHAPE, asked, members, randn, study_of
from scipy import stats

from ddattr.attribution.baselines import pixel
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.estimator import Estimator
from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import similarity
from ddattr.attribution.power import expected_power
from ddattr.attribution.significance import TestSettings, set_significance
from ddattr.codebook import ORTHOGONAL, Codebook, encode
from ddattr.validation.study import Study
from ddattr.validation.tables.power_by_members import _power, tables

Z = 3 + 1.5 * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def make_study(make_process) -> Callable[..., Study]:
    """Members of a codebook; what they denoise three pictures to is random, or given."""

    def make(
        book: Codebook = PLAN.codebook, denoised: torch.Tensor | None = None, level: float = 0.05, **sizes
    ) -> Study:
        ensemble = members(book)
        queries = asked(make_process(timestep_spacing="trailing"), ensemble)
        return study_of(
            replace(PLAN, codebook=book, **sizes),
            queries,
            ensemble,
            settings=TestSettings(0, level, neighbourhoods=(1, 3, 40)),
            denoised=queries.denoised(ensemble, queries.factual) if denoised is None else denoised,
        )

    return make


def curve(study: Study) -> pd.Series:
    return dict(tables(study))["power_by_members"].set_index(["members", "order", "statistic"]).value


def test_what_is_found_has_z_beyond_the_one_sided_level():
    found = _power("nearest:5", Z, Z, 1.0, level=0.01)
    assert list(found) == ["z_nearest:5", "z_nearest:5_predicted", "found_nearest:5", "found_nearest:5_predicted"]
    assert found["z_nearest:5"] == found["z_nearest:5_predicted"] == pytest.approx(Z.mean().item())
    assert found["found_nearest:5"] == (stats.norm.sf(Z.numpy()) <= 0.01).mean()


def test_what_is_predicted_is_of_the_whole_ensemble_alone_and_grows_with_the_root_of_its_share():
    few, more = (_power("nearest", z, Z, 0.25, 0.05) for z in (0 * Z, Z))
    for name in ("z_nearest_predicted", "found_nearest_predicted"):
        assert few[name] == more[name]
    assert few["z_nearest_predicted"] == pytest.approx(Z.mean().item() / 2)
    assert few["found_nearest_predicted"] == expected_power(Z, 0.25)
    assert few["found_nearest"] == 0


def test_sets_are_tested_as_attribute_does_where_they_are_all_members_else_as_some_have_them(make_study):
    study = make_study(ensemble_sizes=(5, 1000))
    answers, queries, book = study.answers, study.answers.queries, study.plan.codebook
    found = curve(study)

    alike = pixel(queries.factual, answers.data.unit_images)
    near, along = similarity(-alike.double()), distinctive(answers.denoised, answers.data.unit_images, -alike)
    nearest = alike.argsort(0, descending=True)[:3].T[None]
    adjusted = LeaveOneOutGLS(answers.codewords, near, 0.5).adjust_sets(near * along, nearest)
    _, whole, _ = set_significance(nearest, adjusted, book)
    assert found[8, 0, "z_nearest:3"] == pytest.approx(whole.mean().item(), rel=1e-5)
    assert {size for size, _, _ in found.index} == {5, 8}
    for some, order in answers.parts:
        if len(some) == 5:
            part = Estimator(answers.codewords, near).of_members(some)
            z = part.z_of_sets(along[some], nearest, book.capacity)
            assert found[5, order, "z_nearest:3"] == pytest.approx(z.mean().item(), rel=1e-5)
            assert found[5, order, "z_nearest:3_predicted"] == pytest.approx(whole.mean().item() * (5 / 8) ** 0.5)
            assert found[5, order, "found_nearest:3_predicted"] == pytest.approx(expected_power(whole[0], 5 / 8))
    named = {name for name in found.index.get_level_values("statistic") if "nearest" in name}
    assert named == {
        f"{kind}_{which}{end}"
        for kind in ("z", "found")
        for which in ("nearest", "nearest:3")
        for end in ("", "_predicted")
    }


def test_units_that_pass_are_counted_at_the_level_by_the_normal_s_tail(make_study):
    """Against SciPy's rates, of members that answer what two units make them answer; eight cannot pass 30 tests at
    0.05."""
    codewords = PLAN.codebook.codewords(torch.arange(30)).float()
    noise = 1e-3 * randn(8, 3, *SHAPE, seed=3)
    shifted = (codewords[:2].sum(0) - 1)[:, None, None, None, None] * make_study().answers.data.unit_images[:1]
    study = make_study(denoised=shifted + noise, level=0.4, ensemble_sizes=(6,), ensemble_orders=4)
    found, answers = curve(study), study.answers
    distance = answers.data.distance(answers.queries.factual)
    seen = set()
    for some, order in answers.parts:
        along = distinctive(answers.denoised[some], answers.data.unit_images, distance)
        z = answers.estimator(answers.queries.factual).of_members(some).estimate(along).z.numpy()
        passed = stats.false_discovery_control(stats.norm.sf(z), axis=0) <= 0.4
        assert found[len(some), order, "units"] == pytest.approx(passed.sum(0).mean())
        assert found[len(some), order, "attributable"] == pytest.approx(passed.any(0).mean())
        seen.add(found[len(some), order, "attributable"])
    assert len(seen) > 1


def test_what_some_members_find_does_not_depend_on_the_other_members(make_study):
    """What is predicted of it does."""
    given = make_study().answers.denoised
    ((some, _),) = [
        part for part in make_study(ensemble_sizes=(5,), ensemble_orders=1).answers.parts if len(part[0]) == 5
    ]
    other = randn(*given.shape, seed=5)
    other[some] = given[some]
    one, another = (curve(make_study(denoised=of, ensemble_sizes=(5,), ensemble_orders=1)) for of in (given, other))
    predicted = one[5].index.get_level_values("statistic").str.endswith("_predicted")
    pd.testing.assert_series_equal(one[5][~predicted], another[5][~predicted])
    assert (one[5][predicted] != another[5][predicted]).any()
    assert (one[8] != another[8]).any()


@pytest.mark.parametrize("sizes", [(), (8, 9)])
def test_without_a_smaller_size_the_whole_ensemble_is_alone(make_study, sizes):
    assert {size for size, _, _ in curve(make_study(ensemble_sizes=sizes)).index} == {8}


@pytest.mark.parametrize("left_out", ["retrained_units", "lds_subsets"])
def test_without_sizes_it_is_left_out_where_no_curve_against_retraining_is_made(make_study, left_out):
    assert dict(tables(make_study(**{left_out: 0}))) == {}
    assert set(dict(tables(make_study(ensemble_sizes=(5,), **{left_out: 0})))) == {"power_by_members"}


def test_of_orthogonal_words_no_units_are_counted_by_the_normal_s_tail(make_study):
    """Their p is a t-test's, of few degrees of freedom."""
    found = curve(make_study(encode(30, 40, design=ORTHOGONAL), ensemble_sizes=(20,), ensemble_orders=1))
    assert {size for size, _, _ in found.index} == {20, 40}
    assert {"z_nearest", "found_nearest"} < set(found[20, 0].index)
    assert not {"units", "attributable"} & set(found.index.get_level_values("statistic"))
