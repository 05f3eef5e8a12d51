"""Kernels of SVGD: the direction, its trace and its Jacobian, fused where the kernel is an isotropic Gaussian.

With r = x_i - x_j, u = sum_d (r_d / h_d)^2 and k = f(u) a radial kernel has grad_{x_j} k = w r / h^2, w = -2 f', and
grad_{x_i} w = -v r / h^2, v = -2 w'. For M particles with scores s_j

    phi_i = (1/M) sum_j [k s_j + w r / h^2]
    J_i - H_i / M = (1/M) sum_{j != i} [-w s_j (r / h^2)^T + w diag(1 / h^2) - v (r / h^2) (r / h^2)^T]

where J_i is the derivative of phi_i in x_i with the other particles held fixed, H_i the Hessian of log density.
Sources: Liu & Wang, NeurIPS 2016, eq. 8; Messaoud et al., S2AC, ICLR 2024, theorem 3.3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from svgdx import ops
from svgdx._checks import MAX_LOGDET_DIM
from svgdx.samplers.bandwidths import as_bandwidth
from svgdx.samplers.values import Value


class Profile(NamedTuple):
    """k, w and v of squared scaled distances u."""

    k: Tensor
    w: Tensor
    v: Tensor


class Kernel(nn.Module):
    """A radial kernel and its bandwidth h, one number or one for each dimension; sub-classes give its profile.

    Args:
        bandwidth: a number, one for each dimension (D,), one of HEURISTICS, a Value, or a module of the state.

    Everything here works in memory O(M^2), with J_i in O(M D^2).
    """

    def __init__(self, bandwidth: str | float | Tensor | Value | nn.Module = "median") -> None:
        super().__init__()
        self.bandwidth = as_bandwidth(bandwidth)

    def profile(self, u: Tensor) -> Profile:
        raise NotImplementedError

    def checked(self, sigma: Tensor, x: Tensor) -> Tensor:
        """A bandwidth in the dtype of x: (), (...), or with one for each dimension (D,) or (..., D)."""
        shape = (*x.shape[:-2], x.shape[-1]) if self.bandwidth.per_dimension else x.shape[:-2]
        small = shape[-1:] if self.bandwidth.per_dimension else ()
        if sigma.shape not in (shape, small):
            raise ValueError(f"SVGD: bandwidth must have shape {tuple(small)} or {tuple(shape)}, but has {sigma.shape}")
        return sigma if sigma.dtype == x.dtype else sigma.to(x.dtype)

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
        """|J_i|_F^2 (..., M) as `ops.svgd_jacobian_sqnorm` estimates it from a probe and H times the probe."""
        a = self._pairs(x, x, score, sigma).jacobian()
        found = a.square().sum((-2, -1))
        if probe is None or hvp is None:
            return found
        h = hvp / x.shape[-2]
        return found + 2 * ((a @ probe[..., None])[..., 0] * h).sum(-1) + h.square().sum(-1)

    def logdet(self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, hessian: Tensor | None) -> Tensor:
        """log |det(I + eps J_i)|, (..., M), for D <= 16."""
        return self.logdet_at(x, x, score, sigma, eps, hessian)

    def direction_at(self, query: Tensor, x: Tensor, score: Tensor, sigma: Tensor, query_score: Tensor) -> Tensor:
        """phi_i where particle i alone is moved to query_i, (..., M, D); its score there is query_score."""
        return self._pairs(query, x, score, sigma).phi + query_score / x.shape[-2]

    def trace_at(self, query: Tensor, x: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
        """Tr J_i - Tr H_i / M where particle i alone is moved to query_i, (..., M)."""
        return self._pairs(query, x, score, sigma).trace

    def logdet_at(
        self, query: Tensor, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, hessian: Tensor | None
    ) -> Tensor:
        """log |det(I + eps J_i)| where particle i alone is moved to query_i, whose Hessian is given, (..., M)."""
        if x.shape[-1] > MAX_LOGDET_DIM:
            raise ValueError(f"SVGD: the exact density needs D <= {MAX_LOGDET_DIM}, but D is {x.shape[-1]}")
        jacobian = self._pairs(query, x, score, sigma).jacobian()
        if hessian is not None:
            jacobian = jacobian + hessian / x.shape[-2]
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return torch.linalg.slogdet(identity + eps[..., None, None, None] * jacobian).logabsdet

    def _pairs(self, query: Tensor, x: Tensor, score: Tensor, sigma: Tensor) -> _Pairs:
        h = sigma.unsqueeze(-2) if self.bandwidth.per_dimension else sigma[..., None, None]
        return _Pairs(self, query, x, score, h.expand(*h.shape[:-1], x.shape[-1]))


class _Pairs:
    """Sums over all j != i of a kernel between query_i and x_j; h is (..., 1, D)."""

    def __init__(self, kernel: Kernel, query: Tensor, x: Tensor, score: Tensor, h: Tensor) -> None:
        # Around the mean, so that sums of products lose no digits far from the origin.
        centre = x.detach().mean(-2, keepdim=True)
        self.precision = h.square().reciprocal()
        self.at, self.to = (query - centre) * self.precision, (x - centre) * self.precision
        a, b = self.at * h, self.to * h
        u = a.square().sum(-1)[..., None] + b.square().sum(-1)[..., None, :] - 2 * a @ b.mT
        others = 1 - torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        k, self.w, self.v = (each * others for each in kernel.profile(u.clamp_min(0)))
        self.score, self.count = score, x.shape[-2]
        self.w_sum, self.v_sum = self.w.sum(-1, keepdim=True), self.v.sum(-1, keepdim=True)
        self.w_score, self.v_to = self.w @ score, self.v @ self.to
        self.phi = (k @ score + self.at * self.w_sum - self.w @ self.to) / self.count

    @property
    def trace(self) -> Tensor:
        of_w = self.w_sum * self.precision.sum(-1, keepdim=True)
        dots = self.w @ (self.to * self.score).sum(-1, keepdim=True)
        of_score = (self.at * self.w_score).sum(-1, keepdim=True) - dots
        of_v = self.at.square().sum(-1, keepdim=True) * self.v_sum - 2 * (self.at * self.v_to).sum(-1, keepdim=True)
        of_v = of_v + self.v @ self.to.square().sum(-1, keepdim=True)
        return ((of_w - of_score - of_v) / self.count).squeeze(-1)

    def jacobian(self) -> Tensor:
        """J_i - H_i / M, (..., M, D, D)."""
        at, v_to = self.at, self.v_to
        of_score = _outer(self.w_score, at) - self._moment(self.w, self.score, self.to)
        of_v = self.v_sum[..., None] * _outer(at, at) - _outer(at, v_to) - _outer(v_to, at)
        of_v = of_v + self._moment(self.v, self.to, self.to)
        of_w = torch.diag_embed(self.w_sum * self.precision)
        return (of_w - of_score - of_v) / self.count

    def _moment(self, weight: Tensor, one: Tensor, other: Tensor) -> Tensor:
        """sum_j weight_ij one_j other_j^T."""
        return (weight @ _outer(one, other).flatten(-2)).unflatten(-1, (one.shape[-1], -1))


def _outer(one: Tensor, other: Tensor) -> Tensor:
    return one[..., :, None] * other[..., None, :]


class RBF(Kernel):
    """k = exp(-u / 2). With one bandwidth for all dimensions every step is a fused op, in memory O(M)."""

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


class InverseMultiquadric(Kernel):
    """k = (1 + u)^(-1/2), whose tails decay slowly: far particles go on feeling each other.

    Source: Gorham & Mackey, Measuring Sample Quality with Kernels, ICML 2017.
    """

    def profile(self, u: Tensor) -> Profile:
        k = torch.rsqrt(1 + u)
        w = k / (1 + u)
        return Profile(k, w, 3 * w / (1 + u))


def _scaled_phi_trace(x: Tensor, score: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """phi and trace with a bandwidth for each dimension, h (..., 1, D), by one fused op.

    In y = x / h the kernel is isotropic. Columns that are zero in y leave it as it is and carry the other sums over j
    that the trace needs: of kappa y_j, kappa, kappa |y_j / h|^2 and kappa (y_j / h) . s_j.
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
