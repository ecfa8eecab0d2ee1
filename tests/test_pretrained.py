"""A network to start from: what a folder holds is what members get, and what it does not hold is said in a line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY, composed, refused
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DModel,
)
from faults import forks  # noqa: F401

from ddattr import load
from ddattr.diffusion import pretrained
from ddattr.diffusion.noise import Stream, seeded_torch
from ddattr.diffusion.tangents import pushed
from ddattr.diffusion.unet import UNet
from ddattr.stages import training
from ddattr.stages.run import Run

SIZES = [word for word in TINY if not word.startswith("unet.")]
SHAPE = {"sample_size": (8, 8), "in_channels": 1, "out_channels": 1}


def saved(folder: Path, scheduler=None, **options) -> Path:
    """A pipeline of a small network that nothing was trained on."""
    with seeded_torch(3, Stream.INITIALISATION):
        network = UNet2DModel(
            **SHAPE
            | {"sample_size": 8, "block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2}
            | {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 4}
            | {"up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "add_attention": False}
            | options
        )
    DDPMPipeline(network, scheduler or DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path) -> Path:
    return saved(tmp_path / "base", DDPMScheduler(num_train_timesteps=500, beta_schedule="squaredcos_cap_v2"))


@pytest.fixture(autouse=True)
def afresh():
    """Folders change under the same name here, as within one command they do not."""
    pretrained.digest.cache_clear()
    pretrained._of_hub.cache_clear()


def run(base: Path, *overrides: str, root: str = "run") -> Run:
    given = [*SIZES, "unet=pretrained", f"unet.path={base}", f"root={base.parent / root}", *overrides]
    return Run(composed(*given), given)


@pytest.mark.parametrize("folder", [".", "unet"])
def test_a_member_starts_with_the_bits_of_the_folder_and_answers_as_diffusers_does(base, folder):
    theirs = UNet2DModel.from_pretrained(base / "unet").eval()
    ours = pretrained.pretrained(str(base / folder), **SHAPE)
    assert ours.training
    assert all(torch.equal(weight, ours.state_dict()[key]) for key, weight in theirs.state_dict().items())
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours.eval()(x, 7), theirs(x, 7).sample)


def test_derivatives_pass_through_it(base):
    network = pretrained.pretrained(str(base), **SHAPE).double().eval()
    draw = torch.Generator().manual_seed(0)
    x, direction = torch.randn(2, 2, 1, 8, 8, generator=draw, dtype=torch.float64)
    derivative = pushed(lambda y: network(y, 3), x, direction[None])[1][0]
    with torch.no_grad():
        difference = (network(x + 1e-4 * direction, 3) - network(x - 1e-4 * direction, 3)) / 2e-4
    torch.testing.assert_close(derivative, difference, rtol=1e-5, atol=1e-6)


def test_one_override_takes_network_process_and_members_from_the_folder(base):
    of = run(base)
    assert of.config.diffusion._target_ == "ddattr.diffusion.pretrained.process"
    theirs = DDPMScheduler.from_pretrained(base / "scheduler")
    assert torch.equal(of.process.scheduler.betas, theirs.betas)
    assert of.process.timesteps == 500
    of.check()
    weights = UNet2DModel.from_pretrained(base / "unet").state_dict()
    for member in (0, 1):
        started = training.build(of, member).network
        assert isinstance(started, UNet)
        assert all(torch.equal(weights[key], value) for key, value in started.state_dict().items())


def test_a_fingerprint_is_of_what_the_folder_holds_and_not_of_where_it_lies(base):
    one = run(base)
    moved = Path(shutil.copytree(base, base.parent / "elsewhere"))
    assert run(moved).members_fingerprint == one.members_fingerprint
    other = saved(base.parent / "other", DDPMScheduler(num_train_timesteps=501, beta_schedule="squaredcos_cap_v2"))
    assert run(other).members_fingerprint != one.members_fingerprint
    network = UNet2DModel.from_pretrained(moved / "unet")
    with torch.no_grad():
        next(network.parameters()).add_(1e-3)
    network.save_pretrained(moved / "unet")
    pretrained.digest.cache_clear()
    assert run(moved).members_fingerprint != one.members_fingerprint


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(beta_schedule="scaled_linear", clip_sample=True, set_alpha_to_one=False),
        PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        EulerDiscreteScheduler(),
    ],
)
def test_the_process_has_the_scheduler_s_betas_whatever_it_samples_by(tmp_path, scheduler):
    base = saved(tmp_path / "base", scheduler)
    assert torch.equal(pretrained.process(str(base)).scheduler.betas, scheduler.betas)


def test_the_last_step_is_the_scheduler_s(tmp_path):
    """And of an answer that was made otherwise, a run knows."""
    kept = {"skip_prk_steps": True, "steps_offset": 1}
    one, other = (
        saved(tmp_path / str(whole) / "base", PNDMScheduler(set_alpha_to_one=whole, **kept)) for whole in (True, False)
    )
    assert run(one).process.final_alpha_cumprod == 1
    of = run(other)
    assert of.process.final_alpha_cumprod == of.process.alphas_cumprod[0] < 1
    assert of.attribution_artifact.config["set_alpha_to_one"] is False
    assert "set_alpha_to_one" not in run(one).attribution_artifact.config
    assert of.check() is None


def test_a_model_without_a_scheduler_takes_the_run_s_process(base):
    alone = base / "unet"
    with pytest.raises(FileNotFoundError, match=r"diffusion: .*unet holds no scheduler.*Set diffusion=linear"):
        _ = run(alone).process
    assert run(alone, "diffusion=linear").process.timesteps == 1000


def test_a_process_that_contradicts_the_folder_s_is_refused(base):
    with pytest.raises(ValueError, match=r"diffusion: beta_schedule=linear, but the base .* squaredcos_cap_v2"):
        _ = run(base, "diffusion=linear").process
    same = ("num_train_timesteps=500", "beta_schedule=squaredcos_cap_v2")
    assert run(base, "diffusion=linear", *(f"diffusion.scheduler.{key}" for key in same)).process.timesteps == 500


def test_the_process_of_a_folder_is_refused_where_no_network_is_of_one(tmp_path):
    given = [*TINY, f"root={tmp_path}", "diffusion=pretrained"]
    with pytest.raises(ValueError, match=r"diffusion: pretrained, but no network is\. Set unet=pretrained"):
        _ = Run(composed(*given), given).process


def test_pickled_weights_are_refused_and_the_line_converts_them(base):
    place = base / "unet"
    UNet2DModel.from_pretrained(place).save_pretrained(place, safe_serialization=False)
    before = (place / "diffusion_pytorch_model.safetensors").read_bytes()
    (place / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is pickled, and could run anything when it is read") as said:
        pretrained.pretrained(str(base), **SHAPE)
    command = str(said.value).partition("python -c ")[2]
    exec(command.strip('"'), {})
    (place / "diffusion_pytorch_model.bin").unlink()
    assert (place / "diffusion_pytorch_model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"in_channels": 3, "out_channels": 3}, r"pictures of 1 x 8 x 8, but the data's are 3 x 8 x 8"),
        ({"sample_size": (16, 16)}, r"pictures of 1 x 8 x 8, but the data's are 1 x 16 x 16.*Set the size"),
    ],
)
def test_a_base_of_other_pictures_is_refused(base, shape, words):
    with pytest.raises(ValueError, match=words):
        pretrained.pretrained(str(base), **SHAPE | shape)


def test_a_folder_that_holds_no_such_network_is_refused_in_a_line(base, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"unet: path=/no/where, no such folder\. Set unet\.path"):
        pretrained.pretrained("/no/where", **SHAPE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no config\.json, expected that of a UNet2DModel"):
        pretrained.pretrained(str(tmp_path / "empty"), **SHAPE)
    config = base / "unet" / "config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps(told | {"_class_name": "UNet1DModel"}))
    with pytest.raises(ValueError, match=r"holds a config\.json of UNet1DModel, expected that of a UNet2DModel"):
        pretrained.pretrained(str(base), **SHAPE)
    config.write_text(json.dumps(told | {"layers_per_block": 2}))
    with pytest.raises(ValueError, match=r"the weights in .* are not of its config\.json: \d+ differ"):
        pretrained.pretrained(str(base), **SHAPE)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_config_that_is_no_json_of_diffusers_is_refused_by_its_name(base, content):
    for place, read in (
        ("scheduler/scheduler_config.json", pretrained.process),
        ("unet/config.json", pretrained.digest),
    ):
        (base / place).write_text(content)
        with pytest.raises(ValueError, match=rf"{place} is damaged, expected the JSON that diffusers writes"):
            read(str(base))


def test_weights_that_are_cut_short_are_refused_by_their_folder(base):
    (weights,) = (base / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"^unet: the weights in {base}/unet cannot be read: .* Take the folder from"):
        pretrained.pretrained(str(base), **SHAPE)


def test_a_scheduler_whose_noise_is_not_of_betas_is_refused(tmp_path):
    base = saved(tmp_path / "base", FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match=r"is of a FlowMatchEulerDiscreteScheduler, expected a scheduler with betas"):
        pretrained.process(str(base))


def test_an_id_of_the_hub_is_fetched_without_code_or_pickles(base, monkeypatch):
    asked = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if name == "no/model":
            raise OSError("404: Repository Not Found")
        return str(base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    of = run(base)
    hub = run(base, "unet.path=some/model")
    assert hub.members_fingerprint == of.members_fingerprint
    assert [name for name, _ in asked] == ["some/model"]
    assert all(
        pattern.endswith((".json", ".safetensors*", "/merges.txt")) for _, patterns in asked for pattern in patterns
    )
    with pytest.raises(FileNotFoundError, match=r"path=no/model is no folder, and .* 404: Repository Not Found"):
        _ = run(base, "unet.path=no/model").process


def test_a_member_is_trained_and_loaded_and_the_command_refuses_in_one_line(base, ddattr):
    argv = [*SIZES, "unet=pretrained", f"unet.path={base}", f"root={base.parent / 'run'}"]
    said = ddattr("train", *argv, "member=0")
    assert said.status == 0, said.err
    of = run(base)
    trained, start = of.load(of.member_artifact(0)).state_dict(), of.network(0).state_dict()
    moved = sum((trained[key] - start[key]).square().sum() for key in start).sqrt()
    length = sum(value.square().sum() for value in start.values()).sqrt()
    assert 0 < moved < 0.5 * length
    refused(ddattr("train", *argv, "member=1", "unet.path=/no/where"), "unet: path=/no/where, no such folder")


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_base_that_predicts_v_goes_all_the_way(tmp_path, ddattr):
    """Without signal at the last timestep: trained, attributed, shown, verified, made again and loaded."""
    scheduler = DDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    base, root = saved(tmp_path / "base", scheduler), tmp_path / "run"
    said = ddattr("reproduce", *SIZES, "unet=pretrained", f"unet.path={base}", f"root={root}")
    assert said.status == 0, said.err
    assert "Members start from a base" in (root / "report.html").read_text()
    assert ddattr("verify", str(root)).status == 0
    assert ddattr("replay", str(root / "members" / "000")).status == 0
    run = load(root)
    assert run.process.predicts == "v_prediction"
    query = int(run.queries["query"][0])
    drawn = run.ensemble.replay(run.ensemble.uniform[None], run.tape([query]), run.reverse)[0, 0]
    torch.testing.assert_close(drawn, run.pictures[query], rtol=1e-4, atol=1e-5)
    assert run.influence.query("method == 'denoised' and measure == 'pull'").score.abs().max() > 0
    moved = Path(shutil.move(base, tmp_path / "moved"))
    refused(ddattr("status", str(root)), f"unet: path={base}, no such folder. Set unet.path")
    said = ddattr("status", str(root), f"unet.path={moved}")
    assert "members     6 done" in said.out
