"""The config that a run's folder keeps: what is kept, when, and that nothing it names runs before it is vetted."""

from pathlib import Path

import pytest
import yaml
from conftest import TINY, composed, contents, refused

from ddattr import cli, load
from ddattr.ensemble.sampling import SamplingModule
from ddattr.files import save_text
from ddattr.locks import locked
from ddattr.stages import evaluate, train
from ddattr.stages.run import Run
from ddattr.stages.saved import FORMAT, KEPT, PER_CALL, named, read, renewed, text

OWN = "own"  # whose nulls a rule fills in before anything is kept: test_rule
EXPERIMENTS = sorted({path.stem for path in (Path(cli.conf()) / "experiment").glob("*.yaml")} - {OWN})


def kept(root: Path) -> dict:
    return yaml.safe_load((root / "config.yaml").read_text())


def rewrite(root: Path, changed: dict) -> None:
    """Puts other keys into a folder's config; dotted ones below others."""
    config = kept(root)
    for path, value in changed.items():
        *above, key = path.split(".")
        node = config
        for part in above:
            node = node[part]
        node[key] = value
    (root / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.parametrize(
    "overrides",
    [
        *([f"experiment={name}"] for name in EXPERIMENTS),
        ["seed=9223372036854775807", "training.learning_rate=1e-9", "quality.sizes=[1,2]"],
        ["name='1e5'", "tracking.entity='null'", "tracking.project='2024-01-01'"],
        ["name='007'", "training=forked", "sampler=ddim", "tracking=online"],
        ["diffusion.scheduler._target_=diffusers.schedulers.scheduling_ddpm.DDPMScheduler"],
        ["unet._target_=diffusers.UNet2DModel"],
    ],
    ids=" ".join,
)
def test_what_is_kept_is_the_config_less_what_is_of_one_call(tmp_path, overrides):
    config = Run(composed(*overrides)).resolved()
    save_text(tmp_path / "config.yaml", text(config))
    assert (tmp_path / "config.yaml").read_text().startswith(f"format: {FORMAT}\n")
    expected = {key: value for key, value in config.items() if key not in PER_CALL}
    if expected["tracking"]["mode"] == "online":  # a folder sends nothing: whoever calls may
        expected["tracking"]["mode"] = "offline"
    assert read(tmp_path) == expected
    assert renewed(tmp_path, config) is None


def test_a_training_keeps_the_config_of_its_run(trained):
    assert set(kept(trained)) == KEPT | {"format"}
    assert read(trained)["training"]["steps"] == 20


@pytest.mark.parametrize(
    ("override", "written"),
    [
        ("attribution.queries=3", True),
        ("name=other", True),
        ("trainer.precision=bf16-mixed", True),
        ("trainer.devices=2", False),  # how a call trains, and where it is tracked, is the first call's
        ("tracking=offline", False),
        ("member=3", False),
        ("root=elsewhere", False),
        ("against=[runs/other]", False),
        ("power=0.9", False),
    ],
)
def test_it_is_written_where_what_results_depend_on_differs(make_run, copy, override, written):
    assert (renewed(copy, make_run(override).resolved()) is not None) == written


def test_how_another_call_trains_and_where_it_is_tracked_is_not_kept_beside_what_it_changes(make_run, copy):
    make_run(
        "attribution.queries=3", "trainer=processes", "trainer.precision=bf16-mixed", "tracking=online"
    ).save_config()
    now = kept(copy)
    assert now["attribution"]["queries"] == 3
    assert now["trainer"]["devices"] == 1
    assert now["trainer"]["precision"] == "bf16-mixed"
    assert now["tracking"]["mode"] == "disabled"


def test_a_call_that_is_refused_or_has_nothing_to_do_leaves_it(ddattr, copy):
    before = contents(copy)
    for argv in (["evaluate", "quality.sizes=[1,7]"], ["train", "member=0", "training.steps=21"], ["report"]):
        refused(ddattr(argv[0], *TINY, f"root={copy}", *argv[1:]))
    assert ddattr("train", "member=0", *TINY, f"root={copy}", "attribution.queries=3").status == 0
    assert ddattr("status", *TINY, f"root={copy}", "attribution.queries=3").status == 3  # members alone are made
    assert contents(copy) == before


@pytest.mark.parametrize("through", [0, 1])
def test_a_call_that_does_something_else_writes_it_once_a_batch_is_through(make_run, copy, monkeypatch, through):
    """Not before, when a step may still refuse; and not at the end, which a call that is killed does not reach."""
    step, calls = SamplingModule.predict_step, []

    def failing(self, *args):
        calls.append(args)
        return step(self, *args) if len(calls) <= through else 1 / 0

    monkeypatch.setattr(SamplingModule, "predict_step", failing)
    with pytest.raises(ZeroDivisionError):
        evaluate.run(make_run("quality.pictures=8"))
    assert kept(copy)["quality"]["pictures"] == (8 if through else 4)


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_a_folder_without_one_gets_it_from_the_first_call_that_finds_its_work_done(make_run, copy, state):
    (copy / "config.yaml").unlink()
    train.run(make_run("member=0"))
    assert read(copy)["name"] == "digits_small"
    if state == "damaged":
        (copy / "config.yaml").write_text("]")
        make_run().save_config()
        assert read(copy)["name"] == "digits_small"


def test_a_rank_above_0_writes_none(make_run, copy, monkeypatch):
    before = contents(copy)
    monkeypatch.setenv("RANK", "1")
    make_run("attribution.queries=3").save_config()
    assert contents(copy) == before


DAMAGED = {
    "no folder": (None, ["is no folder, expected that of a run", "begin it: ddattr reproduce root="]),
    "no config": ("", ["config.yaml is missing", "give its own overrides once", "ddattr train member=0"]),
    "no keys": ("- 1", ["is damaged: it has no keys", "Delete that file"]),
    "no text": ("\x00", ["is damaged"]),
    "no YAML": ("a: [", ["is damaged"]),
    "bottomless": ("[" * 3000, ["is damaged"]),
    "a key twice": ("format: 1\nformat: 1", ["is damaged"]),
    "a newer format": ("format: 2", ["has format=2, expected 1", "a newer one"]),
    "a format of another kind": ("format: [1]", ["has format=[1], expected 1"]),
    "no format": ("name: x", ["has format=None, expected 1"]),
    "too few keys": ("format: 1\nname: x", ["key attribution is missing"]),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_folder_that_is_none_is_one_line(ddattr, tmp_path, what):
    content, words = DAMAGED[what]
    folder = tmp_path / "runs" / "x"
    if content is not None:
        folder.mkdir(parents=True)
    if content:
        (folder / "config.yaml").write_text(content)
    before = contents(tmp_path)
    refused(ddattr("status", "runs/x"), "runs/x", *words)
    with pytest.raises((FileNotFoundError, ValueError), match=r"^[^\n]+$"):
        load(folder)
    assert contents(tmp_path) == before


EVIL = {"_target_": "evil.make", "path": "canary"}
FOREIGN = {
    "a constructor": ({"sampler": EVIL}, "sampler._target_=evil.make is no constructor of ddattr's"),
    "one further in": (
        {"data.source": {"_target_": "ddattr.data.sources.first.first", "source": EVIL}},
        "source.source",
    ),
    "one in a list": ({"validation.removal_sizes": [5, EVIL]}, "validation.removal_sizes.1._target_=evil.make"),
    "one in a list of lists": (
        {"validation.removal_sizes": [[EVIL]]},
        "validation.removal_sizes.0.0._target_=evil.make",
    ),
    "a partial one": ({"attribution.jacobian": {**EVIL, "_partial_": True}}, "attribution.jacobian._target_"),
    "one where anything goes": ({"trainer.plugins": EVIL}, "trainer.plugins._target_=evil.make"),
    "one that is a list": ({"sampler._target_": ["evil.make"]}, "sampler._target_"),
    "one of the system": ({"sampler": {"_target_": "os.system", "command": "touch canary"}}, "os.system"),
    "one with arguments": ({"sampler._args_": ["canary"]}, "sampler._args_ is of no saved config"),
    "one of ours that is of no config": (
        {"sampler": {"_target_": "ddattr.files.save_text", "path": "canary", "content": "x"}},
        "ddattr.files.save_text",
    ),
    "one of Hydra's": ({"sampler": {"_target_": "hydra.utils.get_method", "path": "evil.make"}}, "get_method"),
    "one called like a scheduler": ({"diffusion.scheduler": {"_target_": "evil.DDPMScheduler"}}, "evil.DDPMScheduler"),
    "a method of a scheduler": (
        {"diffusion.scheduler": {"_target_": "diffusers.DDPMScheduler.from_pretrained"}},
        "from_pretrained",
    ),
    "a module of a module": ({"unet._target_": "diffusers.utils.os.system"}, "diffusers.utils.os.system"),
    "an interpolation": ({"name": "${oc.env:HOME}"}, "name=${oc.env:HOME} is an interpolation"),
    "an interpolation in a word": ({"tracking.project": "a${seed}"}, "is an interpolation"),
    "an interpolation in a list": ({"quality.sizes": ["${seed}"]}, "quality.sizes.0=${seed} is an interpolation"),
    "a key that is one": ({"sampler.${seed}": 1}, "key sampler.${seed} is of no saved config"),
    "Hydra's own": ({"hydra": {"launcher": EVIL}}, "key hydra is unknown"),
    "a search path": ({"hydra": {"searchpath": ["file:///tmp"]}}, "key hydra is unknown"),
    "defaults": ({"defaults": [{"sampler": "ddim"}]}, "key defaults is unknown"),
    "a verb": ({"stage": "train"}, "key stage is unknown"),
    "another folder": ({"root": "elsewhere"}, "key root is unknown"),
    "a misspelt key": ({"samplr": 1}, "Did you mean sampler?"),
    "a name that leads elsewhere": ({"name": "../../elsewhere"}, "expected 1 to 100 letters"),
    "an option of a Trainer": ({"trainer.fast_dev_run": True}, "key trainer.fast_dev_run is of no saved config"),
    "no group": ({"sampler": 3}, "sampler is 3, expected the keys of a constructor"),
    "a group without constructor": ({"sampler": {"steps": 3}}, "expected the keys of a constructor"),
}


@pytest.fixture
def evil(tmp_path, monkeypatch) -> Path:
    """A module that leaves a file when it is imported, and one when it is called."""
    folder = tmp_path / "evil"
    folder.mkdir()
    touch = f"open({str(tmp_path / 'canary')!r}, 'w')"
    (folder / "evil.py").write_text(f"{touch}\ndef make(*_, **__): {touch}\nclass DDPMScheduler: pass\n")
    monkeypatch.syspath_prepend(str(folder))
    return tmp_path / "canary"


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_folder_runs_nothing_of_its_own(ddattr, copy, evil, what):
    changed, words = FOREIGN[what]
    rewrite(copy, changed)
    before = contents(copy)
    refused(ddattr("status", str(copy)), str(copy / "config.yaml"), words)
    refused(ddattr("train", str(copy), "-m", "member=0,1", "sampler=ddim", "tracking=none"), words)
    refused(ddattr("plan", str(copy), "--cfg", "job"), words)
    refused(ddattr("status", "--help", str(copy)), words)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        load(copy)
    assert not evil.exists()
    assert contents(copy) == before


@pytest.mark.parametrize(
    "line", ["name: !!python/object/apply:os.system ['touch canary']", "seed: !!python/name:os.system"]
)
def test_a_tag_of_python_is_damage(ddattr, copy, line):
    with (copy / "config.yaml").open("a") as file:
        file.write(line + "\n")
    refused(ddattr("status", str(copy)), "is damaged")
    assert not (copy.parent / "canary").exists()


def test_what_the_own_command_line_names_may_be_kept(ddattr, tmp_path):
    """And is asked for again: the folder may have changed hands."""
    tiny = [override for override in TINY if not override.startswith(("data.source", "experiment"))]
    source = "data.source={_target_: conftest.shapes}"
    said = ddattr("train", "member=0", "experiment=digits", *tiny, source, "root=run")
    assert said.status == 0, said.err
    refused(ddattr("status", "run"), "data.source._target_=conftest.shapes", "name it yourself")
    said = ddattr("status", "run", "data.source._target_=conftest.shapes")
    assert "1 done, 5 missing" in said.out
    assert load(tmp_path / "run", trusted=["conftest.shapes"]).data.shape == (3, 6, 10)


def test_constructors_of_a_command_line_are_found_however_they_are_written():
    words = ["a._target_=x.y", "+b._target_='x.z'", "c={_target_: m.n, d: {'_target_': o.p}}", "e=_target_", "f=1"]
    assert named(words) == {"x.y", "x.z", "m.n", "o.p"}
    assert named(["run='./_target_=os.system'"]) == set()


def test_a_folder_of_before_there_was_a_choice_compares_pixels(copy):
    """What it found near was near in pixels, of whatever size."""
    path = copy / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["data"]["similarity"]
    path.write_text(yaml.safe_dump(config))
    assert read(copy)["data"]["similarity"] == "pixels"


def test_a_folder_of_when_the_p_of_sets_was_of_draws_is_read(copy):
    path = copy / "config.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(config | {"significance": config["significance"] | {"draws": 500}}))
    assert read(copy)["significance"] == config["significance"]


def test_aliases_which_can_be_without_end_are_refused(copy):
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace("sampler:", "sampler: &a\n  more: *a\n", 1))
    with pytest.raises(ValueError, match=r"^[^\n]*is damaged: it has aliases[^\n]*$"):
        read(copy)


def test_a_trainer_s_further_options_are_of_their_call(copy, make_run):
    """A folder keeps those that conf/ has, so that it can be read again."""
    content = renewed(copy, make_run("+trainer.max_time=null", "trainer.precision=bf16-mixed").resolved())
    assert "max_time" not in content
    (copy / "config.yaml").write_text(content)
    assert read(copy)["trainer"]["precision"] == "bf16-mixed"


def test_a_lock_that_leads_elsewhere_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"), locked(tmp_path / "run"):
        pass
    assert victim.read_text() == "kept"
