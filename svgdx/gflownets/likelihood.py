"""Likelihoods by importance sampling over trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from svgdx import _checks
from svgdx.gflownets.sampling import rollout
from svgdx.gflownets.trajectories import void_states


def log_likelihood(
    policy: nn.Module,
    x: Tensor,
    samples: int,
    seed: int,
    batch: int = 4096,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Estimates log p(x) of the GFlowNet's marginal over complete states by importance sampling.

    The estimate is log (1/J) sum_j P_F(tau_j) / P_B(tau_j | x) with tau_j ~ P_B(. | x). It is unbiased for p(x) and, on
    average, below log p(x).

    Args:
        policy: see :func:`svgdx.gflownets.rollout`.
        x: complete states, (N, D) int8.
        samples: J, trajectories per x, at least 1.
        seed: of the draws.
        batch: trajectories per rollout, which bounds the memory; the draws depend on it.
        progress: called after each rollout with its number of trajectories, of N J in all.

    Returns:
        Log-likelihoods (N) in nats, without gradient.

    Raises:
        TypeError, ValueError: x is not a matrix of states, or samples or batch is below 1.

    Source: Zhang et al., ICML 2022, section 4.
    """
    samples, batch = _sizes("log_likelihood", samples, batch)
    x = _checks.features("log_likelihood", "x", x, getattr(policy, "dim", None), rank=2)
    x = _checks.states("log_likelihood", "x", x)
    count, dim = x.shape
    weights = []
    for stream, start in enumerate(range(0, count * samples, batch)):
        # Trajectory i belongs to x[i // J].
        index = torch.arange(start, min(start + batch, count * samples), device=x.device) // samples
        trajectories = rollout(policy, dim, seed, backward_from=x[index], log_prob=True, stream=stream)
        weights.append(trajectories.log_ratio())
        if progress is not None:
            progress(len(index))
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
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Computes the log weights log [R(x_j) P_B(tau_j | x_j) / P_F(tau_j)] of trajectories tau_j ~ P_F.

    The mean weight is an unbiased estimate of Z = sum_x R(x), so log Z is about ``weights.logsumexp(0) - log J``. If
    P_F covers all of R, the spread of the weights shows how accurate that is.

    Args:
        policy: see :func:`svgdx.gflownets.rollout`; it proposes the trajectories.
        log_reward: maps complete states (B, D) int8 to (B), for example minus an energy, in nats.
        samples: J, at least 1.
        seed, batch, progress: as in :func:`log_likelihood`, with J trajectories in all.
        dim: D; None reads the policy's attribute ``dim``.
        device: None takes that of the policy's parameters.

    Returns:
        Log weights (J) in nats, without gradient.

    Raises:
        TypeError, ValueError: samples or batch is below 1, or log_reward does not return one number for each state.

    Source: Zhang et al., ICML 2022, section 4; Malkin et al., NeurIPS 2022, appendix.
    """
    samples, batch = _sizes("log_importance_weights", samples, batch)
    dim = int(policy.dim) if dim is None else dim  # type: ignore[arg-type]
    if device is None:
        device = next((parameter.device for parameter in policy.parameters()), torch.device("cpu"))
    weights = []
    for stream, start in enumerate(range(0, samples, batch)):
        void = void_states(min(batch, samples - start), dim, device)
        trajectories = rollout(policy, dim, seed, forward_from=void, log_prob=True, stream=stream)
        with torch.no_grad():
            reward = _checks.returned("log_importance_weights", "log_reward", log_reward(trajectories.final), void)
            weights.append(reward - trajectories.log_ratio())
        if progress is not None:
            progress(len(void))
    return torch.cat(weights)


def _sizes(function: str, samples: int, batch: int) -> tuple[int, int]:
    samples = _checks.integer(function, "samples", samples)
    batch = _checks.integer(function, "batch", batch)
    if samples < 1 or batch < 1:
        raise ValueError(f"{function}: samples and batch must be at least 1, but are {samples} and {batch}")
    return samples, batch
