"""Float64 oracles for the SVGD kernels: direct formulas over all pairs, and gradients pair by pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Pairs:
    """Differences r_ij = x_i - x_j, kernel values and z_ij = s_j + beta r_ij of one batch entry."""

    beta: complex
    r: np.ndarray
    z: np.ndarray
    kappa: np.ndarray
    counted: np.ndarray  # 1 if the pair counts in the trace

    @classmethod
    def of(cls, query: np.ndarray, x: np.ndarray, score: np.ndarray, sigma: complex, itself: bool) -> Pairs:
        beta = 1 / sigma**2
        r = query[:, None] - x[None]
        kappa = np.exp(-beta * (r * r).sum(-1) / 2)
        counted = 1.0 - np.eye(len(x)) if itself else np.ones(kappa.shape)
        return cls(beta, r, score[None] + beta * r, kappa, counted)


def field(query: np.ndarray, x: np.ndarray, score: np.ndarray, sigma: complex, itself: bool):
    """phi and trace."""
    p, (m, dim) = Pairs.of(query, x, score, sigma, itself), x.shape
    phi = (p.kappa[..., None] * p.z).sum(1) / m
    trace = p.beta / m * (p.counted * p.kappa * (dim - (p.r * p.z).sum(-1))).sum(1)
    return phi, trace


def field_grad(query: np.ndarray, x: np.ndarray, score: np.ndarray, sigma: float, itself: bool, g, h):
    """Gradients of sum(g * phi) + sum(h * trace) in query, x and score, and sigma * dL/dsigma."""
    p, (m, dim) = Pairs.of(query, x, score, sigma, itself), x.shape
    h_pair = p.counted * h[:, None]
    value = (g[:, None] * p.z).sum(-1) + p.beta * h_pair * (dim - (p.r * p.z).sum(-1))
    weight = (p.kappa / m)[..., None]
    dr = weight * p.beta * (-p.r * value[..., None] + g[:, None] - h_pair[..., None] * (p.z + p.beta * p.r))
    ds = weight * (g[:, None] - p.beta * h_pair[..., None] * p.r)
    # sigma d/dsigma of beta is -2 beta; kappa, z and the factor of the trace depend on beta.
    square, rz = (p.r**2).sum(-1), (p.r * p.z).sum(-1)
    dbeta = -square / 2 * value + (g[:, None] * p.r).sum(-1) + h_pair * (dim - rz) - p.beta * h_pair * square
    return dr.sum(1), -dr.sum(0), ds.sum(0), -2 * p.beta * (p.kappa / m * dbeta).sum()


def jacobian(x: np.ndarray, score: np.ndarray, sigma: complex) -> np.ndarray:
    """A_i, (M, D, D)."""
    p, (m, dim) = Pairs.of(x, x, score, sigma, True), x.shape
    outer = np.einsum("ij,ija,ijb->iab", p.kappa, p.z, p.r)
    return p.beta / m * ((p.counted * p.kappa).sum(1)[:, None, None] * np.eye(dim) - outer)


def jacobian_grad(x: np.ndarray, score: np.ndarray, sigma: float, adjoint: np.ndarray):
    """Gradients of sum(adjoint * A) in x and score."""
    p, m = Pairs.of(x, x, score, sigma, True), len(x)
    weight = (p.beta / m * p.kappa)[..., None]
    u = np.einsum("iab,ijb->ija", adjoint, p.r)
    w = np.einsum("iba,ijb->ija", adjoint, p.z)
    trace = p.counted * np.trace(adjoint, axis1=1, axis2=2)[:, None] - (p.z * u).sum(-1)
    dr = weight * (-p.beta * p.r * trace[..., None] - p.beta * u - w)
    return dr.sum(1) - dr.sum(0), -(weight * u).sum(0)


def sqnorm(a: np.ndarray, probe: np.ndarray, hvp: np.ndarray):
    """n_i and its derivative in A_i."""
    m = len(a)
    value = (a * a).sum((1, 2)) + 2 / m * np.einsum("iab,ib,ia->i", a, probe, hvp) + (hvp * hvp).sum(1) / m**2
    return value, 2 * a + 2 / m * hvp[:, :, None] * probe[:, None]


def logdet(a: np.ndarray, hessian: np.ndarray, step: float):
    """log |det(I + step J_i)| and its derivatives in A_i and the step."""
    j = a + hessian / len(a)
    matrix = np.eye(a.shape[1]) + step * j
    inverse = np.linalg.inv(matrix)
    return np.linalg.slogdet(matrix)[1], step * inverse.swapaxes(1, 2), np.einsum("iab,iba->i", inverse, j)
