"""Retraining and validation end to end: what is trained, what is written, and that it can be stopped and gone on."""

import shutil

import matplotlib.image
import pytest
import torch
from conftest import SMALL, TINY, composed, contents, manifest

from ddattr.attribution.methods import EQUAL_COST, METHODS, method_of, nameable
from ddattr.attribution.power import expected_power
from ddattr.files import load_table, load_tensors
from ddattr.stages.run import Run
from ddattr.stages.training import retrain
from ddattr.stages.truth import removal_plan
from ddattr.stages.validate import build
from ddattr.tracking.figures import EVIDENCE
from ddattr.validation.training import Training

OF_GRADIENTS = {method.key for method in METHODS if "gradients" in method.needs}  # those of the extra `peers`
TABLES = {
    "agreement": ["truth", "method", "measure", "query", "pearson", "spearman", "cosine", "relative_error"],
    "agreement_summary": [
        "truth",
        "method",
        "measure",
        "statistic",
        "mean",
        "low",
        "high",
        "queries",
        "reliability",
        "ceiling",
        "corrected",
    ],
    "lds": ["kind", "target", "queries", "method", "query", "lds"],
    "lds_summary": [
        "kind",
        "target",
        "queries",
        "method",
        "statistic",
        "mean",
        "low",
        "high",
        "reliability",
        "ceiling",
        "corrected",
        "subsets",
        "seeds",
    ],
    "groups": ["target", "queries", "method", "query", "top1", "ndcg3", "spearman"],
    "sets": ["set", "size", "query", "pull_first_order", "pull_retraining"],
    "removal": ["method", "size", "query", "l2", "feature_distance", "pull_first_order", "pull_retraining"],
    "members": ["members", "order", "statistic", "value"],
    "power": ["measure", "z_nearest", "attributable", "weighting"],
    "false_attribution": ["query", "removed", "unit", "unchanged", "moved"],
    "cost": ["method", "trainings", "training_steps", "training_seconds", "scoring_seconds", "memory_mb", "disk_mb"],
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_columns_that_others_rely_on(validated, name):
    table = load_table(validated.root / "validation" / f"{name}.csv")
    assert list(table)[: len(TABLES[name])] == TABLES[name]
    assert len(table)


def test_every_score_is_in_the_lds_table_with_random_among_them(validated):
    table = load_table(validated.root / "validation" / "lds.csv")
    scores = load_tensors(validated.root / "validation" / "scores" / "scores.safetensors")
    generated = {name.partition("/")[2] for name in scores if name.startswith("generated/")}
    assert "random" in generated
    expected = {name for name in nameable() if name.removesuffix(EQUAL_COST) not in OF_GRADIENTS}
    assert {method.replace("@5", EQUAL_COST) for method in generated} == expected
    assert generated <= set(table.method)
    assert all(method_of(method) in METHODS for method in table.method)
    assert set(table.kind) == {"self", "transfer"}
    assert {"real/denoised", "real/denoised_gls", "real/pixel", "real/loss"} <= set(scores)
    assert set(table.queries) == {"generated", "real"}
    assert all(score.shape == (128, 6) for name, score in scores.items() if name.startswith("generated/"))


def test_what_a_peer_was_tuned_to_is_among_what_its_oracle_chooses_from(validated):
    scores = load_tensors(validated.root / "validation" / "scores" / "scores.safetensors")
    tried = scores["tried/unlearning"]
    assert tried.shape == (5, 128, 11)  # of every damping, on six generated and five real queries
    assert any(torch.equal(each[:, :6], scores["generated/unlearning"]) for each in tried)
    table = load_table(validated.root / "validation" / "lds_summary.csv")
    table = table[(table.target == "loss") & (table.statistic == "lds")].set_index(["method", "queries"])["mean"]
    for kind in ("generated", "real"):
        assert table["unlearning_oracle", kind] >= table["unlearning", kind]


def test_any_picture_is_denoised_as_attribute_has_it(validated):
    """Another process, the same noise: a generated picture handed over as a real one has the same answer."""
    run = Run(composed("experiment=digits_small", f"root={validated.root}"))
    stored = load_tensors(run.attribution_artifact.folder / "denoised.safetensors")["denoised"]
    answers = build(run).answers
    torch.testing.assert_close(answers.queries.denoised(answers.ensemble, answers.queries.factual), stored)


def test_methods_to_remove_by_ask_nothing_where_nothing_is_removed(validated):
    """They may be inherited from another experiment, and have no score here; where a removal is asked, that is told."""
    argv = ["experiment=digits_small", f"root={validated.root}", "validation.removal_methods=[dtrak]"]
    assert removal_plan(Run(composed(*argv, "validation.removal_queries=0"))) == []
    with pytest.raises(ValueError, match=r"Add it to validation\.peers"):
        removal_plan(Run(composed(*argv)))


def test_the_first_order_predicts_the_reweighted_ensemble(validated):
    """The self LDS is the first order's own: it must be near 1 on whatever ensemble."""
    table = load_table(validated.root / "validation" / "lds_summary.csv").query("statistic == 'lds'")
    table = table.set_index(["kind", "target", "method"])
    assert table.loc[("self", "picture", "jvp"), "mean"].item() > 0.9
    assert (table.loc[("self", "loss", "loss"), "mean"] > 0.8).all()  # of generated pictures, and of real ones


def test_all_members_have_the_lds_that_the_table_of_lds_says(validated):
    """The curves against the number of members end where the table is."""
    curves = load_table(validated.root / "validation" / "members.csv")
    ends = curves[curves.members == 12].set_index("statistic").value
    table = load_table(validated.root / "validation" / "lds_summary.csv")
    table = table[(table.kind == "transfer") & (table.queries == "generated") & (table.statistic == "lds")]
    table = table.set_index(["target", "method"])["mean"]
    for target, method in (
        ("distance", "member_picture"),
        ("distance", "jvp"),
        ("distance", "jvp_posterior"),
        ("distance", "denoised_posterior"),
        ("loss", "denoised_posterior"),
        ("loss", "denoised_gls"),
        ("loss", "jvp"),
        ("loss", "loss"),
        ("loss", "member_loss"),
    ):
        assert ends[f"lds_{target}_{method}"] == pytest.approx(table[target, method], abs=1e-6)


def test_all_members_have_the_z_that_the_attribution_has(validated):
    curves = load_table(validated.root / "validation" / "power_by_members.csv")
    ends = curves[curves.members == 12].set_index("statistic").value
    scored = load_table(validated.root / "attribution" / "default" / "influence.parquet")
    nearest = scored[scored.method == "pixel"].sort_values("score").groupby("query").unit.last()
    tested = scored[scored.method == "denoised_gls"].set_index(["query", "unit"]).z
    assert ends["z_nearest"] == pytest.approx(tested[list(nearest.items())].mean(), abs=1e-6)
    sets = load_table(validated.root / "attribution" / "default" / "sets.parquet").groupby("set").z.mean()
    for size in (2, 5, 10, 20, 50):
        assert ends[f"z_nearest:{size}"] == pytest.approx(sets[f"nearest:{size}"], abs=1e-5)


def test_what_is_predicted_of_fewer_members_is_what_plan_would_say(validated):
    """From all twelve: z by the root of the number, and the power that `plan` has of a neighbourhood."""
    table = load_table(validated.root / "validation" / "power_by_members.csv")
    table = table.set_index(["members", "order", "statistic"]).value
    sets = load_table(validated.root / "attribution" / "default" / "sets.parquet").set_index("set")
    for size in (2, 5, 10, 20, 50):
        z = torch.from_numpy(sets.z[f"nearest:{size}"].to_numpy(copy=True))
        predicted = [table[5, order, f"{kind}_nearest:{size}_predicted"] for kind in ("z", "found") for order in (0, 1)]
        by_z, by_power = z.mean().item() * (5 / 12) ** 0.5, expected_power(z, 5 / 12)
        assert predicted == pytest.approx([by_z, by_z, by_power, by_power], abs=1e-5)
        assert table[12, 0, f"z_nearest:{size}_predicted"] == pytest.approx(table[12, 0, f"z_nearest:{size}"])


def test_members_at_a_peer_s_cost_are_held_against_all_that_it_is(validated):
    """Five of twelve: tuned on four halves, and the model of all units. The curves have the same five."""
    tables = {
        name: load_table(validated.root / "validation" / f"{name}.csv")
        for name in ("members", "lds_summary", "agreement_summary", "groups", "removal", "cost")
    }
    methods = {f"{method}@5" for method in ("denoised", "denoised_posterior", "loss", "datamodel")}
    for name in ("lds_summary", "agreement_summary", "groups", "cost"):
        assert {method for method in tables[name].method if "@" in method} == methods
    assert "denoised_posterior@5" in set(tables["removal"].method)
    few = tables["members"].query("members == 5 and order == 0").set_index("statistic").value
    table = tables["lds_summary"].query("kind == 'transfer' and queries == 'generated' and statistic == 'lds'")
    table = table.set_index(["target", "method"])["mean"]
    for target, method in (
        ("loss", "denoised_posterior"),
        ("distance", "denoised_posterior"),
        ("loss", "denoised"),
        ("distance", "denoised"),
        ("loss", "loss"),
    ):
        assert few[f"lds_{target}_{method}"] == pytest.approx(table[target, f"{method}@5"], abs=1e-6)
    real = tables["lds_summary"].query("queries == 'real'")
    assert methods <= set(real.method)
    cost = tables["cost"].set_index("method")
    assert (cost.training_steps[list(methods)] == cost.training_steps["unlearning"]).all()


@pytest.mark.parametrize("name", [name for name in EVIDENCE if name != "fig13_planted"])  # nothing is planted here
def test_figures_are_drawn(validated, name):
    folder = validated.root / "validation" / "figures"
    pixels = matplotlib.image.imread(folder / f"{name}.png")[..., :3]
    assert min(pixels.shape[:2]) > 200
    assert pixels.std() > 0.02
    assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_page_and_the_command_say_what_was_found(validated):
    page = (validated.root / "report.html").read_text()
    assert "Is it true?" in page
    lines = [line for line in validated.said.out.splitlines() if line.startswith("agreement with retraining")]
    assert len(lines) == 1
    assert lines[0].replace("&", "&amp;") in page


def test_again_it_is_already_done(validated, ddattr):
    before = contents(validated.root)
    said = ddattr("validate", f"experiment={SMALL}", f"root={validated.root}")
    assert said.status == 0
    assert "validate: already done" in said.out
    said = ddattr("retrain", f"experiment={SMALL}", f"root={validated.root}")
    assert "retrain: already done" in said.out
    assert contents(validated.root) == before


def test_a_model_of_the_truth_says_how_it_was_made(validated):
    made = manifest(validated.root / "validation" / "retraining" / "full" / "seed-1")
    assert made["seed"] == 1
    assert made["command"].startswith("ddattr retrain")
    assert not list((validated.root / "validation").rglob("*.ckpt"))


@pytest.mark.slow
def test_the_same_models_come_from_one_process_in_any_order(make_run, copy):
    """A model depends on its address alone: trained in reverse order, resumed or not, the weights are the same."""
    run = make_run(
        "validation.retrained_units=5",
        "validation.retrained_members=2",
        "validation.replicates=1",
        "validation.removal_sizes=[1]",
    )
    wanted = run.validation.models()[-3:]
    retrain(run, wanted)
    first = {m.name: load_tensors(run.retrained_artifact(m).folder / "member.safetensors") for m in wanted}
    shutil.rmtree(run.root / "validation")
    retrain(run, wanted[::-1])
    for model in wanted:
        again = load_tensors(run.retrained_artifact(model).folder / "member.safetensors")
        assert all(torch.equal(again[name], value) for name, value in first[model.name].items())


@pytest.mark.slow
def test_a_member_retrained_without_nothing_is_the_member(make_run, copy):
    """Common random numbers: the same column, draws and seed give the trained member's own weights."""
    run = make_run()
    same = Training("same", run.codebook.subset(3), 3, 0)
    retrain(run, [same])
    again = load_tensors(run.retrained_artifact(same).folder / "member.safetensors")
    member = load_tensors(run.member_artifact(3).folder / "member.safetensors")
    assert all(torch.equal(again[name], value) for name, value in member.items())


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["0", "[5,0]", "label:1"])
def test_one_unit_or_set_can_be_retrained_alone(ddattr, copy, make_run, unit):
    """Exactly the truth's members that saw any of it, at every seed."""
    sizes = ["validation.replicates=1", "validation.retrained_members=6", "validation.removal_sizes=[1]"]
    run = make_run(*sizes)
    said = ddattr("retrain", *TINY, f"root={copy}", f"unit={unit}", *sizes)
    assert said.status == 0, said.err
    units, of_label = torch.arange(12), run.data.partitions()["label"]
    removed = {"0": units == 0, "[5,0]": (units == 0) | (units == 5), "label:1": of_label == 1}[unit]
    seen = {k for k in range(6) if (run.codebook.subset(k) & removed).any()}
    folders = list((copy / "validation" / "retraining").rglob("member.safetensors"))
    assert {int(path.parent.name[:3]) for path in folders} == seen


@pytest.mark.slow
def test_units_and_sets_can_be_swept_over(ddattr, copy):
    """As members are; what one job has trained the next finds done."""
    sizes = ["validation.replicates=1", "validation.retrained_members=6", "validation.removal_sizes=[1]"]
    argv = ["retrain", "-m", *TINY, f"root={copy}", "unit=0,label:1", *sizes]
    said = ddattr(*argv)
    assert said.status == 0, said.err
    found = {path.parent.parent.name for path in (copy / "validation").rglob("member.safetensors")}
    assert found == {"unit-00000", "label-1"}
    assert ddattr(*argv).out.count("retrain: already done") == 2
