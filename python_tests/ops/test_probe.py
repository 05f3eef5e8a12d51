"""rademacher and probe_trace against the reference, under PyTorch's transforms, and with bad input."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from ops.cases import Inputs, Variant, gradients
from ops.errors import assert_close
from torch import Tensor

from svgdx import ops, reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SEEDS = [(0, 0), (1, 2), (-1, -1), (2**40 + 7, 2**33), (2**63 - 1, -(2**63))]
# Less than a block of 128 signs, one block, slightly more, enough for several threads.
SHAPES = [(), (0,), (3, 0, 2), (1,), (127,), (128,), (129,), (4, 33, 5), (300, 200)]
# (V, ..., D)
PROBES = [(1, 3), (2, 1), (3, 4, 5), (5, 2, 3, 17), (2, 0, 3), (4, 3, 0), (33, 1, 64), (3, 500, 6)]
PROBE_TRACE = Variant("probe_trace")


def probe_inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, device: str = "cpu") -> Inputs:
    generator = torch.Generator().manual_seed(sum(shape))
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name in ("probe", "hvp")}
    return {name: value.to(device=device, dtype=dtype) for name, value in tensors.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_signs_of_the_reference(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    like = torch.empty(shape, dtype=dtype, device=device)
    for seed, offset in SEEDS:
        signs = ops.rademacher(like, seed, offset)
        assert signs.is_contiguous()
        assert signs.device == like.device
        assert torch.equal(signs, reference.rademacher(like, seed, offset))


def test_signs_are_those_of_philox_known_answers() -> None:
    """The bits for counter and key zero equal Random123's kat_vectors, philox4x32 10."""
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    signs = ops.rademacher(torch.empty(128), 0, 0)
    assert [(1 - int(sign)) // 2 for sign in signs] == [word >> bit & 1 for word in words for bit in range(32)]


def test_signs_do_not_depend_on_dtype_layout_or_threads() -> None:
    expected = ops.rademacher(torch.empty(300, 200), 5, 6)
    for like in (torch.empty(200, 300).T, torch.empty(1).expand(300, 200)):
        assert torch.equal(ops.rademacher(like, 5, 6), expected)
    assert torch.equal(ops.rademacher(torch.empty(60000, dtype=torch.float16), 5, 6).float(), expected.flatten())
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(ops.rademacher(torch.empty(300, 200), 5, 6), expected)


def test_signs_are_fair_and_independent() -> None:
    """Mean and correlations (with neighbours, the next block, other seeds and offsets) are within 5 sigma."""
    count = 1 << 20
    like = torch.empty(count)
    signs = ops.rademacher(like, 11, 12)
    others = [signs.roll(1), signs.roll(128), ops.rademacher(like, 12, 12), ops.rademacher(like, 11, 13)]
    for other in (torch.ones(count), *others):
        assert abs(float((signs.double() * other).sum())) < 5 * count**0.5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", PROBES, ids=str)
def test_probe_trace_and_its_gradient(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    inputs = probe_inputs(shape, dtype, device)
    wide = {name: value.double() for name, value in inputs.items()}
    terms = float(wide["probe"].square().sum(-1).max()) if wide["probe"].numel() else 0.0
    for out, exact, eager in zip(
        PROBE_TRACE(inputs), PROBE_TRACE.reference(wide), PROBE_TRACE.reference(inputs), strict=True
    ):
        assert_close(out, exact, eager, terms)
        assert out.is_contiguous()
    if shape[0] == 1:
        return
    exact_grads, eager_grads = gradients(PROBE_TRACE.reference, wide), gradients(PROBE_TRACE.reference, inputs)
    for name, grad in gradients(PROBE_TRACE, inputs).items():
        assert_close(grad, exact_grads[name], eager_grads[name], terms**1.5)


def test_variance_keeps_its_digits_beside_a_large_mean() -> None:
    hvp = 1e4 + torch.randn(50, 7, 1)
    _, variance = ops.probe_trace(torch.ones_like(hvp), hvp)
    torch.testing.assert_close(variance, hvp[..., 0].double().var(0).float(), rtol=1e-3, atol=0.0)


def test_one_probe_has_no_variance_but_a_gradient() -> None:
    inputs = probe_inputs((1, 4, 3))
    probe, hvp = inputs["probe"], inputs["hvp"].requires_grad_()
    mean, variance = ops.probe_trace(probe, hvp)
    assert bool(variance.isnan().all())
    mean.sum().backward()
    assert torch.equal(hvp.grad, probe)


@pytest.mark.parametrize("outputs", [(0, 1), (0,), (1,)], ids=str)
def test_gradcheck(outputs: tuple[int, ...]) -> None:
    inputs = probe_inputs((3, 2, 4))

    def function(probe: Tensor, hvp: Tensor) -> tuple[Tensor, ...]:
        tensors = ops.probe_trace(probe, hvp)
        return tuple(tensors[i] for i in outputs)

    assert torch.autograd.gradcheck(function, [value.requires_grad_() for value in inputs.values()])


def test_opcheck() -> None:
    probe, hvp = (value.requires_grad_() for value in probe_inputs((3, 2, 4)).values())
    torch.library.opcheck(torch.ops.svgdx.probe_trace.default, (probe, hvp))
    grad = torch.randn(2, dtype=torch.float64)
    for grads in ((grad, grad), (grad, None), (None, grad)):
        torch.library.opcheck(torch.ops.svgdx.probe_trace_backward.default, (*grads, probe.detach(), hvp.detach()))
    torch.library.opcheck(torch.ops.svgdx.rademacher.default, (probe, 1, 2))


def test_compile_without_graph_breaks() -> None:
    torch._dynamo.reset()

    def estimate(hvp: Tensor, offset: int) -> tuple[Tensor, Tensor]:
        return ops.probe_trace(ops.rademacher(hvp, 3, offset), hvp)

    compiled = torch.compile(estimate, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape, offset in [((3, 2, 4), 5), ((4, 3, 5), 2**40)]:
        hvp = probe_inputs(shape)["hvp"]
        for out, expected in zip(compiled(hvp, offset), estimate(hvp, offset), strict=True):
            assert torch.equal(out, expected)


@pytest.mark.parametrize("dims", [(0, 0), (1, 2), (None, 0), (3, None)], ids=str)
def test_vmap(dims: tuple[int | None, int | None]) -> None:
    """The mapped dimension becomes a leading dimension, for the gradient too."""
    batch = probe_inputs((5, 3, 2, 4))
    one = probe_inputs((3, 2, 4))
    args = [
        one[name] if dim is None else batch[name].movedim(0, dim)
        for name, dim in zip(("probe", "hvp"), dims, strict=True)
    ]
    rows = [
        tuple(one[name] if dim is None else batch[name][i] for name, dim in zip(("probe", "hvp"), dims, strict=True))
        for i in range(5)
    ]
    mapped = torch.vmap(ops.probe_trace, in_dims=dims)(*args)
    for i, out in enumerate(mapped):
        torch.testing.assert_close(out, torch.stack([reference.probe_trace(*row)[i] for row in rows]))

    def total(function: Callable[..., tuple[Tensor, ...]]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda probe, hvp: sum(out.square().sum() for out in function(probe, hvp))

    actual = torch.vmap(torch.func.grad(total(ops.probe_trace), (0, 1)), in_dims=dims)(*args)
    for i, grad in enumerate(actual):
        expected = [torch.func.grad(total(reference.probe_trace), (0, 1))(*row)[i] for row in rows]
        torch.testing.assert_close(grad, torch.stack(expected))


def test_vmap_of_signs() -> None:
    like = torch.empty(3, 5, 7)
    expected = ops.rademacher(like.movedim(1, 0), 3, 4)
    assert torch.equal(torch.vmap(lambda row: ops.rademacher(row, 3, 4), in_dims=1)(like), expected)


def test_second_derivatives_are_refused() -> None:
    probe, hvp = (value.requires_grad_() for value in probe_inputs((3, 2, 4)).values())
    (grad,) = torch.autograd.grad(ops.probe_trace(probe, hvp)[1].sum(), hvp, create_graph=True)
    with pytest.raises(RuntimeError, match="probe_trace_backward cannot be differentiated"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    for shape in [(3, 5000, 6), (40, 300, 64)]:
        inputs, results = probe_inputs(shape, dtype), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append([*PROBE_TRACE(inputs), *gradients(PROBE_TRACE, inputs).values()])
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


Change = Callable[[Any], Any]
NO_FLOAT: dict[str, Change] = {"int64": lambda t: t.long(), "complex64": lambda t: t.to(torch.complex64)}
NO_TENSOR: dict[str, Change] = {"None": lambda t: None, "list": lambda t: t.tolist(), "number": lambda t: 1.0}
FAULTS: dict[tuple[str, str], dict[str, Change]] = {
    ("rademacher", "like"): {**NO_FLOAT, **NO_TENSOR},
    ("probe_trace", "probe"): {
        **NO_FLOAT,
        **NO_TENSOR,
        "one dimension": lambda t: t[:, 0, 0],
        "no probe": lambda t: t[:0],
    },
    ("probe_trace", "hvp"): {
        **NO_FLOAT,
        **NO_TENSOR,
        "float32": lambda t: t.float(),
        "one probe fewer": lambda t: t[1:],
        "broadcast": lambda t: t[:1],
        "one entry fewer": lambda t: t[..., 1:],
    },
}


@pytest.mark.parametrize("library", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize("place", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("op", "argument", "fault"),
    [(op, argument, fault) for (op, argument), faults in FAULTS.items() for fault in faults],
)
def test_bad_input(op: str, argument: str, fault: str, place: str, library: Any) -> None:
    inputs: Inputs = probe_inputs((3, 2, 4)) if op == "probe_trace" else {"like": torch.ones(3), "seed": 1, "offset": 2}
    inputs[argument] = FAULTS[op, argument][fault](inputs[argument])
    inputs = {name: value.to(place) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    with pytest.raises((TypeError, RuntimeError)) as caught:
        getattr(library, op)(**inputs)
    assert re.match(rf"svgdx::{op}: .*\b{argument}\b", str(caught.value)), caught.value


def test_meta_tensors_have_the_right_shapes() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        inputs = probe_inputs((3, 2, 5, 4), dtype)
        meta = {name: value.to("meta") for name, value in inputs.items()}
        for out, expected in zip(PROBE_TRACE(meta), PROBE_TRACE(inputs), strict=True):
            assert (out.shape, out.dtype, out.stride()) == (expected.shape, expected.dtype, expected.stride())
        signs = ops.rademacher(meta["probe"], 1, 2)
        assert (signs.shape, signs.dtype) == (meta["probe"].shape, dtype)


def test_autocast_does_not_apply() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        inputs = probe_inputs((3, 2, 4), dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out, signs = PROBE_TRACE(inputs)[0], ops.rademacher(inputs["probe"], 1, 2)
        assert torch.equal(out, PROBE_TRACE(inputs)[0])
        assert signs.dtype == dtype
