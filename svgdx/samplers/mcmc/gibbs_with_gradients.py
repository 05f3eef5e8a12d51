"""Gibbs with gradients for bit vectors, many chains in parallel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from svgdx import _checks
from svgdx.densities.base import LogProb, as_log_density
from svgdx.samplers.mcmc.gibbs import above_zero
from svgdx.streams import Source, stream_of


@_checks.differentiates
def gwg_step(
    target: nn.Module | LogProb,
    x: Tensor,
    generator: Source = None,
    temperature: float = 2.0,
    steps: int = 1,
) -> Tensor:
    """Runs steps of Gibbs with gradients: each proposes to flip one location and accepts by Metropolis-Hastings.

    Location i is proposed with probability softmax_i(d(x) / temperature), where d_i = (1 - 2 x_i) df/dx_i is the rise
    of the log density f by the flip, to first order. A step evaluates f and its gradient once; the first does it twice.

    Args:
        target: an Energy, or a log density of bits as floats (N, D) -> (N), in nats; differentiable; see
            :func:`svgdx.densities.as_log_density`.
        x: chains (..., D) of 0 and 1, any dtype.
        generator: a :class:`svgdx.Stream` or a torch.Generator on the device of x; None takes its seed from torch's
            default generator of the CPU.
        temperature: positive; 2 balances the proposal locally.
        steps: number of proposed flips in each chain.

    Returns:
        The next states of the chains, with the shape and dtype of x; they are computed in the default dtype of torch.

    Raises:
        TypeError: the target is not callable, or does not return a tensor.
        ValueError: the temperature is not positive; x is 0-d or, on the CPU, holds other numbers than 0 and 1; the
            target does not return one number for each chain; steps is negative; or the generator is on another device.

    Source: Grathwohl et al., Oops I Took A Gradient: Scalable Sampling for Discrete Distributions, ICML 2021, alg. 1.
    """
    if not temperature > 0:
        raise ValueError(f"gwg_step: temperature must be positive, but is {temperature}")
    x = _checks.bits("gwg_step", "x", _checks.features("gwg_step", "x", x))
    steps = _checks.integer("gwg_step", "steps", steps)
    if steps < 0:
        raise ValueError(f"gwg_step: steps must not be negative, but is {steps}")
    log_density = as_log_density(target)
    chains = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).to(torch.get_default_dtype())
    stream = stream_of("gwg_step", generator, x.device)
    current, log_q = gwg_proposal(log_density, chains, temperature)
    for _ in range(steps):
        location = stream.categorical(log_q).unsqueeze(-1)
        flipped = chains.scatter(-1, location, 1 - chains.gather(-1, location))
        proposed, log_q_back = gwg_proposal(log_density, flipped, temperature)
        log_ratio = proposed - current + (log_q_back - log_q).gather(-1, location).squeeze(-1)
        accept = stream.uniform(log_ratio).log() < log_ratio
        chains = torch.where(accept[:, None], flipped, chains)
        log_q = torch.where(accept[:, None], log_q_back, log_q)
        current = torch.where(accept, proposed, current)
    return chains.to(x.dtype).view_as(x)


def gwg_proposal(log_density: LogProb, x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log density (N) and the log probabilities (N, D) of proposing each location, at bits x (N, D) as floats."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = _checks.returned("gwg_step", "target", log_density(x), x, graph=True)
        (slope,) = torch.autograd.grad(value.sum(), x)
    # (1 - 2 x) slope, in one launch.
    rise = torch.addcmul(slope, x.detach(), slope, value=-2)
    return above_zero(value.detach()), torch.log_softmax(rise / temperature, -1)
