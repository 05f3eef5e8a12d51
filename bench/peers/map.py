"""The ops of the map of speed-ups (bench/map.py) and their peers: matrix-product forms, written once for torch and JAX.

A form takes the library (torch or jax.numpy) first, then the inputs: x, score (B, M, D) and bandwidth (B,), or logits
(B, T+1, 3D), actions (B, T), the trajectories' states (B, T+1, D) and their first states (B, D).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from peers.trajectory import problem as trajectories
from torch import Tensor

import svgdx

Sizes = tuple[int, int, int]
Results = tuple[Any, ...]
STEP_SIZE = 0.1
MULTIPLY_ADDS = 10**10
# Above this, a peer's (B, M, M) tensors, or the logits, do not fit beside one another.
NUMBERS = 10**8


class Mapped(NamedTuple):
    """An op of the map, called with torch's inputs, and its form for the peers."""

    ours: Callable[..., Results]
    form: Callable[..., Results]
    problem: Callable[[Sizes], tuple[Tensor, ...]]
    sizes: Callable[[Callable[[float, float], float]], Sizes | None]  # drawn log-uniformly; None if too large
    differentiable: int  # the first inputs, for which gradients are computed
    work: Callable[[Sizes], int]  # multiply-adds of the peers' products, or numbers read
    names: str = "B, M, D"


def field(xp: Any, x: Any, score: Any, bandwidth: Any) -> Results:
    """phi and trace, as peers.field.matmul."""
    m, d = x.shape[-2:]
    beta = (bandwidth**-2)[:, None, None]
    norm = (x * x).sum(-1, keepdims=True)
    squared = xp.clip(norm + norm.mT - 2 * x @ x.mT, min=0)
    kappa = xp.exp(-0.5 * beta * squared)
    total = kappa.sum(-1, keepdims=True)
    sums = kappa @ xp.concatenate([score, x, (x * score).sum(-1, keepdims=True)], -1)
    k_score, k_x, k_dot = sums[..., :d], sums[..., d : 2 * d], sums[..., 2 * d :]
    phi = (k_score + beta * (x * total - k_x)) / m
    r_z = beta * (kappa * squared).sum(-1, keepdims=True) + (x * k_score).sum(-1, keepdims=True) - k_dot
    return phi, (beta * (d * (total - 1) - r_z) / m)[..., 0]


def step(xp: Any, x: Any, score: Any, bandwidth: Any) -> Results:
    phi, trace = field(xp, x, score, bandwidth)
    return x + STEP_SIZE * phi, -STEP_SIZE * trace


def ksd(xp: Any, x: Any, score: Any, bandwidth: Any) -> Results:
    """The U-statistic from phi and trace: its summand is the Stein operator applied to phi without the own particle."""
    m = x.shape[-2]
    phi, trace = field(xp, x, score, bandwidth)
    summand = (score * (phi - score / m)).sum(-1) + trace
    return (summand.sum(-1) / (m - 1),)


def jacobian_sqnorm(xp: Any, x: Any, score: Any, bandwidth: Any) -> Results:
    """Gram matrices instead of the Jacobians: the expansion of csrc/jacobian/gram.h."""
    beta, m, d = (bandwidth**-2)[:, None, None], x.shape[-2], x.shape[-1]
    x = x - x.mean(-2, keepdims=True)
    c = score - beta * x
    g, f, u = x @ x.mT, c @ c.mT, x @ c.mT
    norm, own = (x * x).sum(-1, keepdims=True), (x * c).sum(-1, keepdims=True)
    kernel = xp.exp(-0.5 * beta * xp.clip(norm + norm.mT - 2 * g, min=0)) * (1 - xp.eye(m))
    a, b = beta * u + 0.5 * beta * beta * norm, 0.5 * norm - g
    total, tau = kernel.sum(-1), (kernel * (u + beta * (norm - g) - own.mT)).sum(-1)
    ka, kb = kernel * a, kernel * b
    quadratic = (kernel @ (f * g)) * kernel + 2 * kb * (kernel @ f) + 2 * ka * (kernel @ g)
    sums = quadratic.sum(-1) + 2 * total * (ka * b).sum(-1) + 2 * ka.sum(-1) * kb.sum(-1)
    beta = beta[..., 0]
    return (beta * beta / m**2 * (d * total * total - 2 * total * tau + sums),)


def median(xp: Any, x: Any) -> Results:
    """The lower median of all M^2 distances, by its rank among the pairs i < j."""
    m = x.shape[-2]
    rank = max(((m * m - 1) // 2 - m) // 2, 0)
    rows, columns = xp.triu_indices(m, m, 1) if xp is torch else xp.triu_indices(m, 1)
    if xp is torch:
        return (torch.cdist(x, x)[:, rows, columns].kthvalue(rank + 1, -1).values,)
    norm = (x * x).sum(-1, keepdims=True)
    squared = xp.clip(norm + norm.mT - 2 * x @ x.mT, min=0)[:, rows, columns]
    return (xp.sqrt(xp.partition(squared, rank, -1)[:, rank]),)


def gfn_trajectory_log_prob(xp: Any, logits: Any, actions: Any, states: Any, _initial: Any) -> Results:
    """Masks from the states, and one log-softmax per direction over all steps at once."""
    dim, void = states.shape[-1], states == -1
    forward = logits[:, :-1, : 2 * dim].reshape(*actions.shape, dim, 2)
    forward = xp.where(void[:, :-1, :, None], forward, -math.inf).reshape(*actions.shape, 2 * dim)
    backward = xp.where(void[:, 1:], -math.inf, logits[:, 1:, 2 * dim :])
    if xp is torch:
        take, log_softmax = torch.take_along_dim, torch.log_softmax
    else:
        import jax

        take, log_softmax = xp.take_along_axis, jax.nn.log_softmax
    log_pf = take(log_softmax(forward, -1), actions[..., None], -1)[..., 0].sum(-1)
    log_pb = take(log_softmax(backward, -1), actions[..., None] // 2, -1)[..., 0].sum(-1)
    return log_pf, log_pb


def particles(sizes: Sizes) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(sum(sizes))
    x, score = torch.randn(2, *sizes, generator=generator)
    return x, score, torch.full(sizes[:1], sizes[2] ** 0.5)


def particle_sizes(draw: Callable[[float, float], float]) -> Sizes | None:
    batch, count, dim = round(draw(1, 4096)), round(draw(2, 16384)), round(draw(1, 4096))
    numbers = batch * count**2
    return (batch, count, dim) if numbers * dim <= MULTIPLY_ADDS and numbers <= NUMBERS else None


def pairs(sizes: Sizes) -> int:
    batch, count, dim = sizes
    return batch * count**2 * dim


def gram_products(sizes: Sizes) -> int:
    batch, count, dim = sizes
    return batch * count**2 * max(count, dim)


def trajectory_sizes(draw: Callable[[float, float], float]) -> Sizes | None:
    dim = round(draw(2, 2000))
    batch, steps = round(draw(1, 1024)), round(draw(1, dim))
    return (batch, dim, steps) if batch * (steps + 1) * 3 * dim <= NUMBERS else None


def our_step(x: Tensor, score: Tensor, bandwidth: Tensor) -> Results:
    return svgdx.ops.svgd_step(x, score, bandwidth, STEP_SIZE, x.new_zeros(x.shape[:-1]))


def our_trajectory(logits: Tensor, actions: Tensor, _states: Tensor, initial: Tensor) -> Results:
    return svgdx.ops.gfn_trajectory_log_prob(logits, actions, initial)


def walks(sizes: Sizes) -> tuple[Tensor, ...]:
    logits, actions, states = trajectories(*sizes)
    return logits, actions, states, states[:, 0].contiguous()


def alone(function: Callable[..., Tensor]) -> Callable[..., Results]:
    return lambda *inputs: (function(*inputs),)


OPS: dict[str, Mapped] = {
    "phi_trace": Mapped(svgdx.ops.svgd_phi_trace, field, particles, particle_sizes, 3, pairs),
    "step": Mapped(our_step, step, particles, particle_sizes, 3, pairs),
    "ksd": Mapped(alone(svgdx.ops.ksd), ksd, particles, particle_sizes, 3, pairs),
    "jacobian_sqnorm": Mapped(
        alone(svgdx.ops.svgd_jacobian_sqnorm), jacobian_sqnorm, particles, particle_sizes, 3, gram_products
    ),
    "median": Mapped(
        alone(svgdx.ops.median_distance), median, lambda sizes: particles(sizes)[:1], particle_sizes, 0, pairs
    ),
    "gfn_trajectory_log_prob": Mapped(
        our_trajectory, gfn_trajectory_log_prob, walks, trajectory_sizes, 1, math.prod, "B, D, T"
    ),
}


def shapes_of(op: str, count: int, draw: Callable[[float, float], float], limit: float) -> Sequence[Sizes]:
    """Sizes drawn log-uniformly, those rejected that need more than `limit` multiply-adds or numbers."""
    sizes: list[Sizes] = []
    while len(sizes) < count:
        drawn = OPS[op].sizes(draw)
        if drawn is not None and OPS[op].work(drawn) <= limit:
            sizes.append(drawn)
    return sizes
