"""What README and the sweeps tell a user to type is typed here, on the small experiment."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import SMALL, TINY, TINY_SIZES, manifest
from diffusers import DiffusionPipeline
from faults import forks  # noqa: F401
from PIL import Image
from test_pretrained import afresh, saved  # noqa: F401

from ddattr import cli
from ddattr.cli.primary import is_folder

HERE = Path(__file__).parent.parent
PAGES = [HERE / "README.md", HERE / "sweeps" / "README.md"]
SWEEPS = sorted((HERE / "sweeps").glob("*.yaml"))


def commands() -> list[list[str]]:
    """Every `ddattr ...` of the pages, from code spans and code blocks, without what the shell would add."""
    text = "\n".join(page.read_text() for page in PAGES)
    lines = re.findall(r"`(ddattr [^`\n]+)`", text) + re.findall(r"^(ddattr .*)$", text, re.M)
    typed = [shlex.split(line, comments=True)[1:] for line in dict.fromkeys(lines)]
    return [argv for argv in typed if not any("pictures" in word for word in argv)]  # test_own_pictures types these


AFTER_VALIDATION = ("validate", "retrain", "compare")
ELSEWHERE = ("sync", "adopt", "export", "subsets")  # their own tests type them: the run here is shared, and stays


@pytest.mark.parametrize("argv", [c for c in commands() if c[0] not in AFTER_VALIDATION + ELSEWHERE], ids=" ".join)
def test_every_command_runs_on_the_small_experiment(argv, reproduced, ddattr, tmp_path):
    """In a folder where it is all done, which it says, and leaves alone."""
    said = typed(argv, reproduced.root, ddattr, tmp_path)
    assert said.status == 0, said.err
    assert said.out


@pytest.mark.parametrize("argv", [c for c in commands() if c[0] in AFTER_VALIDATION], ids=" ".join)
def test_every_command_runs_on_the_small_experiment_validated(argv, validated, ddattr, tmp_path):
    said = typed(argv, validated.root, ddattr, tmp_path)
    assert said.status == 0, said.err
    assert said.out


def typed(argv, root, ddattr, tmp_path):
    """What a command says when its experiment is the small one, and its folder a run that is done."""
    other = (
        "experiment=",
        "name=",
        "codebook.",
        "seed=",
        "data.",
        "hydra/",
        "hydra.launcher.",
        "attribution.",
        "sampler.",
        "trainer.precision=",
    )
    overrides = [a for a in argv[1:] if not a.startswith(other)]
    overrides = [re.sub(r"range\(0,\d+\)", "range(0,3)", a) for a in overrides]  # the others are done too
    if argv[0] in ("compare", "dashboard", "retrain"):  # they write: into a copy, beside the original
        overrides = [f"against=[{root}]" if a.startswith("against=") else a for a in overrides]
        root = shutil.copytree(root, tmp_path / "copy", ignore=shutil.ignore_patterns("wandb"))
    by_folder = [a for a in overrides if is_folder(a)]
    if by_folder:
        below = re.sub(r"^runs/\w+", str(root), by_folder[0])
        return ddattr(argv[0], below, *(a for a in overrides if a not in by_folder))
    return ddattr(argv[0], *overrides, f"experiment={SMALL}", f"root={root}")


@pytest.mark.parametrize(
    "argv", [c for c in commands() if c[0] == "attribute" and not any(map(is_folder, c)) and len(c) > 1], ids=" ".join
)
def test_every_device_of_a_command_has_work(argv, compose):
    config = compose(*(a for a in argv[1:] if a != "-m" and "range" not in a))
    assert config.trainer.devices <= -(-config.attribution.queries // config.attribution.batch)


def test_the_python_example_runs_as_it_stands(reproduced, tmp_path, monkeypatch, capsys):
    """From nothing to one picture's best units, and the picture without each, where a run is that it names."""
    code = re.search(r"```python\n(.*?)```", PAGES[0].read_text(), re.S).group(1)
    assert len(re.findall(r"^[^#\n]", code.partition("\n\n")[2], re.M)) <= 10
    shutil.copytree(reproduced.root, tmp_path / "runs" / "digits", ignore=shutil.ignore_patterns("wandb"))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["best"].support.is_monotonic_decreasing
    assert names["best"].name.str.startswith("picture ").all()
    assert names["without"].shape == (5, 1, *names["run"].data.shape)
    assert (names["without"] != names["without"][:1]).any()
    assert capsys.readouterr().out.count("q_value") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_many_machines_share_a_run_from_nothing_to_all_that_validate_needs(ddattr, tmp_path):
    """Both pages' blocks as they stand, on a tiny run, less the cluster: a line's jobs are one after another."""
    block_of = r"```\n(ddattr train [^`]*hydra/launcher=slurm.*?)```"
    found = [re.findall(block_of, page.read_text(), re.S) for page in PAGES]
    lines = [shlex.split(line, comments=True)[1:] for (block,) in found for line in block.splitlines()]
    assert sum("hydra/launcher=slurm" in line for line in lines) == 3 + 5
    few = ("attribution.queries=6", *(f"validation.{key}" for key in ("retrained_units=5", "retrained_members=2")))
    none = (
        "validation.replicates=1",
        "validation.lds_subsets=0",
        "validation.removal_queries=0",
        "validation.groups=null",
    )
    for line in lines:
        verb, *words = [re.sub(r"range\(0,18\)", "range(0,6)", word) for word in line if not word.startswith("hydra")]
        said = ddattr(verb, *words, *TINY, *few, *none, f"root={tmp_path / 'run'}")
        assert (said.status, said.err) == (0, "")
    assert said.out.startswith("reproduce: already done")
    assert "retrain: already done" in ddattr("retrain", *TINY, *few, *none, f"root={tmp_path / 'run'}").out


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_your_own_model_goes_from_a_folder_and_pictures_by_artist_to_the_page_and_back_to_diffusers(
    ddattr, tmp_path, monkeypatch
):
    """README's block as it stands, of a base that nobody trained, and few pictures of few steps."""
    block = re.search(r"## Your own model\n.*?```\n(.*?)```", PAGES[0].read_text(), re.S).group(1)
    install, *lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert install == ["pip", "install", "-e", ".[lora]"]
    monkeypatch.chdir(tmp_path)
    saved(Path("model"), in_channels=3, out_channels=3)
    draw = np.random.default_rng(0)
    for place in range(36):
        (folder := Path("pictures") / f"artist {place % 12}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{place}.png")
    few = [word for word in TINY_SIZES if not word.startswith(("unet.", "codebook."))]
    few += ["codebook.members=8", "quality.sizes=[1,8]", "attribution.queries=2", "attribution.ablation_units=2"]
    for program, verb, *words in lines:
        assert program == "ddattr"
        said = ddattr(verb, *words, *(few if verb == "reproduce" else ()))
        assert said.status == 0, said.err
    root = Path("runs/pictures")
    page = (root / "report.html").read_text()
    assert "Members start from a base, model." in page
    assert "Each is an adapter (LoRA of rank 4) of one network, which stays as it is." in page
    assert "artist 7" in page
    assert manifest(root / "members" / "000")["config"]["training"]["lora"]["rank"] == 4
    pipeline = DiffusionPipeline.from_pretrained("mine", trust_remote_code=True)
    assert np.isfinite(pipeline(num_inference_steps=3, output_type="np").images).all()
    assert len(list(Path("mine/lora").iterdir())) == 8
    assert "Each started from `model`: what that saw is not known here." in Path("mine/README.md").read_text()


def test_readme_is_read_in_two_minutes():
    assert len(PAGES[0].read_text().split()) < 900


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_every_sweep_is_a_grid_over_what_the_program_takes(path, ddattr):
    """Each point of the grid is a command line that composes; the members are the experiment's, each once."""
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] == "grid"
    assert sweep["command"][:2] == ["${env}", "ddattr"]
    assert sweep["command"][2] in cli.VERBS
    assert sweep["command"][-1] == "${args_no_hyphens}"
    fixed = [a for a in sweep["command"][2:-1] if a != "tracking=online"]
    grids = {key: grid["values"] for key, grid in sweep["parameters"].items()}
    said = ddattr(*fixed, *(f"{key}={values[-1]}" for key, values in grids.items()), "--cfg", "job")
    assert said.status == 0
    members = yaml.safe_load(said.out)["codebook"]["members"]
    assert grids.get("member", list(range(members))) == list(range(members))
    assert ("member" in grids) == (fixed[0] == "train")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_every_sweep_writes_each_point_into_a_folder_of_its_own_and_has_its_multirun_on_the_page(path):
    """But for members, which share a folder; a key that is swept stands in the name."""
    sweep = yaml.safe_load(path.read_text())
    keys = set(sweep["parameters"]) - {"member"}
    (name,) = [a for a in sweep["command"] if a.startswith("name=")] or [""]
    assert set(re.findall(r"\$\{([\w.]+)\}", name)) == keys
    page = (HERE / "sweeps" / "README.md").read_text()
    assert f"sweeps/{path.name}" in page
    for key in keys:
        values = ",".join(map(str, sweep["parameters"][key]["values"]))
        assert re.search(rf"^ddattr \w+ -m .*{re.escape(key)}={re.escape(values)} '{re.escape(name)}'", page, re.M)


def test_the_pages_show_pictures_that_exist():
    for page in PAGES:
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / picture).is_file()


def test_the_verbs_of_the_table_are_the_programs():
    table = {argv[0] for argv in commands()}
    assert table == set(cli.VERBS)
