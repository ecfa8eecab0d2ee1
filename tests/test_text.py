"""Text to image in latents: a tiny pipeline of random weights, made from configs."""

import json
import shutil
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY_SIZES, composed, environment, refused
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import ddattr as package
from ddattr.diffusion import prompted, text
from ddattr.diffusion.adapters import Adapted, Base, Lora
from ddattr.diffusion.captions import Captions
from ddattr.diffusion.noise import Stream, noise_tape, seeded_torch
from ddattr.diffusion.prompts import Texts
from ddattr.diffusion.tangents import pushed
from ddattr.ensemble.ensemble import Ensemble
from ddattr.files import load_json, load_table, load_tensors
from ddattr.stages import train
from ddattr.stages.run import Run

SHAPE = (3, 16, 16)
CAPTIONS = ["red cat", "blue cat", "red dog"]


def saved(folder: Path) -> Path:
    """A pipeline's folder; its tokens are letters, 32 at most; its VAE halves sides once."""
    with seeded_torch(0, Stream.INITIALISATION):
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(4, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=2,
            cross_attention_dim=8,
            attention_head_dim=2,
        )
        vae = AutoencoderKL(
            block_out_channels=(4, 4),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=2,
            sample_size=16,
            scaling_factor=0.5,
        )
        config = CLIPTextConfig(
            vocab_size=54,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            projection_dim=8,
            bos_token_id=52,
            eos_token_id=53,
            pad_token_id=53,
        )
        encoder = CLIPTextModel(config)
    letters = [letter + end for end in ("", "</w>") for letter in string.ascii_lowercase]
    vocabulary = {word: number for number, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    raw = folder.parent / "words"
    raw.mkdir()
    (raw / "vocab.json").write_text(json.dumps(vocabulary))
    (raw / "merges.txt").write_text("#version: 0.2\n")
    words = CLIPTokenizer(str(raw / "vocab.json"), str(raw / "merges.txt"), model_max_length=32)
    steps = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    whole = StableDiffusionPipeline(vae, encoder, words, unet, steps, None, None, requires_safety_checker=False)
    whole.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("text") / "pipeline")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve pictures with captions, in three folders."""
    root, rows = tmp_path / "pictures", []
    for place in range(12):
        file = root / f"{'abc'[place % 3]}" / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SHAPE[1:], (20 * place, 255 - 20 * place, 40 * (place % 3))).save(file)
        rows.append((file.relative_to(root).as_posix(), CAPTIONS[place % 3], "cat"))
    pd.DataFrame(rows, columns=["file", "caption", "kind"]).to_csv(root / "pictures.csv", index=False)
    return root


@pytest.fixture
def given(pipeline, folder, tmp_path) -> list[str]:
    kept = [size for size in TINY_SIZES if not size.startswith("unet.")]
    return [
        "experiment=own",
        "data=folder",
        "name=text",
        f"data.source.path={folder}",
        f"data.source.cache={tmp_path / 'cache'}",
        "data.source.size=16",
        "data.units=image",
        "data.clusters=3",
        "data.holdout=0",
        "unet=text",
        f"unet.path={pipeline}",
        "training=lora",
        *kept,
        "training.steps=4",
        "training.warmup=1",
        "training.learning_rate=1e-3",
        "attribution.refine=1",
        "attribution.queries=4",
        "attribution.batch=2",
        "attribution.ablation_units=2",
        "attribution.denoisings=3",
        f"root={tmp_path / 'run'}",
    ]


def run(given: list[str], *more: str) -> Run:
    return Run(composed(*given, *more), [*given, *more])


def captions(pipeline: Path, **options) -> Captions:
    return Captions({"caption": CAPTIONS, "kind": ["cat", "cat", "dog"]}, Texts(str(pipeline)), **options)


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_latents_are_those_that_diffusers_makes_and_decode_to_pictures_of_the_same_shape(pipeline):
    code, vae = text.latents(str(pipeline), SHAPE), AutoencoderKL.from_pretrained(pipeline / "vae")
    made = code.encode(pictures())
    assert made.shape == (3, *code.shape) == (3, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(made, vae.encode(pictures()).latent_dist.mode() * vae.config.scaling_factor)
        torch.testing.assert_close(code.decode(made), vae.decode(made / vae.config.scaling_factor).sample)
    assert code.decode(made).shape == (3, *SHAPE)
    assert torch.equal(code.encode(pictures()), made)
    assert code.encode(pictures()[:0]).shape == (0, *code.shape)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((1, 16, 16), r"takes 3 channels\. Set data\.source\.channels=3"), ((3, 15, 16), r"expected multiples of 2")],
)
def test_pictures_that_the_vae_cannot_take_are_refused(pipeline, shape, said):
    with pytest.raises(ValueError, match=said):
        text.latents(str(pipeline), shape)


def test_prompts_are_embedded_as_the_text_encoder_has_them_whatever_else_is_asked(pipeline):
    known, encoder = captions(pipeline), CLIPTextModel.from_pretrained(pipeline / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(pipeline / "tokenizer")
    numbers = known.in_turn(["dog", "red cat", None], 4)
    assert known.words(numbers) == ["dog", "red cat", "none", "dog"]
    found = known.given(numbers).condition
    for prompt, row in zip(["dog", "red cat", "", "dog"], found, strict=True):
        ids = tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            torch.testing.assert_close(row, encoder(ids)[0][0])
    assert not torch.allclose(found[0], found[1])
    assert torch.equal(known.given(numbers).null, found[2])


def test_captions_are_of_a_column_or_a_template_and_dropped_ones_are_empty(pipeline):
    known = captions(pipeline)
    assert known.names == sorted(CAPTIONS)
    assert known.words(known.of_seeds([0, 1, 2, 3])) == [*known.names, known.names[0]]
    made = captions(pipeline, template="a {kind}")
    assert made.names == ["a cat", "a dog"]
    shown = made.shown(torch.tensor([0, 2, 2]), torch.tensor([False, False, True]))
    assert torch.equal(shown, made.given(made.in_turn(["a cat", "a dog", None], 3)).condition)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"column": "words"}, r"conditions: column needs the text of words, expected a column .*\(caption, kind\)"),
        ({"template": "of {artist}"}, r"conditions: template needs the text of artist"),
        ({"template": "red {kind}" + " blue" * 9}, r"conditions: template has a prompt of 44 tokens"),
        ({"queries": ["red cat " * 9]}, r"conditions: queries has a prompt of 56 tokens, .* expected at most 32"),
        ({"queries": []}, r"conditions: queries=\[\], expected one prompt or more"),
    ],
)
def test_captions_that_cannot_be_are_refused(pipeline, options, said):
    with pytest.raises(ValueError, match=said):
        captions(pipeline, **options)


@pytest.fixture
def members(pipeline) -> Ensemble:
    """Three adapters that change something."""
    base, made = Base(text.unet(str(pipeline), (8, 8), 4, 4), Lora(rank=2)), []
    for seed in range(3):
        with seeded_torch(seed, Stream.ADAPTER):
            made.append(Adapted(base))
            for name, weight in made[-1].named_parameters():
                if ".lora_B." in name:
                    torch.nn.init.normal_(weight, std=0.5)
    return Ensemble(made)


def test_prompts_permuted_between_queries_permute_the_results(pipeline, members, process):
    known, reverse, order = captions(pipeline, guidance=2.0), process.reverse_steps(3, 1.0), [2, 0, 1]
    tape = noise_tape([4, 4, 4], len(reverse), (4, 8, 8))
    numbers = known.in_turn(["red cat", "dog", "blue"], 3)
    one, other = (
        members.given(known.given(these)).replay(members.uniform[None], tape, reverse)[0]
        for these in (numbers, numbers[order])
    )
    assert (one[0] - one[1]).abs().max() > 1e-4
    torch.testing.assert_close(other, one[order])


def test_guidance_of_1_is_none_to_the_bit(pipeline, members):
    known, x = captions(pipeline), noise_tape([0, 1], 1, (4, 8, 8))[0]
    given = known.given(known.in_turn(["red cat", "dog"], 2))
    guided = members.given(given).outputs(x, 7)
    alone = torch.stack([network(x, 7, given.condition) for network in members.members])
    assert torch.equal(guided, alone.detach())


def test_derivatives_pass_through_a_text_unet_as_central_differences_have_it(pipeline, members):
    known, x = captions(pipeline), noise_tape([0, 1], 1, (4, 8, 8))[0].double()
    asked = members.double().given(known.given(known.in_turn(["red cat", "dog"], 2)))
    direction, step = torch.ones_like(x), 1e-4
    _, derivative = pushed(lambda y: asked.member(0, y, 7), x, direction[None])
    with torch.no_grad():
        above, below = (asked.member(0, x + sign * step * direction, 7) for sign in (1, -1))
    torch.testing.assert_close(derivative[0], (above - below) / (2 * step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer"])
def test_a_pipeline_without_a_part_is_refused(pipeline, tmp_path, part):
    lacking = shutil.copytree(pipeline, tmp_path / "lacking")
    shutil.rmtree(lacking / part)
    with pytest.raises(FileNotFoundError, match=part):
        text.latents(str(lacking), SHAPE), Texts(str(lacking))


@pytest.mark.parametrize(("part", "name"), [("unet", "diffusion_pytorch_model"), ("text_encoder", "model")])
def test_pickled_weights_are_refused(pipeline, tmp_path, part, name):
    pickled = shutil.copytree(pipeline, tmp_path / "pickled")
    (pickled / part / f"{name}.safetensors").rename(pickled / part / f"{name}.bin")
    with pytest.raises(ValueError, match=rf"is pickled.*expected {name}\.safetensors"):
        text.unet(str(pickled), (8, 8), 4, 4), Texts(str(pickled))


def test_without_transformers_the_extra_is_named(pipeline, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'ddattr\[text\]'"):
        Texts(str(pipeline))


def test_members_see_latents_and_people_pictures(given):
    of = run(given)
    seen, whole = of.seen, of.data
    assert (seen.shape, whole.shape, of.shape) == ((4, 8, 8), SHAPE, (4, 8, 8))
    assert torch.equal(seen.images, of.latents.encode(whole.images[:]))
    assert seen.unit_images.shape == (12, 4, 8, 8)
    assert torch.equal(seen.unit_points, whole.unit_points)
    torch.testing.assert_close(seen.distance(seen.images[:3]), whole.distance(of.latents.decode(seen.images[:3])))
    of.write_codebook()
    kept = run(given)
    assert kept.latents_artifact.done()
    assert torch.equal(kept.seen.images, seen.images)


def test_latents_and_members_are_of_what_the_folder_holds_and_not_of_where_it_lies(given, pipeline, tmp_path):
    moved = shutil.copytree(pipeline, tmp_path / "moved")
    one, other = run(given), run(given, f"unet.path={moved}")
    assert one.member_artifact(0).fingerprint == other.member_artifact(0).fingerprint
    assert one.latents_artifact.fingerprint == other.latents_artifact.fingerprint
    changed = run(given, "conditions.template='a {kind}'")
    assert changed.member_artifact(0).fingerprint != one.member_artifact(0).fingerprint
    asked = run(given, "conditions.queries=['red dog']")
    assert asked.member_artifact(0).fingerprint == one.member_artifact(0).fingerprint
    assert asked.attribution_artifact.fingerprint != one.attribution_artifact.fingerprint


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("conditions=classes", "conditions: no captions, but unet=text takes prompts. Set conditions=captions."),
        ("data.flips=true", "data: flips=true"),
        ("conditions.column=artist", "conditions: column needs the text of artist"),
    ],
)
def test_the_command_refuses_in_one_line(given, ddattr, more, said):
    refused(ddattr("train", *given, more, "member=0"), said)


@pytest.mark.slow
def test_a_run_of_text_from_training_to_the_page(given, ddattr, tmp_path):
    root, prompts = tmp_path / "run", "conditions.queries=['red cat','a blue dog']"
    for member in range(6):
        train.run(run(given, prompts, f"member={member}"))
    for verb in ("evaluate", "attribute", "report", "verify"):
        said = ddattr(verb, *given, prompts) if verb != "verify" else ddattr("verify", str(root))
        assert said.status == 0, said.err
    found = load_table(root / "attribution" / "default" / "queries.csv")
    assert found.condition.tolist() == ["red cat", "a blue dog"] * 2
    latents = load_tensors(root / "attribution" / "default" / "queries.safetensors")
    shown = load_tensors(root / "attribution" / "default" / "shown.safetensors")
    of = run(given, prompts)
    assert latents["factual"].shape == (4, 4, 8, 8)
    torch.testing.assert_close(shown["factual"], of.latents.decode(latents["factual"]))
    assert "latents" in (root / "report.html").read_text()
    again = package.load(root)
    assert again.pictures[0].shape == SHAPE
    picture = next((tmp_path / "pictures").rglob("*.png"))
    asked = again.attribute(pictures=[picture], conditions=["red cat"])
    assert asked.queries.condition.tolist() == ["red cat"]
    assert asked.pictures[0].shape == SHAPE
    assert load_json(root / "latents" / "manifest.json")["config"]["vae"]


def code(card: str) -> list[str]:
    return [part.removeprefix("python\n") for part in card.split("```")[1::2]]


@pytest.mark.slow
@pytest.mark.parametrize(("member", "eta"), [("3", "0.0"), ("3", "1.0"), ("null", "0.5")])
def test_an_export_is_loaded_by_stable_diffusion_s_pipeline_and_makes_our_latents(
    given, ddattr, tmp_path, member, eta, pipeline
):
    """By the card's own code, in a process that has no ddattr."""
    sampler = ["sampler=ddim", f"sampler.eta={eta}", "sampler.steps=5", "conditions.guidance=3.0"]
    words = [*sampler, "training.learning_rate=0.1", "conditions.queries=['red cat']"]
    for k in range(6) if member == "null" else (3,):
        train.run(run(given, *words, f"member={k}"))
    said = ddattr("export", *given, *words, f"member={member}", "output=out")
    assert (said.status, said.err) == (0, ""), said
    assert said.out == "export: out\n"  # and no warning
    card = (tmp_path / "out" / "README.md").read_text()
    assert text.digest(str(pipeline)) in card
    script = "import sys\nsys.modules['ddattr'] = None\n" + "\n".join(code(card)).replace("FOLDER", "out")
    (tmp_path / "plain.py").write_text(script + "\nnp.save('x.npy', x.numpy())\n")
    done = subprocess.run(
        [sys.executable, "plain.py"], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    of = run(given, *words)
    networks = [of.load(of.member_artifact(k)) for k in (range(6) if member == "null" else (3,))]
    asked = Ensemble(networks).given(of.conditions.given(of.conditions.in_turn(["red cat"], 1)))
    tape = noise_tape([of.seed], 5, of.shape)
    ours = asked.replay(asked.uniform[None], tape, of.reverse)[0]
    theirs = torch.from_numpy(np.load(tmp_path / "x.npy"))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    base = Ensemble([of._network()]).given(asked.under)
    assert (base.replay(base.uniform[None], tape, of.reverse)[0] - ours).abs().max() > 1e-2
    assert ddattr("export", *given, *words, f"member={member}", "output=out").out == "export: already done, out\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("training.lora=null", "export: members are whole networks of text to image, expected adapters"),
        ("conditions.guidance=0.5", "export: guidance=0.5, which StableDiffusionPipeline takes for none"),
        ("data.source.size=12", "export: pictures of 3 x 12 x 12, but StableDiffusionPipeline makes those whose sides"),
    ],
)
def test_what_stable_diffusion_s_pipeline_does_not_do_is_not_exported(given, more, said):
    of = run(given, more)
    with pytest.raises(ValueError, match=said):
        prompted.check_exportable(of.network(None), of.build("sampler"), of.conditions.guidance, of.data.shape)


def recaptioned(given: list[str], folder: Path, caption: str, count: int = 3) -> list[str]:
    """The run's words, of some pictures that no member sees, once these have a caption of their own."""
    words = [*given, f"data.holdout={count}"]
    table, hidden = pd.read_csv(folder / "pictures.csv"), run(words).data.held_out.table.file
    table.loc[table.file.isin(hidden), "caption"] = caption
    table.to_csv(folder / "pictures.csv", index=False)
    return words


def test_held_out_pictures_are_asked_under_their_own_captions(given, folder):
    words = recaptioned(given, folder, "a new cat")
    of = run(words)
    assert of.conditions.prompts(of.held_out_condition) == ["a new cat"] * 3
    assert "a new cat" not in of.conditions.names
    made = run(words, "conditions.template='a {kind}'")
    assert made.conditions.prompts(made.held_out_condition) == ["a cat"] * 3
    assert run(words).scores_artifact.fingerprint == of.scores_artifact.fingerprint
    changed = run(recaptioned(given, folder, "an old cat"))
    assert changed.scores_artifact.fingerprint != of.scores_artifact.fingerprint
    assert changed.member_artifact(0).fingerprint == of.member_artifact(0).fingerprint


def test_held_out_pictures_without_a_caption_are_refused_in_one_line(given, folder, ddattr):
    words = recaptioned(given, folder, "")
    refused(ddattr("retrain", *words), "conditions: 3 of 3 held-out pictures have no caption")


@pytest.mark.slow
def test_a_run_of_text_is_validated(given, folder, ddattr, tmp_path):
    """By peers too: their gradients are of latents under prompts, their features of decoded pictures."""
    sizes = ["codebook.members=7", "codebook.weight=3", "validation.retrained_units=5"]
    sizes += ["validation.retrained_members=3", "validation.replicates=2"]
    sizes += ["validation.lds_subsets=5", "validation.tuning_subsets=4"]
    sizes += ["validation.groups=unit", "validation.left_out=5", "validation.removal_queries=0"]
    sizes += ["validation.draws=4", "attribution.queries=5"]
    words = recaptioned([word for word in given if word != "attribution.queries=4"], folder, "a new cat", 5)
    words += [*sizes, "training.learning_rate=0.05"]
    for member in range(7):
        train.run(run(words, f"member={member}"))
    for verb in ("evaluate", "attribute", "validate", "report"):
        said = ddattr(verb, *words)
        assert said.status == 0, said.err
    root = tmp_path / "run"
    for name in ("agreement", "lds", "groups", "power", "false_attribution", "calibration"):
        assert len(load_table(root / "validation" / f"{name}.csv")), name
    of = run(words)
    scores = load_tensors(root / "validation" / "scores" / "scores.safetensors")
    real, units = of.seen.shown(of.seen.held_out.images), of.data.unit_images
    expected = -torch.cdist(units.flatten(1), real.clamp(-1, 1).flatten(1)).double()
    torch.testing.assert_close(scores["real/pixel"], expected, rtol=1e-4, atol=1e-4)
    assert {f"generated/{peer}" for peer in of.validation.peers} <= set(scores)
    assert set(load_table(root / "validation" / "power.csv").measure).isdisjoint({"feature", "region"})
    asked = load_table(root / "validation" / "lds.csv")
    assert set(asked.queries) == {"generated", "real"}
