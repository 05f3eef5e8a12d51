"""Peers of gfn_trajectory_log_prob: the same sums as users write them today.

Every peer maps logits (B, T+1, 3D), actions (B, T) and the trajectories' states (B, T+1, D), whose cost is not counted,
to log_pf (B) and log_pb (B).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import svgdx.ops

Form = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def eager(logits: Tensor, actions: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Masks from the states, and one log-softmax per direction over all steps at once."""
    dim = states.shape[-1]
    void = states == -1
    forward = logits[:, :-1, : 2 * dim].masked_fill(~void[:, :-1].repeat_interleave(2, -1), -torch.inf)
    backward = logits[:, 1:, 2 * dim :].masked_fill(void[:, 1:], -torch.inf)
    log_pf = forward.log_softmax(-1).gather(-1, actions[..., None]).squeeze(-1).sum(-1)
    log_pb = backward.log_softmax(-1).gather(-1, actions[..., None] // 2).squeeze(-1).sum(-1)
    return log_pf, log_pb


def compiled(logits: Tensor, actions: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    return _compiled(logits, actions, states)


def fused(logits: Tensor, actions: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    return svgdx.ops.gfn_trajectory_log_prob(logits, actions, states[:, 0])


_compiled = torch.compile(eager, fullgraph=True, dynamic=False)
PEERS: dict[str, Form] = {"svgdx": fused, "eager": eager, "compiled": compiled}


def problem(batch: int, dim: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits, actions and states for trajectories of `steps` steps that end with all locations set."""
    torch.manual_seed(0)
    order = torch.rand(batch, dim).argsort(-1)
    set_at = torch.empty(batch, dim, dtype=torch.int64)
    set_at.scatter_(1, order, torch.arange(dim).expand(batch, dim))  # rank of each location among the D
    bits = torch.randint(2, (batch, dim))
    taken = order[:, dim - steps :]
    actions = 2 * taken + bits.gather(1, taken)
    times = torch.arange(dim - steps, dim + 1)[:, None]
    states = torch.where(set_at[:, None] < times, bits[:, None], -1).to(torch.int8)
    return torch.randn(batch, steps + 1, 3 * dim), actions, states
