"""Markov chain Monte Carlo whose proposals are K-step back-and-forth moves of a GFlowNet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svgdx import _checks, ops
from svgdx.gflownets.sampling import rollout

RULES = ("metropolis", "barker")


@dataclass
class Proposal:
    """x' proposed from x, both (B, D) int8; log_ratio (B) = log q(x' -> x) - log q(x -> x') along the path, in nats."""

    x: Tensor
    x_new: Tensor
    log_ratio: Tensor

    def __post_init__(self) -> None:
        x = _checks.features("Proposal", "x", self.x, rank=2)
        self.x = _checks.states("Proposal", "x", x)
        x_new = _checks.same_shape("Proposal", "x_new", self.x_new, x.shape, "x")
        self.x_new = _checks.states("Proposal", "x_new", x_new)
        self.log_ratio = _checks.per_row("Proposal", "log_ratio", self.log_ratio, x.shape[:1], "x")


def back_and_forth(policy: nn.Module, x: Tensor, steps: int, seed: int | Tensor, stream: int = 0) -> Proposal:
    """Erases K entries of x by P_B, x -> s, and refills them by P_F, s -> x'.

    log_ratio = log [P_B(x' -> s) P_F(s -> x)] - log [P_B(x -> s) P_F(s -> x')], each product along the states of the
    move. With it :func:`accept` leaves the target invariant. The only memory that grows with K is that of (B, K)
    actions.

    Args:
        policy: see :func:`svgdx.gflownets.rollout`.
        x: complete states, (B, D) int8.
        steps: K, from 0 to D; with K = D the proposal x' is independent of x.
        seed, stream: of the draws, as in :func:`svgdx.gflownets.rollout`.

    Returns:
        The proposal, without gradients.

    Raises:
        RuntimeError, ValueError: as in :func:`svgdx.gflownets.rollout`.

    Source: Zhang et al., ICML 2022, section 3.3 and algorithm 1.
    """
    back = rollout(policy, steps, seed, backward_from=x, log_prob=True, stream=stream)
    forth = rollout(policy, steps, seed, forward_from=back.initial, log_prob=True, stream=stream)
    return Proposal(x, forth.final, back.log_ratio() - forth.log_ratio())


def accept(
    proposal: Proposal, log_p_x: Tensor, log_p_new: Tensor, seed: int | Tensor, rule: str = "metropolis"
) -> tuple[Tensor, Tensor, Tensor]:
    """Accepts or rejects each row of a proposal, with Delta = log p(x') - log p(x) + log_ratio.

    Args:
        proposal: from :func:`back_and_forth`.
        log_p_x, log_p_new: log density of the target at x and x', (B), in nats up to the same constant; -inf is a
            density of zero, which a chain always leaves and never enters otherwise. A row with a NaN stays, with a
            probability of NaN.
        seed: of the B uniform numbers, which are the same on every device; an integer, or a key as in
            :func:`svgdx.ops.uniform`.
        rule: "metropolis", probability min(1, e^Delta), or "barker", 1 / (1 + e^-Delta).

    Returns:
        The next state (B, D) int8, whether the move was accepted (B) bool, and the probability of that (B).

    Raises:
        TypeError, ValueError: a log density does not have one number for each row, or the rule is unknown.

    Source: Hastings, Biometrika 1970; Barker, Australian Journal of Physics 1965; Zhang et al., ICML 2022, eq. 9.
    """
    if rule not in RULES:
        raise ValueError(f"accept: rule must be one of {', '.join(RULES)}, but is {rule!r}")
    lead = proposal.log_ratio.shape
    log_p_x = _checks.per_row("accept", "log_p_x", log_p_x, lead, "the proposal")
    log_p_new = _checks.per_row("accept", "log_p_new", log_p_new, lead, "the proposal")
    delta = log_p_new.detach() - log_p_x.detach() + proposal.log_ratio
    # A chain leaves a state of density zero, even to another one, for which the difference is NaN.
    delta = torch.where((log_p_x.detach() == -torch.inf) & ~log_p_new.isnan(), torch.inf, delta)
    probability = delta.clamp(max=0).exp() if rule == "metropolis" else delta.sigmoid()
    seed = _checks.seed("accept", seed)
    # An offset that no rollout of the same seed has.
    accepted = ops.uniform(delta.double(), seed, -1) < probability
    return torch.where(accepted.unsqueeze(-1), proposal.x_new, proposal.x), accepted, probability
