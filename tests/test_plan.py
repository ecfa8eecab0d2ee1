"""The plan: which models there are and what each may see; which units are the best, and what is left without them."""

import itertools
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddattr.attribution.methods import METHODS, Family, keys
from ddattr.codebook import Codebook
from ddattr.validation.plan import Plan
from ddattr.validation.removal import best, removals

BOOK = Codebook(30, 8, 3)
LABELS = torch.arange(30) % 5 + 2  # sets are named by any number
ALONE, BESIDE = ([m.key for m in METHODS if m.few and ("full" in m.needs) is full] for full in (False, True))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plan(codebook: Codebook = BOOK, **sizes) -> Plan:
    given = {
        "retrained_units": 5,
        "retrained_members": 3,
        "replicates": 2,
        "lds_subsets": 6,
        "tuning_subsets": 5,
        "removal_sizes": (5,),
        "seed": 0,
    }
    return Plan(codebook, {"label": LABELS[: codebook.units]}, **{**given, **sizes})


@given(units=st.integers(2, 40), halves=st.integers(5, 12), tuning=st.integers(4, 12), seed=st.integers(0, 2**63))
def test_halves_are_halves(units, halves, tuning, seed):
    book = Codebook(units, 12, 5)
    sizes = {"lds_subsets": halves, "tuning_subsets": tuning}
    sizes |= {"retrained_units": 0, "retrained_members": 2, "groups": None, "removal_sizes": ()}
    masks = Plan(book, {}, seed, **sizes).half_masks()
    assert masks.shape == (halves + tuning, units)
    assert (masks.sum(1) == units // 2).all()


def test_every_unit_is_in_half_of_the_halves():
    """1,000 halves: every one of 30 counts within 4.7 standard errors of 500, false-alarm rate 8e-5; and every pair of
    units is together as often as chance has it, 14 / 29 of the time that one of them is in (435 pairs: 5.2, 9e-5)."""
    masks = plan(lds_subsets=1000).half_masks()[:1000].double()
    assert ((masks.sum(0) - 500).abs() < 4.7 * 250**0.5).all()
    together = (masks.T @ masks)[torch.triu(torch.ones(30, 30), 1).bool()]
    share = 0.5 * 14 / 29
    assert ((together - 1000 * share).abs() < 5.2 * (1000 * share * (1 - share)) ** 0.5).all()


def test_halves_for_tuning_are_others_than_those_for_the_score():
    masks = plan(lds_subsets=20, tuning_subsets=20).half_masks()
    assert len({tuple(mask.tolist()) for mask in masks}) == 40
    tuned = torch.stack([model.units for model in plan().tuning_models()])
    scored = torch.stack([model.units for model in plan().half_models(1)])
    assert torch.equal(torch.cat([scored, tuned]), plan().half_masks())


def test_halves_have_an_address():
    """More of them changes none; another seed changes all."""
    masks = plan().half_masks()
    assert torch.equal(plan(lds_subsets=9).half_masks()[:6], masks[:6])
    assert (plan(seed=2**32).half_masks() != masks).any(1).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_truth_s_members_and_units_are_drawn_by_seed(seed):
    one, other = plan(seed=seed), plan(seed=seed)
    assert one.retraining_members == other.retraining_members
    assert torch.equal(one.retraining_units, other.retraining_units)
    assert len(set(one.retraining_members)) == 3
    assert len(one.retraining_units.unique()) == 5
    assert len({tuple(plan(seed=s).retraining_members) for s in range(20)}) > 5


@pytest.mark.parametrize("seed", range(5))
def test_every_unit_of_the_truth_was_seen_by_a_member_of_the_truth(seed):
    drawn = plan(seed=seed, retrained_members=2)
    assert BOOK.codewords(drawn.retraining_units)[:, drawn.retraining_members].any(1).all()
    assert all(drawn.unit(unit) for unit in drawn.retraining_units.tolist())


def test_all_units_that_were_seen_can_be_asked_for_and_not_one_more():
    one, other = (BOOK.subset(member) for member in plan(retrained_members=2).retraining_members)
    seen = int((one | other).sum())
    assert len(plan(retrained_members=2, retrained_units=seen).retraining_units) == seen
    with pytest.raises(
        ValueError, match=rf"retrained_units={seen + 1}, but 2 members saw {seen}\. Set validation.retrained_members"
    ):
        _ = plan(retrained_members=2, retrained_units=seen + 1).retraining_units


def test_a_model_without_a_unit_is_its_member_less_that_unit():
    """One for every member that saw it and every seed; those that did not see it need none."""
    drawn = plan(retrained_members=8)
    for unit in range(30):
        models = drawn.unit(unit)
        saw = [k for k in range(8) if BOOK.contains(unit, k)]
        assert [(m.member, m.replicate) for m in models] == [(k, r) for k in saw for r in (1, 2)]
        for model in models:
            assert (BOOK.subset(model.member) & ~model.units).nonzero().tolist() == [[unit]]
            assert not (model.units & ~BOOK.subset(model.member)).any()


def test_a_model_without_a_set_is_its_member_less_that_set():
    drawn = plan(retrained_members=8)
    for model in drawn.set("label:4"):
        assert torch.equal(model.units, BOOK.subset(model.member) & (LABELS != 4))
    assert {model.member for model in drawn.set("label:4")} == set(range(8))


def test_every_unit_can_be_left_out_of_all_data():
    """Groups of one unit: a model of all units but each, at every seed."""
    drawn = plan(groups="unit", replicates=2)
    assert drawn.group_names() == list(range(30))
    for r in range(3):
        for unit, model in enumerate(drawn.group_models(r)):
            assert (~model.units).nonzero().tolist() == [[unit]]
            assert (model.name, model.member, model.replicate) == (f"without-unit-{unit}/seed-{r}", None, r)
    assert {m.name for r in range(3) for m in drawn.group_models(r)} <= {m.name for m in drawn.models()}
    assert torch.equal(plan(groups="label").group_of, LABELS)


def test_some_groups_stand_for_all():
    """Drawn by seed: the same at every training seed, whatever else is asked, and more of them hold fewer."""
    drawn, more = plan(groups="unit", left_out=7), plan(groups="unit", left_out=12, replicates=1)
    assert len(drawn.group_names()) == 7
    assert drawn.group_names() == sorted(drawn.group_names())
    assert set(drawn.group_names()) < set(more.group_names()) < set(range(30))
    assert [m.name for m in drawn.group_models(2)] == [f"without-unit-{g}/seed-2" for g in drawn.group_names()]
    assert replace(drawn, seed=drawn.seed + 1).group_names() != drawn.group_names()
    assert plan(groups="label", left_out=5).group_names() == plan(groups="label").group_names()


@pytest.mark.parametrize(
    "name", ["label:1", "label:7", "label:", "label", "label:-1", "label:x", "colour:2", "", f"label:{2**70}"]
)
def test_a_set_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=r"^retrain: no set .*, expected a unit's .*, several, or one like label:2\.$"):
        plan().set(name)


@pytest.mark.parametrize("unit", [-1, 30, 2**70])
def test_a_unit_that_does_not_exist_is_refused(unit):
    with pytest.raises(ValueError, match=rf"^unit {unit} does not exist: units are 0 to 29\.$"):
        plan().unit(unit)


def test_a_member_must_keep_some_data():
    """Of three units and three members each saw one."""
    drawn = plan(Codebook(3, 3, 1), retrained_members=3, retrained_units=0, removal_sizes=(), groups=None)
    with pytest.raises(ValueError, match=r"^retrain: without unit-00001 member \d has no data left\. [^\n]*weight\.$"):
        drawn.unit(1)


def test_several_units_are_removed_at_once_and_bear_a_name_of_their_own():
    drawn, names = plan(retrained_members=8), set()
    for units in ([3, 17], [17, 3], [3], [3, 16]):
        models = drawn.several(units)
        removed = torch.isin(torch.arange(30), torch.tensor(units))
        seen = [k for k in drawn.retraining_members if BOOK.subset(k)[removed].any()]
        assert [(m.member, m.replicate) for m in models] == [(k, r) for k in seen for r in (1, 2)]
        assert all(torch.equal(m.units, BOOK.subset(m.member) & ~removed) for m in models)
        names.add(models[0].name.rpartition("/")[0])
    assert len(names) == 3  # their order is no other set


@pytest.mark.parametrize("units", [[], [1.5], ["3"], [True], [30], [-1], [3, 2**70]])
def test_several_units_that_are_none_are_refused(units):
    with pytest.raises(
        ValueError,
        match=r"^retrain: unit=\[[^\n]*'unit=\[3,17\]'\.$|^unit (30|-1|1180591620717411303424) does not exist",
    ):
        plan().several(units)


def test_bases_are_the_members_trained_again_at_the_truth_s_seeds():
    """None of which is the members' own."""
    drawn = plan(replicates=3)
    assert [(m.member, m.replicate) for m in drawn.bases()] == [
        (k, r) for r in (1, 2, 3) for k in drawn.retraining_members
    ]
    assert all(torch.equal(m.units, BOOK.subset(m.member)) for m in drawn.bases())
    assert plan(retrained_units=0).bases() == []


def test_groups_partition_the_units():
    models = plan().group_models(1)
    left_out = torch.stack([~model.units for model in models])
    assert [int(LABELS[out].unique()) for out in left_out] == plan().group_names() == [2, 3, 4, 5, 6]
    assert (left_out.sum(0) == 1).all()
    assert plan(groups=None).group_models(0) == []


def test_the_models_are_all_there_once_and_seed_by_seed():
    """At the members' seed what scores are made with: tuning halves, the full one, all without a group. At every seed
    of the truth the full one, halves, groups, members, and members less a unit."""
    drawn = plan(replicates=3)
    models = drawn.models()
    names = [model.name for model in models]
    assert len(set(names)) == len(names)
    seen = int(BOOK.codewords(drawn.retraining_units)[:, drawn.retraining_members].sum())
    assert Counter(m.replicate for m in models) == {
        0: 5 + 1 + 5,
        **dict.fromkeys((1, 2, 3), 1 + 6 + 5 + 3 + seen),
    }
    assert [m.replicate for m in models] == sorted(m.replicate for m in models)
    assert all(model.units.any() for model in models)
    assert all(f"seed-{model.replicate}" in model.name for model in models)


@pytest.mark.parametrize(("groups", "seeds"), [("label", [0, 1, 2, 3]), (None, [0, 1])])
def test_the_model_of_all_units_is_trained_again_only_for_what_is_left_out_of_it(groups, seeds):
    """Groups at every seed, best units at the truth's first."""
    assert [m.name for m in plan(groups=None, removal_queries=0).models() if m.member is None][5:6] == ["full/seed-0"]
    models = plan(replicates=3, groups=groups).models()
    assert [model.replicate for model in models if model.name.startswith("full/")] == seeds
    assert {model.name for model in plan(replicates=3).models()} >= {model.name for model in models}


@pytest.mark.parametrize(
    ("peers", "tuned"),
    [
        ((), False),
        (("gradient_dot",), False),
        (("trak",), True),
        (("unlearning",), True),
        (("unlearning", "dtrak"), True),
    ],
)
def test_halves_for_tuning_are_trained_only_for_a_peer_that_is_tuned(peers, tuned):
    """All of them or none; every other model stays."""
    names = [model.name for model in plan(peers=peers).models()]
    assert [name for name in names if name.startswith("tuning")] == [
        model.name for model in plan().tuning_models() if tuned
    ]
    others = [model.name for model in plan().models() if not model.name.startswith("tuning")]
    assert [name for name in names if not name.startswith("tuning")] == others


def test_models_of_one_name_are_one_model_whatever_else_is_asked():
    """Names are folders: another plan of the same seed may only add to them."""
    few = {m.name: m for m in plan().models()}
    many = {m.name: m for m in plan(replicates=3, lds_subsets=9, groups=None).models()}
    common = {name for name in few.keys() & many.keys() if not name.startswith("tuning")}
    assert len(common) > 20
    assert all(torch.equal(few[name].units, many[name].units) for name in common)
    assert all(few[name].member == many[name].member for name in common)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("retrained_members", 9, "expected 1 to 8"),
        ("retrained_members", 0, "expected 1 to 8"),
        ("retrained_units", 31, "expected 0 to 30"),
        ("retrained_units", -1, "expected 0 to 30"),
        ("replicates", 0, "expected 1 to 100"),
        ("lds_subsets", -1, "expected 0 to 10000"),
        ("tuning_subsets", 3, "expected 4 to 10000"),
        ("held_out_queries", -1, "expected 0 to"),
        ("removal_queries", -1, "expected 0 to"),
        ("ensemble_orders", 0, "expected 1 to"),
        ("draws", 0, "expected 1 to"),
        ("removal_sizes", (5, 30), "expected 1 to 29"),
        ("removal_sizes", (0,), "expected 1 to 29"),
        ("ensemble_sizes", (2,), "expected 3 to 1024"),
        ("peers", ("gradient_dot", "astrology"), f"expected {', '.join(keys(Family.PEER))}"),
        ("groups", "cluster", "expected unit, label, null"),
        ("left_out", 1, "expected 2 to 5"),
        ("left_out", 6, "expected 2 to 5"),
        ("removal_methods", ("jvp", "astrology"), "expected some of jvp, .* loss@equal_cost"),
        ("removal_methods", ("jvp@equal_cost",), "expected some of jvp, .* loss@equal_cost"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_names_the_key(key, value, expected):
    with pytest.raises(ValueError, match=rf"^validation: {key}=[^\n]*, {expected}[^\n]*\. Set validation\.{key}\.$"):
        plan(**{key: value})


TOO_FEW = "is too few for an interval, expected 5 or more"
NOTHING = {"retrained_units": 0, "lds_subsets": 0, "groups": None, "removal_queries": 0, "peers": ()}


@pytest.mark.parametrize(
    ("sizes", "queries", "held_out", "said"),
    [
        (
            {"retrained_units": 4},
            9,
            0,
            "validation: retrained_units=4 is too few for .*, expected 5 or more, or 0",
        ),
        (
            {"retrained_units": 1},
            9,
            0,
            f"validation: retrained_units=1 {TOO_FEW}, or 0",
        ),
        ({"lds_subsets": 4}, 9, 0, "validation: lds_subsets=4 is too few for an interval, expected 5 or more, or 0"),
        ({"removal_queries": 4}, 9, 0, "validation: removal_queries=4 is too few .*, expected 5 or more, or 0"),
        ({}, 4, 0, "attribution: queries=4 is too few for an interval, expected 5 or more"),
        ({}, 5, 4, "data: holdout=4 is too few for an interval, expected 5 or more, or 0"),
        (
            {"held_out_queries": 3},
            5,
            90,
            f"validation: held_out_queries=3 {TOO_FEW}, or 0",
        ),
        ({"retrained_members": 1}, 5, 0, "validation: retrained_members=1 is too few for an interval: .* 2 or more"),
    ],
)
def test_too_few_for_an_interval_are_refused_in_one_line_that_names_the_key(sizes, queries, held_out, said):
    drawn = plan(**{"removal_queries": 5, **sizes})
    with pytest.raises(ValueError, match=rf"^{said}\.( Set [^\n]*\.)?$"):
        drawn.check_intervals(queries, held_out)


@pytest.mark.parametrize(
    ("sizes", "queries", "held_out"),
    [
        ({}, 5, 0),
        ({}, 5, 5),
        ({"held_out_queries": 0}, 5, 4),
        (NOTHING | {"retrained_members": 1}, 1, 1),
        ({"retrained_units": 0, "retrained_members": 1}, 5, 0),
        (NOTHING | {"peers": ("gradient_dot",)}, 1, 1),
    ],
)
def test_what_makes_no_interval_needs_no_number(sizes, queries, held_out):
    plan(**{"removal_queries": 5, **sizes}).check_intervals(queries, held_out)


def test_what_is_left_out_needs_no_model():
    codebook = Codebook(8, 6, 2)
    assert Plan(codebook, {}, 0, retrained_members=3, removal_sizes=(), **NOTHING).models() == []
    plan = Plan(codebook, {}, 0, retrained_members=3, removal_sizes=(), **NOTHING | {"lds_subsets": 5})
    names = {model.name.partition("/")[0] for model in plan.models()}
    assert names == {"full", "halves"}  # nothing is tuned
    for peer, more in (("gradient_dot", set()), ("trak", {"tuning"})):
        plan = Plan(
            codebook, {}, 0, retrained_members=3, removal_sizes=(), **NOTHING | {"lds_subsets": 5, "peers": (peer,)}
        )
        assert {model.name.partition("/")[0] for model in plan.models()} == names | more


def test_a_removal_by_a_peer_that_is_not_asked_for_is_refused_before_anything_is_trained():
    given = {"removal_methods": ("jvp", "trak"), "peers": ("dtrak",)}
    with pytest.raises(ValueError, match=r"^validation: removal_methods=trak, [^\n]*\. Add it to validation\.peers\.$"):
        plan(**given, removal_queries=5)
    plan(**given, removal_queries=0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 5),  # tuned on 4, and one that scores
        ({"tuning_subsets": 6}, 7),
        ({"tuning_subsets": 7}, 0),  # eight are the whole ensemble
        ({"peers": ("dtrak",)}, 5),
        ({"peers": ("gradient_dot",)}, 0),  # one training is no ensemble
        ({"peers": ()}, 0),
        ({"fork": Fraction(2, 3)}, 6),  # a base, and forks for the four that are left
        ({"fork": Fraction(3, 5)}, 6),
        ({"fork": Fraction(1, 2)}, 0),
        ({"fork": Fraction(4, 3)}, 3),
        ({"fork": Fraction(2)}, 0),  # two are no ensemble
    ],
)
def test_a_tuned_peer_s_trainings_buy_as_many_members(given, expected):
    """Never more than they cost, and one more would be."""
    found = plan(**{"tuning_subsets": 4, **given})
    assert found.equal_cost("loss") == expected
    if expected:
        share, base = (1, 0) if found.fork is None else (found.fork, 1)
        assert base + expected * share <= len(found.scored_by()) < base + (expected + 1) * share


@pytest.mark.parametrize("given", [{}, {"fork": Fraction(2, 3)}, {"tuning_subsets": 5, "fork": Fraction(3, 4)}])
def test_members_beside_the_model_of_all_units_cost_no_more_together(given):
    """And one more would."""
    found = plan(**{"tuning_subsets": 4, **given})
    assert len({found.equal_cost(method) for method in ALONE}) == 1
    share, base = (1, 0) if found.fork is None else (found.fork, 1)
    for members in {found.equal_cost(method) for method in BESIDE}:
        assert base + 1 + members * share <= len(found.scored_by()) < base + 1 + (members + 1) * share


@pytest.mark.parametrize("given", [{"fork": Fraction(4, 3)}, {"peers": ("gradient_dot",)}])
def test_two_members_beside_the_model_of_all_units_are_no_ensemble(given):
    assert plan(tuning_subsets=4, **given).equal_cost("datamodel_both") == 0


def test_a_removal_by_members_at_a_peer_s_cost_has_their_number_in_its_name():
    asked = ("loss@equal_cost", "jvp", "loss", "loss@equal_cost", "trak", "datamodel_both@equal_cost")
    assert plan(removal_methods=asked, tuning_subsets=4).removed_by() == [
        "loss@5",
        "jvp",
        "loss",
        "trak",
        "datamodel_both@4",
    ]
    assert plan(removal_methods=asked, tuning_subsets=4, fork=Fraction(2, 3)).removed_by()[0] == "loss@6"


@pytest.mark.parametrize("given", [{"peers": ("gradient_dot",)}, {"tuning_subsets": 7}])
def test_a_removal_by_members_that_are_no_part_of_the_ensemble_is_left_out(given):
    assert plan(removal_methods=("loss@equal_cost", "jvp"), **given).removed_by() == ["jvp"]


def test_the_largest_sizes_that_can_be_are_taken():
    sizes = {"retrained_members": 8, "retrained_units": 30, "removal_sizes": (1, 29), "ensemble_sizes": (3, 8)}
    drawn = plan(**sizes, held_out_queries=0, removal_queries=0, peers=keys(Family.PEER))
    assert len(drawn.retraining_units) == 30


# -- the best units, and models without them


@given(units=st.integers(2, 30), share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_the_best_are_as_many_as_asked_for_and_none_that_stays_is_better(units, share, seed):
    size = 1 + int(share * (units - 2))
    score = randn(units, seed=seed).round(decimals=1)  # with ties
    mask = best(score, size)
    assert mask.sum() == size
    assert score[mask].min() >= score[~mask].max()


def test_larger_sets_hold_the_smaller_ones():
    score = randn(20)
    masks = [best(score, size) for size in range(1, 20)]
    assert all((small <= large).all() for small, large in itertools.pairwise(masks))


def test_the_order_of_units_changes_nothing():
    score, order = randn(20), torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(best(score[order], 5), best(score, 5)[order])


@pytest.mark.parametrize("size", [0, -1, 20, 21])
def test_nothing_and_everything_cannot_be_removed(size):
    with pytest.raises(
        ValueError, match=rf"^removal: {size} of 20 units, expected 1 to 19\. Set validation\.removal_sizes\.$"
    ):
        best(randn(20), size)


def test_every_method_size_and_query_gets_a_model_of_all_other_units():
    scores = {"jvp": randn(20, 3), "pixel": randn(20, 3, seed=1)}
    found = removals(scores, [4, 0, 9], [2, 5])
    assert {(r.method, r.size, r.query) for r in found} == {
        (method, size, query) for method in scores for size in (2, 5) for query in (4, 0, 9)
    }
    for removal in found:
        column = scores[removal.method][:, [4, 0, 9].index(removal.query)]
        assert torch.equal(removal.model.units, ~best(column, removal.size))


def test_models_have_names_of_their_own_and_the_draws_of_the_full_one():
    """The common draws at the truth's first seed, so that the difference is the removed units'."""
    found = removals({"jvp": randn(20, 3), "pixel": randn(20, 3, seed=1)}, [0, 1, 2], [2, 5])
    assert len({removal.model.name for removal in found}) == len(found) == 12
    assert all(removal.model.member is None and removal.model.replicate == 1 for removal in found)


def test_the_same_units_are_one_model_whoever_names_them():
    score = randn(20, 1)
    found = removals({"jvp": score, "pixel": 3 * score.exp(), "random": -score}, [4], [2, 5])
    names = {(removal.method, removal.size): removal.model.name for removal in found}
    assert names["jvp", 2] == names["pixel", 2] != names["random", 2]
    assert len({(removal.model.name, *removal.model.units.tolist()) for removal in found}) == 4


def test_the_model_without_one_unit_is_that_of_its_group():
    """Left out already, it is not trained again."""
    plan = Plan(Codebook(20, 8, 3), {}, 0, groups="unit", removal_sizes=(1,))
    groups = {model.name: model for model in plan.group_models(1)}
    for removal in removals({"jvp": randn(20, 3)}, [0, 1, 2], [1]):
        group = groups[removal.model.name]
        assert torch.equal(removal.model.units, group.units)
        assert removal.model[2:] == group[2:]


def test_a_model_s_name_does_not_depend_on_what_else_is_removed():
    scores = {"jvp": randn(20, 3), "pixel": randn(20, 3, seed=1)}
    few = {r.model.name: r.model.units for r in removals({"pixel": scores["pixel"][:, 1:]}, [1, 2], [5])}
    many = {r.model.name: r.model.units for r in removals(scores, [0, 1, 2], [2, 5])}
    assert all(torch.equal(many[name], units) for name, units in few.items())


@given(
    counts=st.fixed_dictionaries(
        {
            "retrained_units": st.integers(0, 6),
            "replicates": st.integers(1, 3),
            "lds_subsets": st.integers(0, 5),
            "groups": st.sampled_from([None, "label", "unit"]),
            "left_out": st.sampled_from([None, 3]),
            "leave_one_out": st.booleans(),
            "removal_queries": st.integers(0, 3),
            "peers": st.sampled_from([(), ("dtrak",), ("gradient_dot",)]),
        }
    ),
    seed=st.integers(0, 2**32),
)
def test_models_are_counted_as_they_are_made(counts, seed):
    if counts["groups"] is None:
        counts |= {"left_out": None}
    made = plan(**counts, seed=seed)
    assert made.count() == len(made.models())


def test_what_cannot_be_made_is_not_counted_either():
    """One member has a single unit, and every unit that any member of the truth saw is left out."""
    book = Codebook(5, 6, 1, seed=3)
    lone = Plan(book, {}, 0, groups=None, removal_sizes=(1,), retrained_units=5, retrained_members=6)
    for ask in (lone.models, lone.count):
        with pytest.raises(ValueError, match="has no data left"):
            ask()
