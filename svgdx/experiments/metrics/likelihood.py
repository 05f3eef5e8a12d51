"""Measures for densities over points in few dimensions: energy distance, and log Z by quadrature or annealing."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributions

from svgdx.densities.base import LogProb
from svgdx.experiments.metrics.bits import Estimate, log_z_estimate
from svgdx.samplers.targets import Target, as_target
from svgdx.streams import Stream


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of the empirical distributions of x (N, D) and y (M, D); 0 if they agree.

    Source: Székely & Rizzo, Journal of Statistical Planning and Inference 143 (2013).
    """
    x, y = x.double(), y.double()
    within = torch.cdist(x, x).mean() + torch.cdist(y, y).mean()
    return float(2 * torch.cdist(x, y).mean() - within)


@torch.no_grad()
def grid_log_z(target: LogProb, half_width: float, inner: float, side: int = 400) -> tuple[float, float]:
    """log Z of exp(f) in the plane by the midpoint rule, and the share of its mass outside of a smaller square.

    Args:
        target: log density f, (N, 2) -> (N).
        half_width: of the square around 0 that is integrated.
        inner: half the side of the smaller square.
        side: number of cells along a side.
    """
    cell = 2 * half_width / side
    ticks = (torch.arange(side, dtype=torch.float32) + 0.5) * cell - half_width
    points = torch.cartesian_prod(ticks, ticks)
    values = torch.cat([target(rows).double() for rows in points.split(20_000)])
    total = torch.logsumexp(values, 0)
    outside = (points.abs().amax(-1) > inner).log().double() + values
    return float(total) + 2 * math.log(cell), float((torch.logsumexp(outside, 0) - total).exp())


def annealed_log_z(
    target: Target | LogProb, mean: Tensor, covariance: Tensor, temperatures: int, chains: int, stream: Stream
) -> Estimate:
    """log Z of exp(f) over (D,) by annealed importance sampling from a Gaussian, with Langevin proposals.

    A step proposes from x + a C g + sqrt(2 a C) z, is accepted by Metropolis-Hastings, and its a follows the acceptance
    of the step before. The log of the mean weight is too low on average.

    Args:
        target: log density f, (N, D) -> (N).
        mean, covariance: (D,) and (D, D) of the Gaussian, such as those of the data.
        temperatures: number of densities between the Gaussian and the target.
        chains: number of weights.
        stream: source of random numbers.

    Source: Neal, Statistics and Computing 11 (2001).
    """
    base = distributions.MultivariateNormal(mean, covariance)
    root = torch.linalg.cholesky(covariance)
    wanted = as_target(target)

    def derivatives(x: Tensor, b: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log density and score at inverse temperature b, and the log densities of target and base."""
        both = wanted.derivatives(x)
        of_target = wanted.log_prob(x).detach() if both.log_prob is None else both.log_prob
        of_base, score = base.log_prob(x), -torch.linalg.solve(covariance, (x - mean).T).T
        return b * of_target + (1 - b) * of_base, b * both.score + (1 - b) * score, of_target, of_base

    x = mean + stream.normal((chains, len(mean))) @ root.T
    log_weight, a, spacing = torch.zeros(chains, dtype=torch.float64), 0.2, 1 / temperatures
    for index in range(temperatures):
        b = (index + 1) * spacing
        value, score, of_target, of_base = derivatives(x, b)
        log_weight += spacing * (of_target - of_base).double()
        if index + 1 == temperatures:
            break
        # In coordinates in which the covariance is the identity.
        drift, noise = a * score @ root, math.sqrt(2 * a) * stream.normal(x)
        proposal = x + (drift + noise) @ root.T
        proposed, proposed_score, *_ = derivatives(proposal, b)
        back = drift + noise + a * proposed_score @ root
        log_ratio = proposed - value + (noise.square() - back.square()).sum(-1) / (4 * a)
        accepted = stream.uniform((chains,)).log() < log_ratio
        x = torch.where(accepted[:, None], proposal, x)
        a *= math.exp(0.2 * (float(accepted.double().mean()) - 0.57))
    return log_z_estimate(log_weight)
