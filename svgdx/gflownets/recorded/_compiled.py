"""Private to svgdx.gflownets.recorded: the compiled rollout of an MLPPolicy, and its gradient.

:attr:`svgdx.gflownets.recorded.Weights.compiled` says when it is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svgdx._checks import compute_dtype
from svgdx.gflownets.recorded._weights import Weights
from svgdx.gflownets.trajectories import Trajectories
from svgdx.ops.registration import inner


def advance(
    weights: Weights,
    argument: Tensor,
    states: Tensor,
    split: int,
    steps: int,
    hidden: Tensor,
    first_visit: int,
    logits: Tensor | None,
    draws: tuple[int | Tensor, int, int],
    temperature: float,
    epsilon: float,
    erase_anything: float,
) -> tuple[Tensor, Tensor]:
    """Advances all rows by `steps` steps.

    Args:
        argument: argument of the first layer's activation (B, H), updated in place as the states move.
        states: (B, D), the first `split` of them forward rows.
        hidden: memory of the activations, (L, V, B, H) by visit, or (L, 1, B, H) if they are not recorded.
        first_visit: index in `hidden` of the first state.
        logits: memory of the logits of all steps + 1 states, in forward order (B, more than steps, 3D); or None.
        draws: seed or key, and the offsets of the first step of the forward and of the backward rows.
        temperature, epsilon: of the forward rows.
        erase_anything: probability that a backward row erases any set entry rather than one drawn by the logits.

    Returns:
        The actions (B, steps) in forward order and the states (B, D) reached.
    """
    rollout = torch.ops.svgdx_inner.mlp_rollout
    with torch._C._AutoDispatchBelowAutograd():
        moves: tuple[Tensor, Tensor] = (rollout.key if isinstance(draws[0], Tensor) else rollout.default)(
            argument,
            states.contiguous(),
            split,
            steps,
            weights.columns(),
            *weights.stacked(),
            weights.head[0],
            weights.head[1].to(argument.dtype),
            weights.slope,
            hidden,
            first_visit,
            logits,
            *draws,
            temperature,
            epsilon,
            erase_anything,
        )
    return moves


def gradients(
    weights: Weights, trajectories: Trajectories, hidden: Tensor, split: int, grad_logits: Tensor
) -> list[Tensor]:
    """Gradients of the policy's parameters, in their order, from that of the logits (B, T+1, 3D)."""
    deeper, _ = weights.stacked()
    with torch._C._AutoDispatchBelowAutograd():
        flat = torch.ops.svgdx_inner.mlp_rollout_backward.default(
            grad_logits,
            hidden,
            split,
            trajectories.set_times(),
            trajectories.final.contiguous(),
            deeper,
            weights.head[0],
            weights.slope,
        )
    parameters = list(weights.policy.parameters())
    # The head of a uniform P_B ends in rows of zeros, which are not parameters.
    shapes = [parameter.shape for parameter in parameters[:-2]] + [tensor.shape for tensor in weights.head]
    blocks = flat.split([shape.numel() for shape in shapes])
    return [
        block.view(shape)[: len(parameter)].to(parameter.dtype)
        for block, shape, parameter in zip(blocks, shapes, parameters, strict=True)
    ]


@inner.fake("mlp_rollout", "mlp_rollout.key")
def _rollout_fake(argument: Tensor, state: Tensor, split: int, steps: int, *_: Any) -> tuple[Tensor, Tensor]:
    return state.new_empty(len(state), steps, dtype=torch.int64), torch.empty_like(state)


@inner.fake("mlp_rollout_backward")
def _backward_fake(
    grad_logits: Tensor,
    hidden: Tensor,
    split: int,
    set_time: Tensor,
    final: Tensor,
    deeper: Tensor,
    head: Tensor,
    slope: float,
) -> Tensor:
    width, dim = hidden.shape[3], final.shape[1]
    length = width * (dim + 1) + len(deeper) * width * (width + 1) + 3 * dim * (width + 1)
    return hidden.new_empty(length, dtype=compute_dtype(hidden))
