"""Ising models on a periodic grid: their couplings and their samples."""

from __future__ import annotations

import torch
from torch import Tensor


def adjacency(side: int) -> Tensor:
    """Adjacency of the periodic grid, (D, D) with D = side^2: 1 between neighbours, otherwise 0.

    A site is numbered row * side + column and has four neighbours.

    Raises ValueError if side is below 3, because opposite neighbours would be the same site.
    """
    if side < 3:
        raise ValueError(f"adjacency: side must be at least 3, but is {side}")
    ring = torch.eye(side).roll(1, 0) + torch.eye(side).roll(-1, 0)
    return torch.kron(ring, torch.eye(side)) + torch.kron(torch.eye(side), ring)


def true_coupling(side: int, sigma: float) -> Tensor:
    """J = sigma A, (D, D), of log p(s) = s' J s + constant in nats, s in {-1, 1}^D. Every edge counts twice."""
    return sigma * adjacency(side)


def sample_ising(coupling: Tensor, n: int, seed: int, sweeps: int = 1000) -> Tensor:
    """Samples (n, D), int8 bits x with s = 2x - 1: the final states of n Gibbs chains that start uniformly.

    Sites that are not coupled to each other have one colour and are drawn at once.

    Args:
        coupling: J (D, D), symmetric, zero diagonal.
        n: number of samples; every sample has its own chain.
        seed: of the starts and the chains.
        sweeps: passes over all sites.

    Raises:
        ValueError: the coupling is not symmetric with a zero diagonal.

    Source: Zhang et al., ICML 2022, section on Ising models.
    """
    if not torch.equal(coupling, coupling.T) or bool(coupling.diagonal().count_nonzero()):
        raise ValueError("sample_ising: coupling must be symmetric with a zero diagonal")
    generator = torch.Generator().manual_seed(seed)
    spins = torch.randint(2, (len(coupling), n), generator=generator).to(coupling.dtype).mul_(2).sub_(1)
    colours = _colours(coupling)
    for _ in range(sweeps):
        for sites in colours:
            log_odds = 4 * (coupling[sites] @ spins)
            threshold = torch.logit(torch.rand(log_odds.shape, generator=generator, dtype=coupling.dtype))
            spins[sites] = torch.where(threshold < log_odds, 1.0, -1.0).to(coupling.dtype)
    return (spins.T > 0).to(torch.int8)


def _colours(coupling: Tensor) -> list[Tensor]:
    """Sets of sites without coupling inside a set, by greedy colouring."""
    colour: list[int] = []
    for row in (coupling != 0).tolist():
        used = {other for other, coupled in zip(colour, row, strict=False) if coupled}
        colour.append(next(c for c in range(len(row) + 1) if c not in used))
    return [torch.tensor([s for s, c in enumerate(colour) if c == number]) for number in range(max(colour) + 1)]
