"""Synthetic data: points, their bits, and entropies compared with independently written densities."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from scipy.special import logsumexp, ndtr

from svgdx.experiments.data.plane import ENTROPY, NAMES, Quantizer, sample_2d


@pytest.mark.parametrize("name", NAMES)
def test_points_are_fresh_and_repeat_with_the_seed(name: str) -> None:
    rng = np.random.default_rng(5)
    first, second = sample_2d(name, 31, rng), sample_2d(name, 31, rng)
    assert first.shape == (31, 2)
    assert first.dtype == np.float64
    assert len(np.unique(np.vstack([first, second]), axis=0)) == 62
    np.testing.assert_array_equal(sample_2d(name, 31, np.random.default_rng(5)), first)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_within_one_quantum(name: str) -> None:
    quantizer = Quantizer(name)
    points = sample_2d(name, 2000, np.random.RandomState(7))
    bits = quantizer.encode(points)
    assert bits.shape == (2000, 32)
    assert bits.dtype == torch.int8
    assert ((bits == 0) | (bits == 1)).all()
    decoded = quantizer.decode(bits)
    assert np.abs(decoded - points).max() < 1 / quantizer.scale
    assert torch.equal(quantizer.encode(decoded), bits)


def test_bits_are_sign_and_gray_code_most_significant_first() -> None:
    quantizer = Quantizer("moons")
    points = np.array([[5.2, -6.9], [-0.1, 0.0]]) / quantizer.scale
    expected = [[0] * 13 + [1, 1, 1], [1] + [0] * 12 + [1, 0, 1], [1] + [0] * 15, [0] * 16]
    assert quantizer.encode(points).reshape(4, 16).tolist() == expected


def test_neighbours_differ_in_one_bit() -> None:
    quantizer = Quantizer("circles")
    magnitude = (np.arange(2**15) + 0.5) / quantizer.scale
    bits = quantizer.encode(np.stack([magnitude, -magnitude], 1)).int()
    assert (bits.diff(dim=0).abs().reshape(-1, 2, 16).sum(-1) == 1).all()
    assert len(torch.unique(bits, dim=0)) == 2**15
    assert (bits[0] - torch.eye(32, dtype=torch.int)[16]).count_nonzero() == 0


def test_points_out_of_range_are_refused() -> None:
    quantizer = Quantizer("8gaussians")
    for value in (quantizer.limit, -quantizer.limit, math.nan):
        with pytest.raises(ValueError, match="coordinates must lie in"):
            quantizer.encode(np.array([[0.0, value]]))
    with pytest.raises(ValueError, match="must be one of 2spirals"):
        Quantizer("spirals")


def gaussian(squared: np.ndarray, sd: float, dims: int) -> np.ndarray:
    return -0.5 * squared / sd**2 - dims * math.log(sd * math.sqrt(2 * math.pi))


def mixture(points: np.ndarray, centres: np.ndarray, sd: float) -> np.ndarray:
    """Log density of equally likely round Gaussians."""
    squared = np.square(points[:, None] - centres).sum(-1)
    return logsumexp(gaussian(squared, sd, 2), axis=1) - math.log(len(centres))


MIDDLES = (np.arange(400) + 0.5) / 400


def two_spirals(points: np.ndarray) -> np.ndarray:
    turn = 3 * np.pi * np.sqrt(MIDDLES)
    start = np.stack([-np.cos(turn) * turn, np.sin(turn) * turn], 1) / 3
    # Uniform on [0, 1/6] plus N(0, 0.01) about each coordinate of the curve.
    densities = [
        np.prod((ndtr(offset / 0.1) - ndtr((offset - 1 / 6) / 0.1)) * 6, -1)
        for offset in (points[:, None] - start, -points[:, None] - start)
    ]
    return np.log(np.concatenate(densities, 1).mean(1))


def eight_gaussians(points: np.ndarray) -> np.ndarray:
    angle = np.arange(8) * np.pi / 4
    return mixture(points, 4 / 1.414 * np.stack([np.cos(angle), np.sin(angle)], 1), 0.5 / 1.414)


def circles(points: np.ndarray) -> np.ndarray:
    angle = 2 * np.pi * MIDDLES
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    return mixture(points, np.concatenate([3 * ring, 1.5 * ring]), 0.24)


def moons(points: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(np.pi * MIDDLES), np.sin(np.pi * MIDDLES)
    centres = np.concatenate([np.stack([cos, sin], 1), np.stack([1 - cos, 0.5 - sin], 1)])
    return mixture(points, 2 * centres + [-1, -0.2], 0.2)


def pinwheel(points: np.ndarray) -> np.ndarray:
    """Sums, for every arm, over the radial features that the rotation maps to the point."""
    grid = np.linspace(-1, 3, 600)
    total = np.zeros(len(points))
    x, y = points[:, :1] / 2, points[:, 1:] / 2
    for arm in range(5):
        angle = 2 * np.pi * arm / 5 + 0.25 * np.exp(grid)
        along, across = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
        gap = along - grid
        row, cell = np.nonzero(gap[:, :-1] * gap[:, 1:] < 0)
        share = gap[row, cell] / (gap[row, cell] - gap[row, cell + 1])
        radial = grid[cell] + share * (grid[1] - grid[0])
        tangential = across[row, cell] + share * (across[row, cell + 1] - across[row, cell])
        log_p = gaussian((radial - 1) ** 2, 0.3, 1) + gaussian(tangential**2, 0.1, 1)
        stretch = np.abs(1 + 0.25 * np.exp(radial) * tangential)
        np.add.at(total, row, np.exp(log_p) / stretch / 5 / 4)
    return np.log(total)


def swissroll(points: np.ndarray) -> np.ndarray:
    turn = 1.5 * np.pi * (1 + 2 * MIDDLES)
    return mixture(points, np.stack([turn * np.cos(turn), turn * np.sin(turn)], 1) / 5, 0.2)


def checkerboard(points: np.ndarray) -> np.ndarray:
    # Half of a square of side 8 is covered evenly.
    return np.full(len(points), -math.log(32))


DENSITIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "2spirals": two_spirals, "8gaussians": eight_gaussians, "circles": circles, "moons": moons,
    "pinwheel": pinwheel, "swissroll": swissroll, "checkerboard": checkerboard,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_entropy_is_that_of_the_density(name: str) -> None:
    # The density per quantum: a quantum is much smaller than the scale on which the densities vary.
    points = sample_2d(name, 5000, np.random.RandomState(11))
    log_p = DENSITIES[name](points) - 2 * math.log(Quantizer(name).scale)
    assert np.isfinite(log_p).all()
    error = log_p.std() / math.sqrt(len(log_p))
    assert -log_p.mean() == pytest.approx(ENTROPY[name], abs=0.008 + 3 * error)


def test_the_eight_fields_of_the_checkerboard_are_equally_likely() -> None:
    points = sample_2d("checkerboard", 8000, np.random.RandomState(3))
    fields, counts = np.unique(np.floor(points / 2), axis=0, return_counts=True)
    assert len(fields) == 8
    assert len(set(fields.sum(1) % 2)) == 1
    assert np.square(counts / 1000 - 1).sum() * 1000 < 30  # chi-square, 7 degrees of freedom
