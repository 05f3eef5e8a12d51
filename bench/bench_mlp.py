"""mlp_score_hvp against the peers of mlp_peers.py in one run: float32, silu.

pytest bench/bench_mlp.py --benchmark-json RUN.json
python bench/report/render.py RUN.json bench/results/mlp
"""

from __future__ import annotations

from typing import Any

import mlp_peers
import pytest
from timing import agree, one_thread, time_calls

__all__ = ["one_thread"]

SHAPES = [(256, 10, 6, 17, 256, 2), (1, 128, 64, 0, 256, 3)]


@pytest.mark.parametrize("peer", mlp_peers.PEERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mlp_score_hvp(benchmark: Any, shape: tuple[int, ...], peer: str) -> None:
    benchmark.extra_info["sizes"] = "B, M, D, C, hidden, depth"
    problem = mlp_peers.problem(*shape, device="cpu")
    form = mlp_peers.PEERS[peer]
    agree(form(problem), mlp_peers.PEERS["svgdx"](problem))
    time_calls(benchmark, "cpu", lambda: form(problem), mlp_peers.products(problem))
