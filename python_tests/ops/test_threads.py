"""The same input gives bit-equal results for any number of threads and in any batch."""

from __future__ import annotations

import pytest
import torch
from ops.samples import VARIANTS, Inputs, Variant, gradients, sample_inputs
from torch import Tensor

# Small problems in a large batch, one problem split into blocks of particles, large D with matrix products.
SIZES = [((64,), 10, 6), ((), 1000, 2), ((), 300, 16), ((2,), 130, 17), ((), 150, 100), ((), 33, 784)]


def results(variant: Variant, inputs: Inputs, threads: int) -> list[Tensor]:
    torch.set_num_threads(threads)
    out = list(variant(inputs))
    if variant.differentiable:
        out += gradients(variant, inputs).values()
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("lead", "m", "d"), SIZES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_same_bits_for_any_number_of_threads(
    variant: Variant, lead: tuple[int, ...], m: int, d: int, dtype: torch.dtype
) -> None:
    if not variant.takes(m, d):
        pytest.skip("D <= 16")
    inputs = sample_inputs(variant, lead, m, d, dtype)
    one = results(variant, inputs, 1)
    for threads in (2, 2, 3):
        for out, expected in zip(results(variant, inputs, threads), one, strict=True):
            assert torch.equal(out, expected)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
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
