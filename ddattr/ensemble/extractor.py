"""A small feature extractor, trained on the data itself, and named for what it is.

No machine can be assumed to reach the weights of Inception; distances in these features are comparable within one
data set and not with published FIDs.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddattr.data.pictures import Images
from ddattr.diffusion.noise import Stream, generator, seeded_torch


class FeatureExtractor(nn.Module):
    """Two convolutions, pooled, and a linear layer, (batch, C, H, W) -> (batch, features) after a tanh; then classes.

    Sides below 4 are not pooled.
    """

    def __init__(self, channels: int, size: Sequence[int], classes: int, features: int = 32):
        super().__init__()
        self.num_features = features
        pooled = 2 if min(size) >= 4 else 1
        height, width = (side // pooled**2 for side in size)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(pooled),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(pooled),
            nn.Flatten(),
            nn.Linear(64 * height * width, features),
            nn.Tanh(),
        )
        self.head = nn.Linear(features, classes)

    def forward(self, images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch features"]:
        return self.body(images)


def train_extractor(
    images: Images, labels: Int[Tensor, "images"] | None, seed: int, steps: int = 400
) -> FeatureExtractor:
    """Extractor trained to tell the labels, or, where there are none, by how many quarter turns a picture is rotated.

    Pictures that are no squares are turned by halves.

    The same seed and data give the same extractor.
    Source for the rotations: Gidaris et al. 2018, arXiv 1803.07728.
    """
    quarters = None
    if labels is None:
        square = images.shape[2] == images.shape[3]
        labels = torch.arange(len(images)) % (4 if square else 2)
        quarters = labels if square else 2 * labels
    with seeded_torch(seed, Stream.EXTRACTOR):
        extractor = FeatureExtractor(images.shape[1], images.shape[2:], int(labels.max()) + 1)
    optimizer = torch.optim.AdamW(extractor.parameters(), 2e-3)
    for step in range(steps):
        index = torch.from_numpy(generator(seed, Stream.EXTRACTOR, step=step).integers(0, len(images), 64))
        batch = images[index]
        if quarters is not None:
            turns = quarters[index].tolist()
            batch = torch.stack([torch.rot90(x, k, (1, 2)) for x, k in zip(batch, turns, strict=True)])
        loss = nn.functional.cross_entropy(extractor.head(extractor(batch)), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return extractor.eval().requires_grad_(False)


def restored(weights: dict[str, Tensor], size: Sequence[int]) -> FeatureExtractor:
    """Extractor of weights that were trained before, for pictures of (H, W)."""
    classes, features = weights["head.weight"].shape
    extractor = FeatureExtractor(weights["body.0.weight"].shape[1], size, classes, features)
    extractor.load_state_dict(weights)
    return extractor.eval().requires_grad_(False)


def describe(labels: Int[Tensor, "images"] | None) -> str:
    """What the features are, for axes and reports."""
    return "features of a small network trained on " + ("the labels" if labels is not None else "rotations")
