"""Steps of Metropolis-Hastings as one op each; private to svgdx.samplers.control, whose rule uses them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from svgdx.ops.registration import inner

INNER = torch.ops.svgdx_inner


class Proposals(NamedTuple):
    """What a decision depends on: particles x and their proposals (..., M, D), the rest (..., M).

    here, log_p_ahead and log_p_back are the target's log densities; can_ahead and can_back say whether a proposal is
    possible; toss and chance are uniform numbers.
    """

    x: Tensor
    ahead: Tensor
    back: Tensor
    here: Tensor
    log_p_ahead: Tensor
    log_p_back: Tensor
    gain: Tensor
    gain_back: Tensor
    can_ahead: Tensor
    can_back: Tensor
    toss: Tensor
    chance: Tensor


def accept(proposals: Proposals) -> tuple[Tensor, Tensor, Tensor]:
    """The next particles (..., M, D), the change of log q (..., M) and which particles moved (..., M) bool."""
    x_next, change, accepted = _Accept.apply(*proposals)
    return x_next, change, accepted


class Inverse:
    """The iteration y <- x - eps phi(y) of the inverse map of a step with an RBF kernel, from y = x.

    Args:
        x, score: (..., M, D). sigma, eps: () or (...).
        limit: the error below which the particles of a problem have converged, (...).
        iterations: the most of them.
    """

    def __init__(self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, limit: Tensor, iterations: int) -> None:
        self.step, self.limit = (x.detach(), score.detach(), sigma.detach(), eps.detach()), limit
        self.y, self.error = x.detach(), torch.empty(0)
        # Whether a particle had not converged after each iteration; a GPU reads it, and makes the rest in vain.
        self.open = torch.zeros(iterations, dtype=torch.int32, device=x.device)
        self.count = 0

    def iterate(self, score: Tensor) -> bool:
        """Makes one iteration, with the score at y; whether, so far as the host knows, more are needed."""
        error = self.error if self.count > 0 else None
        self.y, self.error = INNER.chain_inverse(self.y, score, *self.step, self.limit, error, self.open, self.count)
        self.count += 1
        return self.y.device.type != "cpu" or bool(self.open[self.count - 1])

    def converged(self) -> Tensor:
        """Which particles have converged, (..., M) bool; a NaN has not."""
        return (self.error <= self.limit[..., None, None]).all(-1)


class _Accept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *proposals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dense = [value.contiguous() for value in proposals]
        x_next, change, accepted = INNER.chain_accept(*dense)
        ctx.save_for_backward(*dense)
        ctx.mark_non_differentiable(accepted)
        ctx.set_materialize_grads(False)
        return x_next, change, accepted

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_next: Tensor | None, of_change: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        if of_next is None and of_change is None:
            return (None,) * len(Proposals._fields)
        of_next, of_change = (None if grad is None else grad.contiguous() for grad in (of_next, of_change))
        return *INNER.chain_accept_backward(of_next, of_change, *ctx.saved_tensors), None, None, None, None


@inner.fake("chain_inverse")
def _inverse_fake(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(query)


@inner.fake("chain_accept")
def _accept_fake(x: Tensor, ahead: Tensor, back: Tensor, here: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(here), torch.empty_like(here, dtype=torch.bool)


@inner.fake("chain_accept_backward")
def _accept_backward_fake(of_next: Tensor | None, of_change: Tensor | None, *proposals: Tensor) -> tuple[Tensor, ...]:
    return tuple(map(torch.empty_like, proposals[:8]))
