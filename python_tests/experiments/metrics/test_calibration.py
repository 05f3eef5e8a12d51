"""The claims of samplers and the fit of energies, against Gaussians for which they are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from svgdx.experiments.metrics.calibration import SCALES, calibration, entropy_bound, norms
from svgdx.streams import Stream

D = 16


class Gaussian(nn.Module):
    """log N(0, v I), times a factor."""

    def __init__(self, variance: float, factor: float = 1.0) -> None:
        super().__init__()
        self.variance, self.factor = variance, factor

    def forward(self, x: Tensor) -> Tensor:
        return -self.factor * x.square().sum(-1) / (2 * self.variance)


@pytest.mark.parametrize("count", [D + 4, 2000])
def test_the_bound_of_gaussian_samples_is_their_entropy(count: int) -> None:
    """On average over draws, also for few samples, whose covariance alone would give too little."""
    deviations = torch.linspace(0.5, 2, D)
    bounds = [entropy_bound(deviations * Stream.of_seed(seed).normal((count, D))) for seed in range(30)]
    entropy = 0.5 * D * math.log(2 * math.pi * math.e) + float(deviations.log().sum())
    assert sum(bounds) / 30 == pytest.approx(entropy, abs=0.25 if count == 2000 else 0.8)


def test_the_bound_of_fewer_samples_than_dimensions_is_that_of_the_diagonal() -> None:
    samples = Stream.of_seed(1).normal((D // 2, D))
    assert math.isfinite(entropy_bound(samples))
    assert entropy_bound(2 * samples) == pytest.approx(entropy_bound(samples) + D * math.log(2))
    assert entropy_bound(samples * torch.tensor([0.0] + [1.0] * (D - 1))) == -math.inf


def test_the_log_density_of_noisy_images_fits_and_a_multiple_of_it_does_not() -> None:
    images = Stream.of_seed(1).normal((20_000, D))
    for scale in SCALES:
        exact, sharp = (calibration(Gaussian(1 + scale**2, factor), images, Stream.of_seed(2)) for factor in (1.0, 4.0))
        assert exact[f"fit_{scale}"] == pytest.approx(1, abs=0.05)
        assert sharp[f"fit_{scale}"] == pytest.approx(exact[f"fit_{scale}"] / 4, rel=1e-4)
        # E[grad f . -z / s] = D / (1 + s^2), |grad f|^2 = D / (1 + s^2), |z / s|^2 = D / s^2.
        assert exact[f"cosine_{scale}"] == pytest.approx(scale / math.sqrt(1 + scale**2), abs=0.01)


def test_norms_of_a_gaussian() -> None:
    images = torch.full((3, D), 2.0)
    expected = {"data_score_norm": 2 * math.sqrt(D) / 4, "data_hvp_norm": math.sqrt(D) / 4}
    assert norms(Gaussian(4.0), images, Stream.of_seed(1)) == pytest.approx(expected)
