"""The trace of a log density's Hessian: estimated with random probes, or exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from svgdx import ops
from svgdx._dtype import wide

__all__ = ["HessianTrace", "hessian_trace"]

METHODS = ("hutchinson", "hutch++", "exact")
# Unit vectors multiplied with the Hessian at once: what bounds the memory of the exact trace.
EXACT_BLOCK = 64
INT64 = 2**63


class HessianTrace(NamedTuple):
    """A log density at points x (..., D), with H its Hessian there; (..., M, D) are M particles.

    ``trace`` goes into :func:`svgdx.ops.svgd_step`; with one probe, ``score``, ``probe`` and ``hvp`` go as they are
    into :func:`svgdx.ops.svgd_jacobian_sqnorm`, with more of them ``probe[0]`` and ``hvp[0]``.
    """

    log_prob: Tensor
    """(...), as log_prob gave it, in nats."""
    score: Tensor
    """grad log density, (..., D)."""
    trace: Tensor
    """Tr H or its estimate, (...), float32, or float64 for float64 points."""
    probe: Tensor
    """Random signs v, (..., D) for one probe, else (V, ..., D); for the exact trace the D unit vectors (D, ..., D)."""
    hvp: Tensor
    """H v, in the shape of probe; for the exact trace (D, ..., D), the rows of H."""
    standard_error: Tensor
    """Of trace over the probes, (...), its dtype: zero where it is exact, NaN for one probe, which shows no spread."""


def hessian_trace(
    log_prob: Callable[[Tensor], Tensor],
    x: Tensor,
    probes: int = 1,
    method: str = "hutchinson",
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> HessianTrace:
    """Log density, score, trace of the Hessian and Hessian-vector products at x, from one graph.

    "hutchinson" takes the mean of v . H v over random signs v. "hutch++" spends a third of its products on
    finding, for each point, an orthonormal basis Q of where H is large, a third on Tr Q^T H Q, which is exact, and
    estimates with the rest only what Q leaves over; Q counts as a constant, so the gradient of the estimate is unbiased
    too. "exact" multiplies H with all D unit vectors.

    Args:
        log_prob: any log density that is differentiable twice (three times with create_graph), (..., D) -> (...), each
            value a function of its own point alone. With more than one product its derivatives must allow
            ``torch.autograd.grad(is_grads_batched=True)``. A module with a method score_hvp(x, probe), such as
            :class:`svgdx.densities.MLPLogDensity`, gives value, score and product by it for one probe
            without create_graph.
        x: points or particles, (..., D), float32 or float64 (half precision: as far as log_prob allows it).
        probes: how many products with H are spent, V; "hutch++" needs 3, and probes - 2 (probes // 3) of them are
            random signs; "exact" does not read it.
        method: one of METHODS.
        generator: where the seed of the signs is drawn from; None: torch's default generator of the CPU. A generator on
            a GPU costs a synchronisation.
        create_graph: whether the results can be differentiated, with respect to x and to the parameters of log_prob.
            Otherwise they are detached.

    Returns:
        The results, see :class:`HessianTrace`. The standard error of "hutch++" is that of its random part.

    Raises:
        TypeError: x is no tensor, or probes no integer.
        ValueError: an unknown method, or too few probes.
        RuntimeError: x is not floating or 0-d, or log_prob gives something not differentiable or of another shape.

    Source: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989; Meyer, Musco, Musco &
    Woodruff, Hutch++: Optimal Stochastic Trace Estimation, SOSA 2021, algorithm 1.
    """
    _check(x, probes, method)
    if method == "hutchinson" and probes == 1 and not create_graph and hasattr(log_prob, "score_hvp"):
        x = x.detach()
        probe = ops.rademacher(x, _seed(generator), 0)
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
            seed = _seed(generator)
            result = _hutchinson(field, probes, seed) if method == "hutchinson" else _hutchpp(field, probes, seed)
    return result if create_graph else HessianTrace(*(value.detach() for value in result))


class _Field:
    """A log density with its score at x, and products of vectors with its Hessian."""

    def __init__(self, log_prob: Callable[[Tensor], Tensor], x: Tensor, create_graph: bool) -> None:
        self.x, self.create_graph = x, create_graph
        self.value = log_prob(x)
        if not isinstance(self.value, Tensor) or self.value.shape != x.shape[:-1]:
            found = tuple(self.value.shape) if isinstance(self.value, Tensor) else type(self.value).__name__
            raise RuntimeError(f"hessian_trace: log_prob must give shape {tuple(x.shape[:-1])}, but gives {found}")
        if not self.value.requires_grad:
            raise RuntimeError(
                "hessian_trace: log_prob must be differentiable in x, but its result does not depend on x"
            )
        ones = torch.ones_like(self.value)
        (self.score,) = torch.autograd.grad(self.value, x, ones, create_graph=True, materialize_grads=True)

    def products(self, vectors: Tensor) -> Tensor:
        """H v for each of the vectors (V, ..., D), or for one, (..., D)."""
        if not self.score.requires_grad:  # linear
            return torch.zeros_like(vectors)
        if vectors.dim() > self.x.dim() and len(vectors) == 1:
            return self.products(vectors[0])[None]
        (result,) = torch.autograd.grad(
            self.score,
            self.x,
            vectors,
            retain_graph=True,
            create_graph=self.create_graph,
            materialize_grads=True,
            is_grads_batched=vectors.dim() > self.x.dim(),
        )
        return result

    def signs(self, count: int, seed: int, offset: int) -> Tensor:
        return ops.rademacher(self.x.detach().expand(count, *self.x.shape), seed, offset)


def _hutchinson(field: _Field, probes: int, seed: int) -> HessianTrace:
    probe = ops.rademacher(field.x.detach(), seed, 0) if probes == 1 else field.signs(probes, seed, 0)
    hvp = field.products(probe)
    if probes == 1:
        # torch's own op costs less to record and to differentiate than ops.probe_trace, which would find no variance.
        trace = torch.linalg.vecdot(wide(probe), wide(hvp))
        return HessianTrace(field.value, field.score, trace, probe, hvp, torch.full_like(trace, torch.nan))
    trace, variance = ops.probe_trace(probe, hvp)
    return HessianTrace(field.value, field.score, trace, probe, hvp, (variance / probes).sqrt())


def _hutchpp(field: _Field, probes: int, seed: int) -> HessianTrace:
    size = min(probes // 3, field.x.shape[-1])
    sketch = field.products(field.signs(size, seed, 0)).detach()
    # (k, ..., D) to matrices (..., D, k) and back; the basis is orthonormal even where the sketch has a lower rank.
    basis = torch.linalg.qr(wide(sketch).movedim(0, -1)).Q.movedim(-1, 0).to(sketch.dtype)
    of_basis = field.products(basis)
    probe = field.signs(probes - 2 * (probes // 3), seed, 1)
    along = torch.einsum("k...d,v...d->kv...", basis, probe)
    rest = probe - torch.einsum("kv...,k...d->v...d", along, basis)
    of_rest = field.products(rest)
    inside, _ = ops.probe_trace(basis, of_basis)
    outside, variance = ops.probe_trace(rest, of_rest)
    hvp = of_rest + torch.einsum("kv...,k...d->v...d", along, of_basis)
    return HessianTrace(field.value, field.score, size * inside + outside, probe, hvp, (variance / len(probe)).sqrt())


def _exact(field: _Field) -> HessianTrace:
    x, dim = field.x, field.x.shape[-1]
    unit = torch.eye(dim, dtype=x.dtype, device=x.device).view(dim, *(1,) * (x.dim() - 1), dim).expand(dim, *x.shape)
    rows = [field.products(block) for block in unit.split(EXACT_BLOCK)] if dim else [torch.zeros_like(unit)]
    hessian = torch.cat(rows)
    trace = wide(hessian.diagonal(dim1=0, dim2=-1)).sum(-1)
    return HessianTrace(field.value, field.score, trace, unit, hessian, torch.zeros_like(trace))


def _seed(generator: torch.Generator | None) -> int:
    device = None if generator is None else generator.device
    return int(torch.randint(-INT64, INT64 - 1, (), dtype=torch.int64, generator=generator, device=device))


def _check(x: object, probes: object, method: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"hessian_trace: x must be a tensor, but is {type(x).__name__}")
    if not x.is_floating_point() or x.dim() == 0:
        raise RuntimeError(f"hessian_trace: x must be floating with shape (..., D), but is {x.dtype}, {tuple(x.shape)}")
    if method not in METHODS:
        raise ValueError(f"hessian_trace: method must be one of {', '.join(METHODS)}, but is {method!r}")
    if not isinstance(probes, int) or isinstance(probes, bool):
        raise TypeError(f"hessian_trace: probes must be an integer, but is {type(probes).__name__}")
    least = 3 if method == "hutch++" else 1
    if probes < least:
        raise ValueError(f"hessian_trace: probes must be at least {least} for {method}, but is {probes}")
