"""The kernels of random numbers on the host: the CPU library's bits, and those of an independent Philox."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from simt import gfn_oracle as oracle
from simt import harness

from svgdx import ops

DTYPES = {"float": torch.float32, "double": torch.float64, "Bf16": torch.bfloat16, "Fp16": torch.float16}
SEEDS = [(0, 0), (-1, -1), (2**40 + 7, 2**33), (2**63 - 1, -(2**63))]
# Less than a tile, a tile, several blocks of threads.
COUNTS = [1, 31, 64, 129, 4099]


def run(build: str, op: str, kind: str, count: int, key: dict[str, Any], **options: Any) -> np.ndarray:
    numbers = np.zeros(count, np.int64 if op == "integers" else oracle.store(kind, np.zeros(1)).dtype)
    fields = {"count": count, **key, "out": harness.out(numbers)}
    name = op if op == "integers" else f"{op}.{kind}"
    fields |= {"bound": 1000} if op == "integers" else {}
    harness.load(build).call(name, fields, **options).check()
    return numbers


def expected(op: str, kind: str, count: int, seed: int, offset: int) -> np.ndarray:
    """The CPU library's bits."""
    if op == "integers":
        return ops.integers(torch.empty(count), 1000, seed, offset).numpy()
    numbers = getattr(ops, op)(torch.empty(count, dtype=DTYPES[kind]), seed, offset)
    return oracle.store(kind, numbers.double().numpy())


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("op", ["uniform", "normal", "integers"])
def test_numbers(op: str, kind: str) -> None:
    for count in COUNTS:
        for seed, offset in SEEDS:
            numbers = run("fast", op, kind, count, {"seed": seed, "offset": offset})
            np.testing.assert_array_equal(numbers, expected(op, kind, count, seed, offset))


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("op", ["uniform", "normal", "integers"])
def test_numbers_of_a_key_checked(op: str, kind: str) -> None:
    key = np.array([-3, 5], np.int64)
    for count in (0, 65, 1100):
        for seed, preempt in ((0, 0.0), (1, 0.05)):
            fields = {"seed": 9, "offset": 2, "key": key}
            numbers = run("checked", op, kind, count, fields, seed=seed, preempt=preempt)
            np.testing.assert_array_equal(numbers, expected(op, kind, count, -3, 7))


def test_uniforms_of_an_independent_philox() -> None:
    numbers = run("fast", "uniform", "float", 256, {"seed": -5, "offset": 2**40})
    words = np.array([oracle.philox(-5, block, 2**40) for block in range(64)])
    tiles = [np.concatenate([words[tile : tile + 32, word] for word in range(4)]) for tile in (0, 32)]
    np.testing.assert_array_equal(numbers, (np.concatenate(tiles) >> 8) * np.float32(2.0**-24))
