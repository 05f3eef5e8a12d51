"""Markov chains over bits, many side by side: Gibbs sampling and Gibbs with gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svgdx.densities.discrete import DiscreteMLPEnergy, IsingEnergy

Energy = Callable[[Tensor], Tensor]


@torch.no_grad()
def gibbs_sweep(energy: Energy, x: Tensor, generator: torch.Generator, sweeps: int = 1) -> Tensor:
    """Sweeps of Gibbs sampling with systematic scan: each location in turn is drawn from its conditional.

    A location costs one evaluation of the energy for all chains. In it, a DiscreteMLPEnergy's first layer is updated by
    one column; an IsingEnergy costs one row of its coupling only.

    Args:
        energy: bits (N, D) -> (N), in nats.
        x: chains (..., D) of 0 and 1, any dtype.
        generator: on the device of x.
        sweeps: number of passes over all D locations.

    Returns:
        The chains' next states, of shape and dtype of x.
    """
    chains = x.reshape(-1, x.shape[-1]).clone()
    for _ in range(sweeps):
        uniforms = torch.rand(chains.shape[::-1], generator=generator, device=x.device)
        if isinstance(energy, IsingEnergy):
            chains = _ising_sweep(energy.coupling(), chains, uniforms)
        elif isinstance(energy, DiscreteMLPEnergy):
            _mlp_sweep(energy, chains, uniforms)
        else:
            _sweep(energy, chains, uniforms)
    return chains.view_as(x)


def _sweep(energy: Energy, chains: Tensor, uniforms: Tensor) -> None:
    here = energy(chains)
    for location, uniform in enumerate(uniforms):
        flipped = chains.clone()
        flipped[:, location] = 1 - chains[:, location]
        there = energy(flipped)
        flip = uniform < torch.sigmoid(here - there)
        chains[:, location] = torch.where(flip, flipped[:, location], chains[:, location])
        here = torch.where(flip, there, here)


def _mlp_sweep(energy: DiscreteMLPEnergy, chains: Tensor, uniforms: Tensor) -> None:
    first, rest = energy.layers[0], energy.layers[1:]
    columns = energy.layers.get_parameter("0.weight").T.contiguous()
    log_odds = None if energy.base is None else torch.logit(energy.base)
    hidden = first(chains.to(columns.dtype))
    here = rest(hidden).squeeze(-1)
    for location, uniform in enumerate(uniforms):
        bits = chains[:, location]
        change = (1 - 2 * bits).to(columns.dtype)
        moved = torch.addcmul(hidden, change[:, None], columns[location])
        there = rest(moved).squeeze(-1)
        fall = here - there if log_odds is None else here - there + change * log_odds[location]
        flip = uniform < torch.sigmoid(fall)
        chains[:, location] = torch.where(flip, 1 - bits, bits)
        hidden = torch.where(flip[:, None], moved, hidden)
        here = torch.where(flip, there, here)


def _ising_sweep(coupling: Tensor, chains: Tensor, uniforms: Tensor) -> Tensor:
    spins = 2 * chains.to(coupling.dtype) - 1
    # Location first: what a draw reads and writes is contiguous.
    spins = spins.T.contiguous()
    for location, threshold in enumerate(torch.logit(uniforms)):
        log_odds = 4 * (coupling[location] @ spins)
        spins[location] = torch.where(threshold < log_odds, 1.0, -1.0)
    return (spins.T > 0).to(chains.dtype)


def gwg_step(energy: Energy, x: Tensor, generator: torch.Generator, temperature: float = 2.0, steps: int = 1) -> Tensor:
    """Steps of Gibbs with gradients: flips one location, drawn by first-order differences, and corrects by Metropolis.

    Location i is proposed with probability softmax_i(d(x) / temperature), d_i = (2 x_i - 1) dE/dx_i: the fall of E by
    the flip, to first order. A step costs one evaluation of the energy and its gradient, and the first one two.

    Args:
        energy: differentiable, bits as floats (N, D) -> (N), in nats.
        x: chains (..., D) of 0 and 1, any dtype.
        generator: on the device of x.
        temperature: positive; 2 balances the proposal locally.
        steps: number of proposed flips in each chain.

    Returns:
        The chains' next states, of shape and dtype of x.

    Raises:
        ValueError: a temperature that is not positive.

    Source: Grathwohl et al., Oops I Took A Gradient: Scalable Sampling for Discrete Distributions, ICML 2021, alg. 1.
    """
    if not temperature > 0:
        raise ValueError(f"gwg_step: temperature must be positive, but is {temperature}")
    chains = x.reshape(-1, x.shape[-1]).to(torch.get_default_dtype())
    here, log_q = gwg_proposal(energy, chains, temperature)
    for _ in range(steps):
        # Gumbel-max: an exponential race draws from softmax without a check that would wait for the device.
        race = torch.empty_like(log_q).exponential_(generator=generator)
        location = (log_q - race.log()).argmax(-1, keepdim=True)
        proposed = chains.scatter(-1, location, 1 - chains.gather(-1, location))
        there, log_q_back = gwg_proposal(energy, proposed, temperature)
        log_ratio = here - there + (log_q_back - log_q).gather(-1, location).squeeze(-1)
        uniform = torch.rand(log_ratio.shape, generator=generator, device=x.device)
        accept = uniform.log() < log_ratio
        chains = torch.where(accept[:, None], proposed, chains)
        log_q = torch.where(accept[:, None], log_q_back, log_q)
        here = torch.where(accept, there, here)
    return chains.to(x.dtype).view_as(x)


def gwg_proposal(energy: Energy, x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Energy (N) and log-probabilities (N, D) of proposing each location, of bits x (N, D) given as floats."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = energy(x)
        (slope,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), torch.log_softmax((2 * x.detach() - 1) * slope / temperature, -1)
