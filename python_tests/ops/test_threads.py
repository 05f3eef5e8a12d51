"""The same input gives bit-equal results for any number of threads and in any batch."""

from __future__ import annotations

import pytest
import torch
from ops.cases import DRAWS, PARTICLES, STEPPED, TRAJECTORIES, Inputs, Variant, gradients, sample, sample_inputs
from torch import Tensor

from svgdx.densities.linear import product

# Small problems in a large batch, one problem split into blocks of particles, large D with matrix products; many short
# trajectories, some long ones, and one with many blocks of rows.
SIZES = [((64,), 10, 6), ((), 1000, 2), ((), 300, 16), ((2,), 130, 17), ((), 150, 100), ((), 33, 784)]
TRAJECTORY_SIZES = [((600,), 6, 6), ((3,), 100, 100), ((), 300, 300)]
CASES = [
    *((v, size, dtype) for v in PARTICLES for size in SIZES for dtype in (torch.float32, torch.float64)),
    *(
        (v, size, dtype)
        for v in (*TRAJECTORIES, sample("gfn_sample_forward", epsilon=0.2), DRAWS[1])
        for size in TRAJECTORY_SIZES
        for dtype in (torch.float32, torch.bfloat16)
    ),
]


def results(variant: Variant, inputs: Inputs, threads: int) -> list[Tensor]:
    torch.set_num_threads(threads)
    out = list(variant(inputs))
    if variant.differentiable:
        out += gradients(variant, inputs).values()
    return out


@pytest.mark.parametrize(("variant", "size", "dtype"), [c for c in CASES if c[0].takes(*c[1][1:])], ids=str)
def test_same_bits_for_any_number_of_threads(
    variant: Variant, size: tuple[tuple[int, ...], int, int], dtype: torch.dtype
) -> None:
    lead, *sizes = size
    inputs = sample_inputs(variant, (*lead, 40) if variant.op.startswith("gfn_sample") else lead, *sizes, dtype)
    one = results(variant, inputs, 1)
    for threads in (2, 2, 3):
        for out, expected in zip(results(variant, inputs, threads), one, strict=True):
            assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", [(18, 4200, 6), (6, 1160, 81), (67, 4843, 33), (40, 1941, 8), (250, 3000, 200)])
def test_products_of_long_sums(sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    """MKL would add in another order for each number of threads."""
    rows, inner, columns = sizes
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(inner, rows, generator=generator, dtype=dtype).T
    b = torch.randn(inner, columns, generator=generator, dtype=dtype)
    torch.set_num_threads(1)
    one = product(a, b)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(product(a, b), one)


@pytest.mark.parametrize("variant", [*PARTICLES, *STEPPED[:2]], ids=str)
def test_same_bits_alone_and_in_a_batch(variant: Variant) -> None:
    inputs = sample_inputs(variant, (5,), 20, 6, torch.float32)
    whole = results(variant, inputs, 2)
    for row in range(5):
        alone = results(variant, {name: value[row] for name, value in inputs.items()}, 2)
        for out, expected in zip(alone[: len(variant(inputs))], whole, strict=False):
            assert torch.equal(out, expected[row])


def test_backward_while_forward_runs_in_another_thread() -> None:
    """Concurrent calls do not share state."""
    import concurrent.futures

    variant = Variant("svgd_phi_trace")
    inputs = [sample_inputs(variant, (), 200, 5, torch.float32, seed=seed) for seed in range(4)]
    expected = [results(variant, values, 1) for values in inputs]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for actual, serial in zip(
                pool.map(lambda values: results(variant, values, 1), inputs), expected, strict=True
            ):
                assert all(torch.equal(a, b) for a, b in zip(actual, serial, strict=True))
