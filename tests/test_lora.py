"""Members that are adapters: what is trained, what a folder holds, and what else it may be used with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY, composed, refused
from diffusers import UNet2DModel
from faults import forks  # noqa: F401
from safetensors import safe_open
from test_cut import CUT, SAW, cut, results, started
from test_pretrained import afresh, saved  # noqa: F401

import ddattr as ddattr_
from ddattr.diffusion import pretrained
from ddattr.diffusion.adapters import Adapted
from ddattr.ensemble.member import AtomicCheckpointIO
from ddattr.files import load_tensors, save_tensors
from ddattr.stages import retrain, train, training
from ddattr.stages.run import Run
from ddattr.validation.peers import Loss, gradients

LORA = ("training=lora", "training.lora.rank=2")
ON_SMALL = (*LORA, "training.lora.target_modules=[conv1,conv2]")  # a network without attention, which nobody trained
SIZES = [word for word in TINY if not word.startswith("unet.")]


@pytest.fixture
def base(tmp_path) -> Path:
    return saved(tmp_path / "base")


def argv(base: Path, *overrides: str) -> list[str]:
    return [*SIZES, "unet=pretrained", f"unet.path={base}", f"root={base.parent / 'run'}", *LORA, *overrides]


def run(base: Path, *overrides: str) -> Run:
    return Run(composed(*argv(base, *overrides)), argv(base, *overrides))


def test_a_member_s_file_is_its_adapter_and_says_of_which_base(base):
    of = run(base, "member=0")
    before = {name: weight.clone() for name, weight in of.shared.network.state_dict().items()}
    train.run(of)
    assert all(torch.equal(weight, before[name]) for name, weight in of.shared.network.state_dict().items())
    path = of.member_artifact(0).folder / "member.safetensors"
    kept = load_tensors(path)
    assert set(kept) == {name for name, _ in training.build(of, 0).network.named_parameters()}
    assert all(weight.any() for weight in kept.values())
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["ddattr"])
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    assert about == {"base": of.shared.digest, "rank": 2, "alpha": 2, "target_modules": targets}


def test_the_optimiser_and_the_average_have_the_adapter_alone(base):
    module = training.build(run(base), 0)
    own = dict(module.network.named_parameters())
    (optimised,) = module.configure_optimizers()["optimizer"].param_groups
    assert {id(p) for p in optimised["params"]} == {id(p) for p in own.values()}
    average = torch.optim.swa_utils.AveragedModel(module)
    assert [p.shape for p in average.parameters()] == [p.shape for p in own.values()]
    assert average.module.network.base is module.network.base


@pytest.mark.parametrize("draws", ["common", "independent"])
def test_an_adapter_s_initialisation_has_an_address(base, draws):
    def drawn(member: int, seed: int = 0) -> torch.Tensor:
        built = training.build(run(base, f"training.draws={draws}", f"seed={seed}"), member)
        return torch.cat([weight.flatten() for weight in built.network.state_dict().values()])

    assert torch.equal(drawn(1), drawn(1))
    assert torch.equal(drawn(0), drawn(1)) == (draws == "common")
    assert not torch.equal(drawn(1), drawn(1, seed=1))


def test_members_of_a_process_share_one_base_and_answer_as_their_saved_adapters_say(base):
    for member in (0, 1):
        train.run(run(base, f"member={member}"))
    of = run(base)
    one, other = (of.load(of.member_artifact(k)) for k in (0, 1))
    assert one.base is other.base is of.shared
    for k, member in enumerate((one, other)):
        kept = load_tensors(of.member_artifact(k).folder / "member.safetensors")
        assert all(torch.equal(kept[name], weight) for name, weight in member.state_dict().items())
    x = torch.randn(1, 1, 8, 8)
    assert not torch.equal(one(x, 3), other(x, 3))
    assert torch.equal(one(x, 3), one(x, 3))


def test_models_of_the_truth_are_adapters_too_and_without_lora_fingerprints_are_as_before(base):
    of, plain = run(base, "validation.retrained_members=2"), run(base, "training.lora=null")
    model = of.validation.models()[0]
    built = training.module(of, model.units, model.member, of.seed + model.replicate)
    assert isinstance(built.network, Adapted)
    assert of.retrained_artifact(model).config["training"]["lora"]["rank"] == 2
    assert "lora" not in plain.member_artifact(0).config["training"]
    assert not isinstance(training.build(plain, 0).network, Adapted)


@pytest.mark.slow
def test_a_retrained_model_is_the_adapter_that_its_file_has(tmp_path, make_run):
    sizes = ("validation.retrained_members=6", "validation.replicates=1")
    started(retrain, tmp_path / "run", "unit=0", f"member={SAW}", *sizes, *ON_SMALL)
    of = make_run(*sizes, *ON_SMALL)
    made = [model for model in of.validation.unit(0) if model.member == SAW]
    for network in (of.load(of.retrained_artifact(model)) for model in made):
        assert isinstance(network, Adapted)
        assert network.base is of.shared
    assert made


@pytest.mark.slow
def test_a_training_that_is_cut_and_started_again_has_the_same_bits_and_its_checkpoint_no_base(tmp_path):
    given = ("member=0", *ON_SMALL)
    started(train, tmp_path / "whole", *given)
    at, checkpoint = 1, tmp_path / "run" / "members" / "000" / "last.ckpt"
    while not checkpoint.exists():
        assert cut(at, train, tmp_path / "run", *given) == CUT
        at += 1
    kept = AtomicCheckpointIO().load_checkpoint(checkpoint)
    assert all(".lora_" in name for key in ("state_dict", "current_model_state") for name in kept[key])
    assert kept["global_step"] == 10
    assert cut(0, train, tmp_path / "run", *given) == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_an_adapter_of_another_base_is_refused_in_a_line(base, ddattr):
    assert ddattr("train", *argv(base), "member=0").status == 0
    other = saved(base.parent / "other")
    network = UNet2DModel.from_pretrained(other / "unet")
    with torch.no_grad():
        network.conv_in.bias += 1e-3
    network.save_pretrained(other / "unet")
    refused(ddattr("train", *argv(other), "member=0"), "members/000", "unet.path=", "(now ")
    shutil.rmtree(base)
    shutil.move(other, base)  # the folder that the run names is another
    pretrained.digest.cache_clear()
    refused(ddattr("evaluate", *argv(base)), "members/000", "unet.path=", "(now ")


def test_a_file_that_says_of_which_base_and_scale_it_is_is_adopted_by_a_run_of_these_alone(base, ddattr):
    of = run(base)
    weights, about = of.network(None).state_dict(), of.shared.about
    for name, more in (("base", {"base": "0" * 16}), ("alpha", {"alpha": 8}), ("own", {})):
        save_tensors(base.parent / f"{name}.safetensors", weights, about | more)
    adopt = "adopt", *argv(base), "member=1"
    refused(ddattr(*adopt, "path=base.safetensors"), "base.safetensors is an adapter of another base, 0000")
    refused(ddattr(*adopt, "path=alpha.safetensors"), "alpha=8, expected 2, ", "Set training.lora.alpha")
    assert not (base.parent / "run").exists()
    assert ddattr(*adopt, "path=own.safetensors").status == 0


def test_an_adapter_whose_base_only_its_file_knows_is_refused_too(make_run, compose):
    """A network of the user's own, whose weights no fingerprint is of."""
    of = make_run(*ON_SMALL, "member=0")
    train.run(of)
    again = make_run(*ON_SMALL)
    assert (
        again.load(again.member_artifact(0)).state_dict().keys() == of.load(of.member_artifact(0)).state_dict().keys()
    )
    changed = make_run(*ON_SMALL)
    drawn = changed._network

    def other():
        network = drawn()
        network.conv_in.bias.data += 1
        return network

    changed._network = other
    with pytest.raises(ValueError, match=r"000/member\.safetensors is an adapter of another base, .* Set unet\.path"):
        changed.load(changed.member_artifact(0))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.lora.rank=0", ("training: lora.rank=0, expected 1 or more", "Set training.lora.rank")),
        ("training.lora.alpha=0", ("training: lora.alpha=0, expected more than 0",)),
        (
            "training.lora.target_modules=[to_x]",
            ("named to_x, expected some of conv", "Set training.lora.target_modules"),
        ),
        ("training.lora=4", ("training: lora=4, expected null, or what training=lora has",)),
        ("training.lora.ranks=4", ("training.lora.ranks is unknown", "rank")),
    ],
)
def test_what_no_adapter_can_be_is_one_line_before_anything_is_written(base, ddattr, override, words):
    refused(ddattr("train", *argv(base, override), "member=0"), *words)
    assert not (base.parent / "run" / "members").exists()


def test_gradient_peers_see_the_adapter_alone(base):
    """As central differences have it, in float64."""
    of = run(base)
    network = training.build(of, 0).network.double()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    loss = Loss(of.process, torch.tensor([5, 50]), torch.randn(2, 1, 8, 8, dtype=torch.float64))
    pictures = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    (found,) = gradients(network, loss, pictures)
    assert found.shape == (1, sum(p.numel() for p in network.parameters()))
    first, moved = next(iter(network.parameters())), []
    for sign in (1, -1):
        weights = {name: p.detach().clone() for name, p in network.named_parameters()}
        next(iter(weights.values())).view(-1)[0] += sign * 1e-5
        moved.append(loss.of(network, weights, pictures[0]))
    assert first.requires_grad
    torch.testing.assert_close(found[0, 0], (moved[0] - moved[1]) / 2e-5, rtol=1e-5, atol=1e-9)


@pytest.mark.slow
def test_plan_says_what_is_shared(base, ddattr):
    said = ddattr("plan", *argv(base))
    assert said.status == 0, said.err
    of = run(base)
    own = sum(p.numel() for p in of.network(0).parameters())
    assert (
        f"an adapter of {own:,} parameters a member, on one network of {of.shared.parameters:,}, held once" in said.out
    )


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_everything_is_reproduced_with_adapters_and_verified(base, ddattr):
    given = argv(base, "validation.retrained_members=1", "validation.peers=[]")
    said = ddattr("reproduce", *given)
    assert said.status == 0, said.err
    root = base.parent / "run"
    assert (root / "report.html").is_file()
    ensemble = ddattr_.load(root).ensemble
    assert len({id(member.base) for member in ensemble.members}) == 1
    said = ddattr("verify", str(root))
    assert said.status == 0, said.err
    assert "members/003" in said.out
    weights = root / "members" / "003" / "member.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(ddattr("verify", str(root)), "members/003")
    shutil.copy(root / "members" / "002" / "member.safetensors", weights)  # an adapter of the same base, but another's
    refused(
        ddattr("attribute", str(root), "queries.seeds=[77]"), "members/003", "damaged or not what its manifest says"
    )
