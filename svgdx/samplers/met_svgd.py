"""MET-SVGD: a short SVGD chain with a learnt start, bandwidths and step sizes, which knows its own log density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from svgdx import ops

LogDensity = Callable[[Tensor], Tensor]
BOUNDS = ("leaky", "clamp", "none")
# Slope of a learnt step size past its bound: small enough to keep the bound, not zero, so that the gradient survives.
LEAKY_SLOPE = 0.01


@dataclass
class StepRecord:
    """What one SVGD step was made of, detached: numbers averaged over batch rows, eps_bound the least of them."""

    sigma: float
    eps: float
    eps_bound: float
    score_norm: float  # mean |grad log density| over particles
    trace: float  # mean Tr J_i, the log density lost per unit of eps


@dataclass
class Chain:
    """Particles x (B, M, D) after the last step, their log density (B, M) in nats, and a record of each step."""

    x: Tensor
    log_q: Tensor
    steps: list[StepRecord] = field(default_factory=list)


class LearntSVGD(nn.Module):
    """Sampler with a learnt diagonal Gaussian start and a learnt bandwidth and step size for each of its steps.

    Each step is x' = x + eps phi(x), log q' = log q - eps Tr J; the Hessian part of Tr J is estimated with one fresh
    Rademacher probe (Hutchinson 1989), the same that estimates the bound eps_UB = 1 / max_i |J_i|_F.

    Args:
        mean, std: start of the learnt initial Gaussian, (D,).
        steps: L, the number of SVGD steps.
        sigma: start of every bandwidth, in the units of x.
        eps: start of every step size. The score of a particle enters its own direction with weight 1 / M only: a
            gradient step of size a is eps = a M.
        bound: what holds eps under eps_UB, one of BOUNDS: "leaky" (LEAKY_SLOPE past it), "clamp" or "none".

    Raises:
        ValueError: an unknown bound, or a start that is not positive.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """

    def __init__(self, mean: Tensor, std: Tensor, steps: int, sigma: float, eps: float, bound: str = "leaky") -> None:
        super().__init__()
        if bound not in BOUNDS:
            raise ValueError(f"LearntSVGD: bound must be one of {', '.join(BOUNDS)}, but is {bound!r}")
        if steps < 1 or sigma <= 0 or eps <= 0 or bool((std <= 0).any()):
            raise ValueError("LearntSVGD: steps, sigma, eps and std must be positive")
        self.mean = nn.Parameter(mean.clone())
        self.log_std = nn.Parameter(std.log())
        self.log_sigma = nn.Parameter(torch.full((steps,), math.log(sigma)))
        self.log_eps = nn.Parameter(torch.full((steps,), math.log(eps)))
        self.bound = bound

    def forward(
        self,
        log_density: LogDensity,
        batch: int,
        particles: int,
        generator: torch.Generator,
        attached: frozenset[int] = frozenset(),
    ) -> Chain:
        """Runs the chain on `batch` independent sets of `particles` particles.

        Args:
            log_density: differentiable twice, (B, M, D) -> (B, M); three times where a step is attached.
            generator: source of the start and of the probes.
            attached: steps (0 is the first) whose direction and eps keep their graph. In all others they are constants
                and x -> x + eps phi keeps only its identity path.

        Returns:
            The chain. x and log_q carry gradients to the start always, to sigma and eps of attached steps.
        """
        std = self.log_std.exp()
        noise = torch.randn(batch, particles, self.mean.numel(), generator=generator, dtype=std.dtype)
        x = self.mean + std * noise
        log_q = -(0.5 * noise.square() + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
        chain = Chain(x, log_q)
        for step in range(self.log_sigma.numel()):
            probe = torch.empty_like(noise).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
            if step in attached:
                chain.x, chain.log_q = self._step(chain, log_density, chain.x, step, probe, graph=True)
            else:
                here = chain.x.detach()
                x_next, log_q_next = self._step(chain, log_density, here, step, probe, graph=False)
                # Adds zero, and with it the identity path of the gradient.
                chain.x = x_next + (chain.x - here)
                chain.log_q = log_q_next + (chain.log_q - chain.log_q.detach())
        return chain

    def _step(
        self, chain: Chain, log_density: LogDensity, x: Tensor, step: int, probe: Tensor, graph: bool
    ) -> tuple[Tensor, Tensor]:
        score, hvp = score_and_hvp(log_density, x, probe, graph)
        sigma, eps = self.log_sigma[step].exp(), self.log_eps[step].exp()
        log_q = chain.log_q
        if not graph:
            sigma, eps, log_q = sigma.detach(), eps.detach(), log_q.detach()
        limit = step_bound(x.detach(), score.detach(), sigma.detach(), probe, hvp.detach())
        eps = self._bounded(eps, limit)
        hessian_trace = (probe * hvp).sum(-1)
        x_next, log_q_next = ops.svgd_step(x, score, sigma, eps, log_q, hessian_trace)
        with torch.no_grad():
            trace = ((log_q - log_q_next) / eps.unsqueeze(-1)).mean()
            norm = score.norm(dim=-1).mean()
            chain.steps.append(
                StepRecord(float(sigma), float(eps.mean()), float(limit.min()), float(norm), float(trace))
            )
        return x_next, log_q_next

    def _bounded(self, eps: Tensor, limit: Tensor) -> Tensor:
        """eps for each batch row, (B,)."""
        eps = eps.expand_as(limit)
        if self.bound == "none":
            return eps
        slope = LEAKY_SLOPE if self.bound == "leaky" else 0.0
        return torch.where(eps > limit, limit + slope * (eps - limit), eps)


def score_and_hvp(log_density: LogDensity, x: Tensor, probe: Tensor, graph: bool) -> tuple[Tensor, Tensor]:
    """The score s = grad log density at x and H probe, both (B, M, D); differentiable where graph is true."""
    with torch.enable_grad():
        if not graph:
            x = x.detach().requires_grad_()
        (score,) = torch.autograd.grad(log_density(x).sum(), x, create_graph=True)
        (hvp,) = torch.autograd.grad(score, x, probe, create_graph=graph, retain_graph=graph)
    return (score, hvp) if graph else (score.detach(), hvp)


def step_bound(x: Tensor, score: Tensor, sigma: Tensor, probe: Tensor, hvp: Tensor) -> Tensor:
    """eps_UB = 1 / max_i |J_i|_F for each batch row, (B, M, D) -> (B,); a NaN in a row stays a NaN of that row.

    Below it x -> x + eps phi is invertible and log det is close to eps Tr J. |J_i|_F^2 is estimated with one probe; the
    estimate can fall below zero, which says that the norm is too small to bound anything.
    """
    norm2 = ops.svgd_jacobian_sqnorm(x, score, sigma, probe, hvp).amax(-1)
    return norm2.clamp_min(1e-12).rsqrt()
