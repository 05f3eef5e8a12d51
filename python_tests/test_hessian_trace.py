"""svgdx.hessian_trace: agreement with torch.func.hessian, means and errors of the estimators, and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import svgdx
from svgdx import ops
from svgdx.trace import HessianTrace

METHODS = [("hutchinson", 1), ("hutchinson", 4), ("hutch++", 3), ("hutch++", 9), ("exact", 1)]
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


class Density(nn.Module):
    """A small network minus a non-diagonal quadratic form, in float64."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        torch.manual_seed(dim)
        self.net = nn.Sequential(nn.Linear(dim, 8), nn.SiLU(), nn.Linear(8, 1)).double()
        self.root = nn.Parameter(torch.randn(dim, dim, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1) - 0.5 * (x @ self.root).square().sum(-1)


def points(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def hessians(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    flat = x.detach().reshape(-1, x.shape[-1])
    return torch.stack([torch.func.hessian(log_prob)(row) for row in flat]).view(*x.shape, x.shape[-1]).detach()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 5), (2, 1, 1)], ids=str)
@pytest.mark.parametrize(("method", "probes"), METHODS)
def test_products_and_estimates_agree_with_the_hessian(method: str, probes: int, shape: tuple[int, ...]) -> None:
    density, x = Density(shape[-1]), points(*shape)
    hessian = hessians(density, x)
    result = svgdx.hessian_trace(density, x, probes, method, seeded())
    torch.testing.assert_close(result.log_prob, density(x).detach())
    torch.testing.assert_close(
        result.score, torch.func.vmap(torch.func.grad(lambda r: density(r)))(x.view(-1, shape[-1])).view(shape)
    )
    torch.testing.assert_close(result.hvp, torch.einsum("...ij,...j->...i", hessian, result.probe), **CLOSE)
    assert not any(value.requires_grad for value in result)
    assert result.trace.shape == result.standard_error.shape == shape[:-1]
    if method == "hutchinson":
        assert result.probe.shape == (shape if probes == 1 else (probes, *shape))
        forms = (result.probe * result.hvp).sum(-1)
        torch.testing.assert_close(result.trace, forms if probes == 1 else forms.mean(0), **CLOSE)
        if probes > 1:
            torch.testing.assert_close(result.standard_error, forms.std(0) / probes**0.5, **CLOSE)
    elif method == "hutch++":
        assert result.probe.shape == (probes - 2 * (probes // 3), *shape)
        assert set(result.probe.unique().tolist()) <= {-1.0, 1.0}
    else:
        torch.testing.assert_close(result.hvp.movedim(0, -2), hessian, **CLOSE)
        torch.testing.assert_close(result.trace, hessian.diagonal(dim1=-2, dim2=-1).sum(-1), **CLOSE)
        assert not result.standard_error.any()


@pytest.mark.parametrize(("method", "probes"), [("hutchinson", 4), ("hutch++", 9)])
def test_estimates_are_unbiased_and_report_their_error(method: str, probes: int) -> None:
    """Over 1e5 draws the mean is within 5 standard errors of the trace, and the spread is the reported error."""
    matrix = points(8, 8)
    matrix = matrix @ matrix.T

    def log_prob(x: Tensor) -> Tensor:
        return -0.5 * (x @ matrix * x).sum(-1)

    count = 100_000 // (probes if method == "hutchinson" else 1)
    result = svgdx.hessian_trace(log_prob, points(8).expand(count, 8), probes, method, seeded(3))
    spread = float(result.trace.std())
    assert spread > 0
    assert abs(float(result.trace.mean()) + float(matrix.trace())) < 5 * spread / count**0.5
    reported = float(result.standard_error.square().mean().sqrt())
    assert abs(reported / spread - 1) < 0.03


def test_hutchpp_beats_hutchinson_if_few_directions_matter() -> None:
    basis = torch.linalg.qr(points(40, 40)).Q
    matrix = basis * torch.arange(1, 41, dtype=torch.float64) ** -2.0 @ basis.T

    def log_prob(x: Tensor) -> Tensor:
        return -0.5 * (x @ matrix * x).sum(-1)

    x = points(200, 40)
    error = {
        method: (svgdx.hessian_trace(log_prob, x, 18, method, seeded()).trace + matrix.trace()).square().mean().sqrt()
        for method in ("hutchinson", "hutch++")
    }
    assert error["hutch++"] < 0.3 * error["hutchinson"]


def test_hutchpp_is_exact_if_the_sketch_spans_the_space() -> None:
    density, x = Density(2), points(3, 2)
    result = svgdx.hessian_trace(density, x, 9, "hutch++", seeded())
    torch.testing.assert_close(result.trace, hessians(density, x).diagonal(dim1=-2, dim2=-1).sum(-1), **CLOSE)
    assert float(result.standard_error.max()) < 1e-12


def test_the_generator_determines_the_signs() -> None:
    density, x = Density(3), points(4, 3)
    first, second = (svgdx.hessian_trace(density, x, 2, generator=seeded(7)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    generator = seeded(7)
    probes = [svgdx.hessian_trace(density, points(40, 3), generator=generator).probe for _ in range(2)]
    assert not torch.equal(*probes)
    defaults = []
    for _ in range(2):
        torch.manual_seed(5)
        defaults.append(svgdx.hessian_trace(density, points(40, 3)).probe)
    assert torch.equal(*defaults)


def test_one_probe_has_no_standard_error() -> None:
    assert bool(svgdx.hessian_trace(Density(3), points(4, 3)).standard_error.isnan().all())
    assert bool(svgdx.hessian_trace(Density(3), points(4, 3), 3, "hutch++").standard_error.isnan().all())


def test_results_fit_the_svgd_ops() -> None:
    density, x = Density(3), points(2, 5, 3)
    h = svgdx.hessian_trace(density, x)
    log_q = torch.zeros(2, 5, dtype=torch.float64)
    _, with_term = ops.svgd_step(x, h.score, 1.0, 0.1, log_q, hessian_trace=h.trace)
    _, without = ops.svgd_step(x, h.score, 1.0, 0.1, log_q)
    torch.testing.assert_close(with_term, without - 0.1 * h.trace / 5)
    assert ops.svgd_jacobian_sqnorm(x, h.score, 1.0, h.probe, h.hvp).shape == (2, 5)
    hessian = svgdx.hessian_trace(density, x, method="exact").hvp.movedim(0, -2)
    assert ops.svgd_logdet(x, h.score, 1.0, 0.1, hessian).shape == (2, 5)


@pytest.mark.parametrize(("method", "probes"), METHODS)
def test_gradients(method: str, probes: int) -> None:
    """The gradients of the estimate in points and parameters are those of autograd with the same signs."""
    density, x = Density(3), points(4, 3).requires_grad_()
    result = svgdx.hessian_trace(density, x, probes, method, seeded(), create_graph=True)
    targets = [x, *density.parameters()]
    loss = result.trace.sin().sum() + result.hvp.square().sum() + result.score.square().sum() + result.log_prob.sum()
    actual = torch.autograd.grad(loss, targets)
    vectors = result.probe.detach().reshape(-1, 4, 3)

    def total(x: Tensor, **parameters: Tensor) -> Tensor:
        def log_prob(row: Tensor) -> Tensor:
            return torch.func.functional_call(density, parameters, (row,))

        score = torch.func.vmap(torch.func.grad(log_prob))(x)
        hessian = torch.func.vmap(torch.func.hessian(log_prob))(x)
        hvp = torch.einsum("nij,vnj->vni", hessian, vectors)
        if method == "hutch++":  # with the vectors of the estimate as constants
            trace = plus_plus(hessian, result, probes)
        elif method == "exact":
            trace = hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
        else:
            trace = (vectors * hvp).sum(-1).mean(0)
        torch.testing.assert_close(trace.detach(), result.trace.detach(), **CLOSE)
        return trace.sin().sum() + hvp.square().sum() + score.square().sum() + log_prob(x).sum()

    leaves = {name: value.detach().requires_grad_() for name, value in density.named_parameters()}
    leaf = x.detach().requires_grad_()
    expected = torch.autograd.grad(total(leaf, **leaves), [leaf, *leaves.values()])
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def plus_plus(hessian: Tensor, result: HessianTrace, probes: int) -> Tensor:
    """Algorithm 1 of Meyer et al. for matrices (N, D, D), with the signs that hessian_trace draws with seeded()."""
    seed = int(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, generator=seeded()))
    size = min(probes // 3, hessian.shape[-1])
    start = ops.rademacher(hessian[..., 0].expand(size, *hessian.shape[:-1]), seed, 0)
    q = torch.linalg.qr(torch.einsum("nij,vnj->niv", hessian.detach(), start)).Q
    g = result.probe.detach().movedim(0, -1)
    rest = g - q @ (q.mT @ g)
    return (
        torch.einsum("nik,nij,njk->n", q, hessian, q)
        + torch.einsum("niv,nij,njv->n", rest, hessian, rest) / g.shape[-1]
    )


def test_gradient_of_the_parameters_only() -> None:
    density = Density(3)
    result = svgdx.hessian_trace(density, points(4, 3), method="exact", create_graph=True)
    (grad,) = torch.autograd.grad(result.trace.sum(), density.root)
    torch.testing.assert_close(grad, -2 * 4 * density.root.detach())


@pytest.mark.parametrize("probes", [1, 3])
def test_linear_and_piecewise_linear_densities(probes: int) -> None:
    slope = points(3)
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1)).double()
    for log_prob in (lambda x: x @ slope, lambda x: net(x).squeeze(-1)):
        result = svgdx.hessian_trace(log_prob, points(4, 3), probes)
        assert not result.hvp.any()
        assert not result.trace.any()


def test_half_precision_estimates_in_float32() -> None:
    x = points(4, 3).bfloat16()
    result = svgdx.hessian_trace(lambda x: -0.5 * x.square().sum(-1), x, 2)
    assert (result.score.dtype, result.trace.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(result.trace, torch.full((4,), -3.0))


def test_no_points() -> None:
    for method, probes in METHODS:
        assert svgdx.hessian_trace(lambda x: -x.square().sum(-1), points(0, 3), probes, method).trace.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 1.0}, "x must be a tensor"),
        ({"x": torch.ones(3, dtype=torch.int64)}, "x must be floating"),
        ({"x": torch.tensor(1.0)}, "x must be floating with shape"),
        ({"method": "hutch"}, "method must be one of hutchinson"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"probes": 2, "method": "hutch++"}, "probes must be at least 3"),
        ({"probes": 1.0}, "probes must be an integer"),
        ({"log_prob": lambda x: x}, "log_prob must map"),
        ({"log_prob": lambda x: 1.0}, "log_prob must return a tensor, but returns float"),
        ({"log_prob": lambda x: torch.ones(4)}, "log_prob must be differentiable"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    arguments = {"log_prob": lambda x: x.square().sum(-1), "x": points(4, 3), **change}
    with pytest.raises((TypeError, ValueError, RuntimeError), match=f"hessian_trace: {message}"):
        svgdx.hessian_trace(**arguments)
