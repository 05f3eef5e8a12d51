"""Peers of the sampler: the same chain in plain PyTorch, as users write it today.

Every peer draws M particles in D dimensions after L steps towards a Gaussian, with their log density and the Hutchinson
Hessian term; every step has its own learnt bandwidth and step size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from svgdx.samplers import RBF, SVGD, Learnt, LearntGaussian
from svgdx.samplers.targets import as_target

PARTICLES, STEPS, DIM = 100, 100, 10


def target() -> MultivariateNormal:
    return MultivariateNormal(torch.zeros(DIM), torch.eye(DIM) + 0.1)


def log_density(precision: Tensor) -> Callable[[Tensor], Tensor]:
    """The same target as a callable."""
    return lambda x: -0.5 * ((x @ precision) * x).sum(-1)


class Plain(nn.Module):
    """Pairwise differences in an (M, M, D) tensor; score and H v by autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.full((DIM,), 2.0)), nn.Parameter(torch.zeros(DIM))
        self.log_sigma = nn.Parameter(torch.full((STEPS,), 2.0).log())
        self.log_eps = nn.Parameter(torch.full((STEPS,), 0.1).log())
        self.log_prob = log_density(target().precision_matrix.contiguous())

    def forward(self) -> tuple[Tensor, Tensor]:
        graph = torch.is_grad_enabled()
        noise = torch.randn(PARTICLES, DIM)
        x = self.mean + self.log_std.exp() * noise
        log_q = torch.distributions.Normal(self.mean, self.log_std.exp()).log_prob(x).sum(-1)
        for step in range(STEPS):
            sigma, eps = self.log_sigma[step].exp(), self.log_eps[step].exp()
            x, log_q = self.step(x if graph else x.detach(), log_q, sigma, eps, graph)
        return x, log_q

    def step(self, x: Tensor, log_q: Tensor, sigma: Tensor, eps: Tensor, graph: bool) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            if not graph:
                x = x.requires_grad_()
            (score,) = torch.autograd.grad(self.log_prob(x).sum(), x, create_graph=True)
            probe = torch.randint(0, 2, x.shape).to(x.dtype) * 2 - 1
            (hvp,) = torch.autograd.grad((score * probe).sum(), x, create_graph=graph)
        x, score = (x, score) if graph else (x.detach(), score.detach())
        return self.move(x, score, (hvp * probe).sum(-1), log_q, sigma, eps)

    def move(
        self, x: Tensor, score: Tensor, hessian_trace: Tensor, log_q: Tensor, sigma: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        beta = sigma**-2
        r = x[:, None] - x[None]
        squared = r.square().sum(-1)
        kappa = torch.exp(-0.5 * beta * squared)
        phi = (kappa[..., None] * (score[None] + beta * r)).sum(1) / PARTICLES
        inner = DIM - beta * squared - (r * score[None]).sum(-1)
        others = 1 - torch.eye(PARTICLES)
        trace = (beta * (kappa * inner * others).sum(1) + hessian_trace) / PARTICLES
        return x + eps * phi, log_q - eps * trace


def ours(density: object) -> SVGD:
    start = LearntGaussian(torch.full((DIM,), 2.0), torch.ones(DIM))
    return SVGD(density, start, RBF(Learnt(2.0, STEPS)), Learnt(0.1, STEPS))  # type: ignore[arg-type]


class Fused(nn.Module):
    """svgdx.SVGD."""

    def __init__(self, density: object) -> None:
        super().__init__()
        self.sampler = ours(density)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.sampler.sample_with_log_prob(PARTICLES, STEPS)


class Derivatives(nn.Module):
    """Only the target's part of the steps; for a callable these are two autograd passes, which svgdx cannot shorten."""

    def __init__(self, density: object) -> None:
        super().__init__()
        self.target, self.x = as_target(density), torch.randn(PARTICLES, DIM)  # type: ignore[arg-type]

    def forward(self) -> None:
        for _ in range(STEPS):
            self.target.derivatives(self.x, "hutchinson")


# The target as passed to svgdx; plain PyTorch only takes the callable.
TARGETS: dict[str, Callable[[], object]] = {
    "distribution": target,
    "callable": lambda: log_density(target().precision_matrix.contiguous()),
}
PEERS: dict[str, Callable[[object], nn.Module]] = {"svgdx": Fused, "eager": lambda density: Plain()}
