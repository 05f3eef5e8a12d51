"""Adaptive chain lengths: each problem stops on its own once its Stein discrepancy is small."""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx._checks import sizes


class SteinStop:
    """Stops a problem before the first step at which S = (mean_i [phi_i . s_i + Tr J_i])^2 is below a threshold.

    S is the squared rate at which the step would lower KL(q | p), to first order; it is zero if q is p.

    Args:
        threshold: in nats squared per unit of eps.
        patience: number of rises of S from one step to the next, in total, after which a problem also stops; None
            disables this rule.

    Raises:
        TypeError, ValueError: threshold is negative, or patience is no integer or below 1.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """

    def __init__(self, threshold: float, patience: int | None = None) -> None:
        if not threshold >= 0:
            raise ValueError(f"SteinStop: threshold must not be negative, but is {threshold}")
        if patience is not None:
            (patience,) = sizes("SteinStop", patience=patience)
        self.threshold, self.patience = threshold, patience

    def start(self, lead: torch.Size, device: torch.device) -> Stopping:
        """The state of the rule in one run over problems of leading dimensions `lead`."""
        return Stopping(self, lead, device)


class Stopping:
    """Tracks which problems are still active, (...) bool."""

    def __init__(self, rule: SteinStop, lead: torch.Size, device: torch.device) -> None:
        self.rule = rule
        self.active = torch.ones(lead, dtype=torch.bool, device=device)
        self._last = torch.full(lead, torch.inf, device=device)
        self._rises = torch.zeros(lead, dtype=torch.int64, device=device)

    def update(self, discrepancy: Tensor) -> Tensor:
        """Returns the problems that make a step whose discrepancy is S (...), as (...) bool."""
        self._rises += discrepancy > self._last
        self._last = discrepancy
        stop = discrepancy < self.rule.threshold
        if self.rule.patience is not None:
            stop = stop | (self._rises >= self.rule.patience)
        self.active = self.active & ~stop
        return self.active
