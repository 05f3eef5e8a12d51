"""Losses of unnormalised densities: closed forms, minimisers, and the same number by different ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svgdx import Stream, losses
from svgdx.densities import Energy, LogDensity, MLPLogDensity

VARIANCES = torch.tensor([0.5, 2.0, 1.25], dtype=torch.float64)
Loss = Callable[[Any, Tensor], Tensor]


class Gaussian(LogDensity):
    """log N(0, diag(1 / precision)), up to a constant."""

    def __init__(self, precision: Tensor) -> None:
        super().__init__()
        self.precision = nn.Parameter(precision.clone())

    def forward(self, x: Tensor) -> Tensor:
        return -0.5 * (self.precision * x.square()).sum(-1)


class GaussianEnergy(Energy):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (x.square() / VARIANCES).sum(-1)


class ChangedMLP(MLPLogDensity):
    """The same density by a class of one's own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def data(count: int = 4096) -> Tensor:
    return Stream(3).normal((count, 3)).double() * VARIANCES.sqrt()


def test_score_matching_of_a_gaussian() -> None:
    x, precision = data(), torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)
    expected = (0.5 * precision.square() * x.square() - precision).sum(-1).mean()
    torch.testing.assert_close(losses.score_matching(Gaussian(precision), x), expected)


@pytest.mark.parametrize("lead", [(64,), (2, 16), ()], ids=str)
def test_score_matching_of_a_network_by_two_ways(lead: tuple[int, ...]) -> None:
    """The sweep of mlp_laplacian and D products with the Hessian: the same loss and gradients."""
    x = Stream(1).normal((*lead, 5)).double()
    results = []
    for kind in (MLPLogDensity, ChangedMLP):
        torch.manual_seed(0)
        density = kind(5, 16, 2, "tanh", confinement=0.1).double()
        loss = losses.score_matching(density, x)
        results.append([loss, *torch.autograd.grad(loss, list(density.parameters()), materialize_grads=True)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_sliced_score_matching_is_unbiased() -> None:
    torch.manual_seed(0)
    density, x = MLPLogDensity(4, 16, 2).double(), Stream(1).normal((64, 4)).double()
    exact = float(losses.score_matching(density, x).detach())
    sliced = torch.stack([losses.sliced_score_matching(density, x, 64, Stream(seed)) for seed in range(32)]).detach()
    error = float(sliced.std() / 32**0.5)
    assert error < 0.01
    assert abs(float(sliced.mean()) - exact) < 4 * error


NOISE = 0.5
# The precision at which each loss is smallest, for data of these variances.
MINIMISERS: dict[str, tuple[Callable[[Any, Tensor, Stream], Tensor], Tensor]] = {
    "score": (lambda f, x, stream: losses.score_matching(f, x), 1 / VARIANCES),
    "sliced": (lambda f, x, stream: losses.sliced_score_matching(f, x, 1, stream), 1 / VARIANCES),
    "denoising": (
        lambda f, x, stream: losses.denoising_score_matching(f, x, NOISE, stream),
        1 / (VARIANCES + NOISE**2),
    ),
    "energy discrepancy": (
        lambda f, x, stream: losses.energy_discrepancy(f, x, 1.0, 64, 0.0, stream),
        1 / VARIANCES,
    ),
    "contrastive divergence": (
        # Samples of the present model.
        lambda f, x, stream: losses.contrastive_divergence(f, x, stream.normal(x) / f.precision.sqrt()),
        1 / VARIANCES,
    ),
}


@pytest.mark.parametrize("name", MINIMISERS)
def test_minimiser(name: str) -> None:
    """Adam on the precisions of a Gaussian ends at those of the (noisy) data."""
    loss, expected = MINIMISERS[name]
    density, x, stream = Gaussian(torch.ones(3, dtype=torch.float64)), data(1024), Stream(5)
    expected = expected * VARIANCES / x.square().mean(0)
    adam = torch.optim.Adam(density.parameters(), 0.05)
    for step in range(150):
        adam.param_groups[0]["lr"] = 0.05 * (1 - step / 150)
        adam.zero_grad()
        loss(density, x, stream).backward()
        adam.step()
    # The values of f at 1,024 points say less than its derivatives.
    tolerance = 0.15 if name == "energy discrepancy" else 0.05
    torch.testing.assert_close(density.precision.detach(), expected, rtol=tolerance, atol=0)


def test_signs_and_noise_of_each_point() -> None:
    """An Energy and its LogDensity have the same losses; noise may differ from point to point."""
    x, density = data(64), Gaussian(1 / VARIANCES)
    for loss in (
        losses.score_matching,
        lambda f, x: losses.energy_discrepancy(f, x, 0.3, generator=Stream(1)),
        lambda f, x: losses.contrastive_divergence(f, x, 2 * x),
    ):
        torch.testing.assert_close(loss(GaussianEnergy(), x), loss(density, x).detach())
    rows = torch.linspace(0.1, 1, 64, dtype=torch.float64)
    whole = losses.denoising_score_matching(density, x, rows, Stream(2))
    normal = Stream(2).normal(x)
    score = -(x + rows[:, None] * normal) / VARIANCES
    torch.testing.assert_close(whole, 0.5 * (rows[:, None] * score + normal).square().sum(-1).mean())
    whole = losses.energy_discrepancy(density, x[:2], rows[[0, 63]], 4, generator=Stream(2))
    normal = Stream(2).normal((5, 2, 3), x.dtype)
    ratios = density(x[:2] + rows[[0, 63], None] * (normal[0] + normal[1:])) - density(x[:2])
    torch.testing.assert_close(whole, ((1 + ratios.exp().sum(0)) / 4).log().mean())
    with torch.no_grad():
        stable, plain = (losses.energy_discrepancy(density, x, 0.3, 4, w, Stream(1)) for w in (1.0, 0.0))
    assert stable > plain


X = torch.zeros(4, 3)
FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "no tensor": (lambda: losses.energy_discrepancy(GaussianEnergy(), [1.0], 0.1), "x must be a tensor"),
    "0-d": (lambda: losses.contrastive_divergence(GaussianEnergy(), X[0, 0], X), r"x must have shape"),
    "samples": (lambda: losses.contrastive_divergence(GaussianEnergy(), X, None), "samples must be a tensor"),
    "noise 0": (lambda: losses.denoising_score_matching(GaussianEnergy(), X, 0.0), "noise must be positive"),
    "noise of a point": (
        lambda: losses.denoising_score_matching(GaussianEnergy(), X, torch.tensor([1.0, -1.0, 1.0, 1.0])),
        "noise must be positive",
    ),
    "NaN noise": (lambda: losses.energy_discrepancy(GaussianEnergy(), X, float("nan")), "noise must be positive"),
    "no samples": (lambda: losses.energy_discrepancy(GaussianEnergy(), X, 0.1, 0), "samples must be at least 1"),
    "stabiliser": (lambda: losses.energy_discrepancy(GaussianEnergy(), X, 0.1, 2, -1.0), "stabiliser must not be"),
    "sum over rows": (lambda: losses.energy_discrepancy(lambda x: x.sum(), X, 0.1), "target must map"),
    "no target": (lambda: losses.score_matching(3, X), "target must be"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refusals(fault: str) -> None:
    call, message = FAULTS[fault]
    with pytest.raises((TypeError, ValueError), match=message):
        call()
