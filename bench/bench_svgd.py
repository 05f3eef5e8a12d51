"""svgd_phi_trace, forward and with its gradients, against every peer of peers.py in one run: 2 threads, float32.

pytest bench/bench_svgd.py --benchmark-json bench/results/svgd.json
python bench/render.py bench/results/svgd.json bench/results/svgd
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from peak_memory import peak_extra_bytes
from peers import PEERS, fits

SHAPES = [
    (256, 10, 6),
    (256, 64, 6),
    (1, 1000, 2),
    (1, 4096, 16),
    (1, 2500, 50),
    (1, 16384, 16),
    (1, 128, 3072),
    (1, 512, 3072),
]
SECONDS = 2.0  # of repeated calls, for each entry


@pytest.fixture(autouse=True)
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def problem(shape: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    batch, particles, dim = shape
    return torch.randn(batch, particles, dim), torch.randn(batch, particles, dim), torch.full((batch,), dim**0.5)


def time_calls(benchmark: Any, call: Any) -> None:
    call()  # compiles
    start = time.perf_counter()
    call()
    one = time.perf_counter() - start
    rounds = int(min(1000, max(3, SECONDS / one)))
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=min(rounds, 5))


def agree(got: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    """A peer that computes something else is no peer."""
    for a, b in zip(got, expected, strict=True):
        assert torch.linalg.vector_norm(a - b) <= 1e-3 * torch.linalg.vector_norm(b) + 1e-6


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(benchmark: Any, shape: tuple[int, int, int], peer: str) -> None:
    if not fits(peer, *shape):
        pytest.skip("too large for this peer, see peers.py")
    inputs = problem(shape)
    form = PEERS[peer]()
    agree(form(*inputs), PEERS["svgdx"]()(*inputs))
    benchmark.extra_info["memory"] = peak_extra_bytes(peer, shape)
    time_calls(benchmark, lambda: form(*inputs))


@pytest.mark.parametrize("peer", [p for p in PEERS if p != "keops"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] <= 4096], ids=str)
def test_forward_backward(benchmark: Any, shape: tuple[int, int, int], peer: str) -> None:
    if not fits(peer, *shape):
        pytest.skip("too large for this peer, see peers.py")
    inputs = [t.requires_grad_() for t in problem(shape)]
    upstream = [torch.randn(shape), torch.randn(shape[:2])]

    def gradients(form: Any) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(form(*inputs), inputs, upstream)

    form = PEERS[peer]()
    agree(gradients(form), gradients(PEERS["svgdx"]()))
    time_calls(benchmark, lambda: gradients(form))
