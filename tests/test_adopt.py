"""`ddattr subsets` and `ddattr adopt`: a training of one's own, by lists, whose networks are members like any."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, contents, manifest, refused
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from ddattr.diffusion.noise import TrainingDraws
from ddattr.diffusion.pipeline import denoiser, save, scheduler
from ddattr.diffusion.sampler import DDPM
from ddattr.files import digest, load_table
from ddattr.stages.training import train_member

MEMBER = "members/003"


@pytest.fixture
def lacking(copy) -> Path:
    """Trained members less number 3, whose weights lie beside the run."""
    shutil.move(copy / MEMBER / "member.safetensors", copy.parent / "mine.safetensors")
    shutil.rmtree(copy / MEMBER)
    return copy


def drawn(settings: dict, stream: int, step: int, attempt: int = 0) -> np.random.Generator:
    """As settings.json says, of numpy alone."""
    key = np.array([settings["seed"], stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, attempt, step]))


def slots(settings: dict, everything: pd.DataFrame, own: pd.DataFrame, step: int) -> list[int]:
    """Places in all.csv of a batch's pictures."""
    mine, chosen, attempt = set(own["row"]), [-1] * settings["training"]["batch"], 0
    while -1 in chosen:
        draw = drawn(settings, 4, step, attempt).random(len(chosen))
        for slot, place in enumerate((draw * settings["pictures"]).astype(int)):
            if chosen[slot] < 0 and everything["row"][place] in mine:
                chosen[slot] = int(place)
        attempt += 1
    return chosen


def test_the_lists_are_the_columns_of_the_codebook_and_the_draws_are_as_they_are_said(ddattr, tmp_path, make_run):
    said = ddattr("subsets", *TINY, "root=run")
    assert (said.status, said.err) == (0, "")
    assert "Take each back: ddattr adopt " in said.out
    run, folder = make_run(), tmp_path / "run" / "subsets"
    settings, everything = json.loads((folder / "settings.json").read_text()), pd.read_csv(folder / "all.csv")
    assert everything["row"].tolist() == run.data.rows.tolist()
    for member in range(6):
        own, owned = pd.read_csv(folder / f"{member:03d}.csv"), run.codebook.subset(member)[run.data.unit_of]
        assert own["row"].tolist() == run.data.rows[owned].tolist()
        draws = TrainingDraws(0, owned, 4, 1000, run.data.shape)
        for step in (0, 7):
            assert slots(settings, everything, own, step) == draws.images(step).tolist()
            times = drawn(settings, 3, step).random(4) * settings["scheduler"]["num_train_timesteps"]
            assert times.astype(int).tolist() == draws.times(step).tolist()
            noise = drawn(settings, 2, step).standard_normal((4, *settings["shape"]), np.float32)
            assert (noise == draws.noise(step).numpy()).all()
    start, ours = load_file(folder / "initialisation.safetensors"), run.network(None).state_dict()
    assert all(torch.equal(start[name], ours[name]) for name in ours)
    assert settings["timesteps"] == [step.t for step in run.reverse]
    assert ddattr("subsets", *TINY, "root=run").out.startswith("subsets: already done\n")
    assert "subsets      ok\n" in ddattr("verify", "run").out


def test_lists_and_settings_say_what_pictures_are_shown_under(ddattr, tmp_path, make_run):
    given = ("conditions=classes", "conditions.dropout=0.5", "conditions.guidance=2.0")
    said = ddattr("subsets", *TINY, "root=run", *given)
    assert (said.status, said.err) == (0, "")
    of, folder = make_run(*given), tmp_path / "run" / "subsets"
    settings, everything = json.loads((folder / "settings.json").read_text()), pd.read_csv(folder / "all.csv")
    assert everything.condition_number.tolist() == of.conditions.labels.tolist()
    assert everything.condition.astype(str).tolist() == [of.data.set_name("label", one) for one in everything.label]
    assert settings["conditions"] == {"dropout": 0.5, "null": of.conditions.null, "guidance": 2.0}
    assert settings["latents"] is None
    assert "stream 19" in settings["draws"]["conditions"]
    dropped = drawn(settings, 19, 7).random(4) < settings["conditions"]["dropout"]
    owned = torch.ones(12, dtype=torch.bool)
    assert dropped.tolist() == TrainingDraws(0, owned, 4, 1000, of.data.shape).dropped(7, 0.5).tolist()


def test_files_are_listed_by_their_names(ddattr, tmp_path):
    from PIL import Image

    for place in range(12):
        (tmp_path / "pictures" / str(place % 3)).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * place).save(tmp_path / "pictures" / str(place % 3) / f"{place}.png")
    own = [word for word in TINY[1:] if not word.startswith("data.source.count")]
    given = ("data=folder", "data.source.path=pictures", "experiment=own", "data.units=image", "name=mine", *own)
    said = ddattr("subsets", *given)
    assert (said.status, said.err) == (0, ""), said
    table = pd.read_csv(tmp_path / "runs" / "mine" / "subsets" / "002.csv")
    assert {"row", "unit", "file", "folder"} <= set(table)
    assert all((tmp_path / "pictures" / name).is_file() for name in table.file)
    assert json.loads((tmp_path / "runs" / "mine" / "subsets" / "settings.json").read_text())["folder"] == "pictures"


@pytest.mark.slow
def test_a_member_of_the_same_weights_is_the_member_and_is_marked_wherever_members_are_listed(ddattr, lacking, trained):
    mine = lacking.parent / "mine.safetensors"
    said = ddattr("adopt", "run", "member=3", "path=mine.safetensors")
    assert (said.status, said.err) == (0, ""), said
    assert "member 3: adopted from mine.safetensors, " in said.out
    made, theirs = manifest(lacking / MEMBER), manifest(trained / MEMBER)
    assert made["fingerprint"] == theirs["fingerprint"]
    assert made["files"] == {"member.safetensors": theirs["files"]["member.safetensors"]}
    assert made["adopted"]["path"] == "mine.safetensors"
    assert made["adopted"]["files"] == {"mine.safetensors": digest(mine)}
    marked = f"member 3: trained elsewhere, adopted on {made['adopted']['date']} from mine.safetensors"
    assert marked in ddattr("status", "run").out
    assert f"{MEMBER}  ok, trained elsewhere\n" in ddattr("verify", "run").out
    assert f"done            run/{MEMBER}: trained elsewhere\n" in ddattr("reproduce", "run", "--dry-run").out
    refused(ddattr("replay", f"run/{MEMBER}"), "was trained elsewhere, and adopted on", "ddattr verify run")
    assert "member 3: already done" in ddattr("train", "run", "member=3").out
    refused(ddattr("adopt", "run", "member=3", "path=mine.safetensors"), "member 3 is done, expected missing. Delete")
    assert ddattr("export", "run", "member=3", "output=out").status == 0
    assert "| member 3 | trained elsewhere, and adopted on" in (lacking.parent / "out" / "README.md").read_text()


@pytest.mark.slow
def test_pages_and_tables_of_a_run_mark_it(ddattr, lacking, tmp_path):
    assert ddattr("adopt", "run", "member=3", "path=mine.safetensors").status == 0
    for verb in ("evaluate", "attribute", "report"):
        said = ddattr(verb, "run")
        assert said.status == 0, said
    assert "n=6 members (trained elsewhere: 3), h=2" in said.out
    table = load_table(lacking / "quality" / "fid.csv")
    assert table.member[table.adopted].tolist() == [3]
    assert "trained elsewhere, adopted on" in (lacking / "report.html").read_text()
    plan = ddattr("plan", "run").out
    assert "trained elsewhere           members 3, whose cost nobody here knows\n" in plan
    before = contents(lacking / "members")
    assert ddattr("reproduce", "run").status == 0
    assert contents(lacking / "members") == before


def scaled(weights: dict, name: str, factor: float) -> dict:
    return weights | {name: weights[name] * factor}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w, name: {k: v for k, v in w.items() if k != name}, "conv_in.weight absent, expected of 4 x 1 x 3 x 3"),
        (lambda w, name: w | {"more": torch.zeros(2)}, "more of 2, expected absent"),
        (lambda w, name: w | {name: torch.zeros(8, 1, 3, 3)}, "of 8 x 1 x 3 x 3, expected of 4 x 1 x 3 x 3"),
        (lambda w, name: scaled(w, name, float("nan")), "conv_in.weight with values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line_and_nothing_is_written(ddattr, lacking, change, words):
    mine = lacking.parent / "mine.safetensors"
    save_file(change(load_file(mine), "conv_in.weight"), lacking.parent / "other.safetensors")
    before = contents(lacking)
    refused(ddattr("adopt", "run", "member=3", "path=other.safetensors"), words)
    assert contents(lacking) == before


def test_what_is_no_checkpoint_is_refused_in_one_line(ddattr, lacking):
    place = lacking.parent
    torch.save(load_file(place / "mine.safetensors"), place / "mine.pt")
    (place / "text.safetensors").write_text("no tensors")
    (place / "bin").mkdir()
    shutil.copy(place / "mine.pt", place / "bin" / "diffusion_pytorch_model.bin")
    (place / "none").mkdir()
    (lacking / "members" / "004" / "manifest.json").unlink()
    for words, expected in (
        (["member=3", "path=mine.pt"], "is pickled, and could run anything, expected safetensors"),
        (["member=3", "path=bin"], "diffusion_pytorch_model.bin is pickled"),
        (["member=3", "path=text.safetensors"], "is no safetensors file"),
        (["member=3", "path=none"], "has no diffusion_pytorch_model.safetensors"),
        (["member=3", "path=away"], "path=away is missing"),
        (["member=3"], "path=null, expected a safetensors file"),
        (["path=mine.safetensors"], "adopt: member is missing, expected 0 to 5"),
        (["member=6", "path=mine.safetensors"], "member=6 does not exist"),
        (["member=1", "path=mine.safetensors"], "member 1 is done, expected missing. Delete run/members/001"),
    ):
        refused(ddattr("adopt", "run", *words), expected)


def test_a_folder_of_diffusers_says_what_shapes_do_not(ddattr, lacking, make_run):
    """Activation and schedule: the same names and shapes, another denoiser."""
    place, run = lacking.parent, make_run()
    network = run.network(None)
    network.load_state_dict(load_file(place / "mine.safetensors"))
    save(place / "pipeline", denoiser([network]), scheduler(run.process, DDPM(3)))
    other = UNet2DModel.from_config(network.config, act_fn="relu")
    other.save_pretrained(place / "relu")
    shutil.copytree(place / "pipeline", place / "schedule")
    DDPMScheduler(1000, 1e-4, 0.03).save_pretrained(place / "schedule" / "scheduler")
    refused(ddattr("adopt", "run", "member=3", "path=relu"), "relu has act_fn=relu, expected silu")
    refused(ddattr("adopt", "run", "member=3", "path=schedule"), "of the schedule 1000, linear, 0.0001, 0.03, epsilon")
    assert ddattr("adopt", "run", "member=3", "path=pipeline").status == 0
    assert set(manifest(lacking / MEMBER)["adopted"]["files"]) == {
        "pipeline/unet/diffusion_pytorch_model.safetensors",
        "pipeline/unet/config.json",
        "pipeline/scheduler/scheduler_config.json",
    }
    ours = load_file(lacking / MEMBER / "member.safetensors")
    assert all(torch.equal(ours[name], weight) for name, weight in load_file(place / "mine.safetensors").items())


@pytest.mark.slow
def test_a_plain_loop_over_the_lists_trains_members_that_can_be_adopted_and_attributed(ddattr, tmp_path, make_run):
    """A user's script with the settings of a run, without its average of weights, is that run's own training."""
    given = (*TINY, "root=run", "training.ema=null")
    assert ddattr("subsets", *given).status == 0
    folder = tmp_path / "run" / "subsets"
    settings, everything = json.loads((folder / "settings.json").read_text()), pd.read_csv(folder / "all.csv")
    pictures, training = make_run().data.images, settings["training"]
    network = {key: value for key, value in settings["unet"].items() if key != "_target_"}
    noising = DDPMScheduler(**{k: v for k, v in settings["scheduler"].items() if k != "clip_sample"})
    for member in range(6):
        own = pd.read_csv(folder / f"{member:03d}.csv")
        unet = UNet2DModel(sample_size=settings["shape"][1:], in_channels=1, out_channels=1, **network)
        unet.load_state_dict(load_file(folder / "initialisation.safetensors"))
        adam = torch.optim.AdamW(unet.parameters(), weight_decay=training["weight_decay"])
        for step in range(training["steps"]):
            left = 1 - step / training["steps"]
            rate = max(0.01, min(1.0, (step + 1) / training["warmup"]) * left)
            adam.param_groups[0]["lr"] = training["learning_rate"] * rate
            times = (drawn(settings, 3, step).random(4) * settings["scheduler"]["num_train_timesteps"]).astype(int)
            noise = torch.from_numpy(drawn(settings, 2, step).standard_normal((4, *settings["shape"]), np.float32))
            clean = pictures[slots(settings, everything, own, step)]
            noisy = noising.add_noise(clean, noise, torch.from_numpy(times))
            loss = (unet(noisy, torch.from_numpy(times)).sample - noise).square().mean()
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), training["gradient_clip"])
            adam.step()
        unet.save_pretrained(tmp_path / f"mine-{member}")
        said = ddattr("adopt", "run", f"member={member}", f"path=mine-{member}")
        assert said.status == 0, said
    train_member(make_run("training.ema=null", f"root={tmp_path / 'other'}"), 5)
    theirs, here = (load_file(tmp_path / name / "members/005/member.safetensors") for name in ("run", "other"))
    for name, weight in here.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-4, atol=1e-5)
    for verb in ("evaluate", "attribute"):
        assert ddattr(verb, "run").status == 0
    assert len(load_table(tmp_path / "run" / "attribution" / "default" / "attributions.parquet").columns) >= 7
