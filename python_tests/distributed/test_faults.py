"""Missing ranks: an error within the timeout, not a hang."""

from __future__ import annotations

import datetime
import time

import pytest
import torch
import torch.distributed as dist
from distributed.pool import WORLD, Pool

from svgdx import SVGD, distributed

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


@pytest.mark.parametrize("call", ["phi", "SVGD"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_missing_rank_is_an_error_within_the_timeout(pool: Pool, rank: int, call: str) -> None:
    for elapsed, text in pool.call(WORLD, absent, rank, call):
        assert "imed out" in text or "closed" in text
        assert elapsed < SECONDS + 20
