"""Properties that hold for any particles: symmetries, coinciding particles, limits of the bandwidth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops.cases import PARTICLES, Inputs, Variant, sample_inputs
from torch import Tensor

from svgdx import ops

PER_PARTICLE = [v for v in PARTICLES if v.op not in ("ksd", "median_distance", "svgd_field")]
SCALARS = [v for v in PARTICLES if v.op in ("ksd", "median_distance")]
EXACT = {"rtol": 1e-9, "atol": 1e-10}

sizes = st.tuples(st.integers(2, 40), st.integers(1, 16))
seeds = st.integers(0, 2**16)


def draw(variant: Variant, size: tuple[int, int], seed: int) -> Inputs:
    return sample_inputs(variant, (2,), *size, seed=seed)


@pytest.mark.parametrize("variant", PARTICLES, ids=str)
@given(size=sizes, seed=seeds, distance=st.floats(-50, 50))
def test_translation(variant: Variant, size: tuple[int, int], seed: int, distance: float) -> None:
    inputs = draw(variant, size, seed)
    moved = {k: v + distance if k in ("x", "query") else v for k, v in inputs.items()}
    before, after = variant(inputs), variant(moved)
    if variant.op == "svgd_step":
        after = (after[0] - distance, after[1])
    for out, expected in zip(after, before, strict=True):
        torch.testing.assert_close(out, expected, **EXACT)


@pytest.mark.parametrize("variant", PARTICLES, ids=str)
@given(size=sizes, seed=seeds)
def test_permutation(variant: Variant, size: tuple[int, int], seed: int) -> None:
    """Permuting the particles permutes their results and leaves all others unchanged."""
    inputs = draw(variant, size, seed)
    order = torch.randperm(size[0])
    per_particle = ("x", "score", "log_q", "hessian_trace", "probe", "hvp", "hessian")
    permuted = {k: v[:, order] if k in per_particle else v for k, v in inputs.items()}
    for out, expected in zip(variant(permuted), variant(inputs), strict=True):
        torch.testing.assert_close(out, expected[:, order] if variant in PER_PARTICLE else expected, **EXACT)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q


@pytest.mark.parametrize("variant", [v for v in PARTICLES if "hessian" not in v.extra], ids=str)
@given(size=sizes, seed=seeds)
def test_rotation(variant: Variant, size: tuple[int, int], seed: int) -> None:
    """Vectors rotate with the coordinates; scalars do not change."""
    inputs = draw(variant, size, seed)
    turn = rotation(size[1])
    turned = {k: v @ turn if k in ("x", "score", "query", "probe", "hvp") else v for k, v in inputs.items()}
    for out, expected in zip(variant(turned), variant(inputs), strict=True):
        is_vector = out.dim() == 3 and out.shape[-1] == size[1]
        torch.testing.assert_close(out, expected @ turn if is_vector else expected, **EXACT)


@given(size=sizes, seed=seeds, scale=st.floats(0.1, 10))
def test_change_of_units(size: tuple[int, int], seed: int, scale: float) -> None:
    """If x and sigma change units, and the score by the inverse, phi scales as 1/x and the trace as 1/x^2."""
    inputs = draw(Variant("svgd_phi_trace"), size, seed)
    phi, trace = ops.svgd_phi_trace(**inputs)
    x, score, bandwidth = inputs["x"] * scale, inputs["score"] / scale, inputs["bandwidth"] * scale
    torch.testing.assert_close(ops.svgd_phi_trace(x, score, bandwidth), (phi / scale, trace / scale**2), **EXACT)
    median = ops.median_distance(inputs["x"])
    torch.testing.assert_close(ops.median_distance(x), median * scale, **EXACT)


@given(size=sizes, seed=seeds)
def test_identical_particles(size: tuple[int, int], seed: int) -> None:
    """If all kernels are 1 and all differences 0, phi is the mean score and t = beta D (M - 1) / M."""
    m, d = size
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, d, generator=generator, dtype=torch.float64).expand(m, d)
    score = torch.randn(m, d, generator=generator, dtype=torch.float64)
    phi, trace = ops.svgd_phi_trace(x, score, 0.5)
    torch.testing.assert_close(phi, score.mean(0).expand(m, d), **EXACT)
    torch.testing.assert_close(trace, torch.full((m,), 4.0 * d * (m - 1) / m, dtype=torch.float64), **EXACT)
    a = 4.0 * (m - 1) / m
    torch.testing.assert_close(
        ops.svgd_jacobian_sqnorm(x, score, 0.5), torch.full((m,), d * a * a, dtype=torch.float64), **EXACT
    )
    logdet = torch.full((m,), d * math.log1p(0.1 * a), dtype=torch.float64)
    torch.testing.assert_close(ops.svgd_logdet(x, score, 0.5, 0.1), logdet, **EXACT)
    assert ops.median_distance(x) == 0


@given(size=sizes, seed=seeds)
def test_infinite_bandwidth(size: tuple[int, int], seed: int) -> None:
    """For a wide kernel phi tends to the mean score and the trace to 0."""
    inputs = {**draw(Variant("svgd_phi_trace"), size, seed), "bandwidth": 1e8}
    phi, trace = ops.svgd_phi_trace(**inputs)
    torch.testing.assert_close(phi, inputs["score"].mean(1, keepdim=True).expand_as(phi), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(trace, torch.zeros_like(trace), rtol=0, atol=1e-12)
    sqnorm = ops.svgd_jacobian_sqnorm(**inputs)
    torch.testing.assert_close(sqnorm, torch.zeros_like(sqnorm), rtol=0, atol=1e-12)


@given(size=sizes, seed=seeds)
def test_vanishing_bandwidth(size: tuple[int, int], seed: int) -> None:
    """For a narrow kernel phi_i = s_i / M and the trace is 0."""
    inputs = draw(Variant("svgd_phi_trace"), size, seed)
    grid = torch.arange(size[0], dtype=torch.float64)[:, None].expand_as(inputs["x"])
    phi, trace = ops.svgd_phi_trace(grid, inputs["score"], 1e-3)
    torch.testing.assert_close(phi, inputs["score"] / size[0], rtol=1e-14, atol=0)
    assert (trace == 0).all()
    assert (ops.svgd_jacobian_sqnorm(grid, inputs["score"], 1e-3) == 0).all()
    assert (ops.svgd_logdet(grid, inputs["score"], 1e-3, 0.5) == 0).all()
    ksd = ops.ksd(grid, inputs["score"], 1e-3)
    torch.testing.assert_close(ksd, torch.zeros_like(ksd), rtol=0, atol=1e-12)


def test_vanishing_bandwidth_at_large_dimension() -> None:
    """The matrix-product route must not leave rounding errors of beta^2 |x|^4 if every kernel value is 0."""
    x, score = torch.randn(2, 16, 40, dtype=torch.float64)
    assert (ops.svgd_jacobian_sqnorm(x, score, 1e-3) == 0).all()


@given(size=sizes, seed=seeds)
def test_field_at_the_particles(size: tuple[int, int], seed: int) -> None:
    """At a particle the field is phi; its divergence includes j = i, which adds beta D / M to the trace."""
    inputs = draw(Variant("svgd_phi_trace"), size, seed)
    phi, trace = ops.svgd_phi_trace(**inputs)
    field, divergence = ops.svgd_field(inputs["x"], **inputs)
    m, d = size
    torch.testing.assert_close(field, phi, **EXACT)
    torch.testing.assert_close(divergence, trace + d / m / inputs["bandwidth"][:, None] ** 2, **EXACT)


@given(size=sizes, seed=seeds)
def test_u_and_v_statistic(size: tuple[int, int], seed: int) -> None:
    """M^2 V = M (M - 1) U + the diagonal; V is a squared norm."""
    inputs = draw(Variant("ksd"), size, seed)
    m, d = size
    u, v = ops.ksd(**inputs, statistic="u"), ops.ksd(**inputs, statistic="v")
    diagonal = inputs["score"].square().sum((-2, -1)) + m * d / inputs["bandwidth"] ** 2
    torch.testing.assert_close(m * m * v, m * (m - 1) * u + diagonal, **EXACT)
    assert (v >= 0).all()


@given(size=sizes, seed=seeds)
def test_sum_of_the_gradients_in_x_vanishes(size: tuple[int, int], seed: int) -> None:
    """Translation invariance, in the gradient."""
    inputs = draw(Variant("svgd_phi_trace"), size, seed)
    x = inputs["x"].requires_grad_()
    phi, trace = ops.svgd_phi_trace(**inputs)
    (phi.sin().sum() + trace.cos().sum()).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum(1), torch.zeros(2, size[1], dtype=torch.float64), rtol=0, atol=1e-10)


def test_svgd_moves_particles_to_a_gaussian() -> None:
    """Many steps on N(2, 1) recover mean and variance and reduce the discrepancy."""
    x = torch.randn(100, 1, dtype=torch.float64)
    log_q = torch.zeros(100, dtype=torch.float64)
    first = ops.ksd(x, 2 - x, 1.0)
    for _ in range(200):
        x, log_q = ops.svgd_step(x, 2 - x, 0.7, 0.2, log_q)
    assert abs(float(x.mean()) - 2) < 0.05
    assert abs(float(x.var()) - 1) < 0.15
    assert ops.ksd(x, 2 - x, 1.0) < 0.02 * first
