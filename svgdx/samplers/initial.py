"""Initial distributions of particles: a learnt diagonal Gaussian, or any torch distribution."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, distributions, nn

from svgdx import _checks
from svgdx.streams import Source, Stream, seeded, stream_of


class Initial(Protocol):
    """A distribution that draws particles with their log density."""

    def draw(self, n: int, batch: tuple[int, ...], generator: Source) -> tuple[Tensor, Tensor]:
        """n particles (batch..., n, D) and their log density (batch..., n) in nats."""

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        """mean - and + `deviations` standard deviations, each (D,)."""


class DiagonalGaussian:
    """A diagonal Gaussian, or one for each of a batch of problems.

    Args:
        mean, std: (D,) or (..., D).
        log_std: log(std), for callers that have it already.
    """

    def __init__(self, mean: Tensor, std: Tensor, log_std: Tensor | None = None) -> None:
        self.mean, self.std, self.log_std = mean, std, std.log() if log_std is None else log_std
        self.device = mean.device

    def draw(self, n: int, batch: tuple[int, ...], generator: Source) -> tuple[Tensor, Tensor]:
        """n particles (batch..., ..., n, D) and their log density (batch..., ..., n) in nats."""
        return self.at(self._noise(n, batch, generator))

    def points(self, n: int, batch: tuple[int, ...], generator: Source) -> Tensor:
        """The particles of `draw` without their density."""
        return self._moved(self._noise(n, batch, generator))

    def at(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The particles of standard normal noise (..., n, D), and their log density (..., n) in nats."""
        log_peak = -0.5 * noise.shape[-1] * math.log(2 * math.pi) - self.log_std.sum(-1, keepdim=True)
        # Not vecdot, which autocast computes in half precision.
        norm = torch.linalg.vector_norm(noise, dim=-1)
        return self._moved(noise), torch.addcmul(log_peak, norm, norm, value=-0.5)

    def _noise(self, n: int, batch: tuple[int, ...], generator: Source) -> Tensor:
        shape = (*batch, *self.mean.shape[:-1], n, self.mean.shape[-1])
        return stream_of("SVGD", generator, self.device).normal(shape, self.mean.dtype)

    def _moved(self, noise: Tensor) -> Tensor:
        return torch.addcmul(self.mean.unsqueeze(-2), self.std.unsqueeze(-2), noise)

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        """mean - and + `deviations` standard deviations, each in the shape of the mean; detached."""
        mean, std = self.mean.detach(), self.std.detach()
        return mean - deviations * std, mean + deviations * std


class LearntGaussian(nn.Module):
    """A diagonal Gaussian with learnt mean and standard deviations.

    Args:
        mean: value before training, (D,).
        std: value before training, (D,), or one number for all dimensions.

    Raises:
        TypeError, ValueError: mean is not a finite vector, std has another shape, or a standard deviation is not
            positive and finite.
    """

    def __init__(self, mean: Tensor, std: Tensor | float) -> None:
        super().__init__()
        mean = _checks.features("LearntGaussian", "mean", mean, rank=1)
        if not mean.is_floating_point():
            mean = mean.to(torch.get_default_dtype())
        if isinstance(std, (int, float)) or (isinstance(std, Tensor) and std.dim() == 0):
            std = mean.new_full(mean.shape, float(std))
        std = _checks.same_shape("LearntGaussian", "std", std, mean.shape, "mean")
        if not bool(((std > 0) & std.isfinite()).all()) or not bool(mean.isfinite().all()):
            raise ValueError("LearntGaussian: std must be positive, and mean and std finite")
        self.mean = nn.Parameter(mean.detach().clone())
        self.log_std = nn.Parameter(std.detach().log())

    @property
    def device(self) -> torch.device:
        """The device of mean and std."""
        return self.mean.device

    def draw(self, n: int, batch: tuple[int, ...], generator: Source) -> tuple[Tensor, Tensor]:
        """n particles (batch..., n, D) and their log density (batch..., n) in nats, differentiable in mean and std."""
        return self._gaussian().draw(n, batch, generator)

    def points(self, n: int, batch: tuple[int, ...], generator: Source) -> Tensor:
        """The particles of `draw` without their density."""
        return self._gaussian().points(n, batch, generator)

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        """mean - and + `deviations` standard deviations, each (D,)."""
        return self._gaussian().box(deviations)

    def _gaussian(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean, self.log_std.exp(), self.log_std)


class FixedInitial:
    """A torch distribution over vectors, drawn by `rsample` if it has it, otherwise by `sample`.

    Gaussians draw from the stream. Other distributions draw from torch's default generator of their device, which is
    seeded by the stream and put back; their numbers differ between devices.
    """

    def __init__(self, distribution: distributions.Distribution) -> None:
        self.distribution = distribution

    @property
    def device(self) -> torch.device:
        """The device of the distribution's parameters."""
        return _device_of(self.distribution)

    def draw(self, n: int, batch: tuple[int, ...], generator: Source) -> tuple[Tensor, Tensor]:
        distribution, shape = self.distribution, torch.Size((*batch, n))
        stream = stream_of("SVGD", generator, self.device)
        x = _gaussian_sample(distribution, shape, stream)
        if x is None:
            with seeded(stream.seed(), stream.device):
                x = (distribution.rsample if distribution.has_rsample else distribution.sample)(shape)
        # Distributions cannot evaluate no particles at all.
        log_q = distribution.log_prob(x) if x.numel() > 0 else x.new_zeros(x.shape[:-1])
        # The distribution's own batch comes before the particles.
        for position in range(len(distribution.batch_shape)):
            x = x.movedim(len(shape) + position, len(batch) + position)
            log_q = log_q.movedim(len(shape) + position, len(batch) + position)
        return x.contiguous(), log_q.contiguous()

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        mean, std = self.distribution.mean, self.distribution.stddev
        return (mean - deviations * std).detach(), (mean + deviations * std).detach()


def as_initial(initial: LearntGaussian | distributions.Distribution) -> Initial:
    """An initial distribution from a torch distribution over vectors, or an object with `draw` and `box` unchanged.

    Raises TypeError for another object, ValueError for a distribution that is not over vectors.
    """
    if isinstance(initial, distributions.Distribution):
        if len(initial.event_shape) != 1:
            raise ValueError(
                f"SVGD: initial must be over vectors (D,), but is over {tuple(initial.event_shape)}; "
                "torch.distributions.Independent combines independent numbers into a vector"
            )
        return FixedInitial(initial)
    if not (hasattr(initial, "draw") and hasattr(initial, "box")):
        raise TypeError(
            f"SVGD: initial must be a torch distribution or a LearntGaussian, but is {type(initial).__name__}"
        )
    return initial


def start_of(
    initial: Initial, n: int, batch: tuple[int, ...], generator: Source, log_prob: bool
) -> tuple[Tensor, Tensor | None]:
    """What `initial.draw` returns, with None in place of the density unless it is wanted."""
    if not log_prob and isinstance(initial, (DiagonalGaussian, LearntGaussian)):
        return initial.points(n, batch, generator), None
    x, log_q = initial.draw(n, batch, generator)
    return x, log_q if log_prob else None


def _gaussian_sample(distribution: distributions.Distribution, shape: torch.Size, stream: Stream) -> Tensor | None:
    """A sample of a Gaussian, from the stream; None for other distributions."""
    noise_shape = (*shape, *distribution.batch_shape, *distribution.event_shape)
    if isinstance(distribution, distributions.MultivariateNormal):
        noise = stream.normal(noise_shape, distribution.loc.dtype)
        return distribution.loc + (distribution.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    base = distribution.base_dist if isinstance(distribution, distributions.Independent) else None
    if isinstance(base, distributions.Normal):
        return base.loc + base.scale * stream.normal(noise_shape, base.loc.dtype)
    return None


def _device_of(distribution: distributions.Distribution) -> torch.device:
    """The device of a parameter of a distribution, or of the one that it is made of."""
    for value in vars(distribution).values():
        if isinstance(value, Tensor):
            return value.device
        if isinstance(value, distributions.Distribution):
            return _device_of(value)
    return torch.device("cpu")
