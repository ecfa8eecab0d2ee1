"""The tables of a validation: every module of theirs says when it can be made, and no table is made twice."""

import inspect
import pkgutil
from dataclasses import replace
from importlib import import_module

import pandas as pd
import pytest
import torch
from additive import BOOK, PLAN, SEEDS, SHAPE, asked, members, randn, study_of

from ddattr.attribution.methods import METHODS, TESTED
from ddattr.codebook import ORTHOGONAL, Codebook, encode
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.validation import tables
from ddattr.validation.removal import removals
from ddattr.validation.study import Phase, Study

MODULES = [module.name for module in pkgutil.iter_modules(tables.__path__)]
MADE = {
    Phase.MEMBERS: ["false_attribution", "calibration", "planted", "power", "power_by_members"],
    Phase.RETRAINED: ["agreement", "groups", "sets", "discoveries", "lds", "members"],
    Phase.REMOVED: ["cost", "removal"],
}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_phase_and_its_tables(name):
    """And says which files it makes, in its first line."""
    module = import_module(f"ddattr.validation.tables.{name}")
    assert isinstance(module.PHASE, Phase)
    assert list(inspect.signature(inspect.unwrap(module.tables)).parameters) == ["study"]
    assert f"{name}.csv" in module.__doc__.splitlines()[0] or name == "controls"


@pytest.fixture
def make_study(make_process):
    """Of units that are groups of one; two pictures that were held out are of a unit, and three of none."""

    def make(book: Codebook = BOOK, **sizes) -> Study:
        plan = replace(
            PLAN,
            codebook=book,
            groups="unit",
            lds_subsets=5,
            ensemble_sizes=(5,),
            ensemble_orders=1,
            replicates=1,
            **sizes,
        )
        ensemble = members(book)
        queries = asked(make_process(timestep_spacing="trailing"), ensemble)
        group = torch.tensor([*[-1] * 28, 0, 1, 0, 1, -1, -1, -1])
        images, hidden = randn(35, *SHAPE, seed=1), torch.arange(35) >= 30
        data = UnitDataModule(Source(images, None, group, hidden), clusters=3)
        names = [(m.key, measure) for m in METHODS if m.scored_by_attribute for measure in ("pull", "norm")]
        rows = [(*name, unit, query) for name in names for unit in range(30) for query in SEEDS]
        influence = pd.DataFrame(rows, columns=["method", "measure", "unit", "query"])
        influence = influence.assign(score=randn(len(rows)).double().numpy(), q_value=randn(len(rows)).abs().numpy())
        assert TESTED in set(influence.method)
        return study_of(
            plan,
            queries,
            ensemble,
            data,
            influence=influence,
            jacobian=queries.jacobian(list(ensemble.members), None),
            denoised=queries.denoised(ensemble, queries.factual),
        )

    return make


def test_tables_say_what_p_is_by_where_words_are_orthogonal(make_study):
    book = encode(30, 40, design=ORTHOGONAL)
    found = {name: table for name, table in tables.made(make_study(book), Phase.MEMBERS)}
    length = {"norm", "denoised_norm"}
    by = found["power"].measure.isin(length).map({True: "rank, 9 unused words", False: book.p_by})
    assert found["power"].p_by.tolist() == by.tolist()
    for name in ("planted", "planted_summary"):
        table = found[name].set_index("method")
        assert (table.p_by["denoised_gls"] == "t-test, 9 degrees of freedom").all()
        assert (table.p_by[["loss", "jvp_norm"]] == "rank, 9 unused words").all()
        assert table.p_by[["pixel", "denoised_posterior"]].isna().all()
    assert found["planted"].p_by.isna().tolist() == found["planted"].p_value.isna().tolist()
    plain = {name: table for name, table in tables.made(make_study(), Phase.MEMBERS)}
    assert not any("p_by" in plain[name] for name in ("power", "planted", "planted_summary"))


def scored(study: Study) -> Study:
    """With scores at random, and models without the best units."""
    methods = ("jvp", "loss", "pixel", "dtrak")
    study.scores = {
        kind: {method: randn(30, count, seed=i).double() for i, method in enumerate(methods)}
        for kind, count in (("generated", 3), ("real", 2))
    }
    study.spent = {"seconds": {}, "memory_mb": {}}
    study.removals = removals({"jvp": study.scores["generated"]["jvp"]}, SEEDS, (5,))
    return study


def test_everything_is_made_in_its_own_phase_and_nothing_twice(make_study):
    """Every table but those of power and cost, of which a row is a measure and a method, has a summary, or is one."""
    study = scored(make_study())
    assert study.answers.data.units == 30
    found = {phase: [name for name, _ in tables.made(study, phase)] for phase in Phase}
    every = [name for names in found.values() for name in names]
    assert len(every) == len(set(every))
    for phase, names in MADE.items():
        expected = {name for table in names for name in (table, f"{table}_summary")}
        whole = ("power", "power_by_members", "cost", "members")
        assert set(found[phase]) == expected - {f"{name}_summary" for name in whole}


def test_what_is_left_out_makes_no_table_but_those_of_the_members_alone(make_study):
    study = make_study(removal_queries=0, peers=())
    study.answers.plan = replace(study.plan, retrained_units=0, lds_subsets=0, groups=None)
    found = {phase: [name for name, _ in tables.made(study, phase)] for phase in Phase}
    assert {name for name in found[Phase.MEMBERS] if "summary" not in name} == set(MADE[Phase.MEMBERS])
    assert found[Phase.RETRAINED] == found[Phase.REMOVED] == []
