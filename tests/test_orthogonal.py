"""A run of orthogonal words, from the plan to the validation; and runs of random ones, which it changes nothing of."""

import pytest
import torch
from conftest import TINY, composed, refused

from ddattr.codebook import ORTHOGONAL, Codebook, encode
from ddattr.files import load_json, load_table
from ddattr.stages import plan, train
from ddattr.stages.rule import _members
from ddattr.stages.run import Run

DESIGNED = ("codebook.design=orthogonal", "codebook.members=16", "codebook.weight=null")
SIZES = (
    "data.source.count=11",
    "attribution.queries=5",
    "data.holdout=3",
    "validation.removal_queries=0",
    "validation.held_out_queries=0",
    "validation.groups=null",
    "validation.retrained_members=2",
    "validation.retrained_units=5",
    "validation.replicates=1",
    "validation.ensemble_sizes=[8]",
    "validation.peers=[]",
)


def told(code: Codebook) -> dict[str, str]:
    return dict(plan.describe(code))


def test_random_words_leave_no_trace_of_a_design(make_run):
    """Golden fingerprints of older runs are in test_fork; here that the default is what says nothing."""
    run, other = make_run(), make_run("codebook.design=random")
    assert "design" not in run.codebook_artifact.config
    assert other.members_fingerprint == run.members_fingerprint
    designed = make_run(*DESIGNED, "data.source.count=10")
    assert designed.codebook_artifact.config["design"] == "orthogonal"


def test_a_plan_names_the_design_that_fits_and_why():
    few, tight, many = encode(30, 64), encode(58, 64), encode(1797, 18)
    assert told(few)["design"].startswith("random; orthogonal fits: 30 effects at once")
    assert "Set codebook.design=orthogonal" in told(few)["design"]
    assert "would leave 58 units 5 degrees of freedom, fewer than 8 (n=68 leaves more)" in told(tight)["design"]
    assert told(many)["design"] == (
        "random; random fits: orthogonal words of n=18 would leave 1,797 units 0 degrees of freedom, fewer than 8"
    )
    assert "no orthogonal words of n=18 are made (n=20 has them)" in told(encode(9, 18))["design"]
    assert "some member would see none of 3 units" in told(Codebook(3, 16, 7))["design"]


def test_a_plan_says_that_p_is_a_t_test_s_and_no_randomisation_s():
    designed = encode(30, 64, design=ORTHOGONAL)
    found = told(designed)
    assert found["p of a unit by"] == "t-test, 33 degrees of freedom: parametric, not randomisation"
    assert found["design"].startswith("orthogonal; orthogonal fits: 30 effects at once")
    assert found["capacity n - 1"] == "63 codewords, 33 phantoms"
    assert "smallest q of one unit" not in found
    assert told(encode(30, 64))["p of a unit by"] == "randomisation"
    assert plan.warnings(designed, 0.05, 0) == []
    (warning,) = plan.warnings(encode(60, 64, design=ORTHOGONAL), 0.05, 0)
    assert "3 degrees of freedom leave a t-test little power" in warning
    assert "codebook.members to 72" in warning


def test_members_that_nobody_gave_leave_the_t_test_its_degrees_of_freedom(compose):
    config = compose(*TINY, "codebook.design=orthogonal", "codebook.members=null")
    assert [_members(units, config) for units in (11, 30, 55, 60)] == [20, 40, 64, 72]


def test_what_is_no_weighing_design_is_one_line_of_a_command(ddattr):
    refused(ddattr("plan", *TINY, *DESIGNED, "codebook.members=12"), "12 units, expected 10 or fewer", "members to 16")
    refused(ddattr("plan", *TINY, *DESIGNED, "codebook.weight=5"), "weight=5, expected 8", "codebook.weight to null")
    refused(ddattr("plan", *TINY, *DESIGNED, "codebook.design=paley"), "codebook", "design", "paley", "orthogonal")


@pytest.mark.slow
def test_a_run_of_orthogonal_words_goes_through_every_verb(ddattr, tmp_path):
    """And its tables, summary and page say what p is by."""
    root = tmp_path / "run"
    given = [*TINY, *SIZES, *DESIGNED, "codebook.members=12", f"root={root}"]
    assert "t-test, 3 degrees of freedom: parametric" in ddattr("plan", *given).out
    for member in range(12):
        train.run(Run(composed(*given, f"member={member}"), given))
    for verb in ("evaluate", "attribute", "validate", "report"):
        said = ddattr(verb, *given)
        assert said.status == 0, said.err
    by = "t-test, 3 degrees of freedom"
    assert load_json(root / "codebook" / "codebook.json")["design"] == "orthogonal"
    folder = next((root / "attribution").glob("*/influence.parquet")).parent
    influence, sets = load_table(folder / "influence.parquet"), load_table(folder / "sets.parquet")
    assert set(influence.p_by[(influence.measure == "pull") & influence.p_value.notna()]) == {by}
    assert set(influence.p_by[(influence.measure == "norm") & influence.p_value.notna()]) == {"rank, 3 unused words"}
    assert set(sets.p_by) == {by}
    assert sets.p_value.notna().all()
    assert set(load_table(folder / "calibration.csv").p_by) == {by}
    assert load_table(folder / "verified.csv").empty
    units = influence[influence.method == "denoised_gls"]
    plain = influence[influence.method == "denoised"]
    torch.testing.assert_close(torch.tensor(units.score.to_numpy()), torch.tensor(plain.score.to_numpy()))
    assert f"orthogonal words: p by {by}, parametric, not by randomisation" in said.out
    page = (root / "report.html").read_text()
    assert f"by {by}" in page
    assert "not by randomisation" in page
    assert (root / "validation" / "power.csv").is_file()
