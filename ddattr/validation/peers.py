"""The peers: gradients, TRAK and D-TRAK, unlearning, similarity of features. All ask one model of all units.

Scores are (pictures, q), larger for more support, and are summed over a unit's pictures. Of a conditioned model,
pictures come with what each is shown under; it is asked without guidance, as it was trained.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import reduce
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ddattr.attribution.methods import method_of
from ddattr.diffusion.process import Process
from ddattr.meter import Meter
from ddattr.validation.metrics import lds

PROJECTIONS = (512, 1024, 2048, 4096)  # dimensions of TRAK's features: the first of a random projection are one
DAMPINGS = tuple(10.0**power for power in range(-6, 4))  # of TRAK, over the mean eigenvalue of the gradients' Gram
FISHER_DAMPINGS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of unlearning, over the mean of the Fisher information's diagonal
_PASSES = 512  # of the network, each with a graph of its own, that are differentiated at once: memory is theirs
Shown = Tensor | tuple[Tensor, Tensor]  # pictures (pictures, C, H, W), and, of a conditioned model, their conditions


def check_installed(peers: Sequence[str]) -> None:
    """Raises ValueError when a peer needs traker and it is not installed; says which extra has it."""
    if {"trak", "dtrak"} & set(peers) and find_spec("trak") is None:
        raise ValueError(
            "validation: peers holds trak or dtrak, but traker is not installed. Install the extra: "
            "pip install -e '.[peers]', or set validation.peers without them."
        )


def over_units(scores: Float[Tensor, "pictures q"], unit_of: Int[Tensor, "pictures"]) -> Float[Tensor, "units q"]:
    """Sum over every unit's pictures."""
    return scores.new_zeros(int(unit_of.max()) + 1, scores.shape[1]).index_add_(0, unit_of, scores)


def feature_similarity(
    extractor: nn.Module, pictures: Float[Tensor, "q *image"], images: Float[Tensor, "pictures *image"]
) -> Float[Tensor, "pictures q"]:
    """Cosine between the features of a (clipped) picture and of every image."""
    one, other = (nn.functional.normalize(extractor(x.clamp(-1, 1)), dim=-1) for x in (images, pictures))
    return one @ other.T


class Loss(nn.Module):
    """A picture's loss at fixed timesteps and noise, as a function of the network's weights: what it was trained on.

    Args:
        square: of D-TRAK: the squared length of the network's output in place of its error.
    Source: Zheng et al. 2024, Intriguing properties of data attribution on diffusion models, arXiv 2311.00500.
    """

    def __init__(
        self, process: Process, times: Int[Tensor, "draws"], noise: Float[Tensor, "draws *image"], square: bool = False
    ):
        super().__init__()
        self.process = process
        self.times = times
        self.noise = noise
        self.square = square

    @property
    def together(self) -> int:
        """Pictures whose gradients are taken at once: of few draws more."""
        return max(1, _PASSES // len(self.times))

    def of(self, network: nn.Module, weights: dict[str, Tensor], shown: Shown) -> Tensor:
        """Loss of one picture; differentiable in the weights."""
        picture, *condition = shown if isinstance(shown, tuple) else (shown,)
        under = (one.expand(len(self.times), *one.shape) for one in condition)
        each = picture.expand_as(self.noise)
        noisy = self.process.scheduler.add_noise(each, self.noise, self.times)  # type: ignore[arg-type]
        output = functional_call(network, weights, (noisy, self.times, *under))
        return (output if self.square else output - self.process.target(each, self.noise, self.times)).square().mean()


def gradients(network: nn.Module, loss: Loss, pictures: Shown) -> Iterator[Float[Tensor, "chunk weights"]]:
    """Gradient of every picture's loss in the weights, `loss.together` pictures at a time."""
    weights = {name: p.detach() for name, p in network.named_parameters()}
    each: Any = vmap(grad(lambda w, x: loss.of(network, w, x)), in_dims=(None, 0))  # type: ignore[misc, arg-type]
    for part in _split(pictures, loss.together):
        found = each(weights, part)
        yield torch.cat([g.flatten(1) for g in found.values()], 1)


def gradient_dot(network: nn.Module, loss: Loss, queries: Shown, images: Shown) -> Float[Tensor, "pictures q"]:
    """Inner product of the loss's gradients: what a step on a training picture would do to the query's loss.

    Source: Pruthi et al. 2020, TracIn, arXiv 2002.08484, with one checkpoint.
    """
    of_queries = torch.cat(list(gradients(network, loss, queries)))
    return torch.cat([part @ of_queries.T for part in gradients(network, loss, images)])


def trak_features(
    network: nn.Module,
    loss: Loss,
    queries: Shown,
    images: Shown,
    dimension: int = PROJECTIONS[-1],
    seed: int = 0,
) -> tuple[Float[Tensor, "pictures dimension"], Float[Tensor, "q dimension"]]:
    """Projected gradients of the training pictures and of the queries, by traker (extra `peers`).

    With fewer dimensions they are the first of these.

    Raises:
        ValueError: traker is not installed.
    Source: Park et al. 2023, TRAK, arXiv 2303.14186.
    """
    check_installed(["trak"])
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput

    class Output(AbstractModelOutput):
        def __init__(self) -> None:
            pass

        def get_output(self, model, weights, buffers, *shown):  # one picture: traker maps over the batch
            return loss.of(model, weights, shown if len(shown) > 1 else shown[0])

        def get_out_to_loss_grad(self, model, weights, buffers, batch):
            return torch.ones(len(batch[0]), 1)

    parts = [(both,) if isinstance(both, Tensor) else both for both in (images, queries)]
    pictures = [torch.cat(part) for part in zip(*parts, strict=True)]
    count = len(parts[0][0])
    with TemporaryDirectory() as folder:
        tracer = TRAKer(
            model=copy.deepcopy(network),
            task=Output(),
            train_set_size=len(pictures[0]),
            save_dir=folder,
            device="cpu",
            use_half_precision=False,
            proj_dim=dimension,
            projector_seed=seed,
            logging_level=40,
        )
        tracer.load_checkpoint(network.state_dict(), model_id=0)
        for batch in zip(*(part.split(loss.together) for part in pictures), strict=True):
            tracer.featurize(batch=batch, num_samples=len(batch[0]))
        found = torch.tensor(tracer.saver.current_store["grads"]).float()
    return found[:count], found[count:]


def trak(
    images: Float[Tensor, "pictures dimension"],
    queries: Float[Tensor, "q dimension"],
    damping: float,
    gram: Float[Tensor, "dimension dimension"] | None = None,
) -> Float[Tensor, "pictures q"]:
    """Phi (Phi^T Phi + lambda)^-1 phi, lambda being `damping` times the mean eigenvalue of Phi^T Phi.

    Args:
        gram: Phi^T Phi, where it is known already, in double precision.
    """
    phi, features = images.double(), queries.double().T
    few = len(phi) < phi.shape[1]  # then by the pictures' kernel, which is smaller: (Phi Phi^T + lambda)^-1 Phi phi
    square = phi @ phi.T if few else phi.T @ phi if gram is None else gram.clone()
    square.diagonal().add_(damping * phi.square().sum() / phi.shape[1])
    return torch.linalg.solve(square, phi @ features) if few else phi @ torch.linalg.solve(square, features)


def fisher(network: nn.Module, loss: Loss, images: Shown) -> dict[str, Tensor]:
    """Mean square of the training pictures' gradients, by weight: the Fisher information's diagonal, empirically."""
    count = len(images if isinstance(images, Tensor) else images[0])
    total = reduce(torch.Tensor.add_, (part.square().sum(0) for part in gradients(network, loss, images))) / count
    weights = dict(network.named_parameters())
    parts = total.split([p.numel() for p in weights.values()])
    return {name: part.view_as(p) for (name, p), part in zip(weights.items(), parts, strict=True)}


def unlearning(
    network: nn.Module,
    loss: Loss,
    queries: Shown,
    images: Shown,
    information: dict[str, Tensor],
    damping: float,
    steps: int = 4,
    length: float = 0.002,
    every: int = 16,
    chunk: int = 128,
) -> Float[Tensor, "pictures q"]:
    """Rise of every training picture's loss once the model has been fine-tuned away from the query.

    Gradient ascent on the query's loss, every step of a fixed share of the weights' length. The slope is divided by the
    Fisher information, so that what other pictures need is kept.

    Args:
        information: as `fisher` gives it.
        damping: added to it, over its mean.
        length: of all steps together, over the length of the weights.
        every: of as many of the loss's draws the middle one is taken for the training pictures' own losses.
    Source: the idea of Wang et al. 2024, Data attribution for text-to-image models by unlearning, arXiv 2406.09408. The
        length, the number of steps and the damping are ours.
    """
    start = {name: p.detach() for name, p in network.named_parameters()}
    size = _norm(start) * length / steps
    mean = torch.cat([part.flatten() for part in information.values()]).mean()
    kept = slice(min(every, len(loss.times)) // 2, None, every)  # from the middle: draws are in order of their time
    thinned = Loss(loss.process, loss.times[kept], loss.noise[kept], loss.square)
    climb: Any = grad(lambda w, x: loss.of(network, w, x))  # type: ignore[misc]
    each: Any = vmap(lambda w, x: thinned.of(network, w, x), in_dims=(None, 0))  # type: ignore[misc, arg-type]

    @torch.no_grad()
    def losses(weights: dict[str, Tensor]) -> Tensor:
        return torch.cat([each(weights, part) for part in _split(images, chunk)])

    before, columns = losses(start), []
    for query in queries if isinstance(queries, Tensor) else zip(*queries, strict=True):
        weights = start
        for _ in range(steps):
            uphill = {n: g / (information[n] + damping * mean) for n, g in climb(weights, query).items()}
            scale = size / _norm(uphill)
            weights = {name: p + scale * uphill[name] for name, p in weights.items()}
        columns.append(losses(weights) - before)
    return torch.stack(columns, 1)


def _split(pictures: Shown, chunk: int) -> Iterator[Shown]:
    """Pictures, with what each is shown under, a chunk at a time."""
    if isinstance(pictures, Tensor):
        yield from pictures.split(chunk)
    else:
        yield from zip(*(part.split(chunk) for part in pictures), strict=True)


def _norm(weights: dict[str, Tensor]) -> Tensor:
    """Length of all weights together."""
    return torch.stack([part.norm() for part in weights.values()]).norm()


class Peers:
    """Scores of the methods that ask one model of all units; each is timed.

    Args:
        network: trained on all units.
        images, unit_of: the training pictures and their units.
        queries: all pictures.
        process, times, noise: of the loss.
        under: what the training pictures and the queries are shown under, of a conditioned model.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Float[Tensor, "pictures *image"],
        unit_of: Int[Tensor, "pictures"],
        queries: Float[Tensor, "q *image"],
        process: Process,
        times: Int[Tensor, "draws"],
        noise: Float[Tensor, "draws *image"],
        seed: int,
        *under: Tensor,
    ):
        self.network = network
        self.unit_of = unit_of
        self.shown: tuple[Shown, Shown] = (queries, images)
        if under:
            self.shown = (queries, under[1]), (images, under[0])
        self.seed = seed
        self.loss = Loss(process, times, noise)
        self.square = Loss(process, times, noise, square=True)
        self.meter = Meter()
        self.found: dict[str, tuple[Tensor, Tensor]] = {}  # features of the units and of the queries, by kind
        self.tried: dict[str, Tensor] = {}  # scores at all that was tried, (tried, units, q), for the oracle

    def score(self, method: str, targets: Tensor, subsets: Tensor) -> tuple[Tensor, str]:
        """Scores (units, q) of a peer, and what was tuned.

        Args:
            targets, subsets: of the tuning subsets, (subsets, q) and (subsets, units); dampings and projections are
                chosen on them, by mean LDS over all queries. `scores.best_of` tunes again, for another target.
        """
        with self.meter.measure(method):
            tried = self._tried(method)
            if not method_of(method).tuned:
                return tried[""], ""
            reached = {name: lds(score, targets, subsets).nanmean().item() for name, score in tried.items()}
            best = max(reached, key=lambda name: reached[name])
            self.tried[method] = torch.stack(list(tried.values()))
            return tried[best], best

    def _tried(self, method: str) -> dict[str, Tensor]:
        """Scores (units, q) at every damping and projection that it is tuned over; at none, under no name."""
        match method:
            case "gradient_dot":
                return {"": self._summed(gradient_dot(self.network, self.loss, *self.shown))}
            case "unlearning":
                return self._unlearning()
            case "trak" | "dtrak":
                return self._trak(method)
        raise ValueError(f"validation: peers={method} has no scores, expected a method of validation/peers.py.")

    def features(self, extractor: nn.Module, queries: Tensor, images: Tensor) -> Tensor:
        """Similarity of features, (units, q).

        Args:
            queries, images: all pictures, and those of training, as they are shown: decoded, where models see latents.
        """
        with self.meter.measure("feature"):
            found = self._summed(feature_similarity(extractor, queries, images))
            self.found["features"] = self._means(extractor(images)), extractor(queries.clamp(-1, 1))
            return found

    def _trak(self, method: str) -> dict[str, Tensor]:
        loss = self.loss if method == "trak" else self.square
        images, queries = trak_features(self.network, loss, *self.shown, seed=self.seed)
        if method == "trak" or "trak" not in self.found:
            self.found["trak"] = self._means(images), queries  # all dimensions: nearest to the gradients' own cosines
        used = max((size for size in PROJECTIONS if size <= len(images)), default=0)
        gram = images[:, :used].double().T @ images[:, :used].double()  # those of fewer dimensions are corners of it
        return {
            f"{size} dimensions, damping {damping:g}": self._summed(
                trak(images[:, :size], queries[:, :size], damping, gram[:size, :size] if size <= used else None)
            )
            for size in PROJECTIONS
            for damping in DAMPINGS
        }

    def _unlearning(self) -> dict[str, Tensor]:
        information = fisher(self.network, self.loss, self.shown[1])
        given = self.network, self.loss, *self.shown, information
        return {f"damping {d:g}": self._summed(unlearning(*given, d)) for d in FISHER_DAMPINGS}

    def _summed(self, scores: Tensor) -> Tensor:
        return over_units(scores.double(), self.unit_of)

    def _means(self, values: Tensor) -> Tensor:
        return self._summed(values) / self.unit_of.bincount()[:, None]
