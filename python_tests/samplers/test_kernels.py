"""Kernels of the sampler: direction, trace and Jacobian against the Jacobian by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svgdx.samplers import RBF, Fixed, InverseMultiquadric
from svgdx.samplers.kernels import Kernel

B, M, D = 2, 5, 3
SIGMAS = {
    "one": torch.tensor(1.3, dtype=torch.float64),
    "per problem": torch.tensor([0.7, 1.6], dtype=torch.float64),
    "per dimension": torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64),
    "per problem and dimension": torch.tensor([[0.5, 1.0, 2.0], [1.5, 0.7, 0.9]], dtype=torch.float64),
}
CASES = [(kind, name) for kind in (RBF, InverseMultiquadric) for name in SIGMAS]


def log_density(x: Tensor) -> Tensor:
    return -0.25 * x.pow(4).sum(-1) - x.square().sum(-1) + torch.sin(x).prod(-1)


def score_of(x: Tensor) -> Tensor:
    return torch.func.grad(lambda p: log_density(p).sum())(x)


def kernel_and_sigma(kind: type[Kernel], name: str) -> tuple[Kernel, Tensor]:
    per_dimension = "dimension" in name
    kernel = kind(Fixed(torch.ones(D)) if per_dimension else 1.0)
    return kernel.double(), SIGMAS[name]


def plain_phi(kind: type[Kernel], x: Tensor, others: Tensor, scores: Tensor, score: Tensor, h: Tensor) -> Tensor:
    """phi of one particle x with its score, from the kernel's formula and its gradient by autograd."""

    def k(one: Tensor, other: Tensor) -> Tensor:
        u = ((one - other) / h).square().sum()
        return torch.exp(-u / 2) if kind is RBF else (1 + u) ** -0.5

    total = score
    for other, other_score in zip(others, scores, strict=True):
        total = total + k(x, other) * other_score + torch.func.grad(k, 1)(x, other)
    return total / (len(others) + 1)


def problem() -> tuple[Tensor, Tensor]:
    x = torch.randn(B, M, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 4
    return x, score_of(x)


def exact(kind: type[Kernel], sigma: Tensor, per_dimension: bool, query: Tensor) -> tuple[Tensor, Tensor]:
    """phi_i and J_i if particle i is moved to query_i."""
    x, score = problem()
    h = sigma.expand(B, D) if per_dimension else sigma.expand(B)[:, None].expand(B, D)
    phis, jacobians = torch.zeros(B, M, D, dtype=torch.float64), torch.zeros(B, M, D, D, dtype=torch.float64)
    for b in range(B):
        for i in range(M):
            others = [j for j in range(M) if j != i]

            def phi(particle: Tensor, b: int = b, others: list[int] = others) -> Tensor:
                return plain_phi(kind, particle, x[b, others], score[b, others], score_of(particle), h[b])

            phis[b, i] = phi(query[b, i])
            jacobians[b, i] = torch.func.jacfwd(phi)(query[b, i])
    return phis, jacobians


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_direction_trace_norm_and_logdet(kind: type[Kernel], name: str) -> None:
    kernel, sigma = kernel_and_sigma(kind, name)
    x, score = problem()
    phi, jacobian = exact(kind, sigma, "dimension" in name, x)
    hessian = torch.func.vmap(torch.func.vmap(torch.func.hessian(log_density)))(x)
    of_hessian = hessian.diagonal(dim1=-2, dim2=-1).sum(-1) / M
    trace = jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(kernel.phi(x, score, sigma), phi)
    phi_with_trace, kernel_trace = kernel.phi_trace(x, score, sigma)
    torch.testing.assert_close(phi_with_trace, phi)
    torch.testing.assert_close(kernel_trace + of_hessian, trace)
    eps, log_q = torch.tensor([0.1, 0.3], dtype=torch.float64), torch.randn(B, M, dtype=torch.float64)
    x_next, log_q_next = kernel.step(x, score, sigma, eps, log_q, of_hessian * M)
    torch.testing.assert_close(x_next, x + eps[:, None, None] * phi)
    torch.testing.assert_close(log_q_next, log_q - eps[:, None] * trace)
    kernel_part = jacobian - hessian / M
    torch.testing.assert_close(kernel.sqnorm(x, score, sigma, None, None), kernel_part.square().sum((-2, -1)))
    probe = torch.randn(B, M, D, dtype=torch.float64).sign()
    hvp = (hessian @ probe[..., None])[..., 0]
    expected = kernel_part.square().sum((-2, -1)) + (hvp / M).square().sum(-1)
    expected = expected + 2 * ((kernel_part @ probe[..., None])[..., 0] * hvp / M).sum(-1)
    torch.testing.assert_close(kernel.sqnorm(x, score, sigma, probe, hvp), expected)
    torch.testing.assert_close(kernel.exact_sqnorm(x, score, sigma, hessian), jacobian.square().sum((-2, -1)))
    full = torch.eye(D, dtype=torch.float64) + eps[:, None, None, None] * jacobian
    torch.testing.assert_close(kernel.logdet(x, score, sigma, eps, hessian), torch.linalg.slogdet(full).logabsdet)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_one_particle_moved_elsewhere(kind: type[Kernel], name: str) -> None:
    kernel, sigma = kernel_and_sigma(kind, name)
    x, score = problem()
    query = x + torch.randn_like(x)
    phi, jacobian = exact(kind, sigma, "dimension" in name, query)
    hessian = torch.func.vmap(torch.func.vmap(torch.func.hessian(log_density)))(query)
    of_hessian = hessian.diagonal(dim1=-2, dim2=-1).sum(-1) / M
    torch.testing.assert_close(kernel.direction_at(query, x, score, sigma, score_of(query)), phi)
    trace = jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(kernel.trace_at(query, x, score, sigma) + of_hessian, trace)
    eps = torch.tensor(0.2, dtype=torch.float64)
    full = torch.eye(D, dtype=torch.float64) + eps * jacobian
    logdet = kernel.logdet_at(query, x, score, sigma, eps, hessian)
    torch.testing.assert_close(logdet, torch.linalg.slogdet(full).logabsdet)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_gradients(kind: type[Kernel], name: str) -> None:
    kernel, sigma = kernel_and_sigma(kind, name)
    x, score = problem()
    inputs = [tensor.clone().requires_grad_() for tensor in (x, score, sigma)]
    assert torch.autograd.gradcheck(lambda *args: kernel.phi_trace(*args), inputs)
