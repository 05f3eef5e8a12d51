"""Uniform and normal numbers, integers, and the keys of all random draws: bits of the reference, and distributions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from scipy import stats
from torch import Tensor

from svgdx import ops, reference
from svgdx.ops.philox import words_for

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SEEDS = [(0, 0), (1, 2), (-1, -1), (2**40 + 7, 2**33), (2**63 - 1, -(2**63))]
# Less than a tile, one tile of each dtype, slightly more, enough for several threads.
SHAPES = [(), (0,), (3, 0, 2), (1,), (63,), (64,), (128,), (4, 33), (300, 200)]
COUNT = 1 << 18


def draw(op: str, like: Tensor, seed: int | Tensor, offset: int, library: Any = ops) -> Tensor:
    bound = (1000,) if op == "integers" else ()
    numbers: Tensor = getattr(library, op)(like, *bound, seed, offset)
    return numbers


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", ["uniform", "normal", "integers"])
def test_numbers_of_the_reference(op: str, dtype: torch.dtype, device: str) -> None:
    for shape in SHAPES:
        like = torch.empty(shape, dtype=dtype, device=device)
        for seed, offset in SEEDS:
            numbers, expected = draw(op, like, seed, offset), draw(op, like, seed, offset, reference)
            assert numbers.is_contiguous()
            assert (numbers.device, numbers.dtype) == (like.device, torch.int64 if op == "integers" else dtype)
            if (op, dtype) == ("normal", torch.float64):
                # torch's square root of float64 can be one unit in the last place from the nearest number.
                torch.testing.assert_close(numbers, expected, rtol=2**-51, atol=0)
            else:
                assert torch.equal(numbers, expected)


def test_normals_are_exact_to_rounding() -> None:
    """r cos a and r sin a in float64 from NumPy, from the words of the same blocks."""
    words = [word.double().numpy() for word in words_for(torch.empty(4096), 4, 3, 4)]
    pairs = []
    for radius_word, angle_word in (words[:2], words[2:]):
        radius = np.sqrt(-2 * np.log((np.floor(radius_word / 4) * 2 + 1) * 2.0**-31))
        quarter, rest = np.divmod(angle_word, 2**30)
        rest = np.where(rest < 2**29, rest, rest - 2**30)
        x, mirrored, turned = rest * (math.pi / 2) / 2**30, quarter % 2 == 1, quarter >= 2
        radius = np.where(turned, -radius, radius)
        pairs += [radius * np.where(mirrored, np.sin(x), np.cos(x)), radius * np.where(mirrored, np.cos(x), np.sin(x))]
    expected = np.stack([pair.reshape(-1, 32) for pair in pairs], 1).reshape(-1)
    np.testing.assert_allclose(ops.normal(torch.empty(4096), 3, 4).numpy(), expected, rtol=1e-6, atol=4e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_uniforms_fill_the_unit_interval(dtype: torch.dtype) -> None:
    """Kolmogorov-Smirnov, range and spacing; 16-bit numbers are too coarse for the former."""
    numbers = ops.uniform(torch.empty(COUNT, dtype=dtype), 7, 8).double().numpy()
    spacing = {torch.float32: 2.0**-24, torch.float64: 2.0**-53, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[
        dtype
    ]
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    assert (numbers / spacing == np.floor(numbers / spacing)).all()
    centred = numbers + spacing / 2 if spacing > 1e-6 else numbers
    assert abs(centred.mean() - 0.5) < 5 / math.sqrt(12 * COUNT)
    if spacing < 1e-6:
        assert stats.kstest(numbers, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normals_are_normal(dtype: torch.dtype) -> None:
    """Moments up to the fourth within 5 standard errors, and Kolmogorov-Smirnov."""
    numbers = ops.normal(torch.empty(COUNT, dtype=dtype), 9, 10).double().numpy()
    for power, (mean, variance) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}.items():
        assert abs((numbers**power).mean() - mean) < 5 * math.sqrt(variance / COUNT) + (dtype.itemsize == 2) * 1e-2
    if dtype.itemsize > 2:
        assert stats.kstest(numbers, "norm").pvalue > 1e-4


def test_normals_are_independent() -> None:
    """Correlations, of squares too, with neighbours, the other number of a pair, the next tile and other keys."""
    like = torch.empty(COUNT)
    numbers = ops.normal(like, 11, 12).double()
    others = [numbers.roll(shift) for shift in (1, 32, 64, 128)]
    others += [ops.normal(like, 12, 12).double(), ops.normal(like, 11, 13).double()]
    for other in others:
        assert abs(float((numbers * other).sum())) < 5 * COUNT**0.5
        assert abs(float(((numbers**2 - 1) * (other**2 - 1)).sum())) < 5 * 2 * COUNT**0.5


def test_integers_are_uniform() -> None:
    for bound in (1, 2, 7, 1000):
        numbers = ops.integers(torch.empty(COUNT), bound, 13, 14)
        counts = np.bincount(numbers.numpy(), minlength=bound)
        assert len(counts) == bound
        if bound > 1:
            assert stats.chisquare(counts).pvalue > 1e-4
    large = ops.integers(torch.empty(COUNT), 2**32, 13, 14).double()
    assert 0 <= float(large.min()) < float(large.max()) < 2**32
    assert abs(float(large.mean()) / 2**31 - 1) < 5 / math.sqrt(3 * COUNT)


@pytest.mark.parametrize("op", ["uniform", "normal", "integers"])
def test_numbers_do_not_depend_on_layout_length_or_threads(op: str) -> None:
    expected = draw(op, torch.empty(300, 200), 5, 6)
    for like in (torch.empty(200, 300).T, torch.empty(1).expand(300, 200)):
        assert torch.equal(draw(op, like, 5, 6), expected)
    assert torch.equal(draw(op, torch.empty(777), 5, 6), expected.flatten()[:777])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(draw(op, torch.empty(300, 200), 5, 6), expected)
    mapped = torch.vmap(lambda row: draw(op, row, 5, 6), in_dims=1)(torch.empty(200, 300))
    assert torch.equal(mapped, expected)


@pytest.mark.parametrize("op", ["uniform", "normal", "integers", "rademacher"])
def test_a_key_stands_for_seed_and_offset(op: str, device: str) -> None:
    """Its second number is added to the offset, modulo 2^64; another key of the same memory draws anew."""
    like = torch.empty(300, device=device)
    for library in (ops, reference):
        key = torch.tensor([-5, 2**63 - 1], device=device)
        assert torch.equal(draw(op, like, key, 2, library), draw(op, like, -5, -(2**63) + 1))
        key.copy_(torch.tensor([9, 4]))
        assert torch.equal(draw(op, like, key, 3, library), draw(op, like, 9, 7))
        assert torch.equal(draw(op, like, key.repeat_interleave(2)[::2], 3, library), draw(op, like, 9, 7))
    mapped = torch.vmap(lambda k: draw(op, like, k, 3))(torch.stack([key, key + 1]))
    assert torch.equal(mapped, torch.stack([draw(op, like, 9, 7), draw(op, like, 10, 8)]))


def test_sampling_ops_take_a_key(device: str) -> None:
    logits = torch.randn(50, 12, device=device)
    state = torch.tensor([-1, 0, 1, -1], dtype=torch.int8, device=device).expand(50, 4)
    key = torch.tensor([3, 10], device=device)
    for name in ("gfn_sample_forward", "gfn_sample_backward"):
        for library in (ops, reference):
            op = getattr(library, name)
            for out, expected in zip(
                op(logits, state, key, 5, 2.0, 0.1), op(logits, state, 3, 15, 2.0, 0.1), strict=True
            ):
                assert torch.equal(out, expected)


@pytest.mark.parametrize("op", ["uniform", "normal", "integers", "rademacher"])
def test_registration(op: str) -> None:
    like, bound = torch.randn(3, 5), (7,) if op == "integers" else ()
    packet = getattr(torch.ops.svgdx, op)
    torch.library.opcheck(packet.default, (like, *bound, 1, 2))
    torch.library.opcheck(packet.key, (like, *bound, torch.tensor([1, 2]), 3))
    assert torch.equal(packet(like, *bound, torch.tensor([1, 2]), 3), packet(like, *bound, 1, 5))
    meta = draw(op, like.to("meta"), torch.empty(2, dtype=torch.int64, device="meta"), 3)
    assert (meta.shape, meta.dtype) == (like.shape, draw(op, like, 1, 2).dtype)


def test_compile_without_graph_breaks() -> None:
    torch._dynamo.reset()

    def numbers(like: Tensor, key: Tensor, offset: int) -> Tensor:
        return ops.normal(like, key, offset) + ops.uniform(like, 3, offset) + ops.integers(like, 9, 3, offset)

    compiled = torch.compile(numbers, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape, offset in [((3, 2, 4), 5), ((4, 3, 5), 2**40)]:
        like, key = torch.empty(shape), torch.tensor([1, 2])
        assert torch.equal(compiled(like, key, offset), numbers(like, key, offset))


Change = Callable[[Any], Any]
FAULTS: dict[str, dict[str, tuple[str, Change]]] = {
    "int64": {"like": ("like", lambda t: t.long())},
    "list": {"like": ("like", lambda t: [1.0])},
    "three numbers": {"key": ("key", lambda t: torch.arange(3, device=t.device))},
    "float key": {"key": ("key", lambda t: torch.zeros(2, device=t.device))},
}


@pytest.mark.parametrize("library", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize("place", ["cpu", "meta"])
@pytest.mark.parametrize("op", ["uniform", "normal", "integers", "rademacher"])
@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input(fault: str, op: str, place: str, library: Any) -> None:
    arguments = {"like": torch.ones(3, device=place), "key": torch.zeros(2, dtype=torch.int64, device=place)}
    ((name, (argument, change)),) = FAULTS[fault].items()
    if (fault, op) == ("int64", "integers"):
        assert draw(op, torch.ones(3, dtype=torch.int64), 1, 2).shape == (3,)
        return
    arguments[name] = change(arguments[name])
    with pytest.raises((TypeError, RuntimeError)) as caught:
        draw(op, arguments["like"], arguments["key"], 2, library)
    assert re.match(rf"svgdx::{op}: .*\b{argument}\b", str(caught.value)), caught.value


@pytest.mark.parametrize("library", [ops, reference], ids=["ops", "reference"])
def test_bad_bound(library: Any) -> None:
    for bound in (0, -1, 2**32 + 1):
        with pytest.raises(ValueError, match=r"svgdx::integers: bound must be from 1 to 2\^32"):
            library.integers(torch.empty(3), bound, 1, 2)
    with pytest.raises(TypeError, match="svgdx::integers: bound must be an integer"):
        library.integers(torch.empty(3), 1.5, 1, 2)
    with pytest.raises(RuntimeError, match=r"svgdx::integers: bound must be from 1 to 2\^32, but is 0"):
        torch.ops.svgdx.integers(torch.empty(3), 0, 1, 2)


def test_autocast_does_not_apply() -> None:
    like = torch.empty(3, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert draw("normal", like, 1, 2).dtype == torch.float64
