"""The median distance against sorting all M^2 distances in float64."""

from __future__ import annotations

import itertools

import numpy
import pytest
import torch
from ops.backends import Backend
from torch import Tensor

from svgdx import ops

SIZES = [
    (1, 1),
    (1, 5),
    (2, 1),
    (2, 3),
    (3, 2),
    (4, 4),
    (5, 1),
    (7, 17),
    (16, 3),
    (33, 50),
    (64, 2),
    (65, 2),
    (131, 33),
]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def oracle(x: Tensor) -> Tensor:
    """Lower median of all pairs, by NumPy's sort, for one batch row at a time."""
    rows = x.detach().cpu().double().reshape(-1, *x.shape[-2:]).numpy()
    medians = []
    for row in rows:
        distances = numpy.sqrt(((row[:, None] - row[None]) ** 2).sum(-1)).ravel()
        medians.append(numpy.sort(distances)[(distances.size - 1) // 2])
    return torch.tensor(numpy.array(medians)).reshape(x.shape[:-2])


def check(x: Tensor) -> None:
    median = ops.median_distance(x)
    assert median.shape == x.shape[:-2]
    assert median.dtype == x.dtype
    torch.testing.assert_close(median.cpu().double(), oracle(x), rtol=TOLERANCE[x.dtype], atol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_sizes(dtype: torch.dtype, backend: Backend) -> None:
    for (m, d), lead in itertools.product(SIZES, [(), (3,), (2, 2)]):
        if not backend.simulated or m * d < 2000 or lead == ():
            check(torch.randn(*lead, m, d, dtype=torch.float64).to(device=backend.device, dtype=dtype))


@pytest.mark.parametrize(("m", "d"), [(257, 3), (600, 16), (1001, 2), (300, 130), (100, 784)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_many_particles(m: int, d: int, dtype: torch.dtype, native_device: str) -> None:
    check(torch.randn(m, d, dtype=dtype, device=native_device))


def test_agrees_with_torch_median_of_cdist(device: str) -> None:
    x = torch.randn(3, 50, 4, dtype=torch.float64, device=device)
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(ops.median_distance(x), distances.flatten(1).median(1).values, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ties(dtype: torch.dtype, device: str) -> None:
    """With integer coordinates many distances are equal, and each is exact or a rounded root."""
    for m in (2, 5, 12, 65):
        check(torch.randint(-2, 3, (4, m, 3)).to(device=device, dtype=dtype))


@pytest.mark.parametrize("duplicates", [0, 1, 5, 9, 10])
def test_duplicates(duplicates: int, device: str) -> None:
    """The median is zero once half of all pairs coincide."""
    x = torch.randn(10, 2, dtype=torch.float64, device=device)
    x[:duplicates] = 1.0
    check(x)


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_particles_have_median_zero(count: int, device: str) -> None:
    assert ops.median_distance(100 * torch.randn(count, 4, device=device)) == 0


def test_outliers_and_scales(device: str) -> None:
    for scale in (1e-12, 1e-4, 1e4, 1e12):
        check(scale * torch.randn(2, 33, 5, device=device))
    x = torch.randn(40, 3, device=device)
    x[0] = 1e6
    check(x)


def test_far_from_the_origin(device: str) -> None:
    check(1e4 + torch.randn(30, 3, device=device))


def test_two_clusters(device: str) -> None:
    """The median is between the distances within and across the clusters."""
    x = torch.randn(41, 2, device=device)
    x[:20] += 1000
    check(x)


@pytest.mark.parametrize("m", [1, 2, 33, 300])
def test_nan(m: int, device: str) -> None:
    x = torch.randn(3, m, 4, device=device)
    for bad in (torch.nan, torch.inf):  # infinity minus itself
        x[1, m // 2, 3] = bad
        assert ops.median_distance(x).isnan().tolist() == [False, True, False]


def test_no_dimension(device: str) -> None:
    assert torch.equal(ops.median_distance(torch.empty(2, 5, 0, device=device)), torch.zeros(2, device=device))


def test_no_particle(device: str) -> None:
    with pytest.raises(RuntimeError, match="svgdx::median_distance: x must have at least 1 particle"):
        ops.median_distance(torch.empty(2, 0, 3, device=device))


def test_scales_exactly_with_powers_of_two(device: str) -> None:
    x = torch.randn(50, 3, device=device)
    assert ops.median_distance(8 * x) == 8 * ops.median_distance(x)


def test_memory_is_linear_in_particles() -> None:
    """With M = 30,000 the M^2 distances alone would take 3.4 GiB."""
    import resource

    x = torch.randn(30_000, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    median = ops.median_distance(x)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024  # KiB
    ordered = x.double().flatten().sort().values
    # The number of pairs within the median, from the sorted coordinates.
    within = torch.searchsorted(ordered, ordered + median.double() * (1 + 1e-6), right=True)
    inside = 2 * int((within - torch.arange(len(ordered))).sum()) - len(ordered)
    below = torch.searchsorted(ordered, ordered + median.double() * (1 - 1e-6))
    outside = 2 * int((below - torch.arange(len(ordered))).sum()) - len(ordered)
    assert outside < (len(ordered) ** 2 + 1) // 2 <= inside
