"""Edges of numbers: one probe, identical samples, samples of one dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contracts.doors import normal

import svgdx
from svgdx.experiments.metrics.frechet import frechet_distance


@pytest.mark.parametrize("output", ["mean", "variance", "both"])
def test_the_gradient_of_one_probe_is_that_of_its_mean(output: str) -> None:
    probe, hvp = (normal(1, 4, 3) + shift for shift in (0, 1))
    probe.requires_grad_()
    hvp.requires_grad_()
    mean, variance = svgdx.ops.probe_trace(probe, hvp)
    assert bool(variance.isnan().all())
    of_mean = 0.0 if output == "variance" else 1.0
    outputs = {"mean": [mean], "variance": [variance], "both": [mean, variance]}[output]
    gradients = torch.autograd.grad(outputs, [probe, hvp], [torch.ones_like(value) for value in outputs])
    torch.testing.assert_close(gradients, (of_mean * hvp.detach(), of_mean * probe.detach()))


def test_the_gradient_of_several_probes_includes_the_variance() -> None:
    hvp = (normal(3, 4, 3) + 1).requires_grad_()
    compiled, reference = (
        torch.autograd.grad(function(normal(3, 4, 3), hvp)[1].sum(), hvp)[0]
        for function in (svgdx.ops.probe_trace, svgdx.reference.probe_trace)
    )
    torch.testing.assert_close(compiled, reference)
    assert float(compiled.abs().max()) > 0.1


@pytest.mark.parametrize("dim", [1, 2, 5, 40])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_distance_of_samples_to_themselves_is_not_negative(dim: int, scale: float) -> None:
    samples = scale * normal(30, dim)
    assert 0 <= frechet_distance(samples, samples) <= 1e-6 * scale**2 * dim


def test_the_distance_in_one_dimension_is_that_of_means_and_deviations() -> None:
    a, b = normal(50, 1).double(), 3 * normal(40, 1).double() + 2
    gap = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert math.isclose(frechet_distance(a, b), float(gap), rel_tol=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_has_no_covariance(count: int) -> None:
    with pytest.raises(ValueError, match=f"frechet_distance: b must have at least 2 rows, but has {count}"):
        frechet_distance(normal(5, 2), normal(count, 2))


@pytest.mark.parametrize("count", [2, 5, 9, 10, 51])
def test_conventions_of_the_median(count: int) -> None:
    """Lower median of all M^2 distances: numpyro's middle value if M is odd, never above it otherwise."""
    x = normal(count, 3).double()
    distances = np.linalg.norm(x.numpy()[:, None] - x.numpy(), axis=-1)
    median, middle = float(svgdx.ops.median_distance(x)), float(np.median(distances))
    assert math.isclose(median, float(np.sort(distances.ravel())[(count**2 - 1) // 2]), rel_tol=1e-12)
    assert math.isclose(median, middle, rel_tol=1e-12) if count % 2 else median <= middle
    assert median <= float(np.median(distances[np.tril_indices(count, -1)]))  # blackjax leaves the zeros out
