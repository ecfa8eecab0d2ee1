"""What a run will cost: from what its own members have cost, else from a few steps of its network, timed here."""

import time
from typing import NamedTuple

import torch

from ddattr.attribution.jacobian import propagate
from ddattr.ensemble.ensemble import Ensemble
from ddattr.ensemble.quality import halvings
from ddattr.provenance import device_name
from ddattr.stages.run import Run

_TIMED = 1 << 17  # numbers of the pictures that a network is timed on, at most
# Seconds that `attribute` takes beside its networks, and more for a unit and query (results/speed.md); for one of the
# units past 20,000, where clusters cost no more (results/scale.md)
_SCORING = 10.0, 1.2e-3, 6e-5
_CLUSTERED = 20_000


class Estimate(NamedTuple):
    """Of one process that has a core, or the accelerator, for itself.

    `parameters` of a member, and `shared` by all where they are adapters; `seconds` by the verb; `whole`, of a model
    that is trained whole, as the ground truth's are; `measured`, in words, what the run's own members said; `memory`
    and `disk` in bytes.
    """

    device: torch.device
    parameters: int
    shared: int
    seconds: dict[str, float]
    whole: float
    measured: str
    memory: float
    disk: float


def estimate(run: Run) -> Estimate:
    """Times the network where the trainer would run it, in calls of the sizes that the stages make. Members of
    this run that were trained on the same device say what training takes, as their mean."""
    training, attribution, quality = (run.config[key] for key in ("training", "attribution", "quality"))
    device, fork, n, steps = run.device, run.fork, run.codebook.members, len(run.reverse)
    queries, pixels = attribution.queries, torch.Size(run.shape).numel()
    network = run.network(0).to(device)
    parameters = sum(p.numel() for p in network.parameters())
    shared = 0 if run.lora is None else run.shared.parameters
    step, paid = _training_step(run, network), _paid(run)
    each = sum(paid) / len(paid) if paid else (training.steps if fork is None else fork.steps) * step
    looks = _Looks(run, network)
    m = attribution.jacobian.members_per_step or n
    sizes = halvings(n) if quality.sizes is None else quality.sizes
    rows = 2 * n + quality.orders * sum(k * (2 if 2 * k <= n else 1) for k in sizes if 1 < k < n)
    replayed = (attribution.ablation_units + 2 * attribution.refine) * (n - run.codebook.weight)
    first_order = (2 * n - m) * looks.few + m * n * looks.tangent  # and every member alone
    checked = attribution.check * looks.exact * (m < n)
    seconds = {
        "train": n * each + (0.0 if fork is None else training.steps * step),
        "evaluate": steps * rows * quality.pictures * looks.many,
        "attribute": steps * (queries * (first_order + replayed * looks.many) + checked)
        + queries * n * attribution.denoisings * looks.many
        + scoring(run.codebook.units, queries),
    }
    pictures = n * queries * pixels * 3 + attribution.ablation_units * attribution.batch * pixels * 2
    held = 4 * (shared + n * parameters + pictures)
    scores = 8 * run.significance.phantoms * 168
    return Estimate(
        device,
        parameters,
        shared,
        seconds,
        whole=each if fork is None and paid else training.steps * step,
        measured=f"train, by {len(paid)} members that are done" if paid else "",
        memory=held + scores + 6e8,
        disk=n * parameters * 4 + 4 * pixels * queries * (n + 8) + run.codebook.units * queries * 14 * 12,
    )


def scoring(units: int, queries: int) -> float:
    """Seconds that scores and tests take of one process, beside all networks."""
    base, each, beyond = _SCORING
    return base + queries * (each * min(units, _CLUSTERED) + beyond * max(0, units - _CLUSTERED))


class _Looks:
    """Seconds a picture that a network looks at: among `few`, as queries are together; among `many`. Of a direction of
    the Jacobian, `tangent`; of a step of a query's exact Jacobian, `exact`,
    beside those of its batch that have one too."""

    def __init__(self, run: Run, network: torch.nn.Module):
        attribution, device = run.config.attribution, run.device
        n, together = run.codebook.members, min(attribution.queries, attribution.batch)
        ensemble, zeros = Ensemble([network] * n), torch.zeros(1, dtype=torch.long)

        def of(x: torch.Tensor) -> Ensemble:
            """The ensemble for some pictures, under a class where it takes one."""
            known = run.conditions
            return ensemble.given(None if known is None else known.given(zeros.expand(x.shape[-4])))

        x = torch.zeros(together, *run.shape, device=device)
        many = torch.zeros(min(ensemble.batch, _most(run)), *run.shape, device=device)
        tangents = attribution.jacobian.tangents

        def pushed(x: torch.Tensor) -> float:
            """Seconds of one member's part in a step of the exact Jacobian: by some of its n directions."""
            chunk = tangents or max(1, ensemble.batch // len(x))
            s = x.new_zeros(min(n, chunk, max(1, _most(run) // len(x))), *x.shape)
            return _seconds(lambda: propagate(of(x), 0, x, 0, s, chunk), device) * n / len(s)

        self.few = _seconds(lambda: of(x).member(0, x, 0), device) / together
        propagate(of(x[:1]), 0, x[:1], 0, x.new_zeros(1, 1, *x.shape[1:]), 1)  # imports what differentiates
        checked = max(1, attribution.check * together // attribution.queries)
        self.tangent, self.exact = pushed(x) / together / n, pushed(x[:checked]) / checked * n
        self.many = _seconds(lambda: of(many).member(0, many, 0), device) / len(many)


def _paid(run: Run) -> list[float]:
    """Seconds that each member took which was done at one go, on this device, as `_seconds` are."""
    keys = ("wall_seconds",) if run.device.type != "cpu" else ("wall_seconds", "cpu_seconds")
    artifacts = [run.member_artifact(k) for k in range(run.codebook.members)]
    manifests = [artifact.manifest or {} for artifact in artifacts if artifact.done()]
    manifests = [manifest for manifest in manifests if "adopted" not in manifest]
    here = [m for m in manifests if m.get("device") == device_name() and not m.get("earlier_seconds")]
    return [min(m[key] for key in keys) for m in here if all(m.get(key) for key in keys)]


def _training_step(run: Run, network) -> float:
    """Seconds of a step of training, by one of as many pictures as are timed."""
    batch = run.config.training.batch
    images = torch.zeros(min(batch, _most(run)), *run.shape, device=run.device)
    times = torch.zeros(len(images), dtype=torch.long, device=images.device)
    first = torch.zeros(len(images), dtype=torch.long)
    under = [] if run.conditions is None else [run.conditions.given(first).condition.to(images.device)]
    optimizer = torch.optim.AdamW(network.parameters())
    average = torch.optim.swa_utils.AveragedModel(network)

    def step() -> None:
        optimizer.zero_grad()
        run.process.loss(network, images, images, times, *under).mean().backward()
        optimizer.step()
        average.update_parameters(network)

    return _seconds(step, images.device) * batch / len(images)


def _most(run: Run) -> int:
    return max(1, _TIMED // torch.Size(run.shape).numel())


def _seconds(call, device: torch.device) -> float:
    """Of a call, after a first one; of that one where it takes half a second, and a start makes no difference.

    Where there is no accelerator the shorter of two: the processor's, of which what else a machine does is no part, and
    the clock's, of which several threads' time is none.
    """
    for calls in (1, 3):
        started, begun = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds = time.perf_counter() - started
        if device.type == "cpu":
            seconds = min(seconds, time.process_time() - begun)
        if seconds > 0.5 * calls:
            break
    return seconds / calls
