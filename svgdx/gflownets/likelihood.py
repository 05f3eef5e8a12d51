"""Likelihoods by importance sampling over trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from svgdx.gflownets.sampling import rollout
from svgdx.gflownets.trajectories import void_states


def log_likelihood(policy: nn.Module, x: Tensor, samples: int, seed: int, batch: int = 4096) -> Tensor:
    """log p(x) of the GFlowNet's marginal over complete states, by importance sampling.

    log (1/J) sum_j P_F(tau_j) / P_B(tau_j | x), tau_j ~ P_B(. | x): p(x) without bias, log p(x) from below on average.

    Args:
        policy: see :func:`svgdx.gflownets.rollout`.
        x: complete states, (N, D) int8.
        samples: J, trajectories for each x, at least 1.
        seed: of the draws.
        batch: trajectories in one rollout, which bounds the memory; it decides which draws are made.

    Returns:
        (N), nats, without gradient.

    Raises:
        ValueError: samples or batch below 1.

    Source: Zhang et al., ICML 2022, section 4.
    """
    _positive("log_likelihood", samples, batch)
    count, dim = x.shape
    weights = []
    for stream, start in enumerate(range(0, count * samples, batch)):
        # Trajectory i belongs to x[i // J].
        index = torch.arange(start, min(start + batch, count * samples), device=x.device) // samples
        paths = rollout(policy, dim, seed, backward_from=x[index], log_prob=True, stream=stream)
        weights.append(paths.log_ratio())
    if not weights:
        return torch.empty(0, device=x.device)
    return torch.cat(weights).view(count, samples).logsumexp(1) - math.log(samples)


def log_importance_weights(
    policy: nn.Module,
    log_reward: Callable[[Tensor], Tensor],
    samples: int,
    seed: int,
    batch: int = 4096,
    dim: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Log weights log [R(x_j) P_B(tau_j | x_j) / P_F(tau_j)] of trajectories tau_j ~ P_F.

    The mean weight estimates Z = sum_x R(x) without bias: log Z is about ``weights.logsumexp(0) - log J``. How uneven
    the weights are tells how sure that is, where P_F misses no part of R.

    Args:
        policy: see :func:`svgdx.gflownets.rollout`; it proposes the trajectories.
        log_reward: complete states (B, D) int8 -> (B), such as minus an energy.
        samples: J, at least 1.
        seed, batch: as in :func:`log_likelihood`.
        dim: D, by default the policy's attribute ``dim``.
        device: by default that of the policy's parameters.

    Returns:
        (J), nats, without gradient.

    Raises:
        ValueError: samples or batch below 1.

    Source: Zhang et al., ICML 2022, section 4; Malkin et al., NeurIPS 2022, appendix.
    """
    _positive("log_importance_weights", samples, batch)
    dim = int(policy.dim) if dim is None else dim  # type: ignore[arg-type]
    if device is None:
        device = next((parameter.device for parameter in policy.parameters()), torch.device("cpu"))
    weights = []
    for stream, start in enumerate(range(0, samples, batch)):
        begin = void_states(min(batch, samples - start), dim, device)
        paths = rollout(policy, dim, seed, forward_from=begin, log_prob=True, stream=stream)
        with torch.no_grad():
            weights.append(log_reward(paths.final) - paths.log_ratio())
    return torch.cat(weights)


def _positive(function: str, samples: int, batch: int) -> None:
    if samples < 1 or batch < 1:
        raise ValueError(f"{function}: samples and batch must be at least 1, but are {samples} and {batch}")
