"""Points whose densities can be normalised: seven sets in the plane, and digits in 8 principal components."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from svgdx.experiments.data import plane
from svgdx.experiments.data.images import Images, load_images

DIGITS = "digits-pca"
POINT_SETS = (*plane.NAMES, DIGITS)
COMPONENTS = 8
TRAIN, HELD_OUT = 20_000, 1000


@dataclass
class Points(Images):
    """Points as rows, of shape (1, 1, D).

    Attributes:
        entropy: differential entropy of the density that the points are drawn from in nats, to within 0.005. No model
            has a smaller negative log-likelihood. None if it is not known.
    """

    entropy: float | None = None

    def half_width(self) -> float:
        """Half the side of a cube around 0 that holds all points and a tenth more."""
        return 1.1 * max(float(self.train.abs().max()), float(self.held_out.abs().max()))


def load_points(name: str) -> Points:
    """The data set of that name, one of POINT_SETS. It does not depend on the seed of a run.

    `digits-pca` are the 8x8 digits, centred and projected onto the first 8 principal components of the training images.
    """
    if name == DIGITS:
        return _components(load_images("digits", None))
    train, held_out = (
        torch.tensor(plane.sample_2d(name, count, np.random.RandomState(seed)), dtype=torch.float32)
        for seed, count in enumerate((TRAIN, HELD_OUT))
    )
    # The stored entropies are those of points rounded to quanta of 1 / scale.
    entropy = plane.ENTROPY[name] - 2 * math.log(plane.Quantizer(name).scale)
    return Points(train, held_out, (1, 1, 2), entropy=entropy)


def _components(images: Images) -> Points:
    from sklearn.decomposition import PCA

    pca = PCA(COMPONENTS, svd_solver="full").fit(images.train.double().numpy())

    def projected(pixels: Tensor) -> Tensor:
        return torch.from_numpy(pca.transform(pixels.double().numpy())).float()

    return Points(projected(images.train), projected(images.held_out), (1, 1, COMPONENTS))
