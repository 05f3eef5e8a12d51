"""Trajectories of states, in forward order whichever way they were sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from svgdx.gflownets._record import Record

VOID = -1


@dataclass
class Trajectories:
    """B trajectories s_0 .. s_T through {void, 0, 1}^D, each step setting one void entry; void is -1.

    initial (B, D) int8 is s_0, actions (B, T) int64 are 2 * location + bit, final (B, D) int8 is s_T. log_pf and log_pb
    (B), without gradient, are there where the rollout was asked for them; record where it was asked to keep its
    activations.
    """

    initial: Tensor
    actions: Tensor
    final: Tensor
    log_pf: Tensor | None = None
    log_pb: Tensor | None = None
    record: Record | None = None

    def sums(self) -> tuple[Tensor, Tensor]:
        """log_pf and log_pb; ValueError where the rollout was not asked for them."""
        if self.log_pf is None or self.log_pb is None:
            raise ValueError("these trajectories have no log-probabilities: ask the rollout for log_prob=True")
        return self.log_pf, self.log_pb

    def log_ratio(self) -> Tensor:
        """log_pf - log_pb, (B)."""
        log_pf, log_pb = self.sums()
        return log_pf - log_pb

    def states(self, dtype: torch.dtype = torch.int8, rows: slice = slice(None)) -> Tensor:
        """s_0 .. s_T of some rows, (B, T+1, D)."""
        initial, actions, final = self.initial[rows], self.actions[rows], self.final[rows]
        steps = actions.shape[-1]
        time = torch.arange(steps + 1, dtype=torch.int32, device=actions.device)
        # The step that sets each location; what is set from the start has -1, what stays void never gets its turn.
        set_at = torch.where(initial == VOID, steps, -1).to(torch.int32)
        set_at.scatter_(1, actions >> 1, time[:steps].expand(actions.shape))
        is_set = set_at.unsqueeze(1) < time[:, None]
        return torch.where(is_set, final.to(dtype).unsqueeze(1), torch.tensor(VOID, dtype=dtype, device=final.device))


def void_states(count: int, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """`count` states with every entry void, (count, D) int8: where full trajectories start."""
    return torch.full((count, dim), VOID, dtype=torch.int8, device=device)
