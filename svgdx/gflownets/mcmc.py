"""Markov chain Monte Carlo whose proposals are K-step back-and-forth moves of a GFlowNet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svgdx.gflownets.sampling import rollout

RULES = ("metropolis", "barker")


@dataclass
class Proposal:
    """x' proposed from x, both (B, D) int8, and log_ratio (B) = log q(x' -> x) - log q(x -> x') along the path."""

    x: Tensor
    x_new: Tensor
    log_ratio: Tensor


def back_and_forth(policy: nn.Module, x: Tensor, steps: int, seed: int, stream: int = 0) -> Proposal:
    """Erases K entries of x by P_B, x -> s, and fills them again by P_F, s -> x'.

    log_ratio = log [P_B(x' -> s) P_F(s -> x)] - log [P_B(x -> s) P_F(s -> x')], each product along the states that the
    move went through. With it :func:`accept` leaves the target invariant. Memory does not grow with K beyond (B, K).

    Args:
        policy: see :func:`svgdx.gflownets.rollout`.
        x: complete states, (B, D) int8.
        steps: K, 0 to D; K = D draws x' from scratch.
        seed, stream: of the draws, as in :func:`svgdx.gflownets.rollout`.

    Returns:
        The proposal, without gradients.

    Raises:
        RuntimeError, ValueError: as :func:`svgdx.gflownets.rollout`.

    Source: Zhang et al., ICML 2022, section 3.3 and algorithm 1.
    """
    back = rollout(policy, steps, seed, backward_from=x, log_prob=True, stream=stream)
    forth = rollout(policy, steps, seed, forward_from=back.initial, log_prob=True, stream=stream)
    return Proposal(x, forth.final, back.log_ratio() - forth.log_ratio())


def accept(
    proposal: Proposal, log_p_x: Tensor, log_p_new: Tensor, seed: int, rule: str = "metropolis"
) -> tuple[Tensor, Tensor, Tensor]:
    """Accepts or rejects each row of a proposal, with Delta = log p(x') - log p(x) + log_ratio.

    Args:
        proposal: of :func:`back_and_forth`.
        log_p_x, log_p_new: log density of the target at x and x', (B), each up to the same constant.
        seed: of the B uniform numbers, the same on every device.
        rule: "metropolis", probability min(1, e^Delta), or "barker", 1 / (1 + e^-Delta).

    Returns:
        The next state (B, D) int8, whether the move was made (B) bool, and its probability (B).

    Raises:
        ValueError: an unknown rule.

    Source: Hastings, Biometrika 1970; Barker, Australian Journal of Physics 1965; Zhang et al., ICML 2022, eq. 9.
    """
    if rule not in RULES:
        raise ValueError(f"accept: rule must be one of {', '.join(RULES)}, but is {rule!r}")
    delta = log_p_new.detach() - log_p_x.detach() + proposal.log_ratio
    probability = delta.clamp(max=0).exp() if rule == "metropolis" else delta.sigmoid()
    # Drawn on the CPU: generators of other devices give other numbers.
    uniform = torch.rand(delta.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    made = uniform.to(delta.device) < probability
    return torch.where(made.unsqueeze(-1), proposal.x_new, proposal.x), made, probability
