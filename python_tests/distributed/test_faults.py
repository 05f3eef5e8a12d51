"""Missing ranks: an error within the timeout, not a hang; and what ranks of a GPU exchange before their particles."""

from __future__ import annotations

import datetime
import time

import pytest
import torch
import torch.distributed as dist
from distributed.pool import WORLD, Pool

from svgdx import SVGD, distributed
from svgdx.distributed import shards

SECONDS = 3.0


def absent(group: dist.ProcessGroup, rank: int, call: str) -> tuple[float, str]:
    """All ranks but one call an op of their group. Returns how long it took to fail, and the error."""
    fresh = dist.new_group(list(range(WORLD)), timeout=datetime.timedelta(seconds=SECONDS))
    if dist.get_rank() == rank:
        # Waits until the others have failed, because a rank that exits is another fault.
        dist.barrier(group)
        return SECONDS, "timed out"
    x = torch.randn(3, 2)
    begin, text = time.monotonic(), "no error"
    try:
        if call == "phi":
            distributed.svgd_phi(x, -x, 1.0, fresh)
        else:
            normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
            SVGD(normal, normal, process_group=fresh).sample(8, 1)
    except RuntimeError as error:
        text = str(error)
    elapsed = time.monotonic() - begin
    dist.barrier(group)
    return elapsed, text


BACKENDS = {
    "cpu:gloo,cuda:nccl": ("cpu", "cpu"),
    "cpu:gloo,cuda:gloo": ("cpu", "cpu"),
    # NCCL alone, and a group for which no backend was named.
    "cuda:nccl": ("cuda:3", "cuda:1"),
}


@pytest.mark.parametrize("backends", BACKENDS)
def test_values_of_the_host_travel_by_a_backend_that_takes_them(backends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By NCCL alone on the GPU of the particles, which need not be the current one of the process."""
    monkeypatch.setattr(dist, "get_backend_config", lambda group: backends)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    devices = [shards.host_values_device(None, device) for device in (torch.device("cuda:3"), None)]
    assert devices == [torch.device(name) for name in BACKENDS[backends]]


def connected(group: dist.ProcessGroup) -> list[int]:
    """The exchanges of two calls with particles on a GPU, before that of the particles."""
    counts, all_reduce = [], dist.all_reduce
    dist.all_reduce = lambda *args, **named: counts.append(1) or all_reduce(*args, **named)  # type: ignore[assignment]
    try:
        for _ in range(2):
            shards._connect(group, torch.device("cpu"))
    finally:
        dist.all_reduce = all_reduce  # type: ignore[assignment]
        shards._connected.discard(group)
    return counts


def test_ranks_set_nccl_up_together_and_once(pool: Pool) -> None:
    assert pool.call(2, connected) == [[1], [1]]


@pytest.mark.parametrize("call", ["phi", "SVGD"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_missing_rank_is_an_error_within_the_timeout(pool: Pool, rank: int, call: str) -> None:
    for elapsed, text in pool.call(WORLD, absent, rank, call):
        assert "imed out" in text or "closed" in text
        assert elapsed < SECONDS + 20
