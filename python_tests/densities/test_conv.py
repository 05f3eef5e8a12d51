"""ConvLogDensity: shapes, derivatives and bad arguments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svgdx.activations import SMOOTH
from svgdx.densities import ConvLogDensity


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 6, 10), (2, 5, 5)])
def test_rows_are_read_as_images(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    density = ConvLogDensity(shape, width=4, confinement=0.5)
    x = torch.randn(2, 3, shape[0] * shape[1] * shape[2])
    value = density(x)
    assert value.shape == (2, 3)
    expected = density.layers(x[1, 2].view(1, *shape)).squeeze() - 0.25 * x[1, 2].square().sum()
    torch.testing.assert_close(value[1, 2], expected, rtol=1e-5, atol=1e-5)


def score_and_hvp(density: ConvLogDensity, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    (score,) = torch.autograd.grad(density(x).sum(), x, create_graph=True)
    (hvp,) = torch.autograd.grad(score, x, v, create_graph=True)
    return score, hvp


@pytest.mark.parametrize("activation", SMOOTH)
def test_hessian_product_is_the_derivative_of_the_score(activation: str) -> None:
    torch.manual_seed(0)
    density = ConvLogDensity((1, 8, 8), width=3, activation=activation, confinement=0.1).double()
    x, v = torch.randn(1, 4, 64, dtype=torch.float64), torch.randn(1, 4, 64, dtype=torch.float64)
    _, hvp = score_and_hvp(density, x, v)
    step = 1e-5
    (after, _), (before, _) = (score_and_hvp(density, x + h * v, v) for h in (step, -step))
    assert hvp.abs().max() > 1e-3
    torch.testing.assert_close(hvp, (after - before) / (2 * step), rtol=1e-6, atol=1e-8)


def test_every_parameter_receives_a_gradient_through_the_hessian() -> None:
    torch.manual_seed(0)
    density = ConvLogDensity((1, 8, 8), width=3)
    x = torch.randn(1, 4, 64)
    _, hvp = score_and_hvp(density, x, torch.ones_like(x))
    grads = torch.autograd.grad(hvp.square().sum(), [p for p in density.parameters() if p.ndim > 1])
    assert all(float(grad.abs().max()) > 0 for grad in grads)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="activation must be one of silu, gelu, tanh, softplus, but is 'relu'"):
        ConvLogDensity((1, 8, 8), 4, "relu")
    with pytest.raises(ValueError, match="shape and width must be at least 1"):
        ConvLogDensity((1, 8, 0), 4)
