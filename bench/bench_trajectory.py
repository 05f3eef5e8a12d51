"""gfn_trajectory_log_prob with its gradient against the peers of peers/trajectory.py in one run: float32.

The entries `copy` and `copy, new tensor` read and write the logits once; the share of the machine's copy bandwidth is
relative to them (forward and backward read the logits twice and write their gradient once).

pytest bench/bench_trajectory.py --benchmark-json RUN.json
python bench/report/render.py RUN.json bench/results/trajectory
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from peers import trajectory as trajectory_peers
from timing import DEVICES, agree, one_thread, time_calls

__all__ = ["one_thread"]

SHAPES = [(128, 32, 32), (128, 100, 100), (16, 784, 784)]
COPIES = ["copy", "copy, new tensor"]


@pytest.fixture(autouse=True)
def freed_memory_is_kept() -> None:
    """Keep glibc from returning large blocks to the kernel: page faults of new blocks cost more than any peer."""
    keep = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_mmap_threshold = -1, -3
    assert keep(m_mmap_threshold, 1 << 30) == 1
    assert keep(m_trim_threshold, (1 << 31) - 1) == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("peer", [*trajectory_peers.PEERS, *COPIES])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_backward(benchmark: Any, shape: tuple[int, int, int], peer: str, device: str) -> None:
    benchmark.extra_info["sizes"] = "B, D, T"
    logits, actions, states = (t.to(device) for t in trajectory_peers.problem(*shape))
    if peer in COPIES:
        target = torch.empty_like(logits)
        time_calls(benchmark, device, logits.clone if peer != "copy" else lambda: target.copy_(logits))
        return
    logits.requires_grad_()
    upstream = [torch.randn(shape[0], device=device) for _ in range(2)]

    def gradients(form: trajectory_peers.Form) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(form(logits, actions, states), [logits], upstream)

    form = trajectory_peers.PEERS[peer]
    agree(gradients(form), gradients(trajectory_peers.PEERS["svgdx"]))
    time_calls(benchmark, device, lambda: gradients(form))
