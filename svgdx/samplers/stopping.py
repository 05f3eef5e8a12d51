"""Adaptive chain lengths: each problem stops on its own once its Stein discrepancy is small."""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx._checks import integer, sizes


class SteinStop:
    """Stops a problem before the first step at which S = r^2 is below a threshold, r = mean_i [phi_i . s_i + Tr J_i].

    r is the rate at which the step would lower KL(q | p), to first order; it is zero if q is p. Along a chain r usually
    falls through zero from above, and S may jump over a small threshold there: a signed rule compares r itself.

    Args:
        threshold: in nats squared per squared unit of eps for S, in nats per unit of eps for r.
        patience: number of rises of S from one step to the next, in total, after which a problem also stops; None
            disables this rule.
        signed: stops at r <= threshold instead of S < threshold. With threshold 0, the KL no longer falls.
        least: steps that a problem makes in any case.

    Raises:
        TypeError, ValueError: threshold is negative, or patience or least is no integer, or below 1 or 0.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """

    def __init__(self, threshold: float, patience: int | None = None, *, signed: bool = False, least: int = 0) -> None:
        if not threshold >= 0:
            raise ValueError(f"SteinStop: threshold must not be negative, but is {threshold}")
        if patience is not None:
            (patience,) = sizes("SteinStop", patience=patience)
        least = integer("SteinStop", "least", least)
        if least < 0:
            raise ValueError(f"SteinStop: least must not be negative, but is {least}")
        self.threshold, self.patience, self.signed, self.least = threshold, patience, signed, least

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

    def update(self, step: int, rate: Tensor, discrepancy: Tensor) -> Tensor:
        """Returns the problems that make the step of this number, with r and S = r^2, each (...), as (...) bool."""
        rule = self.rule
        self._rises += discrepancy > self._last
        self._last = discrepancy
        if step < rule.least:
            return self.active
        stop = rate <= rule.threshold if rule.signed else discrepancy < rule.threshold
        if rule.patience is not None:
            stop = stop | (self._rises >= rule.patience)
        self.active = self.active & ~stop
        return self.active
