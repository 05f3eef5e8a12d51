"""The trace, squared norm and log-determinant against exact Jacobians from torch.func, for analytic targets."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from ops.backends import Backend
from simt import backend as simt
from torch import Tensor

from svgdx import ops, reference

LogDensity = Callable[[Tensor], Tensor]


def gaussian(d: int) -> LogDensity:
    root = torch.randn(d, d, dtype=torch.float64)
    precision = root @ root.mT / d + torch.eye(d, dtype=torch.float64)
    return lambda x: -0.5 * x @ precision @ x


def mixture(d: int) -> LogDensity:
    means = 2 * torch.randn(3, d, dtype=torch.float64)
    return lambda x: torch.logsumexp(-0.5 * (x - means).square().sum(-1), 0)


def quartic(d: int) -> LogDensity:
    return lambda x: -0.25 * x.square().sum().square() + x.sin().sum()


class Exact:
    """Particles of a target with scores, Hessians and the Jacobian of each direction in its own particle."""

    def __init__(self, log_density: LogDensity, m: int, d: int, sigma: float) -> None:
        self.x = torch.randn(m, d, dtype=torch.float64)
        self.sigma = sigma
        score = torch.func.grad(log_density)
        self.score = torch.vmap(score)(self.x)
        self.hessian = torch.vmap(torch.func.jacrev(score))(self.x)

        def direction(y: Tensor, i: int) -> Tensor:
            """phi_i as a function of x_i, written independently as a plain loop over particles."""
            total = torch.zeros(d, dtype=torch.float64)
            for j in range(m):
                other, s = (y, score(y)) if j == i else (self.x[j], self.score[j])
                r = y - other
                kernel = torch.exp(-r.dot(r) / (2 * sigma**2))
                total = total + kernel * (s + r / sigma**2)
            return total / m

        self.phi = torch.stack([direction(self.x[i], i) for i in range(m)])
        self.jacobian = torch.stack([torch.func.jacrev(direction)(self.x[i], i) for i in range(m)])


TARGETS = [
    (gaussian, 7, 1, 0.7),
    (gaussian, 5, 3, 1.3),
    (mixture, 6, 2, 0.9),
    (quartic, 4, 6, 2.0),
    (mixture, 1, 2, 0.5),
]


@pytest.fixture(params=TARGETS, ids=lambda t: f"{t[0].__name__}-{t[1]}-{t[2]}")
def exact(request: pytest.FixtureRequest) -> Exact:
    target, m, d, sigma = request.param
    return Exact(target(d), m, d, sigma)


def test_direction_and_trace(exact: Exact) -> None:
    phi, trace = ops.svgd_phi_trace(exact.x, exact.score, exact.sigma)
    hessian_trace = exact.hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(phi, exact.phi, rtol=1e-10, atol=1e-12)
    exact_trace = exact.jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(trace + hessian_trace / len(exact.x), exact_trace, rtol=1e-10, atol=1e-12)


def test_sqnorm_averages_to_the_exact_norm(exact: Exact) -> None:
    """Averaged over all 2^D Rademacher probes, the estimate is exactly |J|_F^2."""
    m, d = exact.x.shape
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * d).view(-1, d)
    probe = signs[:, None, :].expand(-1, m, -1)
    hvp = torch.einsum("mde,pme->pmd", exact.hessian, probe)
    shape = (len(signs), m, d)
    sqnorm = ops.svgd_jacobian_sqnorm(exact.x.expand(shape), exact.score.expand(shape), exact.sigma, probe, hvp)
    expected = exact.jacobian.square().sum((-2, -1))
    torch.testing.assert_close(sqnorm.mean(0), expected, rtol=1e-10, atol=1e-12)


def test_sqnorm_without_probe_is_the_kernel_part(exact: Exact) -> None:
    kernel_part = exact.jacobian - exact.hessian / len(exact.x)
    sqnorm = ops.svgd_jacobian_sqnorm(exact.x, exact.score, exact.sigma)
    torch.testing.assert_close(sqnorm, kernel_part.square().sum((-2, -1)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("step", [0.05, -0.3, 1.7])
def test_logdet(exact: Exact, step: float) -> None:
    logdet = ops.svgd_logdet(exact.x, exact.score, exact.sigma, step, exact.hessian)
    identity = torch.eye(exact.x.shape[1], dtype=torch.float64)
    expected = torch.linalg.slogdet(identity + step * exact.jacobian).logabsdet
    torch.testing.assert_close(logdet, expected, rtol=1e-9, atol=1e-11)


def test_step_follows_the_exact_density_to_first_order(exact: Exact) -> None:
    """log q' - log q + log|det| is O(step^2): halving the step divides it by four."""
    log_q = torch.randn(len(exact.x), dtype=torch.float64)
    hessian_trace = exact.hessian.diagonal(dim1=-2, dim2=-1).sum(-1)

    def defect(step: float) -> Tensor:
        x_next, log_q_next = ops.svgd_step(exact.x, exact.score, exact.sigma, step, log_q, hessian_trace)
        torch.testing.assert_close(x_next, exact.x + step * exact.phi, rtol=1e-10, atol=1e-12)
        logdet = ops.svgd_logdet(exact.x, exact.score, exact.sigma, step, exact.hessian)
        return (log_q_next - log_q + logdet).abs()

    norm = exact.jacobian.square().sum((-2, -1))
    step = 1e-3 / math.sqrt(norm.max())
    assert (defect(step) <= 0.51 * step**2 * norm).all()
    ratio = defect(step) / defect(step / 2)
    assert ((ratio - 4).abs() < 0.05).all(), ratio


@pytest.mark.parametrize("d", [1, 2, 11, 16])
def test_logdet_of_every_dimension_with_pivoting(d: int) -> None:
    """If the Hessian is a permutation, elimination without row exchanges would divide by zero."""
    m = 3
    x = 100 * torch.arange(m * d, dtype=torch.float64).view(m, d)
    permutation = torch.eye(d, dtype=torch.float64)[torch.randperm(d)].expand(m, d, d)
    identity = torch.eye(d, dtype=torch.float64)
    logdet = ops.svgd_logdet(x, torch.zeros_like(x), 1.0, 1.0, m * (2 * permutation - identity))
    torch.testing.assert_close(logdet, torch.full((m,), d * math.log(2), dtype=torch.float64))


def test_field_divergence() -> None:
    x, score = torch.randn(2, 6, 3, dtype=torch.float64)
    query = torch.randn(4, 3, dtype=torch.float64)
    phi, divergence = ops.svgd_field(query, x, score, 0.8)

    def field_at(y: Tensor) -> Tensor:
        r = y - x
        kernel = torch.exp(-r.square().sum(-1) / (2 * 0.8**2))
        return (kernel[:, None] * (score + r / 0.8**2)).mean(0)

    torch.testing.assert_close(phi, torch.stack([field_at(y) for y in query]), rtol=1e-10, atol=1e-12)
    exact = torch.stack([torch.func.jacrev(field_at)(y).trace() for y in query])
    torch.testing.assert_close(divergence, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("statistic", ["u", "v"])
def test_ksd_against_the_stein_operator(statistic: str) -> None:
    """u(x, y): the trace of the Stein operator in x and y applied to the kernel, by torch.func."""
    x, score = torch.randn(2, 5, 3, dtype=torch.float64)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(a - b).square().sum() / (2 * 1.1**2))

    def stein(i: int, j: int) -> Tensor:
        a, b = x[i], x[j]
        in_a, in_b = torch.func.grad(kernel, 0), torch.func.grad(kernel, 1)
        mixed = torch.func.jacrev(in_a, 1)(a, b).trace()
        return kernel(a, b) * score[i] @ score[j] + score[i] @ in_b(a, b) + score[j] @ in_a(a, b) + mixed

    pairs = [stein(i, j) for i in range(5) for j in range(5) if statistic == "v" or i != j]
    torch.testing.assert_close(ops.ksd(x, score, 1.1, statistic), torch.stack(pairs).mean(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("probed", [False, True])
def test_sqnorm_of_clusters_far_apart(backend: Backend, probed: bool, dtype: torch.dtype) -> None:
    """Above 16 dimensions the relative error is at most that of float64 times (1 + rho^2)^2, for particles up to rho
    bandwidths from their mean, and once rounded to the dtype: float32 would lose all digits at the largest rho."""
    n, m = 2, 9
    for distance, d in [(0.0, 20), (0.0, 40), (0.0, 128), (0.0, 129), (10.0, 20), (100.0, 20), (100.0, 129)]:
        x, score, probe, hvp = torch.randn(4, n, m, d)
        x[:, ::2, 0] += distance * d**0.5
        sigma = torch.tensor([0.8, 1.5]) * d**0.5
        inputs = [value.to(dtype).to(backend.device) for value in (x, score, sigma, *((probe, hvp) if probed else ()))]
        exact = reference.svgd_jacobian_sqnorm(*(value.double() for value in inputs))
        rho = (inputs[0].double() - inputs[0].double().mean(-2, keepdim=True)).norm(dim=-1) / inputs[2][
            :, None
        ].double()
        bound = 2**-52 * (1 + rho.square().amax(-1, keepdim=True)).square() + torch.finfo(dtype).eps
        error = (ops.svgd_jacobian_sqnorm(*inputs).double() - exact).abs() / exact
        assert bool((error <= bound).all()), distance


def test_sqnorm_of_many_particles_is_narrow_only_if_they_are_close() -> None:
    """From 48 particles on, float32 inputs are computed in float32 while all are within a few bandwidths of their mean;
    the errors of a row's M^2 terms then average out. Otherwise the sums are in float64."""
    for m, d in [(48, 20), (100, 24), (300, 17)]:
        for distance, bound in [(0.0, 8), (10.0, 1), (100.0, 1)]:
            x, score, probe, hvp = torch.randn(4, m, d)
            x[::2, 0] += distance * d**0.5
            inputs = [x, score, torch.tensor(1.2 * d**0.5), probe, hvp]
            exact = reference.svgd_jacobian_sqnorm(*(value.double() for value in inputs))
            error = (ops.svgd_jacobian_sqnorm(*inputs).double() - exact).abs() / exact
            assert float(error.max()) <= bound * torch.finfo(torch.float32).eps, (m, d, distance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("probed", [False, True])
def test_gradients_of_clusters_far_apart(backend: Backend, probed: bool, dtype: torch.dtype) -> None:
    """Their error, relative to the largest gradient of an input, has the bound of the values; several strips of rows
    and tiles of columns, the last of them not full."""
    n, m, d = 2, 37, 17
    for distance in (0.0, 10.0):
        x, score, probe, hvp = torch.randn(4, n, m, d)
        x[:, ::2, 0] += distance * d**0.5
        sigma = torch.tensor([0.8, 1.5]) * d**0.5
        inputs = [value.to(dtype).to(backend.device) for value in (x, score, sigma, *((probe, hvp) if probed else ()))]
        weight = torch.randn(n, m, dtype=torch.float64).to(backend.device)

        def gradients(
            op: Callable[..., Tensor], dtype: torch.dtype, inputs: list[Tensor] = inputs, weight: Tensor = weight
        ) -> list[Tensor]:
            leaves = [value.detach().to(dtype, copy=True).requires_grad_() for value in inputs]
            return [*torch.autograd.grad((op(*leaves).double() * weight).sum(), leaves)]

        exact = gradients(reference.svgd_jacobian_sqnorm, torch.float64)
        rho = (inputs[0].double() - inputs[0].double().mean(-2, keepdim=True)).norm(dim=-1).amax() / inputs[2].min()
        bound = 2**-52 * (1 + float(rho) ** 2) ** 2 + 2 * torch.finfo(dtype).eps
        for grad, expected in zip(gradients(ops.svgd_jacobian_sqnorm, dtype), exact, strict=True):
            error = float((grad.double() - expected).abs().max() / expected.abs().max())
            assert error <= bound, distance


@pytest.mark.parametrize("probed", [False, True])
def test_gradcheck_above_16_dimensions(backend: Backend, probed: bool) -> None:
    x, score, probe, hvp = torch.randn(4, 2, 3, 17, dtype=torch.float64).to(backend.device)
    sigma = torch.tensor([3.0, 5.0], dtype=torch.float64).to(backend.device)
    inputs = [x, score, sigma, *((probe, hvp) if probed else ())]
    leaves = [value.clone().requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(ops.svgd_jacobian_sqnorm, leaves, fast_mode=True)


def test_launches_on_cuda_above_16_dimensions() -> None:
    """One kernel for few particles of at most 128 dimensions, otherwise four and two products of torch's; the gradient
    has five, with five or seven products, and a sum over the rows for the bandwidth if its gradient is needed."""
    for d, forward, needed in [(40, 1, True), (128, 1, False), (129, 4, True)]:
        terms = torch.randn(2, 3, 5, d) if d == 40 else ()
        x, score = torch.randn(2, 3, 5, d)
        x.requires_grad_()
        sigma = torch.tensor([6.0, 5.0, 4.0], requires_grad=needed)
        with simt.running() as calls:
            ops.svgd_jacobian_sqnorm(x, score, sigma, *terms).sum().backward()
        assert [call.launches for call in calls] == [forward, 5 + needed]


@pytest.mark.parametrize(("m", "d"), [(170, 86), (177, 30)])  # with products of (M, M), and through D columns
def test_problems_too_large_for_a_cache(m: int, d: int) -> None:
    """Values and gradients agree with the reference, and are the same bits for any number of threads."""
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        inputs = [*torch.randn(2, m, d, dtype=dtype), torch.tensor(1.2 * d**0.5, dtype=dtype)]
        weight = torch.randn(m, dtype=torch.float64)

        def results(op: Callable[..., Tensor], inputs: list[Tensor], weight: Tensor = weight) -> list[Tensor]:
            leaves = [value.clone().requires_grad_() for value in inputs]
            value = op(*leaves)
            return [value.detach(), *torch.autograd.grad((value.double() * weight).sum(), leaves)]

        expected = results(reference.svgd_jacobian_sqnorm, [value.double() for value in inputs])
        actual = results(ops.svgd_jacobian_sqnorm, inputs)
        for value, exact in zip(actual, expected, strict=True):
            assert float((value - exact).abs().max()) <= tolerance * float(exact.abs().max())
        torch.set_num_threads(3)
        assert all(map(torch.equal, results(ops.svgd_jacobian_sqnorm, inputs), actual))
        torch.set_num_threads(1)
