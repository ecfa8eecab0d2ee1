"""The command line: Hydra's, with a verb; and bad input, which costs one line, exit status 2, and nothing else."""

import json
import os
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, answer, composed, contents, environment, refused, spawn

from ddattr import cli
from ddattr.codebook import Codebook
from ddattr.stages import plan, processes
from ddattr.stages.run import Run

# what is wrong, the command line, and words of the one line
BAD = {
    "codebook too small": (["plan", "codebook.members=4"], ["12 distinct codewords", "Set codebook.members to"]),
    "weight 0": (["plan", "codebook.weight=0"], ["weight=0, expected 1 to 5"]),
    "weight n": (["plan", "codebook.weight=6"], ["weight=6, expected 1 to 5"]),
    "too many members": (["plan", "codebook.members=1025"], ["members=1025, expected 2 to 1024"]),
    "members no number": (["plan", "codebook.members=many"], ["codebook", "members"]),
    "quality of more members": (["reproduce", "quality.sizes=[1,7]"], ["sizes=[1, 7], expected values from 1 to 6"]),
    "no member": (["train"], ["train: member is missing", "ddattr train -m"]),
    "negative member": (["train", "member=-1"], ["member=-1 does not exist: members are 0 to 5"]),
    "member too large": (["train", "member=6"], ["member=6 does not exist: members are 0 to 5"]),
    "member no integer": (["train", "member=1.5"], ["member=1.5 does not exist"]),
    "member no number": (["train", "member=one"], ["member=one does not exist"]),
    "sweep without -m": (["train", "member=range(0,3)"], ["member=range(0,3)", "requires --multirun"]),
    "power of chance": (["plan", "power=0.05"], ["power=0.05, significance.level=0.05", "Set power"]),
    "power no number": (["plan", "power=much"], ["power=much", "Set power"]),
    "level above 1": (["plan", "significance.level=2.0"], ["significance: level=2.0, expected between 0 and 1"]),
    "removed no list": (
        ["plan", "validation.removal_sizes=5"],
        ["removal_sizes=5, expected a list of int", "removal_sizes=[...]'"],
    ),
    "removed no numbers": (["plan", "validation.removal_sizes=[a]"], ["removal_sizes=['a'], expected a list of int"]),
    "removed no whole numbers": (
        ["plan", "validation.removal_sizes=[1.5]"],
        ["removal_sizes=[1.5], expected a list of int"],
    ),
    "peers null": (["plan", "validation.peers=null"], ["peers=None, expected a list of str"]),
    "one method and no list": (["plan", "validation.removal_methods=jvp"], ["removal_methods=jvp, expected a list"]),
    "sizes no list": (["plan", "quality.sizes=4"], ["quality.sizes=4, expected a list of int"]),
    "unit no number": (["retrain", "unit=[1.5]"], ["unit=[1.5], expected numbers of units"]),
    "negative seed": (["plan", "seed=-1"], ["seed=-1, expected an integer from 0"]),
    "seed no integer": (["plan", "seed=1.5"], ["seed=1.5, expected an integer from 0"]),
    "misspelt verb": (["trian", "member=0"], ["no verb 'trian', expected one of", "Did you mean train?"]),
    "misspelt key": (["plan", "sed=1"], ["key sed is unknown, expected one of experiment, name", "Did you mean seed?"]),
    "misspelt key in a group": (
        ["plan", "codebook.member=24"],
        ["codebook.member is unknown, expected one of members, weight, seed, design. Did you mean codebook.members?"],
    ),
    "misspelt key before the verb": (["codebook.member=3", "plan"], ["Did you mean codebook.members?"]),
    "misspelt key in a misspelt group": (["plan", "trainig.stpes=1"], ["trainig.stpes", "mean training.steps?"]),
    "key of another option": (["plan", "sampler=ddim", "sampler.etta=1"], ["Did you mean sampler.eta?"]),
    "key without its group": (["plan", "members=24"], ["Did you mean codebook.members?"]),
    "key of several groups": (
        ["plan", "batch=4"],
        ["Did you mean training.batch or quality.batch or attribution.batch?"],
    ),
    "key like no other": (["plan", "zzz=1"], ["key zzz is unknown", "List the keys: ddattr plan --cfg job"]),
    "misspelt group": (["plan", "smapler=ddim"], ["smapler", "Did you mean sampler?"]),
    "misspelt group of experiments": (["plan", "experimnt=digits"], ["experimnt", "Did you mean experiment?"]),
    "misspelt option": (
        ["plan", "sampler=ddi"],
        ["sampler=ddi is unknown, expected one of ddim, ddpm. Did you mean sampler=ddim?"],
    ),
    "option like no other": (["plan", "sampler=x"], ["sampler=x is unknown, expected one of ddim, ddpm. Set sampler."]),
    "group without an option": (["plan", "conditions=null"], ["a group is set to null", "'~KEY'"]),
    "misspelt experiment": (
        ["plan", "experiment=digit"],
        ["experiment=digit is unknown, expected one of clusters_removed", "Did you mean experiment=digits?"],
    ),
    "misspelt launcher": (["plan", "hydra/launcher=proceses"], ["Did you mean hydra/launcher=processes?"]),
    "option of the program that does not exist": (["plan", "--foo"], ["unrecognized arguments: --foo. List the"]),
    "option of the program without a value": (["plan", "--cfg"], ["--cfg/-c: expected one argument"]),
    "+key": (["plan", "+sede=1"], ["sede is unknown", "Did you mean seed? Remove sede=."]),
    "+key in a group": (["plan", "+training.stpes=1"], ["training.stpes is unknown", "Did you mean steps?"]),
    "+key in the jacobian": (["plan", "+attribution.jacobian.member_per_step=2"], ["member_per_step is unknown"]),
    "+key in the scheduler": (["plan", "+diffusion.scheduler.betas=2"], ["diffusion.scheduler.betas is unknown"]),
    "no override at all": (
        ["plan", "foo"],
        ["'foo' is no override, expected key=value. List the keys: ddattr plan --help"],
    ),
    "a key and no value": (["train", "member", "3"], ["'member' is no override, expected key=value. Did you mean"]),
    "a value and no key": (["plan", "=3"], ["'=3' is no override, expected key=value"]),
    "two verbs": (["plan", "train"], ["'train' is no override, expected key=value"]),
    "an override that cannot be read": (["plan", "seed==1"], ["override seed==1 cannot be read, expected key=value"]),
    "compare with nothing": (["compare"], ["compare: against=[], expected folders of runs. Set against=[runs/NAME]."]),
    "units of another name": (["plan", "data.units=artist"], ["units=artist, expected image, label, cluster"]),
    "count too large": (["plan", "data.source.count=1798"], ["count=1798, expected 1 to 1797"]),
    "count no number": (["plan", "data.source.count=few"], ["data"]),
    "file that is missing": (
        ["plan", "experiment=digits", "data=idx", "data.source.images=/nowhere/x"],
        ["/nowhere/x is missing"],
    ),
    "too many steps": (
        ["train", "root=new", "member=0", "sampler.steps=1001", "quality.while_training=true"],
        ["steps=1001, expected 1 to 1000"],
    ),
    "draws of another name": (
        ["train", "root=new", "member=0", "training.draws=shared"],
        ["draws=shared, expected common"],
    ),
    "no step": (["train", "member=0", "training.steps=0"], ["training: steps=0, expected 1 or more"]),
    "no step of a base": (["retrain", "training=forked", "training.steps=0"], ["steps=0, expected 1 or more"]),
    "no picture a batch": (["plan", "training.batch=0"], ["batch=0, expected 1 or more"]),
    "epochs of no step": (["train", "member=0", "training.epoch_steps=0"], ["epoch_steps=0, expected 1 or more"]),
    "negative warm-up": (["plan", "training.warmup=-1"], ["warmup=-1, expected 0 or more"]),
    "negative rate": (["plan", "training.learning_rate=-0.1"], ["learning_rate=-0.1, expected 0 or more"]),
    "average of more than itself": (["plan", "training.ema=2"], ["ema=2, expected 0 to 1. Set training.ema."]),
    "fork of no step": (["plan", "training=forked", "training.fork.steps=0"], ["fork.steps=0, expected 1 or more"]),
    "fork of negative steps": (
        ["train", "member=0", "training=forked", "training.fork.steps=-5"],
        ["fork.steps=-5, expected 1 or more. Set training.fork.steps."],
    ),
    "misspelt key of a fork": (["plan", "training=forked", "training.fork.stpes=5"], ["fork.stpes is unknown"]),
    "+key of a fork": (
        ["plan", "training=forked", "+training.fork.stpes=5"],
        ["training.fork.stpes is unknown, expected one of steps, learning_rate, warmup"],
    ),
    "fork that is none": (["plan", "training.fork=5"], ["fork=5, expected null", "Set training=forked."]),
    "members of a run that is not forked": (["train", "member=0", "training=forked"], ["training.fork", "(now "]),
    "tracking of another mode": (
        ["train", "root=new", "member=0", "tracking=offline", "tracking.mode=ofline"],
        ["mode=ofline, expected"],
    ),
    "sizes too large": (["evaluate", "quality.sizes=[1,7]"], ["sizes=[1, 7], expected values from 1 to 6"]),
    "rotation too large": (
        ["attribute", "attribution.jacobian.members_per_step=7"],
        ["members_per_step=7, expected 1 to 6"],
    ),
    "no query": (["attribute", "attribution.queries=0"], ["queries=0, expected 1 or more"]),
    "retraining without a unit that does not exist": (["retrain", "unit=12"], ["unit 12 does not exist", "0 to 11"]),
    "retraining without a set that does not exist": (["retrain", "unit=label:77"], ["no set 'label:77'", "label:"]),
    "retraining a member that never saw the unit": (["retrain", "unit=0", "member=5"], ["never saw unit 0"]),
    "retraining a member that the truth leaves out": (
        [
            "retrain",
            "member=0",
            "validation.retrained_members=2",
            "validation.removal_sizes=[1]",
            "attribution.queries=5",
        ],
        ["member 0 is not among the truth's members [", "choose one of them"],
    ),
    "subset that leaves a member no data": (
        [
            "retrain",
            "root=new",
            "unit=0",
            "data.source.count=6",
            "codebook.weight=1",
            "validation.removal_sizes=[1]",
            "validation.retrained_units=0",
            "validation.retrained_members=6",
        ],
        ["has no data left", "Remove less"],
    ),
    "fewer pictures than members need": (
        ["plan", "data.source.count=4", "data.clusters=1"],
        ["with 4 units some of members=6 weight=2", "expected 5 units or more"],
    ),
    "name of two folders": (["plan", "name=a/b"], ["name=a/b, expected 1 to 100 letters"]),
    "name that W&B cuts": (["plan", "name=a:b"], ["name=a:b, expected 1 to 100 letters"]),
    "name above the folder": (["plan", "name=.."], ["name=.., expected"]),
    "no name": (["plan", "name="], ["name=, expected"]),
    "long name": (["plan", f"name={'x' * 101}"], ["expected 1 to 100 letters"]),
    "no root": (["plan", "root="], ["root=, expected a folder"]),
    "spacing that stops short": (
        ["train", "root=new", "member=0", "+diffusion.scheduler.timestep_spacing=leading"],
        ["sampler: steps=3, spaced as leading, begin at timestep 666 of 1000"],
    ),
    "offset past the end": (
        ["train", "root=new", "member=0", "+diffusion.scheduler.steps_offset=1", "sampler.steps=1000"],
        ["begin at timestep 1000, expected 0 to 999"],
    ),
    "no signal at the end": (
        ["train", "root=new", "member=0", "+diffusion.scheduler.rescale_betas_zero_snr=true"],
        ["rescale_betas_zero_snr=True leaves nothing"],
    ),
    "key that is not heeded": (["plan", "+diffusion.scheduler.thresholding=true"], ["thresholding=True"]),
    "negative betas": (["plan", "diffusion.scheduler.beta_start=-1"], ["betas from -1 to 0.02", "beta_start"]),
    "betas that are none": (
        ["plan", "diffusion.scheduler.beta_start=-1", "diffusion.scheduler.beta_schedule=scaled_linear"],
        ["diffusion: ", "Check the keys"],
    ),
    "schedule of another name": (
        ["plan", "diffusion.scheduler.beta_schedule=foo"],
        ["beta_schedule=foo, expected one of linear, scaled_linear, squaredcos_cap_v2"],
    ),
    "no timestep": (["plan", "diffusion.scheduler.num_train_timesteps=-3"], ["diffusion: ", "Check the keys of diff"]),
    "groups that do not divide": (["plan", "unet.norm_num_groups=7"], ["norm_num_groups=7", "expected one of 1, 2, 4"]),
    "classes": (["plan", "+unet.num_class_embeds=10"], ["num_class_embeds=10", "Set conditions=classes"]),
    "size of the network": (["plan", "+unet.sample_size=-3"], ["unet.sample_size is not for the config"]),
    "levels that do not fit": (
        ["plan", "unet.block_out_channels=[4,4,4,4,4]", f"unet.down_block_types=[{','.join(['DownBlock2D'] * 5)}]"],
        ["pictures of 8 x 8 do not fit 5 levels", "multiples of 16"],
    ),
    "block of another name": (["plan", "unet.down_block_types=[DownBlock2D,Foo]"], ["unet: Foo does not exist"]),
    "negative clipping": (
        ["train", "root=new", "member=0", "training.gradient_clip=-1"],
        ["training: gradient_clip=-1, expected more than 0. Set training.gradient_clip."],
    ),
    "rate that is no number": (["plan", "training.learning_rate=nan"], ["learning_rate=nan, expected 0 or more"]),
    "accelerator that is not there": (["plan", "trainer.accelerator=tpu"], ["trainer: ", "Check the keys of trainer"]),
    "no device": (["train", "root=new", "member=0", "trainer.devices=0"], ["trainer: ", "devices=0"]),
    "more removed than there are": (
        ["validate", "validation.removal_sizes=[12]"],
        ["removal_sizes=12, expected 1 to 11"],
    ),
    "too few members for an interval": (
        ["validate", "validation.retrained_members=1", "attribution.queries=5"],
        ["validation: retrained_members=1 is too few for an interval"],
    ),
    "too few members of a part": (["validate", "validation.ensemble_sizes=[2]"], ["ensemble_sizes=2, expected 3 to"]),
    "too few units for an interval to retrain": (
        ["retrain", "validation.retrained_units=4"],
        ["retrained_units=4 is too few"],
    ),
    "too few queries for an interval to retrain": (["retrain", "attribution.queries=4"], ["queries=4 is too few"]),
    "too few units for an interval": (
        ["validate", "validation.retrained_units=4"],
        ["retrained_units=4 is too few for an interval, expected 5 or more, or 0"],
    ),
    "too few subsets for an interval": (
        ["validate", "validation.lds_subsets=4"],
        ["lds_subsets=4 is too few for an interval"],
    ),
    "too few queries for an interval": (
        ["validate", "attribution.queries=4"],
        ["attribution: queries=4 is too few for an interval, expected 5 or more"],
    ),
    "too few queries of a removal": (
        ["validate", "validation.removal_queries=4"],
        ["removal_queries=4 is too few for an interval"],
    ),
    "peer of another name": (["validate", "validation.peers=[track]"], ["peers=track, expected gradient_dot"]),
    "sets of another name": (["validate", "validation.groups=artist"], ["groups=artist, expected unit, label"]),
    "validate before attribute": (["validate", "attribution.queries=5"], ["is missing. Make it: ddattr attribute"]),
    "report before attribute": (["report"], ["is missing. Make it: ddattr evaluate"]),
    "another config": (
        ["evaluate", "training.steps=21"],
        ["was made with training.steps=20 (now 21)", "Choose another name="],
    ),
    "another codebook": (["train", "member=0", "codebook.weight=3"], ["codebook", "h=2 (now 3)"]),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_status_2_and_touches_nothing(ddattr, copy, what):
    argv, words = BAD[what]
    before = contents(copy)
    verb, *rest = argv
    own = {override.partition("=")[0] for override in argv}
    tiny = TINY if "data" not in own else [o for o in TINY if not o.startswith("data.source")]
    tiny = [override for override in tiny if override.partition("=")[0] not in own & {"experiment", "tracking"}]
    refused(ddattr(verb, *tiny, f"root={copy}", *rest), *words)
    assert contents(copy) == before


@pytest.mark.parametrize("units", ["image", "cluster"])
@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_too_few_pictures_or_the_same_over_and_over_are_one_line_with_the_number_that_works(ddattr, count, units):
    tiny = [override for override in TINY if not override.startswith(("data.source", "experiment", "data.clusters"))]
    source = ["experiment=digits", "data.source._target_=conftest.alike", f"+data.source.count={count}"]
    said = ddattr("plan", *tiny, *source, f"data.units={units}", "data.clusters=1")
    distinct = 1 if count else 0
    refused(said, f"with {distinct} units some of members=6 weight=2 would train on nothing, expected 5 units or more")


@pytest.mark.slow
def test_the_smallest_number_of_pictures_works(ddattr, tmp_path):
    tiny = [override for override in TINY if not override.startswith("data.source.count")]
    argv = [*tiny, "data.source.count=5", f"root={tmp_path / 'run'}", "attribution.ablation_units=5"]
    for verb in (["train", "-m", "member=range(0,6)"], ["evaluate"], ["attribute"], ["report"]):
        said = ddattr(*verb, *argv)
        assert said.status == 0, said.err


@pytest.mark.parametrize("asked", ["validation.removal_sizes=[12]", "validation.peers=[track]", "validation.peers=[]"])
def test_a_validation_that_is_refused_leaves_not_even_a_folder(ddattr, tmp_path, asked):
    """The last of these for want of an attribution."""
    refused(ddattr("validate", *TINY, "root=new", "attribution.queries=5", asked))
    assert list(tmp_path.iterdir()) == []


def spoil(copy, how: str) -> None:
    folder = copy / "members" / "003"
    if how == "missing":
        shutil.rmtree(folder)
    elif how == "half-trained":
        (folder / "manifest.json").unlink()
        (folder / "member.safetensors").unlink()
        (folder / "status.json").write_text(json.dumps({"state": "interrupted", "step": 10}))
    elif how == "foreign":
        shutil.rmtree(folder)
        shutil.copytree(copy / "members" / "001", folder)
    elif how == "truncated":
        content = (folder / "member.safetensors").read_bytes()
        (folder / "member.safetensors").write_bytes(content[: len(content) // 2])
    elif how == "without weights":
        (folder / "member.safetensors").unlink()
    elif how == "with a damaged manifest":
        (folder / "manifest.json").write_text('{"finger')
    elif how == "with a foreign manifest":
        (folder / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", ["member 3 of 6 is missing", "Train it: ddattr train member=3"]),
        ("half-trained", ["member 3 of 6 is interrupted", "Train it: ddattr train member=3"]),
        ("foreign", ["003", "member=1 (now 3)"]),
        ("truncated", ["003", "is damaged", "make it again"]),
        ("without weights", ["003", "member.safetensors"]),
        ("with a damaged manifest", ["003", "manifest.json is damaged"]),
        ("with a foreign manifest", ["003"]),
    ],
)
@pytest.mark.parametrize("verb", ["evaluate", "attribute"])
def test_a_member_that_is_not_one_is_refused_and_nothing_is_touched(ddattr, copy, how, words, verb):
    spoil(copy, how)
    before = contents(copy)
    refused(ddattr(verb, *TINY, f"root={copy}"), *words)
    assert contents(copy) == before


@pytest.mark.parametrize("root", ["file/below", "/proc/nowhere", "/sys/nowhere/x"])
@pytest.mark.parametrize("verb", ["train", "reproduce"])
def test_a_root_that_cannot_be_written_to_is_refused(ddattr, tmp_path, root, verb):
    (tmp_path / "file").write_text("no folder")
    if verb == "train":
        refused(ddattr("train", *TINY, f"root={root}", "member=0"), "root=")
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_folder_without_permission_is_refused(ddattr, tmp_path, monkeypatch):
    """As a user who is not root would see it."""
    make = Path.mkdir

    def mkdir(self, *args, **kwargs):
        if "locked" in str(self):
            raise PermissionError(13, "Permission denied", str(self))
        return make(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    refused(ddattr("train", *TINY, f"root={tmp_path / 'locked'}", "member=0"), "ermission denied", "Set root=")
    assert not list(tmp_path.iterdir())


def test_online_without_a_key_is_refused(ddattr, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    tiny = [override for override in TINY if not override.startswith("tracking")]
    said = ddattr("train", *tiny, f"root={tmp_path / 'run'}", "member=0", "tracking=online")
    refused(said, "mode=online needs a key")
    assert not (tmp_path / "run").exists()


def test_what_is_done_is_skipped_and_left_alone(ddattr, copy):
    before = contents(copy)
    said = ddattr("train", *TINY, f"root={copy}", "member=2")
    assert said.status == 0
    assert said.out == "member 2: already done\n"
    assert contents(copy) == before


@pytest.mark.usefixtures("untimed")
def test_seed_0_is_a_seed(ddattr):
    plans = [ddattr("plan", *TINY, f"seed={seed}") for seed in (0, 0, 1)]
    assert all(said.status == 0 for said in plans)
    assert "seed 0" in plans[0].out
    assert "seed 1" in plans[2].out


def test_a_plan_trains_and_writes_nothing(ddattr, tmp_path):
    said = ddattr("plan", *TINY, "trainer.accelerator=cpu")
    assert said.status == 0
    assert not said.err
    assert "time, one cpu process" in said.out
    assert not list(tmp_path.iterdir())
    for words in ("12 units, n=6 members, weight h=2", "15 codewords, 3 phantoms", "smallest q", "memory", "disk"):
        assert words in said.out
    assert "no single unit can reach q <= 0.05" in said.out


@pytest.mark.usefixtures("untimed")
def test_a_plan_estimates_the_processes_that_are_started(ddattr):
    """`reproduce` starts one a core; a launcher that was chosen, as many as it says."""
    cpu = ["plan", *TINY, "trainer.accelerator=cpu"]
    assert f"reproduce, {os.cpu_count()} processes" in ddattr(*cpu).out
    for jobs, started in ((3, 3), (-1, os.cpu_count()), (-100, 1)):
        said = ddattr(*cpu, "hydra/launcher=processes", f"hydra.launcher.n_jobs={jobs}")
        assert f"reproduce, {started} processes" in said.out


def test_members_side_by_side_take_rounds(monkeypatch):
    monkeypatch.setattr(plan, "launched", lambda: 4)
    monkeypatch.setattr(plan, "cores", lambda: 2)
    told = plan._together(
        Run(composed(*TINY)), torch.device("cpu"), {"train": 60.0, "evaluate": 10.0, "attribute": 30.0}
    )
    assert told == ("reproduce, 4 processes", "about 40 s, data and figures apart")  # 2 rounds of 10 s, and 40 s on 2


@pytest.mark.usefixtures("untimed")
def test_a_plan_says_on_a_terminal_what_it_is_doing_and_nowhere_else(ddattr, monkeypatch):
    assert not ddattr("plan", *TINY).err
    monkeypatch.setattr(cli._WithoutPreamble, "isatty", lambda self: True)
    said = ddattr("plan", *TINY)
    assert all(line.startswith("plan: ") and line.endswith(" ...") for line in said.err.splitlines())
    assert "plan: reading the data" in said.err.splitlines()[0]
    assert "timing steps of the network" in said.err


@pytest.mark.usefixtures("untimed")
def test_plan_warns_of_a_code_that_no_single_unit_can_pass(ddattr):
    """128 units at level 0.05 take a null of 2,560, the unit itself among it; 14 members of weight 6 have that."""
    argv = ["plan", "experiment=digits_small", "codebook.members=14"]
    assert "no single unit" not in ddattr(*argv).out
    pinned = ddattr(*argv[:2], "codebook.weight=4").out
    assert "Set codebook.members to 14 or more and codebook.weight to null" in pinned


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampler.steps=600", "600 sampler steps are spaced as `trailing`"),
        ("diffusion.scheduler.num_train_timesteps=100", "60% of a picture is left at the last of 100 timesteps"),
    ],
)
def test_plan_and_the_log_of_a_training_warn_of_what_samples_will_lack(ddattr, override, words):
    for said in (ddattr("plan", *TINY, override), ddattr("train", *TINY, override, "member=0", "root=new")):
        assert said.status == 0
        assert sum(line.startswith("warning: ") and words in line for line in said.out.splitlines()) == 1


def test_cfg_job_shows_the_config_and_runs_nothing(ddattr, tmp_path):
    for argv in (["train", "--cfg", "job"], ["--cfg", "job", "train"], ["train", "--cfg", "job", "training.steps=77"]):
        said = ddattr(*argv) if argv[0] != "--cfg" else ddattr("--cfg", "job", "stage=train")
        assert said.status == 0
        assert "stage: train" in said.out
        assert "members: 18" in said.out
        assert ("steps: 77" in said.out) == ("training.steps=77" in argv)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_multirun_trains_every_member_that_is_missing(ddattr, copy):
    spoil(copy, "missing")
    shutil.rmtree(copy / "members" / "005")
    said = ddattr("train", "-m", "member=range(0,6)", *TINY, f"root={copy}")
    assert said.status == 0
    assert [f"member {k}: already done" in said.out for k in range(6)] == [True, True, True, False, True, False]
    assert all((copy / "members" / f"{k:03d}" / "manifest.json").exists() for k in range(6))


def test_a_multirun_of_one_bad_member_is_one_line_too(ddattr, copy):
    before = contents(copy)
    refused(ddattr("train", "-m", "member=9", *TINY, f"root={copy}"), "member=9 does not exist")
    assert contents(copy) == before


def test_an_option_may_stand_anywhere(ddattr, copy):
    for argv in (["train", "member=0,1", "-m"], ["train", "-m", "member=0,1"], ["-m", "stage=train", "member=0,1"]):
        said = ddattr(*argv, *TINY, f"root={copy}")
        assert said.status == 0
        assert said.out.count("already done") == 2


def test_the_retired_verb_key_is_the_verb(ddattr, copy):
    assert ddattr("stage=train", *TINY, f"root={copy}", "member=0").out == "member 0: already done\n"


@pytest.mark.parametrize("argv", [["seed=1"], ["-m", "member=0,1"]])
def test_without_a_verb_the_verbs_are_named(ddattr, tmp_path, argv):
    refused(ddattr(*argv), "no verb", *cli.VERBS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv", [["plan", "-m", "--cfg", "job"], ["--info", "-m"], ["-sc"], ["-sc", "install=tcsh"], ["-sc", "query=bash"]]
)
def test_options_that_make_no_sense_together_or_alone_are_refused(ddattr, argv):
    refused(ddattr(*argv), "expected")


@pytest.mark.parametrize(
    "argv",
    [
        ["--hydra-help"],
        ["plan", "--hydra-help"],
        ["--info"],
        ["plan", "--info"],
        ["--info", "config"],
        ["--cfg", "job"],
        ["plan", "--cfg", "hydra"],
        ["-sc", "install=bash"],
    ],
)
def test_what_users_of_hydra_know_works_with_a_verb_and_without(ddattr, argv):
    said = ddattr(*argv)
    assert said.status == 0
    assert len(said.out.splitlines()) > 30


def test_a_bug_keeps_its_traceback(ddattr, monkeypatch):
    """Only input is refused in one line; what is wrong in the program must be seen whole."""
    monkeypatch.setattr("ddattr.stages.plan.describe", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ddattr("plan", *TINY)


def test_a_value_error_of_a_library_is_a_bug_and_keeps_its_traceback(ddattr, monkeypatch):
    monkeypatch.setattr("ddattr.stages.plan.describe", lambda *given: json.loads("{"))
    with pytest.raises(ValueError, match="Expecting"):
        ddattr("plan", *TINY)


def test_the_module_runs_from_any_folder_and_without_a_verb_says_so(tmp_path):
    """A process of its own, in a folder without conf/: `python -m ddattr seed=0`."""
    refused(answer(tmp_path, "seed=0"), "no verb", "plan")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_process_refuses_in_one_line_too(tmp_path):
    refused(answer(tmp_path, "train", "experiment=digits_small"), "train: member is missing")
    assert not list(tmp_path.glob("runs*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("buffered", "argv"), [(True, ("plan", "--cfg", "job")), (False, ("plan", "--cfg", "job")), (False, ("plan",))]
)
def test_a_reader_who_has_seen_enough_ends_it_quietly(tmp_path, monkeypatch, buffered, argv):
    """`ddattr plan | head -3`: no traceback, and the status of SIGPIPE, which is no refusal.

    A buffered print fails when it is flushed at the end, any other where it stands: within a stage, or within Hydra.
    """
    monkeypatch.setenv("PYTHONUNBUFFERED", "" if buffered else "1")
    assert unread(tmp_path, *argv) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (["train", "member=5"], "ddattr.ensemble.member.MemberModule.training_step"),
        (["evaluate"], "ddattr.ensemble.sampling.SamplingModule.predict_step"),
        (["attribute"], "ddattr.attribution.module.AttributionModule.predict_step"),
    ],
)
def test_a_process_ends_when_it_is_asked_to(ddattr, copy, monkeypatch, argv, where):
    """By SIGTERM, of `kill` or of a cluster. Lightning's own handler takes note of it, and goes on to the end."""
    before, reached = signal.getsignal(signal.SIGTERM), []

    def asked(*_):
        reached.append(True)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on")

    monkeypatch.setattr(where, asked)
    if argv[0] == "train":
        shutil.rmtree(copy / "members" / "005")
    try:
        said = ddattr(*argv, *TINY, f"root={copy}")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert reached == [True]
    assert said.status == 128 + signal.SIGTERM
    assert "Traceback" not in said.err


def test_a_refusal_is_heard_though_nobody_reads_stdout(tmp_path):
    status, err = unread(tmp_path, "tain")
    assert status == 2
    assert err.startswith("ddattr: no verb 'tain'")


@pytest.mark.parametrize(("status", "raised"), [(128 + signal.SIGPIPE, BrokenPipeError), (2, ValueError), (0, None)])
def test_what_reproduce_starts_ends_it(monkeypatch, status, raised):
    """A child that nobody reads is no failure: there is no line of its own that says why."""
    monkeypatch.setattr("subprocess.Popen", lambda argv, env: SimpleNamespace(wait=lambda: status))
    with nullcontext() if raised is None else pytest.raises(raised):
        processes.together([["evaluate"]], Run(composed(*TINY)))


@pytest.mark.parametrize(
    ("code", "said"),
    [(Codebook(1797, 18, 8), "0.0411, N / C(n, h): no test of it"), (Codebook(100, 18, 8), "21 values")],
)
def test_a_plan_says_where_the_radius_has_no_test(code, said):
    """Its p comes in steps of N / C(n, h), here one value below 0.05."""
    (told,) = [value for name, value in plan.describe(code, 0.05) if name == "smallest p of the radius"]
    assert said in told


def test_the_pipe_of_another_is_not_stdout(ddattr, monkeypatch):
    monkeypatch.setattr("ddattr.stages.plan.describe", broken)
    with pytest.raises(BrokenPipeError):
        ddattr("plan", *TINY)


def broken(*given):
    raise BrokenPipeError


def unread(folder, *argv: str) -> tuple[int, str]:
    """Exit status and stderr of a process whose stdout nobody reads."""
    process = spawn(folder, *argv)
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def test_conf_is_found_beside_the_package_and_named_when_it_is_not(monkeypatch, tmp_path):
    assert os.path.isfile(os.path.join(cli.conf(), "config.yaml"))
    monkeypatch.setattr("ddattr.__file__", str(tmp_path / "ddattr" / "__init__.py"))
    with pytest.raises(FileNotFoundError, match=r"^conf: no config\.yaml"):
        cli.conf()
    assert environment(tmp_path)["HOME"] == str(tmp_path)
