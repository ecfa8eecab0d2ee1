"""Ground truth by retraining: which models there are, and what each may see."""

from collections import Counter
from fractions import Fraction

import pytest
import torch
from ddattr.validation.methods import IN_PART, IN_PART_BESIDE_ONE, PEERS
from ddattr.validation.retraining import Validation
from hypothesis import given
from hypothesis import strategies as st

from ddattr.codebook import Codebook

BOOK = Codebook(30, 8, 3)
LABELS = torch.arange(30) % 5 + 2  # sets are named by any number


def plan(codebook: Codebook = BOOK, **sizes) -> Validation:
    given = {"units": 5, "members": 3, "replicates": 2, "halves": 6, "tuning": 5, "removed": (5,), "seed": 0}
    return Validation(codebook, {"label": LABELS[: codebook.units]}, **{**given, **sizes})


@given(units=st.integers(2, 40), halves=st.integers(5, 12), tuning=st.integers(4, 12), seed=st.integers(0, 2**63))
def test_halves_are_halves(units, halves, tuning, seed):
    book = Codebook(units, 12, 5)
    sizes = {"units": 0, "members": 2, "halves": halves, "tuning": tuning, "groups": None, "removed": ()}
    masks = Validation(book, {}, seed, **sizes).half_masks()
    assert masks.shape == (halves + tuning, units)
    assert (masks.sum(1) == units // 2).all()


def test_every_unit_is_in_half_of_the_halves():
    """1,000 halves: every one of 30 counts within 4.7 standard errors of 500, false-alarm rate 8e-5; and every pair of
    units is together as often as chance has it, 14 / 29 of the time that one of them is in (435 pairs: 5.2, 9e-5)."""
    masks = plan(halves=1000).half_masks()[:1000].double()
    assert ((masks.sum(0) - 500).abs() < 4.7 * 250**0.5).all()
    together = (masks.T @ masks)[torch.triu(torch.ones(30, 30), 1).bool()]
    share = 0.5 * 14 / 29
    assert ((together - 1000 * share).abs() < 5.2 * (1000 * share * (1 - share)) ** 0.5).all()


def test_halves_for_tuning_are_others_than_those_for_the_score():
    masks = plan(halves=20, tuning=20).half_masks()
    assert len({tuple(mask.tolist()) for mask in masks}) == 40
    tuned = torch.stack([model.units for model in plan().tuning_models()])
    scored = torch.stack([model.units for model in plan().half_models(1)])
    assert torch.equal(torch.cat([scored, tuned]), plan().half_masks())


def test_halves_have_an_address():
    """More of them changes none; another seed changes all."""
    masks = plan().half_masks()
    assert torch.equal(plan(halves=9).half_masks()[:6], masks[:6])
    assert (plan(seed=2**32).half_masks() != masks).any(1).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_truth_s_members_and_units_are_drawn_by_seed(seed):
    one, other = plan(seed=seed), plan(seed=seed)
    assert one.truth_members == other.truth_members
    assert torch.equal(one.truth_units, other.truth_units)
    assert len(set(one.truth_members)) == 3
    assert len(one.truth_units.unique()) == 5
    assert len({tuple(plan(seed=s).truth_members) for s in range(20)}) > 5


@pytest.mark.parametrize("seed", range(5))
def test_every_unit_of_the_truth_was_seen_by_a_member_of_the_truth(seed):
    drawn = plan(seed=seed, members=2)
    assert BOOK.codewords(drawn.truth_units)[:, drawn.truth_members].any(1).all()
    assert all(drawn.unit(unit) for unit in drawn.truth_units.tolist())


def test_all_units_that_were_seen_can_be_asked_for_and_not_one_more():
    one, other = (BOOK.subset(member) for member in plan(members=2).truth_members)
    seen = int((one | other).sum())
    assert len(plan(members=2, units=seen).truth_units) == seen
    with pytest.raises(ValueError, match=rf"units={seen + 1}, but 2 members saw {seen}\. Set validation.members"):
        _ = plan(members=2, units=seen + 1).truth_units


def test_a_model_without_a_unit_is_its_member_less_that_unit():
    """One for every member that saw it and every seed; those that did not see it need none."""
    drawn = plan(members=8)
    for unit in range(30):
        models = drawn.unit(unit)
        saw = [k for k in range(8) if BOOK.contains(unit, k)]
        assert [(m.member, m.replicate) for m in models] == [(k, r) for k in saw for r in range(2)]
        for model in models:
            assert (BOOK.subset(model.member) & ~model.units).nonzero().tolist() == [[unit]]
            assert not (model.units & ~BOOK.subset(model.member)).any()


def test_a_model_without_a_set_is_its_member_less_that_set():
    drawn = plan(members=8)
    for model in drawn.set("label:4"):
        assert torch.equal(model.units, BOOK.subset(model.member) & (LABELS != 4))
    assert {model.member for model in drawn.set("label:4")} == set(range(8))


def test_every_unit_can_be_left_out_of_all_data():
    """Groups of one unit: a model of all units but each, at every seed."""
    drawn = plan(groups="unit", replicates=2)
    assert drawn.group_names() == list(range(30))
    for r in range(2):
        for unit, model in enumerate(drawn.group_models(r)):
            assert (~model.units).nonzero().tolist() == [[unit]]
            assert (model.name, model.member, model.replicate) == (f"without-unit-{unit}/seed-{r}", None, r)
    assert {m.name for r in range(2) for m in drawn.group_models(r)} <= {m.name for m in drawn.models()}
    assert torch.equal(plan(groups="label").group_of, LABELS)


@pytest.mark.parametrize("name", ["label:1", "label:7", "label:", "label", "label:-1", "label:x", "colour:2", ""])
def test_a_set_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=r"^retrain: no set .*, expected a unit's .*, several, or one like label:2\.$"):
        plan().set(name)


@pytest.mark.parametrize("unit", [-1, 30])
def test_a_unit_that_does_not_exist_is_refused(unit):
    with pytest.raises(ValueError, match=rf"^unit {unit} does not exist: units are 0 to 29\.$"):
        plan().unit(unit)


def test_a_member_must_keep_some_data():
    """Of three units and three members each saw one."""
    drawn = plan(Codebook(3, 3, 1), members=3, units=0, removed=(), groups=None)
    with pytest.raises(ValueError, match=r"^retrain: without unit-00001 member \d has no data left\. [^\n]*weight\.$"):
        drawn.unit(1)


def test_several_units_are_removed_at_once_and_bear_a_name_of_their_own():
    drawn, names = plan(members=8), set()
    for units in ([3, 17], [17, 3], [3], [3, 16]):
        models = drawn.several(units)
        removed = torch.isin(torch.arange(30), torch.tensor(units))
        seen = [k for k in drawn.truth_members if BOOK.subset(k)[removed].any()]
        assert [(m.member, m.replicate) for m in models] == [(k, r) for k in seen for r in (0, 1)]
        assert all(torch.equal(m.units, BOOK.subset(m.member) & ~removed) for m in models)
        names.add(models[0].name.rpartition("/")[0])
    assert len(names) == 3  # their order is no other set


@pytest.mark.parametrize("units", [[], [1.5], ["3"], [True], [30], [-1]])
def test_several_units_that_are_none_are_refused(units):
    with pytest.raises(ValueError, match=r"^retrain: unit=\[[^\n]*'unit=\[3,17\]'\.$|^unit (30|-1) does not exist"):
        plan().several(units)


def test_bases_are_the_members_themselves_at_other_seeds():
    """At the first seed the members are there already."""
    drawn = plan(replicates=3)
    assert [(m.member, m.replicate) for m in drawn.bases()] == [(k, r) for r in (1, 2) for k in drawn.truth_members]
    assert all(torch.equal(m.units, BOOK.subset(m.member)) for m in drawn.bases())
    assert plan(replicates=1).bases() == []


def test_groups_partition_the_units():
    models = plan().group_models(1)
    left_out = torch.stack([~model.units for model in models])
    assert [int(LABELS[out].unique()) for out in left_out] == plan().group_names() == [2, 3, 4, 5, 6]
    assert (left_out.sum(0) == 1).all()
    assert plan(groups=None).group_models(0) == []


def test_the_models_are_all_there_once_and_seed_by_seed():
    """Tuning halves at the first seed; at every seed the full one, halves, groups, members, and members less a unit."""
    drawn = plan(replicates=3)
    models = drawn.models()
    names = [model.name for model in models]
    assert len(set(names)) == len(names)
    seen = int(BOOK.codewords(drawn.truth_units)[:, drawn.truth_members].sum())
    assert Counter(m.replicate for m in models) == {
        0: 5 + 1 + 6 + 5 + seen,
        **dict.fromkeys((1, 2), 1 + 6 + 5 + 3 + seen),
    }
    assert [m.replicate for m in models] == sorted(m.replicate for m in models)
    assert all(model.units.any() for model in models)
    assert all(f"seed-{model.replicate}" in model.name for model in models)


@pytest.mark.parametrize(("groups", "seeds"), [("label", [0, 1, 2]), (None, [0])])
def test_the_model_of_all_units_is_trained_again_only_for_groups_that_are_left_out_of_it(groups, seeds):
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
    many = {m.name: m for m in plan(replicates=3, halves=9, groups=None).models()}
    common = {name for name in few.keys() & many.keys() if not name.startswith("tuning")}
    assert len(common) > 20
    assert all(torch.equal(few[name].units, many[name].units) for name in common)
    assert all(few[name].member == many[name].member for name in common)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("members", 9, "expected 1 to 8"),
        ("members", 0, "expected 1 to 8"),
        ("units", 31, "expected 0 to 30"),
        ("units", -1, "expected 0 to 30"),
        ("replicates", 0, "expected 1 to 100"),
        ("halves", -1, "expected 0 to 10000"),
        ("tuning", 3, "expected 4 to 10000"),
        ("real", -1, "expected 0 to"),
        ("removal_queries", -1, "expected 0 to"),
        ("orders", 0, "expected 1 to"),
        ("draws", 0, "expected 1 to"),
        ("removed", (5, 30), "expected 1 to 29"),
        ("removed", (0,), "expected 1 to 29"),
        ("members_sizes", (2,), "expected 3 to 1024"),
        ("peers", ("gradient_dot", "astrology"), f"expected {', '.join(PEERS)}"),
        ("groups", "cluster", "expected unit, label, null"),
        ("removal_methods", ("jvp", "astrology"), "expected some of jvp, .* loss@affordable"),
        ("removal_methods", ("jvp@affordable",), "expected some of jvp, .* loss@affordable"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_names_the_key(key, value, expected):
    with pytest.raises(ValueError, match=rf"^validation: {key}=[^\n]*, {expected}[^\n]*\. Set validation\.{key}\.$"):
        plan(**{key: value})


NOTHING = {"units": 0, "halves": 0, "groups": None, "removal_queries": 0, "peers": ()}


@pytest.mark.parametrize(
    ("sizes", "queries", "held_out", "told"),
    [
        ({"units": 4}, 9, 0, "validation: units=4 is too few for an interval, expected 5 or more, or 0"),
        ({"units": 1}, 9, 0, "validation: units=1 is too few for an interval, expected 5 or more, or 0"),
        ({"halves": 4}, 9, 0, "validation: halves=4 is too few for an interval, expected 5 or more, or 0"),
        ({"removal_queries": 4}, 9, 0, "validation: removal_queries=4 is too few .*, expected 5 or more, or 0"),
        ({}, 4, 0, "attribution: queries=4 is too few for an interval, expected 5 or more"),
        ({}, 5, 4, "data: holdout=4 is too few for an interval, expected 5 or more, or 0"),
        ({"real": 3}, 5, 90, "validation: real=3 is too few for an interval, expected 5 or more, or 0"),
        ({"members": 1}, 5, 0, "validation: members=1 is too few for an interval: .* 2 or more"),
    ],
)
def test_too_few_for_an_interval_are_refused_in_one_line_that_names_the_key(sizes, queries, held_out, told):
    drawn = plan(**{"removal_queries": 5, **sizes})
    with pytest.raises(ValueError, match=rf"^{told}\.( Set [^\n]*\.)?$"):
        drawn.check_intervals(queries, held_out)


@pytest.mark.parametrize(
    ("sizes", "queries", "held_out"),
    [
        ({}, 5, 0),
        ({}, 5, 5),
        ({"real": 0}, 5, 4),
        (NOTHING | {"members": 1}, 1, 1),
        ({"units": 0, "members": 1}, 5, 0),
        (NOTHING | {"peers": ("gradient_dot",)}, 1, 1),
    ],
)
def test_what_makes_no_interval_needs_no_number(sizes, queries, held_out):
    plan(**{"removal_queries": 5, **sizes}).check_intervals(queries, held_out)


def test_a_removal_by_a_peer_that_is_not_asked_for_is_refused_before_anything_is_trained():
    given = {"removal_methods": ("jvp", "trak"), "peers": ("dtrak",)}
    with pytest.raises(ValueError, match=r"^validation: removal_methods=trak, [^\n]*\. Add it to validation\.peers\.$"):
        plan(**given, removal_queries=5)
    plan(**given, removal_queries=0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 5),  # tuned on 4, and one that scores
        ({"tuning": 6}, 7),
        ({"tuning": 7}, 0),  # eight are the whole ensemble
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
    found = plan(**{"tuning": 4, **given})
    assert found.affordable("loss") == expected
    if expected:
        share, base = (1, 0) if found.fork is None else (found.fork, 1)
        assert base + expected * share <= len(found.scored_by()) < base + (expected + 1) * share


@pytest.mark.parametrize("given", [{}, {"fork": Fraction(2, 3)}, {"tuning": 5, "fork": Fraction(3, 4)}])
def test_members_beside_the_model_of_all_units_cost_no_more_together(given):
    """And one more would."""
    found = plan(**{"tuning": 4, **given})
    assert len({found.affordable(method) for method in IN_PART}) == 1
    share, base = (1, 0) if found.fork is None else (found.fork, 1)
    for members in {found.affordable(method) for method in IN_PART_BESIDE_ONE}:
        assert base + 1 + members * share <= len(found.scored_by()) < base + 1 + (members + 1) * share


@pytest.mark.parametrize("given", [{"fork": Fraction(4, 3)}, {"peers": ("gradient_dot",)}])
def test_two_members_beside_the_model_of_all_units_are_no_ensemble(given):
    assert plan(tuning=4, **given).affordable("datamodel_both") == 0


def test_a_removal_by_members_at_a_peer_s_cost_has_their_number_in_its_name():
    asked = ("loss@affordable", "jvp", "loss", "loss@affordable", "trak", "datamodel_both@affordable")
    assert plan(removal_methods=asked, tuning=4).removed_by() == ["loss@5", "jvp", "loss", "trak", "datamodel_both@4"]
    assert plan(removal_methods=asked, tuning=4, fork=Fraction(2, 3)).removed_by()[0] == "loss@6"


@pytest.mark.parametrize("given", [{"peers": ("gradient_dot",)}, {"tuning": 7}])
def test_a_removal_by_members_that_are_no_part_of_the_ensemble_is_left_out(given):
    assert plan(removal_methods=("loss@affordable", "jvp"), **given).removed_by() == ["jvp"]


def test_the_largest_sizes_that_can_be_are_taken():
    drawn = plan(members=8, units=30, removed=(1, 29), members_sizes=(3, 8), real=0, removal_queries=0, peers=PEERS)
    assert len(drawn.truth_units) == 30
