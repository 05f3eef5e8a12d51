"""The exact global median against torch's over all M^2 distances."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from distributed.pool import Failure, Pool
from distributed.test_ops import SHARDS, median, split
from torch import Tensor

from svgdx import distributed, ops, reference


@pytest.mark.parametrize("counts", [*SHARDS, (1,), (1, 0), (1, 1), (2, 1, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_the_reference(pool: Pool, counts: tuple[int, ...], dtype: torch.dtype) -> None:
    for lead in ((), (3,), (2, 2)):
        x = torch.randn(*lead, sum(counts), 3, dtype=torch.float64).to(dtype)
        for found in pool.call(len(counts), median, each=split(x, counts, len(lead))):
            torch.testing.assert_close(found, reference.median_distance(x), rtol=4 * torch.finfo(dtype).eps, atol=0)


def hard(name: str) -> Tensor:
    x = torch.randn(300, 2, dtype=torch.float64)
    if name == "two clusters":
        # The sampled bracket lies between clusters or misses.
        x[150:] += 1e6
    if name == "ties":
        x = (2 * x).round()
    if name == "all the same":
        x[:] = 0.1
    if name == "sorted, one far":
        x, _ = x.sort(0)
        x[-1] = 1e200
    return x


@pytest.mark.parametrize("name", ["normal", "two clusters", "ties", "all the same", "sorted, one far"])
def test_hard_distances(pool: Pool, name: str) -> None:
    x = hard(name)
    for counts in ((300,), (140, 160), (10, 0, 290), (100, 50, 0, 150)):
        for found in pool.call(len(counts), median, each=split(x, counts, 0)):
            torch.testing.assert_close(found, ops.median_distance(x), rtol=1e-15, atol=0)


def crowded(group: dist.ProcessGroup, x: Tensor) -> Tensor:
    """With a sample that misses, and too little room to keep what is inside: every round goes round the ring."""
    from svgdx.distributed import median as module

    before = module.KEPT, module.SAMPLE, module.BINS
    module.KEPT, module.SAMPLE, module.BINS = 0, 3, 16
    try:
        return distributed.median_distance(x, group)
    finally:
        module.KEPT, module.SAMPLE, module.BINS = before


@pytest.mark.parametrize("name", ["normal", "two clusters", "sorted, one far"])
def test_without_luck_and_room(pool: Pool, name: str) -> None:
    x = torch.stack([hard(name), hard("ties")])
    for found in pool.call(3, crowded, each=split(x, (120, 80, 100), 1)):
        torch.testing.assert_close(found, ops.median_distance(x), rtol=1e-15, atol=0)


def test_what_is_not_finite_makes_the_median_of_its_problem_nan(pool: Pool) -> None:
    for value in (torch.nan, torch.inf):
        x = torch.randn(2, 20, 3)
        x[1, 13, 0] = value
        for found in pool.call(2, median, each=split(x, (11, 9), 1)):
            torch.testing.assert_close(found[0], ops.median_distance(x[0]))
            assert found[1].isnan()


def test_no_particle_at_all_is_refused(pool: Pool) -> None:
    outcomes = pool.outcomes(2, median, torch.zeros(0, 3))
    assert all(isinstance(each, Failure) and "at least 1 particle" in each.text for each in outcomes)
