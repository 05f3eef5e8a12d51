"""Where particles start: a learnt diagonal Gaussian, or any reparameterised torch distribution."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, distributions, nn


class Initial(Protocol):
    """Particles and their log density."""

    def draw(self, n: int, batch: tuple[int, ...], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """n particles (batch..., n, D) and their log density (batch..., n) in nats."""

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        """mean - and + so many standard deviations, each (D,)."""


class LearntGaussian(nn.Module):
    """A diagonal Gaussian with learnt mean and standard deviations.

    Args:
        mean, std: before training, (D,).

    Raises:
        ValueError: a deviation that is not positive.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        if not bool((std > 0).all()):
            raise ValueError("LearntGaussian: std must be positive")
        self.mean = nn.Parameter(mean.detach().clone())
        self.log_std = nn.Parameter(std.detach().log())

    def draw(self, n: int, batch: tuple[int, ...], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        mean = self.mean
        noise = torch.randn(*batch, n, mean.numel(), generator=generator, dtype=mean.dtype, device=mean.device)
        log_q = -(0.5 * noise.square() + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
        return mean + self.log_std.exp() * noise, log_q

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        mean, std = self.mean.detach(), self.log_std.detach().exp()
        return mean - deviations * std, mean + deviations * std


class FixedInitial:
    """A torch distribution over vectors, drawn by `rsample` or, where it has none, by `sample`."""

    def __init__(self, distribution: distributions.Distribution) -> None:
        self.distribution = distribution

    def draw(self, n: int, batch: tuple[int, ...], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        of = self.distribution
        shape = (*batch, n)
        if generator is None:
            x = of.rsample(shape) if of.has_rsample else of.sample(shape)
        else:
            # torch.distributions take no generator.
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                x = of.rsample(shape) if of.has_rsample else of.sample(shape)
        log_q = of.log_prob(x)
        # The distribution's own batch comes before the particles.
        for position in range(len(of.batch_shape)):
            x = x.movedim(len(shape) + position, len(batch) + position)
            log_q = log_q.movedim(len(shape) + position, len(batch) + position)
        return x.contiguous(), log_q.contiguous()

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        mean, std = self.distribution.mean, self.distribution.stddev
        return (mean - deviations * std).detach(), (mean + deviations * std).detach()


def as_initial(initial: LearntGaussian | distributions.Distribution) -> Initial:
    """Raises TypeError for what is no initial distribution, ValueError for one over numbers."""
    if isinstance(initial, distributions.Distribution):
        if len(initial.event_shape) != 1:
            raise ValueError(
                f"SVGD: initial must be over vectors (D,), but is over {tuple(initial.event_shape)}: "
                "torch.distributions.Independent makes one of independent numbers"
            )
        return FixedInitial(initial)
    if not (hasattr(initial, "draw") and hasattr(initial, "box")):
        raise TypeError(
            f"SVGD: initial must be a torch distribution or a LearntGaussian, but is {type(initial).__name__}"
        )
    return initial
