"""By what two pictures are alike: clusters, near units and near-duplicates are made of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ddattr.data.pictures import Images, blocks

_SMALL = 16  # side below which pixels are the default
_EXACT = "donot_use_mm_for_euclid_dist"  # duplicates must have a distance of 0


def _clipped(pictures: Tensor) -> Tensor:
    return pictures.clamp(-1, 1)


@dataclass(frozen=True)
class Similarity:
    """The Euclidean distance of points that pictures are embedded as.

    Args:
        name: in words, for tables: `pixels`, `features of the run's extractor`, `features of FILE`.
        embed: (batch, C, H, W) in [-1, 1] -> (batch, d).
        shown: what members make, or see, as pictures in [-1, 1]: clipped, and decoded before that where it is latents.
    """

    name: str
    embed: Callable[[Tensor], Tensor]
    shown: Callable[[Tensor], Tensor] = _clipped

    @torch.no_grad()
    def points(self, images: Images) -> Float[Tensor, "images d"]:
        """Of all pictures, some at a time."""
        return torch.cat([self.embed(self.shown(block)) for block in blocks(images)])

    @torch.no_grad()
    def distance(
        self, points: Float[Tensor, "units d"], pictures: Float[Tensor, "q c h w"]
    ) -> Float[Tensor, "units q"]:
        """From points to pictures, as they are shown."""
        return torch.cdist(points, self.embed(self.shown(pictures)), compute_mode=_EXACT)


PIXELS = Similarity("pixels", lambda pictures: pictures.flatten(1))


def means(points: Float[Tensor, "images d"], units: Int[Tensor, "images"]) -> Float[Tensor, "units d"]:
    """Mean point of every unit, summed in double precision."""
    total = torch.zeros(int(units.max()) + 1, points.shape[1], dtype=torch.float64)
    return (total.index_add_(0, units, points.double()) / torch.bincount(units)[:, None]).float()


def is_small(shape: tuple[int, ...]) -> bool:
    """Whether pictures of (C, H, W) are compared by pixels when nobody says by what."""
    return min(shape[1:]) < _SMALL


Embedding = Callable[[Tensor], Tensor]
Restore = Callable[[Mapping[str, Tensor], Sequence[int]], Embedding]  # of weights, for pictures of (H, W)


def named(file: str) -> str:
    """By the features of a file's module, in words."""
    return f"features of {Path(file).name}"


def of_file(path: str, shape: tuple[int, ...], restore: Restore | None = None) -> Similarity:
    """By the features of a module, (batch, C, H, W) in [-1, 1] -> (batch, d).

    Args:
        path: of TorchScript; or, ending in .safetensors, of weights that `restore` makes a module of.
    Raises:
        FileNotFoundError, ValueError: there is no such file; it is no module, or takes no such pictures.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"data: similarity={path}, expected pixels, features, or a module's file: there is none of that name. "
            "Set data.similarity."
        )
    try:
        module = _module(path, shape, restore)
        with torch.no_grad():
            made = module(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        said = " ".join(str(error).split())[-200:]
        size = " x ".join(map(str, shape))
        raise ValueError(f"data: {path} is no module of pictures of {size}: {said}. Set data.similarity.") from None
    if not (isinstance(made, Tensor) and made.dim() == 2 and len(made) == 2):
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(f"data: {path} makes {got} of 2 pictures, expected (2, features). Set data.similarity.")
    return Similarity(named(path), module)


def _module(path: str, shape: tuple[int, ...], restore: Restore | None) -> Embedding:
    if path.endswith(".safetensors") and restore is not None:
        return restore(load_file(path), shape[1:])
    return torch.jit.load(path, map_location="cpu").eval()
