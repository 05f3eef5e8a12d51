"""Kernels of the sampler: direction, trace and Jacobian against the Jacobian that autograd finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svgdx.samplers import RBF, Fixed, Heuristic, InverseMultiquadric, State
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


def plain_phi(kind: type[Kernel], own: Tensor, others: Tensor, scores: Tensor, own_score: Tensor, h: Tensor) -> Tensor:
    """phi of one particle, from the kernel's formula and its gradient by autograd in the other particle."""

    def k(one: Tensor, other: Tensor) -> Tensor:
        u = ((one - other) / h).square().sum()
        return torch.exp(-u / 2) if kind is RBF else (1 + u) ** -0.5

    total = own_score
    for other, score in zip(others, scores, strict=True):
        total = total + k(own, other) * score + torch.func.grad(k, 1)(own, other)
    return total / (len(others) + 1)


def problem() -> tuple[Tensor, Tensor]:
    x = torch.randn(B, M, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 4
    return x, score_of(x)


def exact(kind: type[Kernel], sigma: Tensor, per_dimension: bool, query: Tensor) -> tuple[Tensor, Tensor]:
    """phi_i and J_i where particle i is moved to query_i."""
    x, score = problem()
    h = sigma.expand(B, D) if per_dimension else sigma.expand(B)[:, None].expand(B, D)
    phis, jacobians = torch.zeros(B, M, D, dtype=torch.float64), torch.zeros(B, M, D, D, dtype=torch.float64)
    for b in range(B):
        for i in range(M):
            rest = [j for j in range(M) if j != i]

            def phi(own: Tensor, b: int = b, rest: list[int] = rest) -> Tensor:
                return plain_phi(kind, own, x[b, rest], score[b, rest], score_of(own), h[b])

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
    got_phi, got_trace = kernel.phi_trace(x, score, sigma)
    torch.testing.assert_close(got_phi, phi)
    torch.testing.assert_close(got_trace + of_hessian, trace)
    eps, log_q = torch.tensor([0.1, 0.3], dtype=torch.float64), torch.randn(B, M, dtype=torch.float64)
    x_next, log_q_next = kernel.step(x, score, sigma, eps, log_q, of_hessian * M)
    torch.testing.assert_close(x_next, x + eps[:, None, None] * phi)
    torch.testing.assert_close(log_q_next, log_q - eps[:, None] * trace)
    kernel_part = jacobian - hessian / M
    torch.testing.assert_close(kernel.sqnorm(x, score, sigma, None, None), kernel_part.square().sum((-2, -1)))
    probe = torch.randn(B, M, D, dtype=torch.float64).sign()
    hvp = (hessian @ probe[..., None])[..., 0]
    wanted = kernel_part.square().sum((-2, -1)) + (hvp / M).square().sum(-1)
    wanted = wanted + 2 * ((kernel_part @ probe[..., None])[..., 0] * hvp / M).sum(-1)
    torch.testing.assert_close(kernel.sqnorm(x, score, sigma, probe, hvp), wanted)
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
    found = kernel.logdet_at(query, x, score, sigma, eps, hessian)
    torch.testing.assert_close(found, torch.linalg.slogdet(full).logabsdet)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_gradients(kind: type[Kernel], name: str) -> None:
    kernel, sigma = kernel_and_sigma(kind, name)
    x, score = problem()
    inputs = [each.clone().requires_grad_() for each in (x, score, sigma)]
    assert torch.autograd.gradcheck(lambda *args: kernel.phi_trace(*args), inputs)


@pytest.mark.parametrize("name", ["median", "s2ac-median", "mean"])
@pytest.mark.parametrize("scale", ["isotropic", "per-dimension"])
def test_heuristics(name: str, scale: str) -> None:
    x, score = problem()
    differences = x[:, :, None] - x[:, None]
    squared = differences.square().sum(-1, keepdim=True) if scale == "isotropic" else differences.square()
    pairs = squared.flatten(1, 2)
    if name == "mean":
        wanted = (pairs.mean(1) / (4 * torch.tensor(M + 1.0).log())).sqrt()
    else:
        count = torch.tensor(float(M if name == "median" else M + 1))
        wanted = pairs.sqrt().median(1).values / (2 * count.log()).sqrt()
    found = Heuristic(name, scale)(State(0, x, score, None))
    torch.testing.assert_close(found, wanted.squeeze(-1) if scale == "isotropic" else wanted, rtol=1e-6, atol=0)
    assert not Heuristic(name, scale)(State(0, x.requires_grad_(), score, None)).requires_grad


def test_wrong_names_are_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match="median, s2ac-median, mean"):
        RBF("mode")
    with pytest.raises(ValueError, match="isotropic, per-dimension"):
        Heuristic("median", "elliptic")
    with pytest.raises(ValueError, match="positive"):
        RBF(-1.0)
