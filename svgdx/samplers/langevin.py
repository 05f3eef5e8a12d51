"""Unadjusted Langevin dynamics in short runs, from noise or from chains that are kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LogDensity = Callable[[Tensor], Tensor]


@dataclass
class LangevinRun:
    """Particles x (N, D) after the last step, and |grad log density| averaged over particles and steps."""

    x: Tensor
    score_norm: float


def langevin(
    log_density: LogDensity, x: Tensor, steps: int, step_size: float, noise: float, generator: torch.Generator
) -> LangevinRun:
    """x <- x + a grad log density(x) + noise sqrt(2 a) z, z standard normal, so many times.

    Args:
        log_density: differentiable, (N, D) -> (N).
        x: start, (N, D).
        steps: number of steps.
        step_size: a > 0, in the squared units of x.
        noise: 1 is Langevin dynamics, whose law tends to the density as a does to 0; energies of images are usually
            trained with less, which samples p^(1 / noise^2) in that limit.
        generator: source of z.

    Raises:
        ValueError: steps or step_size is not positive, or noise is negative.

    Source: Roberts & Tweedie, Bernoulli 1996; short runs as samplers of an energy: Nijkamp et al., NeurIPS 2019.
    """
    if steps < 1 or step_size <= 0 or noise < 0:
        raise ValueError(
            f"langevin: steps and step_size must be positive and noise not negative, but are {steps}, {step_size}, "
            f"{noise}"
        )
    x, norm = x.detach(), 0.0
    for _ in range(steps):
        with torch.enable_grad():
            here = x.requires_grad_()
            (score,) = torch.autograd.grad(log_density(here).sum(), here)
        x = here.detach() + step_size * score
        x += noise * math.sqrt(2 * step_size) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        norm += float(score.norm(dim=-1).mean()) / steps
    return LangevinRun(x, norm)


class ReplayBuffer(nn.Module):
    """Chains (N, D) that are kept from draw to draw; a share of those drawn starts anew from N(0, I).

    A buffer is part of a model's state: it is a module so that checkpoints take it along.

    Source: Du & Mordatch, NeurIPS 2019.
    """

    chains: Tensor

    def __init__(self, size: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("chains", torch.randn(size, dim, generator=generator))

    def draw(self, count: int, restart: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows (count,), each at most once, and a copy of their chains, of which `restart` of them begin anew.

        Raises ValueError where the buffer holds fewer chains than count.
        """
        if count > len(self.chains):
            raise ValueError(f"ReplayBuffer.draw: count must be at most {len(self.chains)}, but is {count}")
        rows = torch.randperm(len(self.chains), generator=generator)[:count]
        fresh = torch.rand(count, 1, generator=generator) < restart
        noise = torch.randn(count, self.chains.shape[1], generator=generator)
        return rows, torch.where(fresh, noise, self.chains[rows])

    def keep(self, rows: Tensor, x: Tensor) -> None:
        """Puts chains x (count, D) back in their rows."""
        self.chains[rows] = x.detach()
