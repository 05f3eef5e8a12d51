"""mlp_score_hvp against the peers of mlp_peers.py in one run: 2 threads, float32, silu.

The entry `products` is the time of only the matrix products, over all rows at once; its share shows how much is left.

pytest bench/bench_mlp.py --benchmark-json bench/results/mlp.json
python bench/render.py bench/results/mlp.json bench/results/mlp
"""

from __future__ import annotations

from typing import Any

import mlp_peers
import pytest
from bench_field import agree, time_calls, two_threads

__all__ = ["two_threads"]

SHAPES = [(256, 10, 6, 17, 256, 2), (1, 128, 64, 0, 256, 3)]


@pytest.mark.parametrize("peer", [*mlp_peers.PEERS, "products"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mlp_score_hvp(benchmark: Any, shape: tuple[int, ...], peer: str) -> None:
    benchmark.extra_info["sizes"] = "B, M, D, C, hidden, depth"
    problem = mlp_peers.problem(*shape, device="cpu")
    if peer == "products":
        time_calls(benchmark, "cpu", mlp_peers.products(problem))
        return
    form = mlp_peers.PEERS[peer]
    agree(form(problem), mlp_peers.PEERS["svgdx"](problem))
    time_calls(benchmark, "cpu", lambda: form(problem))
