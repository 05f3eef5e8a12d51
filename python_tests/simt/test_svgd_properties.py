"""Properties of the SVGD family's CUDA kernels beyond small errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simt import harness
from simt import svgd_oracle as oracle
from simt.svgd_cases import TYPES
from simt.test_field_kernels import FieldCase, backward_passes, run_backward, run_forward
from simt.test_jacobian_kernels import Case as JacobianCase
from simt.test_jacobian_kernels import run_backward as run_jacobian_backward
from simt.test_jacobian_kernels import run_forward as run_jacobian_forward


def complex_step(loss: Any, array: np.ndarray) -> np.ndarray:
    gradient = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        moved = array.astype(complex)
        moved[index] += 1e-30j
        gradient[index] = loss(moved).imag / 1e-30
    return gradient


@pytest.mark.parametrize("itself", [True, False])
def test_field_oracle(itself: bool) -> None:
    """The oracle's gradients match finite differences of its values."""
    rng = np.random.default_rng(0)
    x, score = rng.standard_normal((2, 5, 3))
    query = x if itself else rng.standard_normal((4, 3))
    g, h, sigma = rng.standard_normal(query.shape), rng.standard_normal(len(query)), 0.9

    def loss(query: np.ndarray, x: np.ndarray, score: np.ndarray, sigma: Any) -> complex:
        phi, trace = oracle.field(query, x, score, sigma, itself)
        return (g * phi).sum() + (h * trace).sum()

    d_query, d_x, d_score, d_sigma = oracle.field_grad(query, x, score, sigma, itself, g, h)
    np.testing.assert_allclose(d_query, complex_step(lambda v: loss(v, x, score, sigma), query), atol=1e-14)
    np.testing.assert_allclose(d_x, complex_step(lambda v: loss(query, v, score, sigma), x), atol=1e-14)
    np.testing.assert_allclose(d_score, complex_step(lambda v: loss(query, x, v, sigma), score), atol=1e-14)
    slope = complex_step(lambda v: loss(query, x, score, v[0]), np.array([sigma]))[0]
    np.testing.assert_allclose(d_sigma, sigma * slope, atol=1e-14)


def test_jacobian_oracle() -> None:
    rng = np.random.default_rng(0)
    (x, score), adjoint = rng.standard_normal((2, 5, 3)), rng.standard_normal((5, 3, 3))
    d_x, d_score = oracle.jacobian_grad(x, score, 0.9, adjoint)
    by_x = complex_step(lambda v: (adjoint * oracle.jacobian(v, score, 0.9)).sum(), x)
    by_score = complex_step(lambda v: (adjoint * oracle.jacobian(x, v, 0.9)).sum(), score)
    np.testing.assert_allclose(d_x, by_x, atol=1e-14)
    np.testing.assert_allclose(d_score, by_score, atol=1e-14)


def forward(case: FieldCase, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    phi, trace = case.empty(*case.query.shape), case.empty(case.batch, case.rows)
    args = case.fields(query=case.query, x=case.x, score=case.score, phi=harness.out(phi), trace=harness.out(trace))
    harness.load("fast").call(f"field_forward.{case.kind}", args, **options)
    return phi, trace


@pytest.mark.parametrize("shape", [(2, 0, 70, 6), (1, 1, 4100, 3), (2, 0, 70, 20)], ids=str)
def test_same_bits_in_any_order(shape: tuple[int, int, int, int]) -> None:
    case = FieldCase("float", shape, 0)
    first = forward(case, seed=0)
    outputs = []
    for seed in range(1, 4):
        for a, b in zip(first, forward(case, seed=seed, preempt=0.05), strict=True):
            np.testing.assert_array_equal(a, b)
        runs = backward_passes(case, False)
        for args, _ in runs:
            harness.load("fast").call("field_backward.float", args, seed=seed, preempt=0.05)
        outputs.append([value for _, out in runs for value in out.values()])
    for other in outputs[1:]:
        for a, b in zip(outputs[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dim", [2, 16, 20])
def test_far_cluster(dim: int) -> None:
    """A cloud shifted by a power of two far beyond its size gives the same numbers, without cancellation."""
    case = FieldCase("float", (1, 0, 40, dim), 0)
    case.x = case.query = np.round(case.x * 256) / np.float32(256)
    near = forward(case)
    case.x = case.query = case.x + np.float32(2**14)
    for a, b in zip(near, forward(case), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dim", [3, 20])
def test_bad_batch_entries_stay_alone(dim: int) -> None:
    """NaN in one batch entry, or a non-positive bandwidth in others, gives NaN there and nowhere else."""
    case = FieldCase("float", (4, 0, 12, dim), 0)
    good = forward(case)
    case.x[1, 3, 1] = np.nan
    case.sigma[2], case.sigma[3] = 0, -1
    for clean, got in zip(good, forward(case), strict=True):
        np.testing.assert_array_equal(got[0], clean[0])
        assert np.isnan(got[1:]).any(axis=tuple(range(1, got.ndim))).all()
        assert np.isnan(got[2:]).all()


def test_narrow_loads() -> None:
    """Seven dimensions, unsuitable for 16-byte loads, give bit-equal results to eight with a zero last dimension."""
    wide_case, narrow_case = (FieldCase("float", (1, 0, 37, 8), 0) for _ in range(2))
    for array in (wide_case.x, wide_case.score):
        array[..., 7] = 0
    narrow_case.dim = 7
    narrow_case.x = narrow_case.query = np.ascontiguousarray(wide_case.x[..., :7])
    narrow_case.score = np.ascontiguousarray(wide_case.score[..., :7])
    np.testing.assert_array_equal(forward(wide_case)[0][..., :7], forward(narrow_case)[0])


def test_blocks_of_columns_and_entries() -> None:
    """With more pairs than the scratch matrix holds, several blocks of columns and batch entries are processed."""
    for shape in ((1, 2, 8200, 17), (514, 0, 2, 17)):
        case = FieldCase("float", shape, 0)
        run_forward(harness.load("fast"), case, step=False)
        run_backward(harness.load("fast"), case, step=False)


@pytest.mark.parametrize("kind", TYPES)
def test_isolated_particles(kind: str) -> None:
    """If no two particles interact, the gradients of x and of the bandwidth cancel exactly."""
    for dim in (4, 20):
        case = FieldCase(kind, (1, 0, 9, dim), 0)
        case.sigma[:] = 1e-3
        (args, out), *_ = backward_passes(case, False)
        harness.load("fast").call(f"field_backward.{kind}", args)
        assert (out["grad_x"] == 0).all()
        np.testing.assert_allclose(out["grad_score"], case.g / TYPES[kind](9), rtol=1e-6)


def budget(result: harness.Result) -> tuple[float, float]:
    """Bytes moved relative to bytes requested (at least one sector per request of a warp), and wavefronts of
    shared-memory reads in inner loops relative to the minimum. Inner loops are the lines read at least an eighth as
    often as the most read one, except in jacobian/cuda/forward.cuh, which is read once per particle."""
    moved = [(32 * c.sectors, max(c.bytes, 32 * c.requests)) for c in result.counters if c.space == "global"]
    loops = [c for c in result.counters if not c.file.endswith("jacobian/cuda/forward.cuh")]
    reads = [c for c in loops if c.space == "shared" and not c.write]
    often = max(c.requests for c in reads) / 8
    inner = [(c.wavefronts, c.least_wavefronts) for c in reads if c.requests >= often]
    (sectors, asked), (wavefronts, least) = (tuple(map(sum, zip(*v, strict=True))) for v in (moved, inner))
    return sectors / asked, wavefronts / least


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("dim", [2, 4, 8, 16, 64])
def test_field_budget(kind: str, dim: int) -> None:
    case = FieldCase(kind, (1, 0, 160, dim), 0)
    checked = harness.load("checked")
    results = [run_forward(checked, case, False, counters=True), *run_backward(checked, case, False, counters=True)]
    for result in results:
        traffic, wavefronts = budget(result)
        assert wavefronts <= 1.05
        assert traffic <= 1.10


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("dim", [2, 4, 8, 16])
def test_jacobian_budget(kind: str, dim: int) -> None:
    case = JacobianCase(kind, (1, 96, dim), "logdet-hessian", 0)
    checked = harness.load("checked")
    for run in (run_jacobian_forward, run_jacobian_backward):
        traffic, wavefronts = budget(run(checked, case, counters=True))
        assert wavefronts <= 1.05
        assert traffic <= 1.10
