"""Shared by the tests of the SVGD family's kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

TYPES = {"float": np.float32, "double": np.float64}
TOLERANCE = {"float": 4e-6, "double": 2e-14}
SCHEDULES = [(0, 0.0), (1, 0.05), (2, 0.05)]
Run = dict[str, Any]


def draw(rng: np.random.Generator, kind: str, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(TYPES[kind])


def wide(array: np.ndarray | None) -> Any:
    return None if array is None else array.astype(np.float64)


def assert_close(got: np.ndarray, expected: np.ndarray, kind: str, scale: float = 0.0, factor: float = 1.0) -> None:
    """Error relative to the largest number of a batch entry, or to `scale` if the summed terms are larger."""
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    size = np.abs(expected).reshape(len(expected), -1).max(1)
    error = np.abs(got - expected).reshape(len(expected), -1).max(1)
    assert (error <= factor * TOLERANCE[kind] * np.maximum(size, max(scale, 1e-3))).all(), (error, size)
