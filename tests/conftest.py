"""What several tests share: a process, tiny networks, and linear denoisers whose every derivative is known."""

import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy as copied
from functools import cache
from pathlib import Path
from typing import NamedTuple

import hydra
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings
from measured import figure, pytest_cmdline_main, pytest_terminal_summary  # noqa: F401
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ddattr import cli
from ddattr.attribution.agreement import spearman
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.data.sources.digits import digits
from ddattr.data.sources.first import first
from ddattr.diffusion.noise import Stream, noise_tape, seeded_torch
from ddattr.diffusion.process import Process, ReverseStep
from ddattr.diffusion.sampler import DDPM
from ddattr.diffusion.unet import UNet
from ddattr.ensemble.ensemble import Ensemble
from ddattr.stages import estimate, train
from ddattr.stages.run import Run
from ddattr.validation.intervals import joint_resamples, percentiles

torch.set_num_threads(1)
settings.register_profile("law", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("law")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")


def row(table: pd.DataFrame, **names) -> pd.Series:
    """The one row of these names."""
    found = table[(table[list(names)] == pd.Series(names)).all(1)]
    assert len(found) == 1, f"{len(found)} rows of {names}"
    return found.iloc[0]


def halves(count: int, units: int, seed: int = 0) -> torch.Tensor:
    """Random halves of the units."""
    order = torch.rand(count, units, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return torch.zeros(count, units, dtype=torch.bool).scatter_(1, order[:, : units // 2], True)


def of_pearson(correlation: float) -> float:
    """Spearman's correlation of normal variables that have this Pearson's. Source: Pearson 1907."""
    return 6 / math.pi * math.asin(correlation / 2)


def joint(
    predicted: Tensor,
    target: Tensor,
    seed: int = 0,
    resamples: int = 500,
    level: float = 0.95,
    correlation: Callable[[Tensor, Tensor], Tensor] = spearman,
) -> tuple[float, float, float]:
    """Mean over queries of a correlation over rows, and its interval over both at once, as tables have them."""
    resampled = joint_resamples(predicted, target, seed, resamples, correlation)
    return correlation(predicted, target).nanmean().item(), *percentiles(resampled, level)


class LinearDenoiser(nn.Module):
    """f(x, t) = A x + b on the pixels of a picture."""

    def __init__(self, a: Tensor, b: Tensor):
        super().__init__()
        self.register_buffer("a", a)
        self.register_buffer("b", b)

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        return (x.flatten(1) @ self.a.T + self.b).reshape(x.shape)


def bends(count: int) -> list[nn.Module]:
    """Nonlinear denoisers of (C = 1, H, W) pictures that cost next to nothing, for tests of what surrounds them."""

    class Bend(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

        def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
            return self.outer(torch.tanh(self.inner(x)))

    with seeded_torch(1, Stream.INITIALISATION):
        return [Bend() for _ in range(count)]


def _unets(count: int, attention: bool, channels: tuple[int, int] = (4, 8)) -> list[UNet]:
    down, up = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    with seeded_torch(0, Stream.INITIALISATION):
        return [
            UNet(
                sample_size=8,
                in_channels=1,
                out_channels=1,
                block_out_channels=channels,
                layers_per_block=1,
                down_block_types=("DownBlock2D", down),
                up_block_types=(up, "UpBlock2D"),
                norm_num_groups=2,
                attention_head_dim=4,
                add_attention=attention,
            )
            for _ in range(count)
        ]


@pytest.fixture
def make_process() -> Callable[..., Process]:
    """Process of a linear schedule; keywords go to the diffusers scheduler."""

    def make(timesteps: int = 100, **scheduler) -> Process:
        return Process(DDPMScheduler(num_train_timesteps=timesteps, beta_start=1e-4, beta_end=0.02, **scheduler))

    return make


@pytest.fixture
def process(make_process) -> Process:
    return make_process()


@pytest.fixture
def reverse(process) -> list[ReverseStep]:
    """Five steps with noise."""
    return DDPM(5).reverse(process)


@pytest.fixture
def tape() -> torch.Tensor:
    """Of two queries, for these steps and pictures of (1, 8, 8)."""
    return noise_tape([0, 3], 5, (1, 8, 8))


@pytest.fixture
def make_linear() -> Callable[..., Ensemble]:
    """Ensemble of n linear denoisers on (1, 2, 2) pictures; `spread` is how far their matrices differ."""

    def make(n: int, spread: float = 0.3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Ensemble:
        draw = torch.Generator().manual_seed(seed)
        a = 0.3 * torch.randn(4, 4, generator=draw, dtype=dtype)
        a = a + spread * torch.randn(n, 4, 4, generator=draw, dtype=dtype)
        b = torch.randn(n, 4, generator=draw, dtype=dtype)
        return Ensemble([LinearDenoiser(*pair) for pair in zip(a, b, strict=True)])

    return make


@pytest.fixture
def make_unets() -> Callable[..., list[UNet]]:
    """Networks of 1x8x8 pictures in float32, with or without attention; the same ones at every call."""

    def make(count: int, attention: bool = False, channels: tuple[int, int] = (4, 8)) -> list[UNet]:
        return _unets(count, attention, channels)

    return make


@pytest.fixture
def unets(make_unets) -> Ensemble:
    """Three networks without attention, float32."""
    return Ensemble(make_unets(3))


@contextmanager
def torchs_forward_mode() -> Iterator[None]:
    """Where torch's own jvp passes through networks: flash attention has no forward mode, and group_norm's fails on
    tangents that are not contiguous."""

    def group_norm(x, groups, weight=None, bias=None, eps=1e-5):
        grouped = x.reshape(len(x), groups, -1)
        centred = grouped - grouped.mean(-1, keepdim=True)
        normal = (centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()).reshape(x.shape)
        along = (-1, *[1] * (x.dim() - 2))
        normal = normal if weight is None else normal * weight.reshape(along)
        return normal if bias is None else normal + bias.reshape(along)

    with pytest.MonkeyPatch.context() as patch, sdpa_kernel(SDPBackend.MATH):
        patch.setattr(nn.functional, "group_norm", group_norm)
        with torch.inference_mode(False), torch.no_grad():
            yield


TINY_SIZES = (  # of six members, of any data
    "tracking=none",
    "codebook.members=6",
    "codebook.weight=2",
    "unet.block_out_channels=[4,8]",
    "unet.norm_num_groups=2",
    "training.steps=20",
    "training.batch=4",
    "training.warmup=5",
    "training.epoch_steps=10",
    "sampler.steps=3",
    "quality.pictures=4",
    "quality.batch=4",
    "quality.sizes=[1,2,6]",
    "quality.extractor_steps=5",
    "significance.neighbourhoods=[1,2]",
)
TINY = (
    "experiment=digits_small",
    *TINY_SIZES,
    "data.source.count=12",
    "data.holdout=0",
    "data.clusters=3",
    "attribution.queries=4",
    "attribution.batch=2",
    "attribution.ablation_units=5",
)
SMALL = "digits_small"


def shapes(count: int = 12, channels: int = 3, height: int = 6, width: int = 10) -> Source:
    """Pictures of one bright bar each, of any channels and size; without labels. A source for configs, too."""
    images = torch.full((count, channels, height, width), -1.0)
    for i in range(count):
        images[i, i % channels, :, i % width] = 1
        images[i, :, i // width % height] = 0.1 * (i % 7)
    return Source(images, None)


def alike(count: int = 200) -> Source:
    """The same picture over and over; none, when there is no count. A source for configs."""
    return Source(torch.ones(1, 1, 8, 8).expand(count, -1, -1, -1).clone(), None)


@pytest.fixture
def data() -> UnitDataModule:
    """The first twelve digits, a unit an image."""
    return UnitDataModule(first(digits(), 12), clusters=3)


@cache
def _composed(*overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(cli.conf(), version_base="1.3"):
        return hydra.compose("config", ["stage=plan", *overrides])


def composed(*overrides: str) -> DictConfig:
    """The app's config, as a command line would compose it. Files are read once for each choice of them: that takes ten
    times as long as setting values in what they say."""
    groups = {str(path.relative_to(cli.conf())) for path in Path(cli.conf()).rglob("*") if path.is_dir()}
    given = OverridesParser.create().parse_overrides(list(overrides))
    choices = [word for word in given if word.key_or_group in groups or word.key_or_group.startswith("hydra")]
    config = copied(_composed(*(word.input_line for word in choices)))
    ConfigLoaderImpl._apply_overrides_to_config([word for word in given if word not in choices], config)
    return config


@pytest.fixture
def compose() -> Callable[..., DictConfig]:
    return composed


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Run]:
    """Run of twelve units and six tiny members in a temporary folder; takes overrides."""

    def make(*overrides: str) -> Run:
        given = [*TINY, f"root={tmp_path / 'run'}", *overrides]
        return Run(composed(*given), given)

    return make


@pytest.fixture
def untimed(monkeypatch) -> None:
    """`plan` times no step of a network: for tests that look at what else it says."""
    monkeypatch.setattr(estimate, "_seconds", lambda call, device: 1e-3)


class Said(NamedTuple):
    """What a command answered."""

    status: int
    out: str
    err: str


@pytest.fixture
def ddattr(monkeypatch, capsys, tmp_path) -> Callable[..., Said]:
    """The console script, in this process and in a temporary folder."""
    known = Hydra.get_mode  # which composes everything, to learn what no file of conf/ says

    def mode(self, config_name, overrides):
        return known(self, config_name, overrides) if any("hydra.mode" in word for word in overrides) else None

    monkeypatch.setattr(Hydra, "get_mode", mode)

    def call(*argv: str) -> Said:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["ddattr", *argv])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Said(status, *capsys.readouterr())

    return call


def refused(said: Said, *words: str) -> None:
    """One line on stderr that says so, and exit status 2."""
    assert said.status == 2, said
    assert len(said.err.splitlines()) == 1, said.err
    assert "hydra.cc" not in said.err
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err


def environment(home: Path) -> dict[str, str]:
    """Environment of a user without W&B account, key or settings, who started anywhere but in the checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PYTEST_", "HYDRA_", "COV_"))}
    return kept | {"HOME": str(home), "OMP_NUM_THREADS": "1", "NETRC": str(home / "none")}


def spawn(folder: Path, *argv: str, **options) -> subprocess.Popen:
    """`python -m ddattr` as a process of its own, in a folder that has no conf/."""
    command = [sys.executable, "-m", "ddattr", *argv]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(
        command, cwd=folder, env=environment(folder), text=True, stdin=null, stdout=pipe, stderr=pipe, **options
    )


def answer(folder: Path, *argv: str) -> Said:
    """What `python -m ddattr` answers in a process of its own."""
    process = spawn(folder, *argv, start_new_session=True)
    try:
        out, err = process.communicate(timeout=900)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children too: nobody may write where others look
        out, err = process.communicate()
        return Said(124, out, f"{err}\nddattr {' '.join(argv)}: no answer within 900 s")
    return Said(process.returncode, out, err)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, less its locks: when it was changed, and its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


class Reproduced(NamedTuple):
    """One `ddattr reproduce experiment=digits_small` from nothing."""

    cwd: Path
    root: Path
    said: Said


def shared(tmp_path_factory, name: str) -> Path:
    """A folder that all test processes share, and several calls of pytest where the environment's TESTED names it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = Path(os.environ.get("TESTED", base)) / name
    folder.mkdir(exist_ok=True)
    return folder


def once(tmp_path_factory, name: str, *argv: str, start: Path | None = None) -> Reproduced:
    """What a command makes in a folder of its own, made by the first of the test processes that needs it.

    Args:
        start: a run to copy there first.
    """
    cwd = shared(tmp_path_factory, name)
    root, kept = cwd / "runs" / SMALL, cwd / ".said.json"
    with open(cwd / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            if start is not None:
                shutil.copytree(start, root, ignore=shutil.ignore_patterns("wandb"), dirs_exist_ok=True)
            kept.write_text(json.dumps(answer(cwd, *argv, f"experiment={SMALL}")))
    said = Said(*json.loads(kept.read_text()))
    assert said.status == 0, said.err
    return Reproduced(cwd, root, said)


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory) -> Reproduced:
    """Everything that the product makes, made once; look, do not touch."""
    return once(tmp_path_factory, "reproduced", "reproduce")


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


# The tables' columns, in order: others read them by these names. More may follow, at the end.
COLUMNS = {
    "attributions": ["query", "unit", "rank", "p_value", "q_value", "z", "support"],
    "influence": ["unit", "query", "method", "measure", "score", "z", "p_value", "q_value"],
    "sets": ["set", "size", "query", "measure", "score", "z", "p_value", "q_value"],
    "agreement": ["truth", "method", "measure", "query", "pearson", "spearman", "cosine", "relative_error"],
    "agreement_summary": ["truth", "method", "measure", "statistic", "mean", "low", "high", "queries"],
    "radius": ["query", "radius", "phantom_radius", "p_value", "attributable", "resolution"],
    "queries": ["query", "jacobian_norm", "jvp_error", "rotating_error"],
    "nulls": ["query", "unit", "counts"],
    "verified": ["query", "unit", "p_value", "drawn", "error", "ratio"],
    "calibration": ["test", "level", "rejected", "low", "high"],
    "fid": ["kind", "member", "order", "members", "fid", "kid", "kid_std", "images"],
    "convergence": ["members", "order", "distance_mean", "distance_sem", "kind"],
}
METHODS = [
    "jvp",
    "jvp_gls",
    "jvp_posterior",
    "denoised",
    "denoised_gls",
    "denoised_posterior",
    "individual",
    "individual_centred",
    "last_step",
    "pixel",
    "random",
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """Folder of six tiny trained members, as TINY composes them; copy it, do not touch it."""
    root = shared(tmp_path_factory, "trained") / "run"
    given = [*TINY, f"root={root}"]
    for member in range(6):  # done ones are left, and one that another test process is at is waited for
        train.run(Run(composed(*given, f"member={member}"), given))
    return root


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """A copy of the trained members, where `make_run` looks for them."""
    return shutil.copytree(trained, tmp_path / "run")


LONGEST = (  # longest first
    "test_the_planted_shape_is_found",
    "test_the_command_compares_again_only_what_changed",
    "test_an_agent_goes_on",
    "test_a_run_of_text_is_validated",
    "goes_the_whole_way",
    "test_every_verb_runs_on_a_tiny_planted",
    "the_same_bits[retrained]",
    "test_a_base_that_predicts_v",
    "the_same_bits[base and fork]",
    "no_squares_go_all_the_way",
    "test_a_run_of_orthogonal_words",
    "test_everything_is_reproduced_with_adapters",
    "test_what_is_foretold",
    "test_a_run_of_text_from_training",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items) -> Iterator[None]:
    """What looks at a whole run or validation is slow, since one has to be made. What only measures is run by
    --benchmark-enable. The longest come first in both halves, with which two processes begin: begun last, they would
    leave one idle."""
    for item in items:
        if {"reproduced", "validated"} & set(item.fixturenames):
            item.add_marker("slow")
        if "figure" in item.fixturenames and not config.getoption("benchmark_enable"):
            item.add_marker(pytest.mark.skip(reason="measures, with --benchmark-enable"))
    yield  # to be selected
    long = [item for name in LONGEST for item in items if name in item.nodeid]
    rest, one = [item for item in items if item not in long], long[0::2]
    left = max(len(items) // 2 - len(one), 0)
    items[:] = [*one, *rest[:left], *long[1::2], *rest[left:]]


@pytest.fixture(scope="session")
def validated(reproduced, tmp_path_factory) -> Reproduced:
    """A copy of what `reproduce` made, and `ddattr validate` on it, in two processes; look, do not touch."""
    return once(tmp_path_factory, "validated", "validate", start=reproduced.root)
