"""The exact median of all ranks' distances against that of one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from distributed.pool import Failure, Pool
from distributed.test_ops import SHARDS, median, split
from torch import Tensor

from svgdx import distributed, ops, reference
from svgdx.distributed import median as settings


@pytest.mark.parametrize("counts", [*SHARDS, (1,), (1, 0), (1, 1), (2, 1, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_the_reference(pool: Pool, counts: tuple[int, ...], dtype: torch.dtype) -> None:
    for lead in ((), (3,), (2, 2)):
        x = torch.randn(*lead, sum(counts), 3, dtype=torch.float64).to(dtype)
        for value in pool.call(len(counts), median, per_rank=split(x, counts, len(lead))):
            torch.testing.assert_close(value, reference.median_distance(x), rtol=4 * torch.finfo(dtype).eps, atol=0)


def hard(name: str) -> Tensor:
    x = torch.randn(300, 2, dtype=torch.float64)
    if name == "two clusters":
        # The sampled bracket lies between the clusters or misses the median.
        x[150:] += 1e6
    if name == "ties":
        x = (2 * x).round()
    if name == "all equal":
        x[:] = 0.1
    if name == "sorted, one far":
        x, _ = x.sort(0)
        x[-1] = 1e200
    return x


@pytest.mark.parametrize("name", ["normal", "two clusters", "ties", "all equal", "sorted, one far"])
def test_hard_distances(pool: Pool, name: str) -> None:
    x = hard(name)
    for counts in ((300,), (140, 160), (10, 0, 290), (100, 50, 0, 150)):
        for value in pool.call(len(counts), median, per_rank=split(x, counts, 0)):
            torch.testing.assert_close(value, ops.median_distance(x), rtol=1e-15, atol=0)


def crowded(group: dist.ProcessGroup, x: Tensor) -> Tensor:
    """The median from a sample that misses it and without storage, so that every round goes round the ring."""
    before = settings.STORED, settings.SAMPLE, settings.BINS
    settings.STORED, settings.SAMPLE, settings.BINS = 0, 3, 16
    try:
        return distributed.median_distance(x, group)
    finally:
        settings.STORED, settings.SAMPLE, settings.BINS = before


@pytest.mark.parametrize("name", ["normal", "two clusters", "sorted, one far"])
def test_with_a_missing_sample_and_no_storage(pool: Pool, name: str) -> None:
    x = torch.stack([hard(name), hard("ties")])
    for values in pool.call(3, crowded, per_rank=split(x, (120, 80, 100), 1)):
        torch.testing.assert_close(values, ops.median_distance(x), rtol=1e-15, atol=0)


def test_a_number_that_is_not_finite_makes_the_median_of_its_problem_nan(pool: Pool) -> None:
    for value in (torch.nan, torch.inf):
        x = torch.randn(2, 20, 3)
        x[1, 13, 0] = value
        for values in pool.call(2, median, per_rank=split(x, (11, 9), 1)):
            torch.testing.assert_close(values[0], ops.median_distance(x[0]))
            assert values[1].isnan()


def test_no_particle_at_all_is_refused(pool: Pool) -> None:
    outcomes = pool.outcomes(2, median, torch.zeros(0, 3))
    assert all(isinstance(outcome, Failure) and "at least 1 particle" in outcome.text for outcome in outcomes)
