"""Gibbs sampling of bit vectors, many chains in parallel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from svgdx import _checks
from svgdx.densities.base import LogProb, as_log_density
from svgdx.densities.discrete import DiscreteMLPEnergy, IsingEnergy
from svgdx.streams import Source, stream_of


@torch.no_grad()
def gibbs_sweep(target: nn.Module | LogProb, x: Tensor, generator: Source = None, sweeps: int = 1) -> Tensor:
    """Runs sweeps of Gibbs sampling with systematic scan: each location in turn is drawn from its conditional.

    Each location costs one evaluation of the target for all chains. Two energies have a faster way: a DiscreteMLPEnergy
    updates its first layer by one column, and an IsingEnergy reads only one row of its coupling.

    Args:
        target: an Energy, or a log density of bits (N, D) -> (N), in nats; see :func:`svgdx.densities.as_log_density`.
        x: chains (..., D) of 0 and 1, any dtype.
        generator: a :class:`svgdx.Stream` or a torch.Generator on the device of x; None takes its seed from torch's
            default generator of the CPU.
        sweeps: number of passes over all D locations.

    Returns:
        The next states of the chains, with the shape and dtype of x.

    Raises:
        TypeError: the target is not callable, or does not return a tensor.
        ValueError: x is 0-d or, on the CPU, holds other numbers than 0 and 1; the target does not return one number for
            each chain; sweeps is negative; or the generator is on another device.
    """
    x = _checks.bits("gibbs_sweep", "x", _checks.features("gibbs_sweep", "x", x, _dim(target)))
    sweeps = _checks.integer("gibbs_sweep", "sweeps", sweeps)
    if sweeps < 0:
        raise ValueError(f"gibbs_sweep: sweeps must not be negative, but is {sweeps}")
    chains = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).clone()
    if x.dtype in (torch.bool, torch.uint8):
        chains = chains.to(torch.int8)  # 1 - 2 x needs a sign
    log_density = as_log_density(target)
    stream = stream_of("gibbs_sweep", generator, x.device)
    for _ in range(sweeps):
        uniforms = stream.uniform(chains.shape[::-1], torch.float32)
        if isinstance(target, IsingEnergy) and _is_unchanged(target, IsingEnergy):
            chains = _ising_sweep(target.coupling(), chains, uniforms)
        elif isinstance(target, DiscreteMLPEnergy) and _is_unchanged(target, DiscreteMLPEnergy):
            _mlp_sweep(target, chains, uniforms)
        else:
            _sweep(log_density, chains, uniforms)
    return chains.to(x.dtype).view_as(x)


def above_zero(log_density: Tensor) -> Tensor:
    """The log densities, with the lowest number for -inf.

    Two states of density zero are then equally likely, so that a chain finds its way out of them.
    """
    return log_density.clamp_min(torch.finfo(log_density.dtype).min) if log_density.is_floating_point() else log_density


def _dim(target: object) -> int | None:
    """The number of bits of a target that says so."""
    return target.dim if isinstance(target, (IsingEnergy, DiscreteMLPEnergy)) else None


def _is_unchanged(energy: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether an energy still evaluates what the fast sweeps assume: a subclass may override it."""
    return type(energy).forward is cls.forward


def _sweep(log_density: LogProb, chains: Tensor, uniforms: Tensor) -> None:
    current = above_zero(_checks.returned("gibbs_sweep", "target", log_density(chains), chains))
    for location, uniform in enumerate(uniforms):
        flipped = chains.clone()
        flipped[:, location] = 1 - chains[:, location]
        proposed = above_zero(_checks.returned("gibbs_sweep", "target", log_density(flipped), chains))
        flip = uniform < torch.sigmoid(proposed - current)
        chains[:, location] = torch.where(flip, flipped[:, location], chains[:, location])
        current = torch.where(flip, proposed, current)


def _mlp_sweep(energy: DiscreteMLPEnergy, chains: Tensor, uniforms: Tensor) -> None:
    first, rest = energy.layers[0], energy.layers[1:]
    columns = energy.layers.get_parameter("0.weight").T.contiguous()
    log_odds = None if energy.base is None else torch.logit(energy.base)
    hidden = first(chains.to(columns.dtype))
    current = rest(hidden).squeeze(-1)
    for location, uniform in enumerate(uniforms):
        bits = chains[:, location]
        change = (1 - 2 * bits).to(columns.dtype)
        hidden_after = torch.addcmul(hidden, change[:, None], columns[location])
        proposed = rest(hidden_after).squeeze(-1)
        fall = current - proposed
        if log_odds is not None:
            fall = fall + change * log_odds[location]
        flip = uniform < torch.sigmoid(fall)
        chains[:, location] = torch.where(flip, 1 - bits, bits)
        hidden = torch.where(flip[:, None], hidden_after, hidden)
        current = torch.where(flip, proposed, current)


def _ising_sweep(coupling: Tensor, chains: Tensor, uniforms: Tensor) -> Tensor:
    spins = 2 * chains.to(coupling.dtype) - 1
    # Locations come first, so that a draw reads and writes contiguous memory.
    spins = spins.T.contiguous()
    up, down = spins.new_ones(()), spins.new_full((), -1)
    for location, threshold in enumerate(torch.logit(uniforms)):
        log_odds = 4 * (coupling[location] @ spins)
        spins[location] = torch.where(threshold < log_odds, up, down)
    return (spins.T > 0).to(chains.dtype)
