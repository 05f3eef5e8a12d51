"""Kernels of SVGD: the direction, its trace and its Jacobian, fused if the kernel is an isotropic Gaussian.

With r = x_i - x_j, u = sum_d (r_d / h_d)^2 and k = f(u) a radial kernel has grad_{x_j} k = w r / h^2, w = -2 f', and
grad_{x_i} w = -v r / h^2, v = -2 w'. For M particles with scores s_j

    phi_i = (1/M) sum_j [k s_j + w r / h^2]
    J_i - H_i / M = (1/M) sum_{j != i} [-w s_j (r / h^2)^T + w diag(1 / h^2) - v (r / h^2) (r / h^2)^T]

where J_i is the derivative of phi_i in x_i with the other particles held fixed, and H_i the Hessian of the log density.

Sources: Liu & Wang, NeurIPS 2016, eq. 8; Messaoud et al., S2AC, ICLR 2024, theorem 3.3.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from svgdx import ops
from svgdx._checks import MAX_LOGDET_DIM
from svgdx.ops.registration import inner
from svgdx.samplers.parameters import Value, as_bandwidth


class Profile(NamedTuple):
    """k, w and v of squared scaled distances u."""

    k: Tensor
    w: Tensor
    v: Tensor


class Interaction(Protocol):
    """A kernel between the particles of this process, (..., M_p, D), and all M particles of their problem."""

    def phi(self, x: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
        """Direction, (..., M_p, D)."""

    def phi_trace(self, x: Tensor, score: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Direction (..., M_p, D) and Tr J_i - Tr H_i / M, (..., M_p)."""

    def step(
        self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, log_q: Tensor, hessian_trace: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x + eps phi, (..., M_p, D), and log q - eps Tr J, (..., M_p)."""

    def sqnorm(self, x: Tensor, score: Tensor, sigma: Tensor, probe: Tensor | None, hvp: Tensor | None) -> Tensor:
        """|J_i|_F^2 (..., M_p) as :func:`svgdx.ops.svgd_jacobian_sqnorm` estimates it from a probe v and H v."""

    def exact_sqnorm(self, x: Tensor, score: Tensor, sigma: Tensor, hessian: Tensor) -> Tensor:
        """|J_i|_F^2 (..., M_p) with the Hessian of the log density, (..., M_p, D, D)."""

    def logdet(self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, hessian: Tensor | None) -> Tensor:
        """log |det(I + eps J_i)|, (..., M_p), for D <= 16."""


class Kernel(nn.Module):
    """A radial kernel and its bandwidth h, one number or one per dimension; subclasses define its profile.

    Without a fused op, everything here takes memory O(M^2), and O(M D^2) for J_i. All M particles are in this process.

    Args:
        bandwidth: a number, one per dimension (D,), one of HEURISTICS, a Value, or a module of the state.
    """

    def __init__(self, bandwidth: str | float | Tensor | Value | nn.Module = "median") -> None:
        super().__init__()
        self.bandwidth = as_bandwidth(bandwidth)

    def profile(self, u: Tensor) -> Profile:
        """k, w and v of squared scaled distances u, of the shape of u."""
        raise NotImplementedError

    def checked(self, sigma: Tensor, x: Tensor) -> Tensor:
        """A bandwidth in the dtype of x: () or (...), or (D,) or (..., D) if it has one number per dimension.

        Raises ValueError for another shape.
        """
        shape = (*x.shape[:-2], x.shape[-1]) if self.bandwidth.per_dimension else x.shape[:-2]
        shared = shape[-1:] if self.bandwidth.per_dimension else ()
        if sigma.shape not in (shape, shared):
            raise ValueError(
                f"SVGD: bandwidth must have shape {tuple(shared)} or {tuple(shape)}, but has {tuple(sigma.shape)}"
            )
        return sigma if sigma.dtype == x.dtype else sigma.to(x.dtype)

    def lengths(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The bandwidth as a length for each dimension, (..., 1, D)."""
        h = sigma.unsqueeze(-2) if self.bandwidth.per_dimension else sigma[..., None, None]
        return h.expand(*h.shape[:-1], x.shape[-1])

    def phi(self, x: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
        """Direction, (..., M, D)."""
        return self._pairs(x, x, score, sigma).phi + score / x.shape[-2]

    def phi_trace(self, x: Tensor, score: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Direction (..., M, D) and Tr J_i - Tr H_i / M, (..., M)."""
        pairs = self._pairs(x, x, score, sigma)
        return pairs.phi + score / x.shape[-2], pairs.trace

    def step(
        self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, log_q: Tensor, hessian_trace: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x + eps phi, (..., M, D), and log q - eps Tr J, (..., M)."""
        phi, trace = self.phi_trace(x, score, sigma)
        if hessian_trace is not None:
            trace = trace + hessian_trace / x.shape[-2]
        return x + eps[..., None, None] * phi, log_q - eps[..., None] * trace

    def sqnorm(self, x: Tensor, score: Tensor, sigma: Tensor, probe: Tensor | None, hvp: Tensor | None) -> Tensor:
        """|J_i|_F^2 (..., M) as :func:`svgdx.ops.svgd_jacobian_sqnorm` estimates it from a probe v and H v."""
        jacobian = self._pairs(x, x, score, sigma).jacobian()
        sqnorm = jacobian.square().sum((-2, -1))
        if probe is None or hvp is None:
            return sqnorm
        h = hvp / x.shape[-2]
        return sqnorm + 2 * ((jacobian @ probe[..., None])[..., 0] * h).sum(-1) + h.square().sum(-1)

    def exact_sqnorm(self, x: Tensor, score: Tensor, sigma: Tensor, hessian: Tensor) -> Tensor:
        """|J_i|_F^2 (..., M) with the Hessian of the log density, (..., M, D, D)."""
        # Unit vectors times sqrt(D) are probes whose mean is |J_i|_F^2 without error.
        dim = x.shape[-1]
        units = dim**0.5 * torch.eye(dim, dtype=x.dtype, device=x.device)
        probe = units.reshape(dim, *(1,) * (x.dim() - 1), dim).expand(dim, *x.shape)
        hvp = dim**0.5 * hessian.movedim(-1, 0)
        of_problems = sigma.dim() > self.bandwidth.per_dimension
        sigma = sigma.expand(dim, *sigma.shape) if of_problems else sigma
        points, scores = x.expand(dim, *x.shape), score.expand(dim, *x.shape)
        return self.sqnorm(points, scores, sigma, probe.contiguous(), hvp.contiguous()).mean(0)

    def logdet(self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, hessian: Tensor | None) -> Tensor:
        """log |det(I + eps J_i)|, (..., M), for D <= 16."""
        return self.logdet_at(x, x, score, sigma, eps, hessian)

    def direction_at(self, query: Tensor, x: Tensor, score: Tensor, sigma: Tensor, query_score: Tensor) -> Tensor:
        """phi_i if particle i alone is moved to query_i, where its score is query_score, (..., M, D)."""
        return self._pairs(query, x, score, sigma).phi + query_score / x.shape[-2]

    def trace_at(self, query: Tensor, x: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
        """Tr J_i - Tr H_i / M if particle i alone is moved to query_i, (..., M)."""
        return self._pairs(query, x, score, sigma).trace

    def logdet_at(
        self, query: Tensor, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, hessian: Tensor | None
    ) -> Tensor:
        """log |det(I + eps J_i)| if particle i alone is moved to query_i, where the Hessian is `hessian`, (..., M).

        Raises ValueError for D > 16.
        """
        if x.shape[-1] > MAX_LOGDET_DIM:
            raise ValueError(f"SVGD: the exact density needs D <= {MAX_LOGDET_DIM}, but D is {x.shape[-1]}")
        jacobian = self._pairs(query, x, score, sigma).jacobian()
        if hessian is not None:
            jacobian = jacobian + hessian / x.shape[-2]
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return torch.linalg.slogdet(identity + eps[..., None, None, None] * jacobian).logabsdet

    def _pairs(self, query: Tensor, x: Tensor, score: Tensor, sigma: Tensor) -> _Pairs:
        return _Pairs(self, query, x, score, self.lengths(x, sigma))


class _Pairs:
    """Sums over all j != i of a kernel between query_i and x_j; h is (..., 1, D)."""

    def __init__(self, kernel: Kernel, query: Tensor, x: Tensor, score: Tensor, h: Tensor) -> None:
        # Centred, so that sums of products lose no digits far from the origin.
        centre = x.detach().mean(-2, keepdim=True)
        self.precision = h.square().reciprocal()
        # q and y: the query and x over h^2.
        self.q, self.y = (query - centre) * self.precision, (x - centre) * self.precision
        a, b = self.q * h, self.y * h
        u = a.square().sum(-1)[..., None] + b.square().sum(-1)[..., None, :] - 2 * a @ b.mT
        off_diagonal = 1 - torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        k, self.w, self.v = (values * off_diagonal for values in kernel.profile(u.clamp_min(0)))
        self.score, self.count = score, x.shape[-2]
        self.w_sum, self.v_sum = self.w.sum(-1, keepdim=True), self.v.sum(-1, keepdim=True)
        self.w_score, self.v_y = self.w @ score, self.v @ self.y
        self.phi = (k @ score + self.q * self.w_sum - self.w @ self.y) / self.count

    @property
    def trace(self) -> Tensor:
        """Tr J_i - Tr H_i / M, (..., M)."""
        of_w = self.w_sum * self.precision.sum(-1, keepdim=True)
        dots = self.w @ (self.y * self.score).sum(-1, keepdim=True)
        of_score = (self.q * self.w_score).sum(-1, keepdim=True) - dots
        of_v = self.q.square().sum(-1, keepdim=True) * self.v_sum - 2 * (self.q * self.v_y).sum(-1, keepdim=True)
        of_v = of_v + self.v @ self.y.square().sum(-1, keepdim=True)
        return ((of_w - of_score - of_v) / self.count).squeeze(-1)

    def jacobian(self) -> Tensor:
        """J_i - H_i / M, (..., M, D, D)."""
        q, v_y = self.q, self.v_y
        of_score = _outer(self.w_score, q) - self._moment(self.w, self.score, self.y)
        of_v = self.v_sum[..., None] * _outer(q, q) - _outer(q, v_y) - _outer(v_y, q)
        of_v = of_v + self._moment(self.v, self.y, self.y)
        of_w = torch.diag_embed(self.w_sum * self.precision)
        return (of_w - of_score - of_v) / self.count

    def _moment(self, weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """sum_j weight_ij left_j right_j^T."""
        return (weight @ _outer(left, right).flatten(-2)).unflatten(-1, (left.shape[-1], -1))


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left[..., :, None] * right[..., None, :]


class RBF(Kernel):
    """k = exp(-u / 2). If one bandwidth serves all dimensions, every step is a fused op in memory O(M)."""

    def profile(self, u: Tensor) -> Profile:
        k = torch.exp(-0.5 * u)
        return Profile(k, k, k)

    def phi(self, x: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
        if not self.bandwidth.per_dimension:
            return ops.svgd_phi(x, score, sigma)
        h = sigma.unsqueeze(-2)
        return ops.svgd_phi(x / h, score * h, 1.0) / h

    def phi_trace(self, x: Tensor, score: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        if self.bandwidth.per_dimension:
            return _scaled_phi_trace(x, score, sigma.unsqueeze(-2))
        return ops.svgd_phi_trace(x, score, sigma)

    def step(
        self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, log_q: Tensor, hessian_trace: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.bandwidth.per_dimension:
            return super().step(x, score, sigma, eps, log_q, hessian_trace)
        return ops.svgd_step(x, score, sigma, eps, log_q, hessian_trace)

    def sqnorm(self, x: Tensor, score: Tensor, sigma: Tensor, probe: Tensor | None, hvp: Tensor | None) -> Tensor:
        if self.bandwidth.per_dimension:
            return super().sqnorm(x, score, sigma, probe, hvp)
        return ops.svgd_jacobian_sqnorm(x, score, sigma, probe, hvp)

    def logdet(self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, hessian: Tensor | None) -> Tensor:
        if self.bandwidth.per_dimension:
            return super().logdet(x, score, sigma, eps, hessian)
        return ops.svgd_logdet(x, score, sigma, eps, hessian)

    def direction_at(self, query: Tensor, x: Tensor, score: Tensor, sigma: Tensor, query_score: Tensor) -> Tensor:
        if self.bandwidth.per_dimension:
            return super().direction_at(query, x, score, sigma, query_score)
        if _is_plain(query, x, score, query_score, sigma):
            phi, _ = _moved(query, x, score, sigma, query_score)
            return phi
        return direction_by_torch(query, x, score, sigma, query_score)

    def trace_at(self, query: Tensor, x: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
        if self.bandwidth.per_dimension:
            return super().trace_at(query, x, score, sigma)
        if _is_plain(query, x, score, sigma):
            _, trace = _moved(query, x, score, sigma, None)
            return trace
        return trace_by_torch(query, x, score, sigma)


class InverseMultiquadric(Kernel):
    """k = (1 + u)^(-1/2), whose tails decay slowly, so that distant particles still interact.

    Source: Gorham & Mackey, Measuring Sample Quality with Kernels, ICML 2017.
    """

    def profile(self, u: Tensor) -> Profile:
        k = torch.rsqrt(1 + u)
        w = k / (1 + u)
        return Profile(k, w, 3 * w / (1 + u))


def _is_plain(*tensors: Tensor) -> bool:
    """Whether the inner op takes these tensors, and no gradient is asked of it."""
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not needs_grad and inner.serves(*tensors)


def _moved(query: Tensor, x: Tensor, score: Tensor, sigma: Tensor, query_score: Tensor | None) -> tuple[Tensor, Tensor]:
    """`RBF.direction_at`, without the score at the query if it is None, and `RBF.trace_at`."""
    query_score = None if query_score is None else query_score.contiguous()
    with torch._C._AutoDispatchBelowAutograd():
        phi, trace = torch.ops.svgdx_inner.chain_moved.default(query.contiguous(), x, score, sigma, query_score)
    return phi, trace


def direction_by_torch(query: Tensor, x: Tensor, score: Tensor, sigma: Tensor, query_score: Tensor) -> Tensor:
    """`RBF.direction_at` in differentiable operations."""
    field, _ = ops.svgd_field(query, x, score, sigma)
    kernel, z, _ = _own_pair(query, x, score, sigma)
    return field + (query_score - kernel * z) / x.shape[-2]


def trace_by_torch(query: Tensor, x: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
    """`RBF.trace_at` in differentiable operations."""
    _, divergence = ops.svgd_field(query, x, score, sigma)
    kernel, z, offset = _own_pair(query, x, score, sigma)
    beta = sigma.square().reciprocal()[..., None]
    own = kernel.squeeze(-1) * x.shape[-1] - (offset * (kernel * z)).sum(-1)
    return divergence - beta * own / x.shape[-2]


def _own_pair(query: Tensor, x: Tensor, score: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A particle and its own old position: the kernel (..., M, 1), z = s + r / sigma^2 and r, each (..., M, D)."""
    offset = query - x
    beta = sigma.square().reciprocal()[..., None, None]
    kernel = torch.exp(-0.5 * beta * offset.square().sum(-1, keepdim=True))
    return kernel, score + beta * offset, offset


def _scaled_phi_trace(x: Tensor, score: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """phi and trace with a bandwidth per dimension, h (..., 1, D), from one fused op.

    In y = x / h the kernel is isotropic. Additional columns, which are zero in y and do not change the kernel, carry
    the other sums over j that the trace needs: of kappa y_j, kappa, kappa |y_j / h|^2 and kappa (y_j / h) . s_j.
    """
    dim = x.shape[-1]
    y = (x - x.detach().mean(-2, keepdim=True)) / h
    scaled = y / h
    sums = [scaled.square().sum(-1, keepdim=True), (scaled * score).sum(-1, keepdim=True)]
    features = torch.cat([score * h, y, torch.ones_like(sums[0]), *sums], -1)
    points = nn.functional.pad(y, (0, features.shape[-1] - dim))
    phi, of_y, mass, of_square, of_score = ops.svgd_phi(points, features, 1.0).split([dim, dim, 1, 1, 1], -1)
    of_scaled_score = phi - (y * mass - of_y)
    square = scaled.square().sum(-1, keepdim=True) * mass - 2 * (scaled / h * of_y).sum(-1, keepdim=True) + of_square
    dots = (scaled / h * of_scaled_score).sum(-1, keepdim=True) - of_score
    precision = h.square().reciprocal().sum(-1, keepdim=True)
    trace = precision * (mass - 1 / x.shape[-2]) - square - dots
    return phi / h, trace.squeeze(-1)


@inner.fake("chain_moved")
def _moved_fake(query: Tensor, x: Tensor, *_: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[:-1])
