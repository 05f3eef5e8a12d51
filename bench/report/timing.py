"""Times of a call: wall time and CPU time of the same rounds, on one core with one thread (bench/conftest.py).

The variable SVGDX_BENCH_SECONDS sets how long a call is repeated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

# A brief run leaves out what is not a time.
BRIEF = "SVGDX_BENCH_SECONDS" in os.environ
# How long the calls of an entry are repeated.
SECONDS = {"cpu": float(os.environ.get("SVGDX_BENCH_SECONDS", "2")), "cuda": 0.2}
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def time_calls(benchmark: Any, device: str, work: Callable[[], object], flops: float | None = None) -> None:
    """Times repeated calls; the entry also gets the least CPU time of a call, in seconds.

    Args:
        flops: floating-point operations of the call's matrix products, for their time at the chip's best rate.
    """
    seconds: list[float] = []

    def call() -> None:
        before = time.process_time_ns()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(1e-9 * (time.process_time_ns() - before))

    call()  # compiles
    call()
    rounds = int(min(1000, max(3, SECONDS[device] / max(seconds[-1], 1e-6))))
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=min(rounds, 5))
    benchmark.extra_info["cpu"] = min(seconds[-rounds:])
    if flops is not None:
        benchmark.extra_info["flops"] = flops


def agree(results: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Every peer computes the same results."""
    for a, b in zip(results, expected, strict=True):
        assert torch.linalg.vector_norm(a - b) <= 1e-3 * torch.linalg.vector_norm(b) + 1e-6
