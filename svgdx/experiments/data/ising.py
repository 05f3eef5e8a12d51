"""Ising models on a periodic grid: their couplings and their samples."""

from __future__ import annotations

import math

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


def neg_log_rmse_bound(x: Tensor, count: int) -> float:
    """-log of the least root mean square error, over all entries of J, of an unbiased estimate with known edges.

    This is the Cramér-Rao bound of the grid's couplings: the bonds b = s_i s_j of its edges are the sufficient
    statistics of log p(s) = s' J s, in which each edge counts twice, so that the information of `count` samples is
    4 count Cov(b). The grid is periodic, hence Cov(b) is a 2 x 2 block, of the edges to the right and down, for each
    wave vector. -inf if a combination of bonds never varies in x.

    Args:
        x: samples of the model, (N, D) bits of a grid of side sqrt(D).
        count: number of samples from which J is estimated.
    """
    side = math.isqrt(x.shape[1])
    spins = 2 * x.double().view(len(x), side, side) - 1
    bonds = torch.stack([spins * spins.roll(-1, 2), spins * spins.roll(-1, 1)], 1)
    waves = torch.fft.fft2(bonds - bonds.mean((0, 2, 3), keepdim=True)) / side
    covariance = torch.einsum("naij,nbij->ijab", waves, waves.conj()) / len(x)
    variances = torch.linalg.eigvalsh(covariance).clamp_min(0)
    # An edge is two entries of J.
    square_error = 2 * float((1 / variances).sum()) / (4 * count)
    return -0.5 * math.log(square_error / side**4)


def pseudo_likelihood_fit(x: Tensor, allowed: Tensor, l1: float = 0.0, scale: float = 0.01) -> Tensor:
    """J (D, D) that maximises the pseudo-likelihood, the sum of log p(s_i | all others), less a concave penalty.

    It needs no sampler, so it tells what the samples allow from what a sampler adds.

    Args:
        x: samples, (N, D) bits.
        allowed: (D, D), symmetric and bool; the other entries of J stay 0.
        l1, scale: weight and s of the penalty, the sum of s log(1 + |J_ij| / s), which is subtracted from the mean over
            samples.

    Source: Besag, The Statistician 24 (1975).
    """
    spins, mask = 2 * x.double() - 1, allowed.double().fill_diagonal_(0)
    weight = torch.zeros_like(mask, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=150, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        coupling = 0.5 * (weight + weight.T) * mask
        value = torch.nn.functional.softplus(-4 * spins * (spins @ coupling)).sum(1).mean()
        value = value + l1 * scale * (coupling.abs() / scale).log1p().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return (0.5 * (weight + weight.T) * mask).detach().to(torch.get_default_dtype())


def _colours(coupling: Tensor) -> list[Tensor]:
    """Sets of sites without coupling inside a set, by greedy colouring."""
    colour: list[int] = []
    for row in (coupling != 0).tolist():
        used = {other for other, coupled in zip(colour, row, strict=False) if coupled}
        colour.append(next(c for c in range(len(row) + 1) if c not in used))
    return [torch.tensor([s for s, c in enumerate(colour) if c == number]) for number in range(max(colour) + 1)]
