"""Measures for models of bits: MMD, error of the couplings, log Z by annealed importance sampling or enumeration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from svgdx import _checks
from svgdx.densities.base import LogProb, as_log_density
from svgdx.densities.discrete import bernoulli_log_prob, check_base
from svgdx.samplers import gibbs_sweep, gwg_step
from svgdx.streams import Source, stream_of

TRANSITIONS = ("gibbs", "gwg")


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


def hamming_mmd(x: Tensor, y: Tensor, bandwidth: float = 0.1) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy of bits x (N, D) and y (M, D).

    The kernel is exp(-bandwidth Hamming distance). The estimate may be negative. It takes memory for N M numbers.

    Raises:
        ValueError: x or y has fewer than two rows, or their D differ.

    Source: Gretton et al., JMLR 13 (2012), lemma 6; the kernel is that of Zhang et al., ICML 2022.
    """
    x = _checks.features("hamming_mmd", "x", x, rank=2)
    y = _checks.features("hamming_mmd", "y", y, rank=2)
    if min(len(x), len(y)) < 2 or x.shape[1:] != y.shape[1:]:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"hamming_mmd: x and y must be two or more rows of one width, but have shapes {shapes}")

    def total(one: Tensor, other: Tensor) -> float:
        # The product of two rows of spins is D - 2 Hamming.
        product = (2 * one.float() - 1) @ (2 * other.float() - 1).T
        kernel = product.sub_(x.shape[1]).mul_(0.5 * bandwidth).exp_()
        return float(kernel.sum(dtype=torch.float64))

    n, m = len(x), len(y)
    within_x, within_y = (total(x, x) - n) / (n * (n - 1)), (total(y, y) - m) / (m * (m - 1))
    return within_x + within_y - 2 * total(x, y) / (n * m)


def neg_log_rmse(coupling: Tensor, true: Tensor) -> float:
    """-log of the root mean square error of a coupling J (D, D), over all entries."""
    coupling = _checks.features("neg_log_rmse", "coupling", coupling, rank=2)
    true = _checks.same_shape("neg_log_rmse", "true", true, coupling.shape, "coupling")
    error = float((coupling - true).double().square().mean())
    return math.inf if error == 0 else -0.5 * math.log(error)


def bits_per_dim(nll: float, dim: int) -> float:
    """Converts a negative log-likelihood from nats to bits per dimension."""
    return nll / (dim * math.log(2))


@torch.no_grad()
def energy_nll(target: nn.Module | LogProb, x: Tensor, log_z: Estimate, batch: int = 1000) -> Estimate:
    """Mean negative log-likelihood in nats of x (N, D), log Z - f(x), evaluated in batches of rows.

    Its standard error combines those of log Z and of the mean over x. The target is an Energy, or a log density f of
    bits (N, D) -> (N); see :func:`svgdx.densities.as_log_density`.
    """
    log_density = as_log_density(target)
    x = _checks.features("energy_nll", "x", x, rank=2)
    if len(x) < 2:
        raise ValueError(f"energy_nll: x must have at least 2 rows, but has {len(x)}")
    values = torch.cat(
        [_checks.returned("energy_nll", "target", log_density(rows), rows).double() for rows in x.split(batch)]
    )
    error = float(values.std()) / math.sqrt(len(x))
    return Estimate(log_z.value - float(values.mean()), math.hypot(error, log_z.error))


def log_z_estimate(log_weights: Tensor) -> Estimate:
    """The log of the mean of J weights, given their logs (J,), with its standard error by the delta method.

    J must be at least 2. If few weights dominate the mean, the error is underestimated.
    """
    log_weights = _checks.features("log_z_estimate", "log_weights", log_weights, rank=1)
    if len(log_weights) < 2:
        raise ValueError(f"log_z_estimate: log_weights must hold at least 2 weights, but hold {len(log_weights)}")
    mean = torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
    return Estimate(float(mean), float((log_weights - mean).exp().std()) / math.sqrt(len(log_weights)))


def all_states(dim: int) -> Tensor:
    """Every x in {0, 1}^dim, (2^dim, dim) int8, in ascending order with the first bit most significant."""
    return ((torch.arange(2**dim)[:, None] >> torch.arange(dim - 1, -1, -1)) & 1).to(torch.int8)


@torch.no_grad()
def exact_log_z(target: nn.Module | LogProb, dim: int) -> float:
    """Log of the sum of exp(f(x)) over all x in {0, 1}^dim, by enumeration.

    The target is an Energy, or a log density f of bits (N, D) -> (N); see :func:`svgdx.densities.as_log_density`.

    Raises:
        ValueError: dim is above 16.
    """
    if dim > 16:
        raise ValueError(f"exact_log_z: dim must be at most 16, but is {dim}")
    states = all_states(dim)
    values = _checks.returned("exact_log_z", "target", as_log_density(target)(states), states)
    return float(torch.logsumexp(values.double(), 0))


@torch.no_grad()
def ais_log_z(
    target: nn.Module | LogProb,
    base_probability: Tensor,
    temperatures: int,
    chains: int,
    generator: Source,
    transition: str = "gibbs",
    steps: int = 1,
    progress: Callable[[int], object] | None = None,
) -> Estimate:
    """Estimates log Z of exp(f) by annealed importance sampling from independent bits.

    The densities are p0^(1-b) exp(b f), with b rising evenly from 0 to 1. Each weight is an unbiased estimate of Z, so
    the log of their mean is too low on average.

    Args:
        target: an Energy, or a log density f of bits (N, D) -> (N), differentiable for "gwg"; see
            :func:`svgdx.densities.as_log_density`.
        base_probability: probability of each bit under p0, (D,), inside (0, 1), such as the smoothed mean of the data.
        temperatures: number of intervals of b, at least 1.
        chains: number of chains, each of which gives a weight, at least 2.
        generator: a Stream or a torch.Generator on the device of base_probability.
        transition: "gibbs" for `steps` sweeps at each temperature, or "gwg" for `steps` flips.
        steps: see transition; at least 1.
        progress: called with 1 after each temperature.

    Returns:
        log Z in nats and its standard error, see :func:`log_z_estimate`.

    Raises:
        ValueError: the transition is unknown, a number is too small, or a probability is not inside (0, 1).

    Source: Neal, Annealed Importance Sampling, Statistics and Computing 11 (2001).
    """
    if transition not in TRANSITIONS:
        raise ValueError(f"ais_log_z: transition must be one of {', '.join(TRANSITIONS)}, but is {transition!r}")
    if temperatures < 1 or chains < 2 or steps < 1:
        raise ValueError("ais_log_z: temperatures and steps must be at least 1, and chains at least 2")
    base_probability = _checks.features("ais_log_z", "base_probability", base_probability, rank=1)
    check_base("ais_log_z", base_probability)
    log_density = as_log_density(target)
    stream = stream_of("ais_log_z", generator, base_probability.device)
    x = stream.bernoulli(base_probability, (chains, len(base_probability))).to(base_probability.dtype)
    log_weight = torch.zeros(chains, dtype=torch.float64, device=x.device)
    for index in range(temperatures):
        value = _checks.returned("ais_log_z", "target", log_density(x), x)
        log_weight += (value - bernoulli_log_prob(x, base_probability)).double() / temperatures
        if progress is not None:
            progress(1)
        if index + 1 == temperatures:
            break
        annealed = _Annealed(log_density, base_probability, (index + 1) / temperatures)
        if transition == "gibbs":
            x = gibbs_sweep(annealed, x, stream, steps)
        else:
            x = gwg_step(annealed, x, stream, steps=steps)
    return log_z_estimate(log_weight)


class _Annealed:
    """The log density b f + (1 - b) log p0."""

    def __init__(self, log_density: LogProb, base_probability: Tensor, b: float) -> None:
        self.log_density, self.base, self.b = log_density, base_probability, b

    def __call__(self, x: Tensor) -> Tensor:
        value = _checks.returned("ais_log_z", "target", self.log_density(x), x)
        return self.b * value + (1 - self.b) * bernoulli_log_prob(x, self.base)
