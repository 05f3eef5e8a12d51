"""The CUDA kernels of the median distance and of row sums on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simt import harness
from simt.svgd_cases import SCHEDULES, TYPES, draw, wide

# batch, particles, dim
SHAPES = [(1, 1, 1), (1, 2, 3), (3, 65, 2), (2, 64, 17), (1, 200, 1), (1, 131, 33)]
CHECKED = [(2, 1, 1), (2, 66, 3), (1, 5, 20)]


def median(simt: harness.Simt, kind: str, x: np.ndarray, **options: Any) -> tuple[np.ndarray, harness.Result]:
    out = np.full(len(x), -1, TYPES[kind])
    return out, simt.call(f"median_distance.{kind}", *x.shape, x, harness.out(out), **options)


def expected_median(x: np.ndarray) -> np.ndarray:
    """Lower median of all distances, each summed in the kernel's type and order of dimensions."""
    batch, m, dim = x.shape
    square = np.zeros((batch, m, m))
    with np.errstate(invalid="ignore"):
        for d in range(dim):
            r = wide(x[:, :, None, d]) - wide(x[:, None, :, d])
            square += r * r
    return np.sqrt(np.sort(square.reshape(batch, -1))[:, (m * m - 1) // 2])


def run_median(simt: harness.Simt, kind: str, shape: tuple[int, int, int], seed: int, **options: Any) -> harness.Result:
    x = draw(np.random.default_rng(seed), kind, *shape)
    if seed == 1:
        x = np.round(x)  # many equal distances
    out, result = median(simt, kind, x, seed=seed, **options)
    np.testing.assert_allclose(out, expected_median(x), rtol=4 * np.finfo(TYPES[kind]).eps)
    return result


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_median(kind: str, shape: tuple[int, int, int]) -> None:
    for seed in range(3):
        run_median(harness.load("fast"), kind, shape, seed)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", CHECKED, ids=str)
def test_median_checked(kind: str, shape: tuple[int, int, int]) -> None:
    for seed, preempt in SCHEDULES:
        run_median(harness.load("checked"), kind, shape, seed, preempt=preempt).check()


def test_median_of_many_batches() -> None:
    """Works with more batch entries than one round of scratch holds."""
    run_median(harness.load("fast"), "float", (1026, 3, 1), 0)


@pytest.mark.parametrize("kind", TYPES)
def test_median_extremes(kind: str) -> None:
    """Works for identical particles, huge and tiny distances, NaN in one batch entry, and infinity."""
    x = draw(np.random.default_rng(0), kind, 5, 9, 3)
    x[0] = 2.5
    x[1] *= TYPES[kind](np.finfo(TYPES[kind]).tiny ** 0.4)
    x[2] *= TYPES[kind](np.finfo(TYPES[kind]).max ** 0.4)
    x[3, 4, 1] = np.nan
    x[4, 5, 0] = np.inf
    out, _ = median(harness.load("fast"), kind, x)
    assert out[0] == 0
    np.testing.assert_allclose(out[1:3], expected_median(x)[1:3], rtol=1e-5)
    assert np.isnan(out[3])
    assert np.isnan(out[4])  # infinity minus itself


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("build", ["fast", "checked"])
def test_row_sum(build: str, kind: str) -> None:
    simt = harness.load(build)
    for seed, (batch, n) in enumerate([(1, 1), (3, 31), (2, 256), (4, 1000)]):
        rng = np.random.default_rng(seed)
        values, divisor = draw(rng, kind, batch, n), draw(rng, kind, batch)
        for numbers, stride in ((None, 0), (divisor, 1), (divisor[:1], 0)):
            out = np.full(batch, np.nan, TYPES[kind])
            result = simt.call(f"row_sum.{kind}", batch, n, values, 0.5, numbers, stride, harness.out(out), seed=seed)
            result.check()
            total = 0.5 * wide(values).sum(1) / (1 if numbers is None else wide(numbers))
            bound = 8 * np.finfo(TYPES[kind]).eps * np.abs(values).sum(1) / (1 if numbers is None else np.abs(numbers))
            assert (np.abs(out - total) <= bound).all()
