"""What an evaluation of a model of points measures: distance to held-out points, and log-likelihoods of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from svgdx.experiments.data.points import Points
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.ebm.points.flow import SamplerFlow
from svgdx.experiments.metrics.bits import log_z_estimate
from svgdx.experiments.metrics.likelihood import annealed_log_z, energy_distance, grid_log_z
from svgdx.experiments.run.figures import subplots, write_figure
from svgdx.samplers import SVGD, MetropolisHastings, TemperedTarget
from svgdx.streams import Stream

# Chains whose fields the exact density averages over, and points that are drawn from each.
CHAINS, DRAWS = 4, 250
TEMPERATURES, WEIGHTS = 100, 500
# The square of the quadrature is this much wider than that of the data.
_WIDER = 3.0


class PointDistances:
    """The distances of samples to the held-out points, with the interface of `ImageDistances`."""

    headline = "energy_distance"

    def __init__(self, points: Points) -> None:
        self.points = points

    def __call__(self, samples: Tensor, check_stop: Callable[[], None] = lambda: None) -> dict[str, float]:
        """energy_distance of samples (N, D), in units of the points."""
        return {"energy_distance": energy_distance(samples.cpu(), self.points.held_out[: len(samples)])}

    def draw(self, samples: Tensor, *paths: Path) -> None:
        """Writes the first two coordinates of samples (N, D), before held-out points, as PNG to each path."""
        figure, axes = subplots(1, 1, 4, 4)
        width = self.points.half_width()
        for points, colour in ((self.points.held_out, "0.75"), (samples.cpu(), "tab:blue")):
            axes[0, 0].plot(points[: len(samples), 0], points[: len(samples), 1], ".", ms=3, color=colour)
        axes[0, 0].set(xlim=(-width, width), ylim=(-width, width))
        write_figure(figure, *paths)


def energy_likelihoods(energy: nn.Module, config: EBMConfig, points: Points, stream: Stream) -> dict[str, float]:
    """Log Z of the density p^(1 / T) that chains sample, and the log-likelihood of the held-out points under it.

    In the plane log Z is by quadrature, and `energy_outside` is the share of the mass outside of the square of the
    data; otherwise it is by annealed importance sampling, with its standard error.
    """
    tempered = TemperedTarget(energy, config.temperature)
    dim, width = points.train.shape[1], points.half_width()
    if dim == 2:
        log_z, outside = grid_log_z(tempered.log_prob, _WIDER * width, width)
        quantities = {"energy_outside": outside}
    else:
        covariance = torch.cov(points.train.T)
        log_z, error = annealed_log_z(
            tempered,
            points.train.mean(0),
            covariance,
            TEMPERATURES,
            WEIGHTS,
            stream,
        )
        quantities = {"energy_log_z_error": error}
    with torch.no_grad():
        log_prob = tempered.log_prob(points.held_out).double().mean()
    return quantities | {"energy_log_z": log_z, "energy_log_likelihood": float(log_prob) - log_z}


def sampler_likelihoods(sampler: SVGD, config: EBMConfig, points: Points, stream: Stream) -> dict[str, float]:
    """What the sampler's exact density says; nothing with Metropolis-Hastings.

    Returns:
        sampler_log_likelihood: of the held-out points that the sampler reaches, in nats. sampler_unreached: share of
            those that it does not. sampler_folded: share of its samples at which a step is not one to one.
            sampler_entropy: in nats. importance_log_z and importance_size: log Z of the energy by importance sampling
            from the sampler, and the share of the samples that count.
    """
    if isinstance(sampler.control, MetropolisHastings):
        return {}
    flow = SamplerFlow(sampler, config.particles, config.svgd_steps, CHAINS, stream)
    x, log_q, folded = flow.sample(DRAWS, stream)
    log_prob, path = flow.log_prob(points.held_out)
    reached = log_prob.isfinite()
    with torch.no_grad():
        log_weights = (sampler.target.log_prob(x) - log_q).double().flatten()
    weights = torch.softmax(log_weights, 0)
    quantities = {
        "sampler_log_likelihood": float(log_prob[reached].double().mean()) if bool(reached.any()) else -math.inf,
        "sampler_unreached": 1 - float(reached.double().mean()),
        "sampler_folded": float((folded.double().mean() + (path.folded & path.reached).double().mean()) / 2),
        "sampler_entropy": -float(log_q.double().mean()),
        "importance_log_z": log_z_estimate(log_weights).value,
        "importance_size": float(1 / (len(weights) * weights.square().sum())),
    }
    return quantities


__all__ = ["PointDistances", "energy_likelihoods", "sampler_likelihoods"]
