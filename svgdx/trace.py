"""The trace of the Hessian of a log density, estimated with random probes or exact."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from svgdx import _checks, ops
from svgdx._checks import one_of, wide
from svgdx.densities.base import LogProb, as_log_density
from svgdx.streams import Source, Stream, stream_of

__all__ = ["HessianTrace", "hessian_trace"]

METHODS = ("hutchinson", "hutch++", "exact")
# The exact trace multiplies the Hessian by this many unit vectors at a time, which bounds its memory.
EXACT_BLOCK = 64


class HessianTrace(NamedTuple):
    """The value and derivatives of a log density at points x (..., D), with H its Hessian; x (..., M, D) are particles.

    Pass ``trace`` to :func:`svgdx.ops.svgd_step`. Pass ``score``, ``probe`` and ``hvp`` to
    :func:`svgdx.ops.svgd_jacobian_sqnorm`; of several probes pass ``probe[0]`` and ``hvp[0]``.
    """

    log_prob: Tensor
    """The log density as the target returns it, (...), in nats."""
    score: Tensor
    """Its gradient, (..., D)."""
    trace: Tensor
    """Tr H or its estimate, (...), float32, or float64 for float64 points."""
    probe: Tensor
    """Random signs v, (..., D), or (V, ..., D) for V > 1 probes; for the exact trace the unit vectors, (D, ..., D)."""
    hvp: Tensor
    """H v, with the shape of probe; for the exact trace the rows of H, (D, ..., D)."""
    standard_error: Tensor
    """Standard error of trace over the probes, (...), in its dtype; 0 if exact, NaN for one probe."""


@_checks.differentiates
def hessian_trace(
    log_prob: nn.Module | LogProb,
    x: Tensor,
    probes: int = 1,
    method: str = "hutchinson",
    generator: Source = None,
    create_graph: bool = False,
) -> HessianTrace:
    """Computes log density, score, trace of the Hessian and Hessian-vector products at x from one graph.

    "hutchinson" averages v . H v over random signs v. "hutch++" splits its products in three: one third finds, for each
    point, an orthonormal basis Q of the directions in which H is large, one third computes Tr Q^T H Q exactly, and the
    rest estimates what remains outside Q. Q is a constant of the graph, so the gradient of the estimate is unbiased as
    well. "exact" multiplies H by all D unit vectors.

    Args:
        log_prob: a LogDensity, an Energy or a callable log density, (..., D) -> (...); see
            :func:`svgdx.densities.as_log_density`. It must be twice differentiable (three times with create_graph), and
            each value must depend on its own point only. For several products, its derivatives must support
            ``torch.autograd.grad(is_grads_batched=True)``. If it has a method score_hvp(x, probe), as
            :class:`svgdx.densities.MLPLogDensity` does, that method computes value, score and product for one probe
            without create_graph.
        x: points or particles, (..., D), float32 or float64, or half precision if log_prob supports it.
        probes: V, the number of products with H. "hutch++" needs at least 3, of which probes - 2 (probes // 3) are
            random signs; "exact" ignores it.
        method: one of METHODS.
        generator: a torch.Generator or a :class:`svgdx.Stream` on the device of x, from which the signs follow; None
            takes their seed from torch's default generator of the CPU.
        create_graph: whether the results are differentiable in x and in the parameters of log_prob; otherwise they are
            detached.

    Returns:
        The results, see :class:`HessianTrace`. The standard error of "hutch++" is that of its random part.

    Raises:
        TypeError: x is not a tensor, probes is not an integer, or log_prob is not callable.
        ValueError: the method is unknown, there are too few probes, log_prob returns another shape, or the generator is
            on another device.
        RuntimeError: x is 0-d or not floating, or log_prob is not differentiable.

    Source: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989; Meyer, Musco, Musco &
    Woodruff, Hutch++: Optimal Stochastic Trace Estimation, SOSA 2021, algorithm 1.
    """
    probes = _checks.integer("hessian_trace", "probes", probes)
    _check(x, probes, method)
    log_prob = as_log_density(log_prob)
    if method == "hutchinson" and probes == 1 and not create_graph and hasattr(log_prob, "score_hvp"):
        x = x.detach()
        probe = stream_of("hessian_trace", generator, x.device).signs(x)
        value, score, hvp = log_prob.score_hvp(x, probe)
        trace, variance = ops.probe_trace(probe[None], hvp[None])
        return HessianTrace(value, score, trace, probe, hvp, variance)
    with torch.enable_grad():
        if not (create_graph and x.requires_grad):
            x = x.detach().requires_grad_()
        field = _Field(log_prob, x, create_graph)
        if method == "exact":
            result = _exact(field)
        else:
            stream = stream_of("hessian_trace", generator, x.device)
            result = _hutchinson(field, probes, stream) if method == "hutchinson" else _hutchpp(field, probes, stream)
    return result if create_graph else HessianTrace(*(value.detach() for value in result))


class _Field:
    """A log density and its score at x, and the products of its Hessian with vectors."""

    def __init__(self, log_prob: LogProb, x: Tensor, create_graph: bool) -> None:
        self.x, self.create_graph = x, create_graph
        self.value = _checks.returned("hessian_trace", "log_prob", log_prob(x), x)
        if not self.value.requires_grad:
            raise RuntimeError(
                "hessian_trace: log_prob must be differentiable in x, but its result does not depend on x"
            )
        ones = torch.ones_like(self.value)
        (self.score,) = torch.autograd.grad(self.value, x, ones, create_graph=True, materialize_grads=True)

    def products(self, vectors: Tensor) -> Tensor:
        """Returns H v for vectors v (V, ..., D) or for a single one (..., D)."""
        if not self.score.requires_grad:  # the log density is linear
            return torch.zeros_like(vectors)
        if vectors.dim() > self.x.dim() and len(vectors) == 1:
            return self.products(vectors[0])[None]
        (result,) = torch.autograd.grad(
            self.score,
            self.x,
            vectors,
            retain_graph=True,
            create_graph=self.create_graph,
            allow_unused=True,
            is_grads_batched=vectors.dim() > self.x.dim(),
        )
        return torch.zeros_like(vectors) if result is None else result

    def signs(self, count: int, stream: Stream) -> Tensor:
        return stream.signs(self.x.expand(count, *self.x.shape))


def _hutchinson(field: _Field, probes: int, stream: Stream) -> HessianTrace:
    probe = stream.signs(field.x) if probes == 1 else field.signs(probes, stream)
    hvp = field.products(probe)
    if probes == 1:
        # There is no variance to compute, and torch's own op is cheaper to differentiate than ops.probe_trace.
        trace = torch.linalg.vecdot(wide(probe), wide(hvp))
        return HessianTrace(field.value, field.score, trace, probe, hvp, torch.full_like(trace, torch.nan))
    trace, variance = ops.probe_trace(probe, hvp)
    return HessianTrace(field.value, field.score, trace, probe, hvp, (variance / probes).sqrt())


def _hutchpp(field: _Field, probes: int, stream: Stream) -> HessianTrace:
    size = min(probes // 3, field.x.shape[-1])
    sketch = field.products(field.signs(size, stream)).detach()
    # From (k, ..., D) to matrices (..., D, k) and back. The basis is orthonormal even if the sketch has a lower rank.
    basis = torch.linalg.qr(wide(sketch).movedim(0, -1)).Q.movedim(-1, 0).to(sketch.dtype)
    basis_products = field.products(basis)
    probe = field.signs(probes - 2 * (probes // 3), stream)
    coefficients = torch.einsum("k...d,v...d->kv...", basis, probe)
    rest = probe - torch.einsum("kv...,k...d->v...d", coefficients, basis)
    rest_products = field.products(rest)
    inside, _ = ops.probe_trace(basis, basis_products)
    outside, variance = ops.probe_trace(rest, rest_products)
    hvp = rest_products + torch.einsum("kv...,k...d->v...d", coefficients, basis_products)
    return HessianTrace(field.value, field.score, size * inside + outside, probe, hvp, (variance / len(probe)).sqrt())


def _exact(field: _Field) -> HessianTrace:
    x, dim = field.x, field.x.shape[-1]
    unit = torch.eye(dim, dtype=x.dtype, device=x.device).view(dim, *(1,) * (x.dim() - 1), dim).expand(dim, *x.shape)
    rows = [field.products(block) for block in unit.split(EXACT_BLOCK)] if dim else [torch.zeros_like(unit)]
    hessian = torch.cat(rows)
    trace = wide(hessian.diagonal(dim1=0, dim2=-1)).sum(-1)
    return HessianTrace(field.value, field.score, trace, unit, hessian, torch.zeros_like(trace))


def _check(x: object, probes: int, method: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"hessian_trace: x must be a tensor, but is {type(x).__name__}")
    if not x.is_floating_point() or x.dim() == 0:
        raise RuntimeError(f"hessian_trace: x must be floating with shape (..., D), but is {x.dtype}, {tuple(x.shape)}")
    one_of("hessian_trace", "method", method, METHODS)
    least = 3 if method == "hutch++" else 1
    if probes < least:
        raise ValueError(f"hessian_trace: probes must be at least {least} for {method}, but is {probes}")
