"""Trajectories of states, in forward order whichever way they were sampled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svgdx import _checks

VOID = -1


@dataclass
class Trajectories:
    """B trajectories s_0 .. s_T through {void, 0, 1}^D, each step of which sets one void entry; void is -1.

    initial (B, D) int8 is s_0, actions (B, T) int64 are 2 * location + bit, and final (B, D) int8 is s_T. log_pf and
    log_pb (B), without gradient, are None unless they were requested from the rollout. record holds the activations
    that :func:`svgdx.gflownets.trajectory_log_prob` reuses, if the rollout was asked to keep them.

    Raises:
        TypeError, ValueError: a field is not a tensor of its shape.
    """

    initial: Tensor
    actions: Tensor
    final: Tensor
    log_pf: Tensor | None = None
    log_pb: Tensor | None = None
    record: object | None = None

    def __post_init__(self) -> None:
        initial = _checks.features("Trajectories", "initial", self.initial, rank=2)
        self.initial = initial = _checks.states("Trajectories", "initial", initial)
        actions = _checks.features("Trajectories", "actions", self.actions, rank=2)
        if actions.is_floating_point() or actions.is_complex() or actions.dtype == torch.bool:
            raise TypeError(f"Trajectories: actions must be integers, but are {actions.dtype}")
        self.actions = actions.long()
        if len(self.actions) != len(initial):
            shapes = f"{tuple(initial.shape)}, but has {tuple(self.actions.shape)}"
            raise ValueError(f"Trajectories: actions must have one row for each row of initial, {shapes}")
        final = _checks.same_shape("Trajectories", "final", self.final, initial.shape, "initial")
        self.final = _checks.states("Trajectories", "final", final)
        lead = initial.shape[:1]
        if self.log_pf is not None:
            self.log_pf = _checks.per_row("Trajectories", "log_pf", self.log_pf, lead, "initial")
        if self.log_pb is not None:
            self.log_pb = _checks.per_row("Trajectories", "log_pb", self.log_pb, lead, "initial")

    def sums(self) -> tuple[Tensor, Tensor]:
        """log_pf and log_pb. Raises ValueError if they were not requested from the rollout."""
        if self.log_pf is None or self.log_pb is None:
            raise ValueError("Trajectories.sums: there are no log-probabilities; call rollout with log_prob=True")
        return self.log_pf, self.log_pb

    def log_ratio(self) -> Tensor:
        """log_pf - log_pb, (B). Raises ValueError as :meth:`sums`."""
        log_pf, log_pb = self.sums()
        return log_pf - log_pb

    def states(self, dtype: torch.dtype = torch.int8, rows: slice = slice(None)) -> Tensor:
        """s_0 .. s_T of some rows, (B, T+1, D)."""
        time = torch.arange(self.actions.shape[1] + 1, dtype=torch.int32, device=self.actions.device)
        is_set = self.set_times()[rows].unsqueeze(1) < time[:, None]
        return torch.where(is_set, self.final[rows].to(dtype).unsqueeze(1), VOID)

    def set_times(self) -> Tensor:
        """The step that sets each location, (B, D) int32: -1 if it is set in s_0, T if it stays void.

        Raises ValueError if an action is out of range, so far as actions are readable without waiting for a GPU.
        """
        steps, limit = self.actions.shape[1], 2 * self.initial.shape[1]
        if self.actions.device.type == "cpu" and _checks.readable(self.actions):
            wrong = (self.actions < 0) | (self.actions >= limit)
            if bool(wrong.any()):
                row, step = wrong.nonzero()[0].tolist()
                raise ValueError(
                    f"Trajectories: actions must be from 0 to 2D - 1 = {limit - 1}, but actions[{row}, {step}] is "
                    f"{int(self.actions[row, step])}"
                )
        times = torch.where(self.initial == VOID, steps, -1).to(torch.int32)
        order = torch.arange(steps, dtype=torch.int32, device=times.device)
        return times.scatter_(1, self.actions >> 1, order.expand(self.actions.shape))


def void_states(count: int, dim: int, device: torch.device | str = "cpu") -> Tensor:
    """`count` states whose every entry is void, (count, D) int8, from which full trajectories start.

    Raises TypeError or ValueError if a size is not an integer or negative.
    """
    count, dim = _checks.integer("void_states", "count", count), _checks.integer("void_states", "dim", dim)
    if min(count, dim) < 0:
        raise ValueError(f"void_states: count and dim must not be negative, but are {count} and {dim}")
    return torch.full((count, dim), VOID, dtype=torch.int8, device=device)
