"""svgd_phi_trace, forward and with its gradients, against every peer of peers/field.py in one run: float32.

Every entry is also timed on the GPU, or reported as skipped if there is none.

pytest bench/bench_field.py --benchmark-json RUN.json
python bench/report/render.py RUN.json bench/results/field
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peak_memory import peak_extra_bytes
from peers.field import PEERS, fits
from timing import BRIEF, DEVICES, agree, one_thread, time_calls

__all__ = ["one_thread"]

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


def problem(shape: tuple[int, int, int], device: str) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    batch, particles, dim = shape
    inputs = torch.randn(batch, particles, dim), torch.randn(batch, particles, dim), torch.full((batch,), dim**0.5)
    return tuple(t.to(device) for t in inputs)


def peak_bytes(device: str, peer: str, shape: tuple[int, int, int], call: Any) -> int:
    if device == "cpu":
        return peak_extra_bytes(peer, shape)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outputs = call()
    return torch.cuda.max_memory_allocated() - before - sum(t.nbytes for t in outputs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(benchmark: Any, shape: tuple[int, int, int], peer: str, device: str) -> None:
    if not fits(peer, *shape):
        pytest.skip("too large for this peer, see peers/field.py")
    inputs = problem(shape, device)
    form = PEERS[peer]()
    agree(form(*inputs), PEERS["svgdx"]()(*inputs))
    if not BRIEF:
        benchmark.extra_info["memory"] = peak_bytes(device, peer, shape, lambda: form(*inputs))
    time_calls(benchmark, device, lambda: form(*inputs))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("peer", [p for p in PEERS if p != "keops"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] <= 4096], ids=str)
def test_forward_backward(benchmark: Any, shape: tuple[int, int, int], peer: str, device: str) -> None:
    if not fits(peer, *shape):
        pytest.skip("too large for this peer, see peers/field.py")
    inputs = [t.requires_grad_() for t in problem(shape, device)]
    upstream = [torch.randn(shape, device=device), torch.randn(shape[:2], device=device)]

    def gradients(form: Any) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(form(*inputs), inputs, upstream)

    form = PEERS[peer]()
    agree(gradients(form), gradients(PEERS["svgdx"]()))
    time_calls(benchmark, device, lambda: gradients(form))
