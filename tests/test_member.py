"""One member: it sees its column only, and its weights are a function of seed, column and config alone."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import lightning as L
import numpy as np
import pytest
import torch
from conftest import needs_cuda
from lightning.pytorch.callbacks import ModelCheckpoint

from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.pictures import Pictures
from ddattr.data.source import Source
from ddattr.diffusion.noise import Stream, TrainingDraws, seeded_torch
from ddattr.ensemble.member import AtomicCheckpointIO, Fork, MemberModule, WeightAverage, address
from ddattr.files import load_json
from ddattr.stages import train

STEPS, SEED = 20, 3
CODE = Codebook(12, 6, 2)


class Died(Exception):
    """What ends a process, as far as the checkpoint can tell."""


class DieAt(L.Callback):
    """Ends the training after a step, as nothing that Lightning cleans up after."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise Died


@pytest.fixture(autouse=True)
def restored():
    """A Trainer leaves its choice of algorithms to the process; other tests have theirs."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def make_member(make_unets, process):
    """Module of a member, initialised as the app does it; keywords go to it."""

    def make(member: int = 0, owned=None, draws: str = "common", seed: int = SEED, **options) -> MemberModule:
        with seeded_torch(seed, Stream.INITIALISATION, address(draws, member)):
            network = make_unets(1)[0]
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        owned = CODE.subset(member) if owned is None else owned
        options = {
            "steps": STEPS,
            "batch": 4,
            "learning_rate": 1e-2,
            "warmup": 5,
            "ema": 0.9,
            "epoch_steps": 10,
        } | options
        return MemberModule(network, process, owned, (1, 8, 8), member, seed, draws=draws, **options)

    return make


def fit(module: MemberModule, data: UnitDataModule, folder: Path, every: int = 100, **more) -> dict:
    """Trains as the stage does, with a checkpoint `every` so many steps; returns the weights."""
    data.epoch_steps = module.epoch_steps
    checkpoint, resume = folder / "last.ckpt", more.pop("resume", False)
    callbacks = [ModelCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False)]
    trainer = L.Trainer(
        max_steps=module.steps,
        max_epochs=-1,
        accelerator=more.pop("accelerator", "cpu"),
        devices=1,
        logger=False,
        enable_progress_bar=False,
        precision=more.pop("precision", "32-true"),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=[AtomicCheckpointIO()],
        log_every_n_steps=1,
        default_root_dir=str(folder),
        deterministic=True,
        callbacks=[*callbacks, *more.pop("callbacks", [])],
    )
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint if resume else None)
    assert trainer.global_step == module.steps
    return {name: value.cpu() for name, value in module.network.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("draws", ["common", "independent"])
@pytest.mark.parametrize("member", [0, 5])
def test_a_member_never_consumes_a_unit_outside_its_column(make_member, data, tmp_path, monkeypatch, draws, member):
    """Counted where pictures are taken, over all steps and validations of a real training."""
    module, taken = make_member(member, draws=draws), Counter()

    class Counting(torch.Tensor):
        def __getitem__(self, index):
            taken[module.trainer.training] += 1
            seen[module.trainer.training].update(index.tolist())
            return super().__getitem__(index).as_subclass(torch.Tensor)

    seen = {True: Counter(), False: Counter()}
    data.images = data.images.as_subclass(Counting)
    fit(module, data, tmp_path)
    owned = set(CODE.subset(member).nonzero()[:, 0].tolist())
    assert taken[True] == STEPS
    assert seen[True].total() == STEPS * 4
    assert set(seen[True]) == owned
    assert seen[False].total() > 0
    assert not set(seen[False]) & owned


@pytest.mark.parametrize(
    ("draws", "ema", "checkpoint", "death"),
    [("common", 0.9, 7, 13), ("independent", None, 7, 13), ("common", None, 10, 11), ("independent", 0.9, 14, 19)],
)
def test_a_run_stopped_and_resumed_has_the_bits_of_an_undisturbed_one(
    make_member, data, tmp_path, draws, ema, checkpoint, death
):
    """Epochs are of 10 steps: the checkpoints lie in the middle of an epoch, at its end, and in the second."""
    options = {"draws": draws, "ema": ema}
    undisturbed = fit(make_member(**options), data, tmp_path / "a")
    with pytest.raises(Died):
        fit(make_member(**options), data, tmp_path / "b", checkpoint, callbacks=[DieAt(death)])
    saved = torch.load(tmp_path / "b" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == checkpoint
    module = make_member(**options, owned=CODE.subset(0))
    with torch.no_grad():
        for parameter in module.network.parameters():  # nothing may come from the initialisation
            parameter.fill_(torch.nan)
    assert same(fit(module, data, tmp_path / "b", checkpoint, resume=True), undisturbed)


@needs_cuda
def test_a_gpu_trains_the_same_bits_twice_and_when_resumed(make_member, make_unets, data, tmp_path):
    """Two trainings without and with a unit must differ by the unit, and not by the order of a GPU's sums."""

    def wide() -> MemberModule:
        module = make_member(steps=100, batch=32)
        with seeded_torch(SEED, Stream.INITIALISATION):
            module.network = make_unets(1, True, (32, 64))[0].train()
        return module

    undisturbed = fit(wide(), data, tmp_path / "a", accelerator="cuda")
    assert same(fit(wide(), data, tmp_path / "b", accelerator="cuda"), undisturbed)
    with pytest.raises(Died):
        fit(wide(), data, tmp_path / "c", 37, callbacks=[DieAt(61)], accelerator="cuda")
    assert same(fit(wide(), data, tmp_path / "c", 37, resume=True, accelerator="cuda"), undisturbed)


def test_the_average_goes_to_the_device_of_the_training(make_member):
    """Before the module does: Lightning sets callbacks up first. Its count, read at every step, stays on the CPU."""
    module, average = make_member(), WeightAverage(0.9)
    trainer = Mock(spec=L.Trainer)
    trainer.strategy.root_device = torch.device("meta")
    average.setup(trainer, module, "fit")
    assert {p.device.type for p in average._average_model.module.parameters()} == {"meta"}
    assert {p.device.type for p in module.parameters()} == {"cpu"}
    assert average._average_model.n_averaged.device.type == "cpu"


def test_half_precision_trains_and_rounds_the_same_twice(make_member, data, tmp_path):
    """The optimiser is fused and its gradients are clipped, which Lightning's own clipping refuses in bf16."""
    full, *half = (
        fit(make_member(), data, tmp_path / name, precision=precision)
        for name, precision in (("a", "32-true"), ("b", "bf16-mixed"), ("c", "bf16-mixed"))
    )
    assert same(*half)
    assert not same(full, half[0])
    assert all(value.dtype == torch.float32 for value in half[0].values())


def test_a_run_killed_twice_has_the_bits_of_an_undisturbed_one(make_member, data, tmp_path):
    undisturbed = fit(make_member(), data, tmp_path / "a")
    for death in (5, 12):
        with pytest.raises(Died):
            fit(make_member(), data, tmp_path / "b", 3, callbacks=[DieAt(death)], resume=death > 5)
    assert same(fit(make_member(), data, tmp_path / "b", 3, resume=True), undisturbed)


def test_the_same_seed_twice_gives_the_same_bits_whatever_torch_drew_before(make_member, data, tmp_path):
    one = fit(make_member(), data, tmp_path / "a")
    torch.rand(1000)
    assert same(fit(make_member(), data, tmp_path / "b"), one)


@pytest.mark.parametrize("epoch_steps", [1, 3, 20, 50])
def test_the_length_of_an_epoch_changes_no_weight(make_member, data, tmp_path, epoch_steps):
    expected = fit(make_member(), data, tmp_path / "a")
    assert same(fit(make_member(epoch_steps=epoch_steps), data, tmp_path / "b"), expected)


@pytest.mark.parametrize("draws", ["common", "independent"])
def test_another_member_is_another_model(make_member, data, tmp_path, draws):
    one, other = (fit(make_member(k, draws=draws), data, tmp_path / str(k)) for k in (0, 1))
    assert not same(one, other)


@pytest.mark.parametrize(("draws", "equal"), [("common", True), ("independent", False)])
def test_members_that_own_the_same_units_are_identical_exactly_when_draws_are_common(
    make_member, data, tmp_path, draws, equal
):
    owned = CODE.subset(2)
    one, other = (fit(make_member(k, owned, draws), data, tmp_path / str(k)) for k in (0, 1))
    assert same(one, other) == equal


def test_another_seed_is_another_model(make_member, data, tmp_path):
    assert not same(*(fit(make_member(seed=seed), data, tmp_path / str(seed)) for seed in (0, 1)))


def test_the_average_is_what_the_member_becomes_and_it_trains(make_member, data, tmp_path):
    start = {name: value.clone() for name, value in make_member().network.state_dict().items()}
    average = fit(make_member(), data, tmp_path / "a")
    last = fit(make_member(ema=None), data, tmp_path / "b")
    assert not same(average, last)
    assert not same(average, start)


@pytest.mark.parametrize("ema", [0.9, 0.3])
def test_the_average_is_of_the_weights_after_every_step(make_member, data, tmp_path, ema):
    """Restated: it is the first step's weights, and keeps 2/11, 3/12, 4/13, ... of itself, but never more than ema."""
    steps = []

    class Recording(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            steps.append({name: value.double() for name, value in pl_module.network.state_dict().items()})

    found = fit(make_member(ema=ema), data, tmp_path, callbacks=[Recording()])
    assert len(steps) == STEPS
    for name, expected in steps[0].items():
        for s, step in enumerate(steps[1:], 1):
            kept = min((1 + s) / (10 + s), ema)
            expected = kept * expected + (1 - kept) * step[name]
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_counts_that_a_network_keeps_are_its_own_and_no_average(make_member, data, tmp_path):
    """As those of batches that a BatchNorm has seen, which are whole numbers."""
    module = make_member()
    module.network.conv_in = torch.nn.Sequential(module.network.conv_in, torch.nn.BatchNorm2d(4))
    found = fit(module, data, tmp_path)
    assert found["conv_in.1.num_batches_tracked"] == STEPS
    assert not torch.equal(found["conv_in.1.running_mean"], torch.zeros(4))


def test_pictures_to_validate_on_are_found_once(make_member, data, tmp_path, monkeypatch):
    """Where a member lacks few of many, the first of a slot's candidates that it lacks is far down its list."""
    module, asked, images = make_member(), [], TrainingDraws.images
    monkeypatch.setattr(TrainingDraws, "images", lambda draws, step: asked.append(draws) or images(draws, step))
    fit(module, data, tmp_path)
    assert len(asked) == STEPS + 1
    assert sum(draws is module.held_out for draws in asked) == 1


def test_the_loss_falls(make_member, data, tmp_path):
    module = make_member(steps=60, ema=None, batch=16)

    def loss() -> float:
        module.images = data.images
        with torch.no_grad():
            return sum(module._loss(module.draws, step).item() for step in range(20))

    before = loss()
    fit(module, data, tmp_path)
    assert loss() < 0.9 * before


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_a_batch_and_their_losses_average_to_that_of_one(make_member, data, monkeypatch, devices):
    """Each takes a part of its own: the parts are as large, differ, and together are the batch."""
    module = make_member(batch=16)
    module.images, seen, whole = data.images, [], module.process.loss
    monkeypatch.setattr(module.process, "loss", lambda network, x, *given: seen.append(x) or whole(network, x, *given))
    with torch.no_grad():
        alone, (batch,) = module._loss(module.draws, 3), list(seen)
        seen.clear()
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: devices)
        parts = []
        for rank in range(devices):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            parts.append(module._loss(module.draws, 3))
    assert [len(part) for part in seen] == [16 // devices] * devices
    torch.testing.assert_close(torch.stack(seen, 1).flatten(0, 1), batch)
    torch.testing.assert_close(torch.stack(parts).mean(), alone)


def test_dropout_is_drawn_by_address_too(make_member, data, tmp_path):
    """The paper's network has it: what torch drew before, or a resume, must not change what is dropped."""

    def dropping() -> MemberModule:
        module = make_member()
        for layer in module.network.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.3
        return module

    undisturbed = fit(dropping(), data, tmp_path / "a")
    torch.rand(7)
    assert same(fit(dropping(), data, tmp_path / "b"), undisturbed)
    with pytest.raises(Died):
        fit(dropping(), data, tmp_path / "c", 7, callbacks=[DieAt(13)])
    assert same(fit(dropping(), data, tmp_path / "c", 7, resume=True), undisturbed)


def test_a_loss_that_is_not_finite_stops_with_step_and_learning_rate(make_member, data, tmp_path):
    module = make_member()

    class Poison(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 7:
                pl_module.process.loss = lambda *_: torch.tensor([torch.nan], requires_grad=True)

    expected = 1e-2 * module._rate(7)
    with pytest.raises(ValueError, match=f"the loss is nan at step 7, learning rate {expected:.3g}") as error:
        fit(module, data, tmp_path, callbacks=[Poison()])
    assert "\n" not in str(error.value)


def test_a_member_that_diverges_is_marked_as_failed_at_its_step(make_run):
    run = make_run("training.learning_rate=1e30", "training.gradient_clip=null")
    with pytest.raises(ValueError, match=r"^training: the loss is (nan|inf) at step \d+, learning rate "):
        train.run(_with_member(run, 0))
    folder = run.member_artifact(0).folder
    status = load_json(folder / "status.json")
    assert status["state"] == "failed"
    assert f"at step {status['step']}" in status["error"]
    assert not (folder / "manifest.json").exists()
    assert not (folder / "member.safetensors").exists()


def _with_member(run, member):
    run.config.member = member
    return run


@pytest.fixture
def base(make_member, data, tmp_path) -> dict:
    """Weights of a model of all units."""
    return fit(make_member(owned=torch.ones(12, dtype=torch.bool)), data, tmp_path / "base")


@pytest.mark.parametrize("ema", [0.9, None])
def test_a_fork_with_a_learning_rate_of_0_is_its_base(make_member, data, tmp_path, base, ema):
    module = make_member(fork=Fork(7, 0.0, 2), base=base, ema=ema)
    assert same(fit(module, data, tmp_path), base)


@pytest.mark.parametrize(("draws", "ema"), [("common", 0.9), ("independent", None)])
def test_a_fork_stopped_and_resumed_has_the_bits_of_an_undisturbed_one(make_member, data, tmp_path, base, draws, ema):
    options = {"fork": Fork(17, 5e-3, 3), "base": base, "draws": draws, "ema": ema, "steps": 31}
    undisturbed = fit(make_member(**options), data, tmp_path / "a")
    assert not same(undisturbed, base)
    with pytest.raises(Died):
        fit(make_member(**options), data, tmp_path / "b", 7, callbacks=[DieAt(13)])
    assert torch.load(tmp_path / "b" / "last.ckpt", weights_only=True)["global_step"] == 7
    assert same(fit(make_member(**options), data, tmp_path / "b", 7, resume=True), undisturbed)


def test_a_fork_goes_on_where_the_base_s_draws_end_with_its_own_units_only(
    make_member, data, tmp_path, base, monkeypatch
):
    asked, seen, images = [], set(), TrainingDraws.images

    def recorded(draws: TrainingDraws, step: int) -> torch.Tensor:
        chosen = images(draws, step)
        if draws.seed == SEED:  # not the validation's
            asked.append(step)
            seen.update(chosen.tolist())
        return chosen

    monkeypatch.setattr(TrainingDraws, "images", recorded)
    kept = {name: value.clone() for name, value in base.items()}
    fit(make_member(2, fork=Fork(9, 1e-2, 0), base=base), data, tmp_path)
    assert asked == list(range(STEPS, STEPS + 9))
    assert seen == set(CODE.subset(2).nonzero()[:, 0].tolist())
    assert same(base, kept)


def test_a_fork_without_a_base_is_trained_whole(make_member, data, tmp_path):
    one = fit(make_member(fork=Fork(7, 1e-3, 2)), data, tmp_path / "a")
    assert same(fit(make_member(), data, tmp_path / "b"), one)


def test_the_learning_rate_rises_and_then_falls_to_one_percent(make_member):
    rates = [make_member(steps=100, warmup=10)._rate(step) for step in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == 0.01
    assert max(rates) <= 1


def test_a_member_that_owns_nothing_is_refused(make_member):
    with pytest.raises(ValueError, match="a member owns no image"):
        make_member(owned=torch.zeros(12, dtype=torch.bool))


def test_draws_of_another_name_are_refused():
    with pytest.raises(ValueError, match="draws=shared, expected common or independent"):
        address("shared", 0)


def test_a_checkpoint_is_whole_or_absent(tmp_path):
    class Broken:
        def __reduce__(self):
            raise Died

    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    with pytest.raises(Died):
        AtomicCheckpointIO().save_checkpoint({"step": 2, "x": Broken()}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_pickled_checkpoint_runs_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    for trap in (Trap(), {"state_dict": Trap(), "global_step": 1}):
        torch.save(trap, tmp_path / "last.ckpt")
        with pytest.raises(ValueError, match=r"last\.ckpt is damaged, or no checkpoint"):
            AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_bytes_train_the_network_that_their_floats_do(make_member, tmp_path):
    """To the bit, though they are scaled when they are seen."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), np.uint8)
    held = Pictures(pixels)
    fitted = [fit(make_member(), UnitDataModule(Source(images, None)), tmp_path) for images in (held, held[:])]
    assert same(*fitted)


def test_flips_mirror_half_of_what_a_member_sees(make_member, tmp_path, monkeypatch):
    """The other half is as it was, and with flips the weights are others."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), np.uint8)
    seen: dict[bool, list] = {}
    weights = {}
    for flips in (False, True):
        module, seen[flips] = make_member(), []
        loss = module.process.loss

        def watched(network, images, noise, times, loss=loss, kept=seen[flips]):
            kept.append(images.clone())
            return loss(network, images, noise, times)

        module.process = SimpleNamespace(loss=watched)
        weights[flips] = fit(module, UnitDataModule(Source(Pictures(pixels), None), flips=flips), tmp_path)
    plain, mirrored = (torch.cat(seen[flips]) for flips in (False, True))
    flipped = (plain != mirrored).flatten(1).any(1)
    assert torch.equal(torch.where(flipped[:, None, None, None], plain.flip(-1), plain), mirrored)
    assert 0.25 < flipped.double().mean() < 0.75
    assert not same(*weights.values())
