"""The SVGD ops on sharded particles. Arguments and results are those of :mod:`svgdx.ops`, for this rank's shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from svgdx import _checks, samplers
from svgdx._checks import Scalar, compute_dtype, wide
from svgdx.distributed.blocks import Field, Pairs, gaussian, logdet_of, sqnorm_of
from svgdx.distributed.ring import ring_sum
from svgdx.distributed.shards import Shards, agree
from svgdx.ops.registration.dispatch import OPS

Group = dist.ProcessGroup

# Memory for Jacobians, of D^2 numbers each, in multiples of the shard's M_p D numbers.
JACOBIAN_SHARDS = 16


def svgd_phi(x: Tensor, score: Tensor, bandwidth: Scalar, group: Group | None = None) -> Tensor:
    """Computes :func:`svgdx.ops.svgd_phi` of all M particles for those of this rank, (..., M_p, D).

    It takes one round of the ring.

    Args:
        x, score: this rank's particles and scores, (..., M_p, D); float32, float64, bfloat16 or float16.
        bandwidth: sigma > 0, the same on every rank: a number, a 0-d tensor or one per batch row, (...).
        group: the process group; None is the default one.

    Raises:
        TypeError, ValueError, RuntimeError: as the op, on every rank, naming the rank whose input is refused; and
            RuntimeError if a rank is missing until the group's timeout.

    Source: Liu & Wang, Stein Variational Gradient Descent, NeurIPS 2016, eq. 8.
    """
    return _field("svgd_phi", x, score, bandwidth, group)[0].to(x.dtype)


def svgd_phi_trace(x: Tensor, score: Tensor, bandwidth: Scalar, group: Group | None = None) -> tuple[Tensor, Tensor]:
    """Computes :func:`svgdx.ops.svgd_phi_trace` of all M particles for this rank's, (..., M_p, D) and (..., M_p).

    It takes one round of the ring. Arguments and errors as in :func:`svgd_phi`.
    """
    phi, trace, _ = _field("svgd_phi_trace", x, score, bandwidth, group)
    return phi.to(x.dtype), trace.to(x.dtype)


def svgd_step(
    x: Tensor,
    score: Tensor,
    bandwidth: Scalar,
    step_size: Scalar,
    log_q: Tensor,
    hessian_trace: Tensor | None = None,
    group: Group | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes :func:`svgdx.ops.svgd_step` of all M particles for this rank's, (..., M_p, D) and (..., M_p).

    It takes one round of the ring.

    Args:
        x, score, bandwidth, group: as in :func:`svgd_phi`.
        step_size: eps, the same on every rank: a number, a 0-d tensor or one per batch row, (...).
        log_q, hessian_trace: of this rank's particles, (..., M_p).

    Errors as in :func:`svgd_phi`.
    """
    op, others = "svgd_step", {"log_q": log_q, "hessian_trace": hessian_trace}
    phi, trace, shards = _field(op, x, score, bandwidth, group, (step_size, log_q, hessian_trace), others)
    if hessian_trace is not None:
        trace = trace + hessian_trace / shards.total
    eps = _number(op, "step_size", step_size, x, positive=False)[..., None]
    return (x + eps[..., None] * phi).to(x.dtype), (log_q - eps * trace).to(log_q.dtype)


def svgd_jacobian_sqnorm(
    x: Tensor,
    score: Tensor,
    bandwidth: Scalar,
    probe: Tensor | None = None,
    hvp: Tensor | None = None,
    group: Group | None = None,
) -> Tensor:
    """Computes :func:`svgdx.ops.svgd_jacobian_sqnorm` of all M particles for those of this rank, (..., M_p).

    |J_i|_F^2 is not a sum over blocks, but J_i is. Its D^2 numbers are computed for as many particles at a time as fit
    into 16 M_p D numbers. That takes one round of the ring for D <= 16, ceil(D / 16) for larger D, and O(M M_p D^2)
    work: per transferred number as much as :func:`svgd_phi`. The Gram matrices that the single-process op uses for
    large D would need M^2 work per particle and every pair of blocks on every rank, which is more if M > D^2, the case
    for which sharding pays. If a gradient is needed, all Jacobians are kept, M_p D^2 numbers.

    Args:
        x, score, bandwidth, group: as in :func:`svgd_phi`.
        probe, hvp: of this rank's particles, (..., M_p, D).

    Errors as in :func:`svgd_phi`.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """
    op = "svgd_jacobian_sqnorm"
    shards = _agree(op, x, score, bandwidth, group, (probe, hvp), {"probe": probe, "hvp": hvp})
    sqnorms = []
    for rows, jacobian in _jacobians(op, x, score, bandwidth, shards):
        v, h = (None if vector is None else wide(vector[..., rows, :]) for vector in (probe, hvp))
        sqnorms.append(sqnorm_of(jacobian, v, h, shards.total))
    return torch.cat(sqnorms, -1).to(x.dtype)


def svgd_logdet(
    x: Tensor,
    score: Tensor,
    bandwidth: Scalar,
    step_size: Scalar,
    hessian: Tensor | None = None,
    group: Group | None = None,
) -> Tensor:
    """Computes :func:`svgdx.ops.svgd_logdet` of all M particles for those of this rank, (..., M_p), for D <= 16.

    It takes one round of the ring and memory O(M_p D^2).

    Args:
        x, score, bandwidth, group: as in :func:`svgd_phi`.
        step_size: as in :func:`svgd_step`.
        hessian: of this rank's particles, (..., M_p, D, D).

    Errors as in :func:`svgd_phi`.
    """
    op = "svgd_logdet"
    shards = _agree(op, x, score, bandwidth, group, (step_size, hessian), {"hessian": hessian})
    eps = _number(op, "step_size", step_size, x, positive=False)
    logdets = []
    for rows, jacobian in _jacobians(op, x, score, bandwidth, shards):
        rows_hessian = None if hessian is None else wide(hessian[..., rows, :, :])
        logdets.append(logdet_of(jacobian, rows_hessian, eps, shards.total))
    return torch.cat(logdets, -1).to(x.dtype)


def step_bound(sqnorm: Tensor, group: Group | None = None) -> Tensor:
    """Computes eps_UB = 1 / max_i |J_i|_F of all particles, (...), from this rank's squared norms (..., M_p).

    Below it x -> x + eps phi is invertible. The result is detached, and a NaN on any rank makes it NaN on all.

    Raises RuntimeError as :func:`svgd_phi`.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """
    shards = agree("step_bound", group, {"sqnorm": sqnorm.detach().unsqueeze(-1)})
    return samplers.step_bound(shards.max(sqnorm).unsqueeze(-1))


def ksd(x: Tensor, score: Tensor, bandwidth: Scalar, statistic: str = "u", group: Group | None = None) -> Tensor:
    """Computes :func:`svgdx.ops.ksd` of all M particles, (...), the same on every rank, in one round of the ring.

    Args:
        x, score, bandwidth, group: as in :func:`svgd_phi`.
        statistic: "u" or "v".

    Errors as in :func:`svgd_phi`, and ValueError for another statistic.

    Source: Liu, Lee & Jordan, A Kernelized Stein Discrepancy for Goodness-of-fit Tests, ICML 2016, theorem 3.6; its sum
    over j of u_ij is s_i . phi_i + t_i.
    """
    op = "ksd"

    def check() -> None:
        if statistic not in ("u", "v"):
            raise ValueError(f'svgdx.distributed.ksd: statistic must be "u" or "v", but is {statistic!r}')

    # A shard may have one particle, so that its check is that of the V-statistic.
    phi, trace, shards = _field(op, x, score, bandwidth, group, (False,), None, check, {"statistic": statistic})
    if statistic == "u" and shards.total == 1:
        raise RuntimeError("svgdx.distributed.ksd: x must have at least 2 particles for the U-statistic, but has 1")
    if shards.total == 0:
        return x.new_zeros(x.shape[:-2])
    scores, precision = wide(score), _number(op, "bandwidth", bandwidth, x) ** -2
    if statistic == "v":
        # Inside each particle's summand, so that every rank gets its share of the gradient.
        summand = (scores * phi).sum(-1) + trace + x.shape[-1] * precision.unsqueeze(-1) / shards.total
        return shards.mean(summand).to(x.dtype)
    summand = (scores * (phi - scores / shards.total)).sum(-1) + trace
    return (shards.mean(summand) * (shards.total / (shards.total - 1))).to(x.dtype)


def _field(
    op: str,
    x: Tensor,
    score: Tensor,
    bandwidth: Scalar,
    group: Group | None,
    arguments: Sequence[object] = (),
    others: dict[str, Tensor | None] | None = None,
    check: Callable[[], None] = lambda: None,
    facts: dict[str, object] | None = None,
) -> tuple[Tensor, Tensor, Shards]:
    """phi and the kernel part of Tr J in the compute dtype, and the shards. Collective."""
    shards = _agree(op, x, score, bandwidth, group, arguments, others, check, facts)
    sigma = _number(op, "bandwidth", bandwidth, x)
    phi, trace = ring_sum(Field(shards.total), shards, x, score, slice(0, x.shape[-2]), sigma)
    return phi, trace, shards


def _jacobians(op: str, x: Tensor, score: Tensor, bandwidth: Scalar, shards: Shards) -> Iterator[tuple[slice, Tensor]]:
    """Yields J_i - H_i / M of this rank's particles, (..., Q, D, D), for as many at a time as the memory allows."""
    sigma = _number(op, "bandwidth", bandwidth, x)
    h = sigma[..., None, None].expand(*sigma.shape, 1, x.shape[-1])
    block = Pairs(gaussian, shards.total, jacobian=True)
    for rows in jacobian_rows(x, shards):
        yield rows, ring_sum(block, shards, x, score, rows, h)[0]


def jacobian_rows(x: Tensor, shards: Shards) -> list[slice]:
    """The particles of this rank whose Jacobians are in memory together; the number of slices is that of all ranks."""
    step = max(1, JACOBIAN_SHARDS * shards.largest // max(1, x.shape[-1]))
    count = x.shape[-2]
    return [slice(min(first, count), min(first + step, count)) for first in range(0, max(1, shards.largest), step)]


def _agree(
    op: str,
    x: Tensor,
    score: Tensor,
    bandwidth: Scalar,
    group: Group | None,
    arguments: Sequence[object] = (),
    others: dict[str, Tensor | None] | None = None,
    check: Callable[[], None] = lambda: None,
    facts: dict[str, object] | None = None,
) -> Shards:
    """Checks this rank's arguments, compares them with those of the other ranks, and counts all particles.

    ``arguments`` are those of the op after the bandwidth; ``others`` are the tensors among them that are sharded.
    """

    def all_checks() -> None:
        OPS[op].check(x, score, bandwidth, *arguments)
        _number(op, "bandwidth", bandwidth, x)
        check()

    shared = {"bandwidth": bandwidth} if isinstance(bandwidth, Tensor) else {}
    plain = {} if isinstance(bandwidth, Tensor) else {"bandwidth": bandwidth}
    sharded = {"x": x, "score": score, **(others or {})}
    return agree(op, group, sharded, shared, all_checks, {**plain, **(facts or {})})


def _number(op: str, name: str, value: Scalar, x: Tensor, positive: bool = True) -> Tensor:
    """A bandwidth or step size as a tensor in the compute dtype on the device of x, () or (...)."""
    if not isinstance(value, Tensor):
        return torch.tensor(_checks.number(op, name, value, positive), dtype=compute_dtype(x), device=x.device)
    if positive and value.device.type == "cpu" and not bool((value > 0).all()):
        _checks.fail(op, f"{name} must be positive, but is {value.detach()}")
    return value.to(device=x.device, dtype=compute_dtype(x))
