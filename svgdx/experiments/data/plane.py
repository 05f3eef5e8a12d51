"""Seven synthetic densities on the plane, and the encoding of their points as 32 bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Entropy of the points' bits in nats, to within 0.005. No model has a smaller NLL.
ENTROPY = {
    "2spirals": 20.037,
    "8gaussians": 19.978,
    "circles": 20.553,
    "moons": 19.718,
    "pinwheel": 19.546,
    "swissroll": 20.141,
    "checkerboard": 20.677,
}
NAMES = tuple(ENTROPY)
BITS = 32
MAGNITUDE_BITS = 15


def sample_2d(name: str, n: int, rng: np.random.Generator | np.random.RandomState) -> np.ndarray:
    """Draws n points of the data set of that name, (n, 2) float64.

    Raises:
        ValueError: the name is not in NAMES.

    Source: Grathwohl et al., FFJORD, ICLR 2019, in the version of Zhang et al., ICML 2022, section on synthetic tasks.
    """
    if name not in NAMES:
        raise ValueError(f"sample_2d: name must be one of {', '.join(NAMES)}, but is {name!r}")
    # scikit-learn takes only a RandomState; this one draws from the stream of the Generator.
    state = rng if isinstance(rng, np.random.RandomState) else np.random.RandomState(rng.bit_generator)
    return _GENERATORS[name](n, state)


def _two_spirals(n: int, rng: np.random.RandomState) -> np.ndarray:
    half = (n + 1) // 2
    turn = np.sqrt(rng.rand(half, 1)) * 3 * np.pi
    x = -np.cos(turn) * turn + 0.5 * rng.rand(half, 1)
    y = np.sin(turn) * turn + 0.5 * rng.rand(half, 1)
    arm = np.hstack([x, y])
    points = np.vstack([arm, -arm]) / 3
    return (points + 0.1 * rng.randn(*points.shape))[:n]


def _eight_gaussians(n: int, rng: np.random.RandomState) -> np.ndarray:
    diagonal = 1 / math.sqrt(2)
    right = [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)]
    oblique = [(x, y) for x in (diagonal, -diagonal) for y in (diagonal, -diagonal)]
    centres = 4 * np.array(right + oblique)
    points = np.empty((n, 2))
    # Drawn point by point, because the quantiser's scale, and so the entropy, depends on the order of the draws.
    for point in points:
        point[:] = 0.5 * rng.randn(2)
        point += centres[rng.randint(8)]
    return points / 1.414


def _circles(n: int, rng: np.random.RandomState) -> np.ndarray:
    from sklearn.datasets import make_circles

    return 3 * make_circles(n_samples=n, factor=0.5, noise=0.08, random_state=rng)[0]


def _moons(n: int, rng: np.random.RandomState) -> np.ndarray:
    from sklearn.datasets import make_moons

    return 2 * make_moons(n_samples=n, noise=0.1, random_state=rng)[0] + np.array([-1.0, -0.2])


def _pinwheel(n: int, rng: np.random.RandomState) -> np.ndarray:
    arms, per_arm = 5, math.ceil(n / 5)
    features = rng.randn(arms * per_arm, 2) * np.array([0.3, 0.1])
    features[:, 0] += 1
    angle = np.repeat(np.linspace(0, 2 * np.pi, arms, endpoint=False), per_arm) + 0.25 * np.exp(features[:, 0])
    along, across = features.T
    x = np.cos(angle) * along + np.sin(angle) * across
    y = np.cos(angle) * across - np.sin(angle) * along
    return 2 * rng.permutation(np.stack([x, y], 1))[:n]


def _swissroll(n: int, rng: np.random.RandomState) -> np.ndarray:
    from sklearn.datasets import make_swiss_roll

    return make_swiss_roll(n_samples=n, noise=1.0, random_state=rng)[0][:, [0, 2]] / 5


def _checkerboard(n: int, rng: np.random.RandomState) -> np.ndarray:
    x = 4 * rng.rand(n) - 2
    y = rng.rand(n) - 2 * rng.randint(0, 2, n) + np.floor(x) % 2
    return 2 * np.stack([x, y], 1)


_GENERATORS: dict[str, Callable[[int, np.random.RandomState], np.ndarray]] = {
    "2spirals": _two_spirals,
    "8gaussians": _eight_gaussians,
    "circles": _circles,
    "moons": _moons,
    "pinwheel": _pinwheel,
    "swissroll": _swissroll,
    "checkerboard": _checkerboard,
}


class Quantizer:
    """Encodes points of one data set as 32 bits, a sign and the Gray code of the magnitude per coordinate, and back.

    Attributes:
        limit: upper limit of |coordinate|.
        scale: quanta per unit of length; a quantum is 1 / scale.

    Raises:
        ValueError: the name is not in NAMES.

    Source: Zhang et al., ICML 2022, section on synthetic tasks; the scale follows from the authors' first 5,000 draws.
    """

    def __init__(self, name: str) -> None:
        largest = np.abs(sample_2d(name, 5000, np.random.RandomState(1))).max()
        self.limit = float(largest) + 2
        self.scale = 2**MAGNITUDE_BITS / self.limit

    def encode(self, points: np.ndarray) -> Tensor:
        """Bits (n, 32), int8, of points (n, 2): first x, then y.

        A coordinate has a sign bit, 1 if it is negative, and then the 15 bits of the reflected Gray code of
        floor(|coordinate| scale), the most significant first.

        Raises ValueError if a coordinate is not finite or not within the limit.
        """
        if not (np.abs(points) < self.limit).all():
            raise ValueError(f"Quantizer: coordinates must lie in (-{self.limit:g}, {self.limit:g})")
        magnitude = np.floor(np.abs(points) * self.scale).astype(np.int64)
        gray = magnitude ^ (magnitude >> 1)
        bits = (gray[..., None] >> np.arange(MAGNITUDE_BITS - 1, -1, -1)) & 1
        signed = np.concatenate([(points < 0)[..., None], bits], -1)
        return torch.from_numpy(signed.reshape(len(points), BITS).astype(np.int8))

    def decode(self, bits: Tensor) -> np.ndarray:
        """Points (n, 2), float64, of bits (n, 32): the centres of their quanta, so that `encode` inverts it."""
        halves = bits.cpu().numpy().astype(np.int64).reshape(len(bits), 2, BITS // 2)
        # A bit of the number is the parity of the bits of its Gray code up to and including its own.
        number = np.cumsum(halves[..., 1:], -1) % 2
        magnitude = number @ (1 << np.arange(MAGNITUDE_BITS - 1, -1, -1))
        return np.where(halves[..., 0] == 1, -1, 1) * (magnitude + 0.5) / self.scale
