"""mlp_score_hvp, and score matching by mlp_laplacian and its gradient, against their peers in one run: float32, silu.

pytest bench/bench_mlp.py --benchmark-json RUN.json
python bench/report/render.py RUN.json bench/results/mlp
"""

from __future__ import annotations

from typing import Any

import pytest
from peers import mlp as mlp_peers
from peers import score_matching as score_matching_peers
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


@pytest.mark.parametrize("peer", score_matching_peers.PEERS)
@pytest.mark.parametrize("shape", [(1000, 2, 128, 2), (256, 16, 256, 3), (128, 64, 256, 2)], ids=str)
def test_score_matching(benchmark: Any, shape: tuple[int, ...], peer: str) -> None:
    benchmark.extra_info["sizes"] = "N, D, hidden, depth"
    problem = score_matching_peers.problem(*shape)
    agree(score_matching_peers.with_gradient(peer, problem), score_matching_peers.with_gradient("svgdx", problem))
    time_calls(
        benchmark,
        "cpu",
        lambda: score_matching_peers.with_gradient(peer, problem),
        score_matching_peers.products(problem),
    )
