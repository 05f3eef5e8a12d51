"""Private to svgdx.gflownets.recorded: log-probabilities with normalizers, and gradients, beneath autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx import _library, reference

Grad = Tensor | None


def trajectory_forward(logits: Tensor, actions: Tensor, initial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log_pf (B), log_pb (B) and the log-sum-exp of both heads (B, T+1, 2)."""
    if _library.disabled():
        return *reference.gfn_trajectory_log_prob(logits, actions, initial), logits.new_empty(*logits.shape[:2], 2)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.svgdx.gfn_trajectory_log_prob_forward.default(logits, actions, initial)


def linear_forward(
    hidden: Tensor, weight: Tensor, bias: Tensor, actions: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for logits = hidden weight^T + bias, which are never all in memory."""
    if _library.disabled():
        log_probs = reference.linear_trajectory_log_prob(hidden, weight, bias, actions, initial)
        return *log_probs, hidden.new_empty(*hidden.shape[:2], 2)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.svgdx.linear_trajectory_log_prob_forward.default(hidden, weight, bias, actions, initial)


def trajectory_backward(
    grad_pf: Grad, grad_pb: Grad, logits: Tensor, actions: Tensor, initial: Tensor, normalizers: Tensor
) -> Tensor:
    """Gradient of the logits."""
    if _library.disabled():
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            outputs = reference.gfn_trajectory_log_prob(leaf, actions, initial)
        return _gradients(outputs, [leaf], grad_pf, grad_pb)[0]
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.svgdx.gfn_trajectory_log_prob_backward.default(
            grad_pf, grad_pb, logits, actions, initial, normalizers
        )


def linear_backward(
    grad_pf: Grad,
    grad_pb: Grad,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    actions: Tensor,
    initial: Tensor,
    normalizers: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of hidden, weight and bias; recomputes the logits in chunks."""
    if _library.disabled():
        with torch.enable_grad():
            leaves = h, w, b = [value.detach().requires_grad_() for value in (hidden, weight, bias)]
            outputs = reference.linear_trajectory_log_prob(h, w, b, actions, initial)
        return _gradients(outputs, leaves, grad_pf, grad_pb)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.svgdx.linear_trajectory_log_prob_backward.default(
            grad_pf, grad_pb, hidden, weight, bias, actions, initial, normalizers
        )


def _gradients(outputs: tuple[Tensor, Tensor], leaves: list[Tensor], *grads: Grad) -> tuple[Tensor, ...]:
    pairs = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
    return torch.autograd.grad([output for output, _ in pairs], leaves, [grad for _, grad in pairs])
