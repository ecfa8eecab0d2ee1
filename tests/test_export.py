"""`ddattr export`: plain diffusers loads the folder, and gives the same picture for the same tape."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import environment, manifest, refused
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DiffusionPipeline, UNet2DConditionModel, UNet2DModel

from ddattr.diffusion.adapters import Adapted, Base, Lora
from ddattr.diffusion.checkpoint import Checkpoint, fit
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.pipeline import check_exportable, denoiser, loaded, lora_weights, replayed, save, scheduler
from ddattr.diffusion.process import Process
from ddattr.diffusion.sampler import DDIM, DDPM
from ddattr.ensemble.ensemble import Ensemble

SHAPE = (1, 8, 8)


def close(theirs: torch.Tensor, ours: torch.Tensor) -> None:
    """To 1e-5 of the largest value: networks of hardly any training give pictures far beyond [-1, 1]."""
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5 * max(1.0, ours.abs().max().item()))


@pytest.mark.parametrize(("timesteps", "steps", "spacing"), [(100, 10, "leading"), (100, 4, "trailing"), (60, 1, None)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 3])
def test_a_loop_over_their_scheduler_is_our_replay(
    make_unets, make_process, tmp_path, count, eta, timesteps, steps, spacing
):
    process = make_process(timesteps, **({} if spacing is None else {"timestep_spacing": spacing}))
    networks, sampler = make_unets(count), DDIM(steps, eta)
    save(tmp_path, denoiser(networks), scheduler(process, sampler))
    tape = noise_tape([3, 4], steps, SHAPE)
    ours = Ensemble(networks).replay(torch.full((1, count), 1 / count), tape, sampler.reverse(process))[0]
    close(replayed(loaded(tmp_path), tape, eta), ours)


@pytest.mark.parametrize("predicts", ["v_prediction", "sample"])
def test_so_it_is_whatever_the_network_predicts(make_unets, make_process, tmp_path, predicts):
    process, networks, sampler = make_process(100, prediction_type=predicts), make_unets(2), DDIM(10, 1.0)
    save(tmp_path, denoiser(networks), scheduler(process, sampler))
    tape = noise_tape([3], 10, SHAPE)
    ours = Ensemble(networks).replay(torch.full((1, 2), 1 / 2), tape, sampler.reverse(process))[0]
    close(replayed(loaded(tmp_path), tape, 1.0), ours)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_so_it_is_where_the_last_step_ends_at_timestep_0(make_unets, tmp_path, eta):
    process = Process(DDIMScheduler(num_train_timesteps=100, clip_sample=False, set_alpha_to_one=False, steps_offset=1))
    (network,), sampler = make_unets(1), DDIM(10, eta)
    save(tmp_path, denoiser([network]), scheduler(process, sampler))
    tape = noise_tape([3], 10, SHAPE)
    ours = Ensemble([network]).replay(torch.ones(1, 1), tape, sampler.reverse(process))[0]
    close(replayed(loaded(tmp_path), tape, eta), ours)


def test_the_pipeline_is_theirs_and_clips_no_step(make_unets, process, tmp_path):
    """Its own call, with their generator's noise, is our replay of just that noise, in the range of a picture."""
    (network,) = make_unets(1)
    save(tmp_path, denoiser([network]), scheduler(process, DDPM(10)))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipeline) is DDPMPipeline
    assert type(pipeline.unet) is UNet2DModel
    pipeline.set_progress_bar_config(disable=True)
    drawn = torch.Generator().manual_seed(5)
    theirs = pipeline(2, torch.Generator().manual_seed(5), num_inference_steps=10, output_type="np").images
    rows = [torch.randn(2, *SHAPE, generator=drawn) for _ in range(10)]
    tape = torch.stack([*rows, torch.zeros_like(rows[0])])  # they draw none for the last step
    ours = Ensemble([network]).replay(torch.ones(1, 1), tape, DDPM(10).reverse(process))[0]
    expected = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.from_numpy(theirs), expected, rtol=1e-5, atol=1e-5)
    save(tmp_path / "ddim", denoiser([network]), scheduler(process, DDIM(10)))
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "ddim")) is DDIMPipeline


def test_the_mean_of_one_network_many_times_is_that_network(make_unets):
    (network,) = make_unets(1)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(denoiser([network] * 4)(x, 7).sample, network(x, 7), rtol=1e-6, atol=1e-6)


def adapted(network: torch.nn.Module, *targets: str) -> Adapted:
    """An adapter that changes something."""
    one = Adapted(Base(network, Lora(2, 6.0, targets)))
    drawn = torch.Generator().manual_seed(1)
    for weight in one.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=drawn)
    return one.requires_grad_(False)


def test_an_adapter_is_merged_into_its_base(make_unets):
    x, base = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)), make_unets(1)[0]
    one = adapted(make_unets(1)[0], "conv1", "time_emb_proj")
    check_exportable(one, DDPM(3))
    merged = denoiser([one])
    assert type(merged) is UNet2DModel
    torch.testing.assert_close(merged(x, 7).sample, one(x, 7), rtol=1e-5, atol=1e-5)
    assert (one(x, 7) - base(x, 7)).abs().max() > 1e-2


def test_an_adapter_s_file_is_what_the_loader_of_diffusers_takes_and_what_is_adopted(process):
    def tiny() -> UNet2DConditionModel:
        torch.manual_seed(0)
        kinds = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
        sizes = {"block_out_channels": (4,), "layers_per_block": 1, "cross_attention_dim": 4, "attention_head_dim": 2}
        return UNet2DConditionModel(8, 1, 1, norm_num_groups=2, **kinds, **sizes).eval()

    x, text = torch.ones(1, *SHAPE), torch.ones(1, 3, 4)
    one, plain = adapted(tiny(), "to_q", "to_k"), tiny()
    before = plain(x, 7, text).sample
    plain.load_lora_adapter(lora_weights(one), prefix="unet")
    torch.testing.assert_close(plain(x, 7, text).sample, one(x, 7, text).sample, rtol=1e-5, atol=1e-5)
    assert (plain(x, 7, text).sample - before).abs().max() > 1e-2
    other = Adapted(one.base).requires_grad_(False)  # evaluated as the first is
    theirs = {f"unet.{name}": weight for name, weight in one.state_dict().items()}
    fit(other, Checkpoint(theirs, [Path("mine.safetensors")]), process)
    torch.testing.assert_close(other(x, 7, text).sample, one(x, 7, text).sample, rtol=0, atol=0)


def test_a_network_or_a_sampler_that_diffusers_does_not_have_is_refused(make_unets, make_linear):
    (network,) = make_unets(1)
    check_exportable(network, DDPM(3))
    with pytest.raises(ValueError, match="unet is a LinearDenoiser, expected a UNet2DModel"):
        check_exportable(make_linear(1).members[0], DDPM(3))

    class Own:
        steps = 3

        def reverse(self, process):
            return []

    with pytest.raises(ValueError, match="sampler is a Own, expected one that diffusers has"):
        check_exportable(network, Own())


def code(card: str) -> list[str]:
    return [part.removeprefix("python\n") for part in card.split("```")[1::2]]


@pytest.mark.slow
def test_the_card_of_a_member_says_what_it_has_seen_and_its_code_gives_our_picture(ddattr, copy, make_run, tmp_path):
    """In a process that has no ddattr."""
    said = ddattr("export", "run", "member=3", "output=out", "sampler.steps=5")
    assert (said.status, said.err) == (0, ""), said
    assert said.out == "export: out\n"  # and no warning
    card = (tmp_path / "out" / "README.md").read_text()
    run = make_run()
    owned = run.codebook.subset(3)
    assert f"trained on {int(owned.sum())} of 12 units (a unit is one image)" in card
    assert f"has not seen the other {int((~owned).sum())} units" in card
    made = manifest(copy / "members" / "003")
    for words in (made["commit"], made["files"]["member.safetensors"], made["fingerprint"], run.data.fingerprint):
        assert str(words) in card
    assert "license:" not in card
    script = "import sys\nsys.modules['ddattr'] = None\n" + "\n".join(code(card)).replace('"FOLDER"', '"out"')
    (tmp_path / "plain.py").write_text(script + "\nnp.save('x.npy', x.numpy())\n")
    done = subprocess.run(
        [sys.executable, "plain.py"], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    steps = make_run("sampler.steps=5").reverse
    ours = run.ensemble().replay(torch.eye(6)[[3]], noise_tape([0], 5, (1, 8, 8)), steps)[0]
    close(torch.from_numpy(np.load(tmp_path / "x.npy")), ours)


def test_the_ensemble_lies_in_the_run_and_verify_covers_both(ddattr, copy, make_run, tmp_path):
    assert ddattr("export", "run", "sampler.steps=5").out == "export: run/exports/ensemble\n"
    folder = copy / "exports" / "ensemble"
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(folder)
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    tape = noise_tape([9], 5, (1, 8, 8))
    run = make_run("sampler.steps=5")
    ours = run.ensemble().replay(torch.full((1, 6), 1 / 6), tape, run.reverse)[0]
    close(replayed(pipeline, tape, 1.0), ours)
    assert ddattr("export", "run", "sampler.steps=5").out == "export: already done, run/exports/ensemble\n"
    said = ddattr("export", "run", "output=uneven")  # 3 steps are no divisor of 1,000
    assert said.out.startswith("warning: in plain diffusers the picture of seed 0 differs by ")
    assert ": DDIMScheduler steps back by num" in (tmp_path / "uneven" / "README.md").read_text()
    assert "exports/ensemble  ok" in ddattr("verify", "run").out
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert ddattr("verify", "moved/").out.startswith("export  ok\n")
    index = moved / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "DDIMPipeline"}))
    said = ddattr("verify", "moved/")
    assert (said.status, said.out.splitlines()[0]) == (2, "export  damaged: model_index.json")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["member=9"], ["member=9 does not exist"]),
        (["member=2"], ["export: member 2 of 6 is missing. Train it: ddattr train run member=2"]),
        ([], ["ensemble: member 2 of 6 is missing"]),
        (["member=1", "output=run"], ["output=run has files already, expected a new or an empty folder"]),
        (["member=1", "output=''"], ["export: output=, expected a folder"]),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line_and_nothing_is_written(ddattr, copy, tmp_path, words, expected):
    shutil.rmtree(copy / "members" / "002")
    before = sorted(tmp_path.rglob("*"))
    refused(ddattr("export", "run", *words), *expected)
    assert sorted(tmp_path.rglob("*")) == before


def test_another_member_in_the_same_folder_and_other_weights_than_were_exported_are_refused(ddattr, copy):
    assert ddattr("export", "run", "member=1", "output=out").status == 0
    refused(ddattr("export", "run", "member=2", "output=out"), "member=1 (now 2)", "Set output= to another folder")
    made = manifest(copy / "members" / "001")
    made["files"]["member.safetensors"] = "0" * 64
    (copy / "members" / "001" / "manifest.json").write_text(json.dumps(made))
    refused(ddattr("export", "run", "member=1", "output=out"), "out was made of another members/001 than lies there")
