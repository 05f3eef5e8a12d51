"""Unadjusted Langevin dynamics in short runs, from noise or from persistent chains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svgdx import _checks
from svgdx.densities.base import LogProb, as_log_density
from svgdx.streams import Source, stream_of


@dataclass
class LangevinRun:
    """Particles x (N, D) after the last step, and |grad log density| averaged over particles and steps, ()."""

    x: Tensor
    score_norm: Tensor


@_checks.differentiates
def langevin(
    target: nn.Module | LogProb, x: Tensor, steps: int, step_size: float, noise: float, generator: Source = None
) -> LangevinRun:
    """Runs steps of x <- x + a grad f(x) + noise sqrt(2 a) z, with f the log density of the target and z from N(0, I).

    Args:
        target: a LogDensity, an Energy or a callable log density, differentiable, (N, D) -> (N); see
            :func:`svgdx.densities.as_log_density`.
        x: start, (N, D).
        steps: number of steps.
        step_size: a > 0, in the squared units of x.
        noise: 1 gives Langevin dynamics, whose law tends to p as a tends to 0. Energies of images are usually trained
            with less noise, which samples p^(1 / noise^2) in that limit.
        generator: source of z, a :class:`svgdx.Stream` or a torch.Generator on the device of x; None takes its seed
            from torch's default generator of the CPU.

    Raises:
        TypeError: the target is not callable, or does not return a tensor, or x is not floating.
        ValueError: x is not a matrix, the target does not return one number for each row, steps or step_size is not
            positive, noise is negative, or the generator is on another device.

    Source: Roberts & Tweedie, Bernoulli 1996; short runs as samplers of an energy: Nijkamp et al., NeurIPS 2019.
    """
    steps = _checks.integer("langevin", "steps", steps)
    if steps < 1 or not step_size > 0 or not noise >= 0:
        raise ValueError(
            f"langevin: steps and step_size must be positive and noise not negative, but are {steps}, {step_size}, "
            f"{noise}"
        )
    x = _checks.features("langevin", "x", x, rank=2)
    if not x.is_floating_point():
        raise TypeError(f"langevin: x must be floating, but is {x.dtype}")
    log_density = as_log_density(target)
    stream = stream_of("langevin", generator, x.device)
    x, norm = x.detach(), x.new_zeros(())
    for _ in range(steps):
        with torch.enable_grad():
            leaf = x.requires_grad_()
            value = _checks.returned("langevin", "target", log_density(leaf), leaf, graph=True)
            (score,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
        x = leaf.detach() + step_size * score
        x += noise * math.sqrt(2 * step_size) * stream.normal(x)
        norm += score.norm(dim=-1).mean() / steps
    return LangevinRun(x, norm)


class ReplayBuffer(nn.Module):
    """Persistent chains (N, D), of which each draw restarts a share from N(0, I).

    The buffer is a module so that checkpoints of a model that owns one include its chains.

    Args:
        size: N, the number of chains.
        dim: D, the number of dimensions of a chain.
        generator: source of the first states, on whose device the chains are; None takes its seed from torch's default
            generator of the CPU.

    Source: Du & Mordatch, NeurIPS 2019.
    """

    chains: Tensor

    def __init__(self, size: int, dim: int, generator: Source) -> None:
        super().__init__()
        size, dim = _checks.sizes("ReplayBuffer", size=size, dim=dim)
        stream = stream_of("ReplayBuffer", generator, getattr(generator, "device", torch.device("cpu")))
        self.register_buffer("chains", stream.normal((size, dim)))

    def draw(self, count: int, restart: float, generator: Source) -> tuple[Tensor, Tensor]:
        """Draws count distinct chains: their rows (count,) and a copy (count, D), each restarted with this probability.

        Raises:
            ValueError: the buffer holds fewer than count chains, restart is no probability, or the generator is on
                another device.
        """
        count = _checks.integer("ReplayBuffer.draw", "count", count)
        if count > len(self.chains):
            raise ValueError(f"ReplayBuffer.draw: count must be at most {len(self.chains)}, but is {count}")
        if not 0 <= restart <= 1:
            raise ValueError(f"ReplayBuffer.draw: restart must be in [0, 1], but is {restart}")
        stream = stream_of("ReplayBuffer.draw", generator, self.chains.device)
        rows = stream.permutation(len(self.chains), count)
        fresh = stream.bernoulli(restart, (count, 1))
        noise = stream.normal((count, self.chains.shape[1]), self.chains.dtype)
        return rows, torch.where(fresh, noise, self.chains[rows])

    def keep(self, rows: Tensor, x: Tensor) -> None:
        """Stores chains x (count, D) in their rows (count,).

        Raises:
            TypeError, ValueError: x does not have one chain for each row.
        """
        rows = _checks.features("ReplayBuffer.keep", "rows", rows, rank=1)
        x = _checks.same_shape("ReplayBuffer.keep", "x", x, (len(rows), self.chains.shape[1]), "the rows")
        self.chains[rows] = x.detach().to(self.chains.dtype)
