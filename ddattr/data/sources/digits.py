"""scikit-learn's handwritten digits."""

import numpy as np
import torch

from ddattr.data.source import Source


def digits() -> Source:
    """The 1,797 handwritten digits (1 x 8 x 8) that scikit-learn ships.

    Source: Alpaydin & Kaynak 1998, Optical recognition of handwritten digits, UCI repository.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images.astype(np.float32))[:, None] / 8 - 1
    return Source(images, torch.from_numpy(data.target.astype(np.int64)))
