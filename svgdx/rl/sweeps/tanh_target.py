"""min(Q1, Q2)(tanh u) / alpha + log(1 - tanh^2 u) with its derivatives in one op on CUDA; part of svgdx.rl.sweeps.

On the CPU, where launches cost nothing, svgdx.rl.targets computes the same with torch's own operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from svgdx.ops.registration import inner
from svgdx.rl.sweeps.compiled import CompiledSweeps, minimum_fake


class TanhTarget(NamedTuple):
    """The log density (B, M), its score (B, M, D), and for a probe v the form v . H v (B, M) and H v (B, M, D)."""

    log_prob: Tensor
    score: Tensor
    trace: Tensor | None
    hvp: Tensor | None


def tanh_target(
    sweeps: CompiledSweeps, u: Tensor, probe: Tensor | None, temperature: Tensor, graph: bool
) -> TanhTarget:
    """The derivatives at u (B, M, D); with graph all but H v are differentiable in u once.

    Args:
        probe: signs v (B, M, D), or None.
        temperature: alpha, 0-d, a constant.
    """
    log_prob, score, trace, hvp = _TanhTarget.apply(u, probe, temperature, sweeps, graph)
    return TanhTarget(log_prob, score, *((None, None) if probe is None else (trace, hvp)))


class _TanhTarget(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, probe: Tensor | None, temperature: Tensor, sweeps: CompiledSweeps, graph: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows, lead = u.detach().reshape(-1, u.shape[-1]).contiguous(), u.shape[:-1]
        probe = None if probe is None else probe.reshape(rows.shape).contiguous()
        network = (sweeps.parameters, sweeps.widths, sweeps.activation)
        ctx.shape, ctx.network, ctx.constants = u.shape, network, (rows, probe, temperature.detach().to(u.dtype))
        log_prob, score, trace, hvp, *ctx.tape = torch.ops.svgdx_inner.mlp_tanh_target.default(
            *ctx.constants, sweeps.shift, *network, graph
        )
        ctx.set_materialize_grads(False)
        outputs = log_prob.view(lead), score.view(u.shape), trace, hvp
        if probe is not None:
            outputs = *outputs[:2], trace.view(lead), hvp.view(u.shape)
        ctx.mark_non_differentiable(outputs[3])
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_log_prob: Tensor | None, of_score: Tensor | None, of_trace: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if of_log_prob is None and of_score is None and of_trace is None:
            return None, None, None, None, None
        rows, probe, _ = ctx.constants
        order, values, back, gradient, product, third = ctx.tape
        grads = [
            None if grad is None else grad.reshape(shape).contiguous()
            for grad, shape in ((of_log_prob, rows.shape[:1]), (of_score, rows.shape), (of_trace, rows.shape[:1]))
        ]
        if probe is None:
            grads[2] = None
        grad_u = torch.ops.svgdx_inner.mlp_tanh_target_backward.default(
            *grads, *ctx.constants, gradient, product, third, order, values, back, *ctx.network
        )
        return grad_u.view(ctx.shape), None, None, None, None


@inner.fake("mlp_tanh_target")
def _target_fake(
    u: Tensor,
    probe: Tensor | None,
    temperature: Tensor,
    shift: Tensor,
    parameters: Tensor,
    widths: Tensor,
    activation: int,
    graph: bool,
) -> tuple[Tensor, ...]:
    log_prob, _, *tape = minimum_fake(u, shift, parameters, widths, activation, 2 if graph else 1)
    probed, form = u[:0] if probe is None else u, log_prob[:0] if probe is None else log_prob
    saved = (u, probed, probed) if graph else (u[:0],) * 3
    return tuple(map(torch.empty_like, (log_prob, u, form, probed, *tape, *saved)))


@inner.fake("mlp_tanh_target_backward")
def _backward_fake(
    of_log_prob: Tensor | None, of_score: Tensor | None, of_trace: Tensor | None, u: Tensor, *_: Any
) -> Tensor:
    return torch.empty_like(u)
