"""A run: what its config builds, what its artifacts depend on, and the commands it suggests."""

import shlex

import pytest
import torch
from conftest import TINY, composed, contents
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import open_dict

from ddattr.attribution.queries import QuerySet
from ddattr.files import load_json
from ddattr.schema import check_keys
from ddattr.stages import folder, validate
from ddattr.stages.run import Run


@pytest.mark.parametrize("seed", [-1, 1.5, "abc", True, None, 2**63])
def test_a_seed_that_is_none_is_refused(compose, seed):
    config = compose(*TINY)
    config.seed = seed
    with pytest.raises(ValueError, match=r"^seed=.*expected an integer from 0"):
        Run(config)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-true", "64-true", "16"])
def test_a_precision_that_no_training_was_tried_in_is_refused(make_run, precision):
    with pytest.raises(ValueError, match=r"^trainer: precision=.*expected 32-true or bf16-mixed. Set trainer"):
        make_run(f"trainer.precision={precision}").member_artifact(0)


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1])
def test_every_seed_seeds_and_0_is_one(make_run, seed):
    run, twin, other = make_run(f"seed={seed}"), make_run(f"seed={seed}"), make_run("seed=17")
    assert run.codebook.seed == seed
    assert same(run.network(None), twin.network(None))
    assert not same(run.network(None), other.network(None))
    assert not torch.equal(run.codebook.codewords(torch.arange(12)), other.codebook.codewords(torch.arange(12)))


@pytest.mark.parametrize("version", ["SCORED", "TABLED"])
def test_scores_and_tables_of_another_version_are_refused_and_trained_models_are_kept(
    make_run, tmp_path, monkeypatch, version
):
    old = make_run(*TINY, f"root={tmp_path}")
    for artifact in (old.scores_artifact, old.validation_artifact):
        artifact.make(0, lambda: None)
    monkeypatch.setattr(folder, version, getattr(folder, version) + 1)
    new = make_run(*TINY, f"root={tmp_path}")
    assert (new.scores_artifact.fingerprint != old.scores_artifact.fingerprint) == (version == "SCORED")
    kept = r"or delete its manifest\.json and its folder scores/: trained models are kept\.$"
    with pytest.raises(ValueError, match=kept):
        new.validation_artifact.done()
    assert (
        new.retrained_artifact(new.validation.full(0)).fingerprint
        == old.retrained_artifact(old.validation.full(0)).fingerprint
    )


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_building_a_network_draws_nothing_from_the_global_stream(make_run):
    before = torch.get_rng_state()
    run = make_run()
    run.network(None)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(run.network(0), run.network(1))


@pytest.mark.parametrize(
    "override",
    [
        "training.epoch_steps=3",
        "tracking=offline",
        "trainer.devices=2",
        "member=2",
        "name=other",
        "trainer.precision=32",
        "trainer.deterministic=false",
        "quality.pictures=5",
        "attribution.queries=3",
        "sampler.steps=2",
        "root=elsewhere",
    ],
)
def test_what_changes_no_weight_is_outside_a_members_fingerprint(make_run, override):
    assert make_run(override).member_artifact(1).fingerprint == make_run().member_artifact(1).fingerprint


@pytest.mark.parametrize(
    "override",
    [
        "training.steps=21",
        "training.draws=independent",
        "training.ema=null",
        "seed=1",
        "codebook.weight=3",
        "codebook.members=7",
        "data.source.count=11",
        "trainer.precision=bf16-mixed",
        "unet.layers_per_block=2",
        "diffusion.scheduler.beta_end=0.03",
    ],
)
def test_what_changes_a_weight_is_inside_a_members_fingerprint(make_run, override):
    assert make_run(override).member_artifact(1).fingerprint != make_run().member_artifact(1).fingerprint


def test_every_member_has_a_fingerprint_and_a_folder_of_its_own(make_run):
    artifacts = [make_run().member_artifact(k) for k in range(6)]
    assert len({a.fingerprint for a in artifacts}) == 6
    assert [a.folder.name for a in artifacts] == ["000", "001", "002", "003", "004", "005"]


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("quality.pictures=5", "quality"),
        ("attribution.queries=3", "attribution"),
        ("data.clusters=4", "attribution"),
        ("sampler.steps=2", "both"),
        ("training.steps=21", "both"),
        ("training.epoch_steps=3", "none"),
        ("tracking=offline", "none"),
        ("attribution.jacobian.tangents=2", "attribution"),
    ],
)
def test_a_stage_depends_on_its_own_config_and_its_parents(make_run, override, changes):
    one, other = make_run(), make_run(override)
    assert (one.quality_artifact.fingerprint != other.quality_artifact.fingerprint) == (changes in ("quality", "both"))
    assert (one.attribution_artifact.fingerprint != other.attribution_artifact.fingerprint) == (
        changes in ("attribution", "both")
    )
    assert (one.figures_artifact.fingerprint != other.figures_artifact.fingerprint) == (changes != "none")


def test_the_codebooks_artifact_is_written_once(make_run):
    run = make_run()
    run.write_codebook()
    before = contents(run.root)
    make_run().write_codebook()
    assert contents(run.root) == before
    code = load_json(run.root / "codebook" / "codebook.json")
    assert {"n": 6, "h": 2, "N": 12, "seed": 0, "unit": "image"}.items() <= code.items()
    assert code["data"] == run.data.fingerprint


@settings(max_examples=10)
@given(st.lists(st.sampled_from(["a b", "it's", "$HOME", "x;y", "*", '"', "\u00e9"]), max_size=3))
def test_a_suggested_command_survives_the_shell(words):
    overrides = [f"name={word}" for word in words]
    command = Run(composed(*TINY), [*overrides, "stage=plan", "member=3"]).command("train", "member=1")
    assert shlex.split(command) == ["ddattr", "train", "member=1", *overrides]


def test_a_suggested_command_composes_the_same_config(make_run):
    run = make_run("training.steps=33", "unet.block_out_channels=[4, 8]", "seed=5")
    verb, *overrides = shlex.split(run.member_artifact(2).remedy)[1:]
    again = Run(composed(f"stage={verb}", *overrides))
    assert verb == "train"
    assert again.config.member == 2
    assert again.member_artifact(2).fingerprint == run.member_artifact(2).fingerprint


@pytest.mark.parametrize(
    "path",
    [
        "nosuch",
        "training.nosuch",
        "codebook.nosuch",
        "data.nosuch",
        "data.source.nosuch",
        "data.source.source.nosuch",
        "diffusion.nosuch",
        "diffusion.scheduler.nosuch",
        "unet.nosuch",
        "sampler.nosuch",
        "quality.nosuch",
        "attribution.nosuch",
        "attribution.jacobian.nosuch",
        "tracking.nosuch",
        "trainer.nosuch",
    ],
)
def test_a_key_that_nothing_reads_is_named(compose, path):
    with pytest.raises(ValueError, match=rf"{path} is unknown") as error:
        check_keys(compose(*TINY, f"+{path}=1"))
    assert "\n" not in str(error.value)


def test_keys_of_the_constructors_that_the_app_fills_in_are_no_keys_of_the_config(compose):
    """The schema is what a user may set: `network` or `owned` would be given twice."""
    for key in ("training.network", "training.owned", "quality.images", "codebook.units", "trainer.logger"):
        group, _, name = key.partition(".")
        with pytest.raises(ValueError, match=rf"^key {key} is not for the config"):
            Run(compose(*TINY, f"+{key}=1")).build(group, **{name: None})


def test_a_key_that_a_constructor_has_is_accepted(compose):
    check_keys(compose(*TINY, "+unet.dropout=0.1", "+trainer.max_time=null", "+diffusion.scheduler.clip_sample=false"))


def test_the_ensemble_is_the_members_as_they_were_trained(make_run, copy):
    from ddattr.files import load_tensors

    ensemble = make_run().ensemble()
    assert len(ensemble) == 6
    for k, network in enumerate(ensemble.members):
        saved = load_tensors(copy / "members" / f"{k:03d}" / "member.safetensors")
        assert all(torch.equal(saved[name], value) for name, value in network.state_dict().items())


def test_a_config_that_is_no_longer_struct_is_checked_all_the_same(compose):
    config = compose(*TINY)
    with open_dict(config):
        config.traning = {}
    with pytest.raises(ValueError, match="traning is unknown"):
        Run(config)


def test_a_block_is_in_no_fingerprint_and_a_table_of_some_units_is_in_one(make_run):
    """One of all units is in none: older runs do not speak of it."""
    asked = QuerySet(seeds=[100])
    for of in (lambda run: run.attribution_artifact, lambda run: run.query_set_artifact(asked)):
        artifact = of(make_run())
        assert not {"block", "kept"} & set(artifact.config["attribution"])
        assert of(make_run("attribution.block=7")).fingerprint == artifact.fingerprint
        assert of(make_run("attribution.kept=12")).fingerprint != artifact.fingerprint


def test_replays_in_lower_precision_are_another_artifact_and_those_in_float32_are_older_runs(make_run):
    for asked in (QuerySet(seeds=[100]), QuerySet()):
        plain = make_run("attribution.precision=float32").query_set_artifact(asked)
        rounded = make_run("attribution.precision=bfloat16").query_set_artifact(asked)
        assert plain.fingerprint == make_run("~attribution.precision").query_set_artifact(asked).fingerprint
        assert "precision" not in plain.config["attribution"]
        assert rounded.config["attribution"]["precision"] == "bfloat16"
        assert rounded.fingerprint != plain.fingerprint
    plain.make(0, lambda: None)
    with pytest.raises(ValueError, match=r"was made with attribution.precision=None \(now bfloat16\)"):
        rounded.done()


def test_an_unknown_precision_of_replays_is_refused(make_run):
    with pytest.raises(
        ValueError, match=r"^attribution.precision=float16, expected one of float32, bfloat16\. Set att"
    ):
        make_run("attribution.precision=float16")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *((key, 0, "1 or more") for key in ("queries", "batch", "ablation_units", "denoisings", "refine")),
        ("check", -1, "0 or more"),
        ("jacobian.tangents", 0, "1 or more"),
        ("jacobian.members_per_step", 0, "1 or more"),
        ("jacobian.members_per_step", 7, "1 to 6"),
    ],
)
def test_what_no_attribution_can_have_is_refused_before_a_member_is_trained(make_run, key, value, expected):
    name = key.rpartition(".")[2]
    with pytest.raises(ValueError, match=rf"{name}={value}, expected .*{expected}"):
        make_run(f"attribution.{key}={value}").check()


def test_validate_takes_no_table_of_some_units(make_run):
    with pytest.raises(ValueError, match=r"kept=12, expected null: .* Set attribution.kept"):
        validate.ready(make_run("attribution.kept=12"))
