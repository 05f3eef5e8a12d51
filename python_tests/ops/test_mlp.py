"""mlp_score_hvp and mlp_laplacian against the reference and torch.func.hessian, under transforms, with bad input."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from ops.cases import Inputs
from ops.errors import assert_close
from torch import Tensor

from svgdx import ops, reference
from svgdx.activations import COMPILED

OPS = ["mlp_score_hvp", "mlp_laplacian"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
# Leading shape, M, D, C (None: no condition), hidden widths: partial vectors, one layer, growing and shrinking layers.
SIZES: list[tuple[tuple[int, ...], int, int, int | None, list[int]]] = [
    ((), 1, 1, None, [1]),
    ((), 5, 3, None, [7]),
    ((2,), 4, 6, 5, [16, 16]),
    ((3, 2), 3, 2, 1, [33, 9, 20]),
    ((4,), 2, 5, 0, [8, 8]),
    ((), 70, 64, None, [40, 40, 40]),
    ((50,), 3, 7, 2, [64, 64]),
]


def sample_inputs(
    op: str,
    lead: tuple[int, ...],
    m: int,
    d: int,
    c: int | None,
    hidden: list[int],
    activation: str = "silu",
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Inputs:
    generator = torch.Generator().manual_seed(m + 31 * d)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)

    widths = [d + (c or 0), *hidden, 1]
    inputs: Inputs = {
        "x": normal(*lead, m, d),
        "condition": None if c is None else normal(*lead, c),
        "weights": [1.5 * normal(b, a) / max(a, 1) ** 0.5 for a, b in itertools.pairwise(widths)],
        "biases": [normal(b) for b in widths[1:]],
        "activation": activation,
    }
    return {**inputs, "probe": normal(*lead, m, d)} if op == "mlp_score_hvp" else inputs


def as_dtype(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    def change(value: Any) -> Any:
        return [change(v) for v in value] if isinstance(value, list) else value.to(dtype)

    return {k: v if v is None or isinstance(v, str) else change(v) for k, v in inputs.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", COMPILED)
@pytest.mark.parametrize("op", OPS)
def test_values_of_the_reference(op: str, activation: str, dtype: torch.dtype, device: str) -> None:
    """By a covering array: every dtype meets every size, and every activation does in float64 or float32, in which no
    rounding hides a fault."""
    turn, step = list(COMPILED).index(activation) + DTYPES.index(dtype), 2 if dtype.itemsize >= 4 else 3
    for size in SIZES[turn % step :: step]:
        inputs = sample_inputs(op, *size, activation, dtype, device)
        exact = getattr(reference, op)(**as_dtype(inputs, torch.float64))
        eager = getattr(reference, op)(**inputs)
        for out, one, other in zip(getattr(ops, op)(**inputs), exact, eager, strict=True):
            assert_close(out, one, other, scale=4.0 * float(one.abs().max()) + 4.0)


@pytest.mark.parametrize("activation", COMPILED)
def test_derivatives_are_those_of_func_hessian(activation: str) -> None:
    inputs = sample_inputs("mlp_score_hvp", (3,), 4, 5, 2, [17, 12], activation)
    layers = list(zip(inputs["weights"], inputs["biases"], strict=True))

    def network(x: Tensor, condition: Tensor) -> Tensor:
        value = torch.nn.functional.linear(torch.cat([x, condition]), *layers[0])
        for layer in layers[1:]:
            value = torch.nn.functional.linear(getattr(torch.nn.functional, activation)(value), *layer)
        return value[0]

    rows = inputs["condition"][:, None].expand(3, 4, 2).reshape(12, 2)
    flat = inputs["x"].reshape(12, 5)
    hessian = torch.func.vmap(torch.func.hessian(network))(flat, rows)
    value, score, hvp = ops.mlp_score_hvp(**inputs)
    torch.testing.assert_close(value.flatten(), torch.func.vmap(network)(flat, rows), **CLOSE)
    torch.testing.assert_close(score.view(12, 5), torch.func.vmap(torch.func.grad(network))(flat, rows), **CLOSE)
    torch.testing.assert_close(hvp.view(12, 5), (hessian @ inputs["probe"].view(12, 5, 1))[..., 0], **CLOSE)
    inputs.pop("probe")
    trace = ops.mlp_laplacian(**inputs)[2].flatten()
    torch.testing.assert_close(trace, hessian.diagonal(dim1=-2, dim2=-1).sum(-1), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("activation", COMPILED)
def test_activations_everywhere(activation: str, dtype: torch.dtype) -> None:
    """Value and two derivatives of one unit match autograd over the whole range, at the jumps and at zero."""
    grid = torch.cat([torch.linspace(-40, 40, 4001), torch.logspace(-8, 2.3, 300), -torch.logspace(-8, 2.3, 300)])
    x = torch.cat([grid, torch.tensor([0.0, -0.0, 20.0, 20.001, -0.25, 1e4, -1e4])]).to(dtype)[:, None]
    one, zero = torch.ones(1, 1, dtype=dtype), torch.zeros(1, dtype=dtype)
    value, score, hvp = ops.mlp_score_hvp(x, None, [one, one], [zero, zero], activation, torch.ones_like(x))

    def derivatives_at(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = getattr(torch.nn.functional, activation)(x)
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, materialize_grads=True) if first.requires_grad else (x * 0,)
        return y.detach(), first.detach(), second

    exact = derivatives_at(x.double().requires_grad_())
    epsilon = torch.finfo(dtype).eps
    for out, expected in zip((value[:, None], score, hvp), exact, strict=True):
        torch.testing.assert_close(out.double(), expected, rtol=16 * epsilon, atol=64 * epsilon)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gelu_keeps_its_digits_in_the_tail(dtype: torch.dtype) -> None:
    """z Phi(z) from the complementary error function; exp turns the rounding of z^2 / 2 into a relative error."""
    x = torch.linspace(-12, 12, 2001, dtype=dtype)[:, None]
    one, zero = torch.ones(1, 1, dtype=dtype), torch.zeros(1, dtype=dtype)
    value, _, _ = ops.mlp_score_hvp(x, None, [one, one], [zero, zero], "gelu", torch.ones_like(x))
    z = x[:, 0].double()
    exact = z * torch.special.erfc(-z * 0.5**0.5) / 2
    error = (value.double() - exact).abs() / exact.abs().clamp_min(torch.finfo(dtype).tiny)
    assert bool((error <= (8 + z.square()) * torch.finfo(dtype).eps).all())


def test_nan_stays_with_its_point() -> None:
    for activation in COMPILED:
        inputs = sample_inputs("mlp_score_hvp", (2,), 3, 4, None, [9, 9], activation)
        expected = ops.mlp_score_hvp(**inputs)
        inputs["x"][1, 2, 0] = torch.nan
        for out, clean in zip(ops.mlp_score_hvp(**inputs), expected, strict=True):
            assert torch.equal(out[0], clean[0])
            assert torch.equal(out[1, :2], clean[1, :2])
        assert bool(ops.mlp_score_hvp(**inputs)[0][1, 2].isnan())


@pytest.mark.parametrize("op", OPS)
def test_no_points_and_layouts(op: str) -> None:
    for lead, m in [((0,), 3), ((2,), 0)]:
        inputs = sample_inputs(op, lead, m, 3, 2, [5])
        assert getattr(ops, op)(**inputs)[1].shape == (*lead, m, 3)
    inputs = sample_inputs(op, (4,), 6, 3, 2, [5])
    expected = getattr(ops, op)(**inputs)
    strided = {
        **inputs,
        "x": inputs["x"].mT.contiguous().mT,
        "weights": [w.T.contiguous().T for w in inputs["weights"]],
    }
    assert all(torch.equal(a, b) for a, b in zip(getattr(ops, op)(**strided), expected, strict=True))


def call(op: str, inputs: Inputs) -> tuple[Tensor, ...]:
    derivatives: tuple[Tensor, ...] = getattr(ops, op)(**inputs)
    return derivatives


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_same_bits_for_any_number_of_threads(op: str, dtype: torch.dtype) -> None:
    for size in [((40,), 10, 6, 17, [96, 96]), ((), 130, 64, None, [128, 128])]:
        inputs, results = sample_inputs(op, *size, dtype=dtype), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(call(op, inputs))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str) -> None:
    for c in (None, 2):
        inputs = sample_inputs(op, (2,), 3, 4, c, [5, 6])
        parameters = torch.cat(
            [p.flatten() for pair in zip(inputs["weights"], inputs["biases"], strict=True) for p in pair]
        )
        widths = torch.tensor([4 + (c or 0), 5, 6, 1])
        probe = (inputs["probe"],) if "probe" in inputs else ()
        torch.library.opcheck(
            getattr(torch.ops.svgdx, op).default, (inputs["x"], inputs["condition"], *probe, parameters, widths, 2)
        )


@pytest.mark.parametrize("op", OPS)
def test_compile_and_vmap(op: str) -> None:
    torch._dynamo.reset()
    inputs = sample_inputs(op, (3,), 4, 5, 2, [7, 8])
    expected = call(op, inputs)
    compiled = torch.compile(lambda values: call(op, values), fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(inputs), expected, strict=True))
    names = [name for name in ("x", "condition", "probe") if name in inputs]
    mapped = torch.vmap(lambda *rows: call(op, {**inputs, **dict(zip(names, rows, strict=True))}))(
        *(inputs[name] for name in names)
    )
    for out, one in zip(mapped, expected, strict=True):
        torch.testing.assert_close(out, one, **CLOSE)


def test_results_record_no_graph() -> None:
    inputs = sample_inputs("mlp_score_hvp", (), 4, 3, None, [5])
    inputs["x"].requires_grad_()
    inputs["weights"][0].requires_grad_()
    assert not any(out.requires_grad for out in call("mlp_score_hvp", inputs))


Change = Callable[[Any], Any]
FAULTS: dict[str, dict[str, Change]] = {
    "x": {"list": lambda t: t.tolist(), "int64": lambda t: t.long(), "1-d": lambda t: t[0, 0]},
    "condition": {
        "number": lambda t: 1.0,
        "float32": lambda t: t.float(),
        "other rows": lambda t: t[:1],
        "0-d": lambda t: t[0, 0],
    },
    "probe": {"None": lambda t: None, "float32": lambda t: t.float(), "one fewer": lambda t: t[:, 1:]},
    "weights": {
        "tensor": lambda t: t[0],
        "one layer": lambda t: t[:1],
        "numbers": lambda t: [1.0, *t[1:]],
        "int64": lambda t: [w.long() for w in t],
        "mixed": lambda t: [t[0], *(w.float() for w in t[1:])],
        "other D": lambda t: [t[0][:, 1:], *t[1:]],
        "gap": lambda t: [t[0], t[1][:, 1:], t[2]],
        "two outputs": lambda t: [*t[:2], t[2].expand(2, -1)],
        "1-d": lambda t: [*t[:2], t[2][0]],
    },
    "biases": {"None": lambda t: None, "one fewer": lambda t: t[1:], "shape": lambda t: [b[None] for b in t]},
    "activation": {"unknown": lambda t: "sine", "None": lambda t: None},
}


@pytest.mark.parametrize("library", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize(("argument", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults])
@pytest.mark.parametrize("op", OPS)
def test_bad_input(op: str, argument: str, fault: str, library: Any) -> None:
    inputs = sample_inputs(op, (2,), 3, 4, 2, [5, 6])
    if argument not in inputs:
        return
    inputs[argument] = FAULTS[argument][fault](inputs[argument])
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        getattr(library, op)(**inputs)
    assert re.match(rf"svgdx::{op}: .*\b(x|{argument})\b", str(caught.value)), caught.value


def test_laplacian_refuses_many_dimensions() -> None:
    for library in (ops, reference):
        with pytest.raises(RuntimeError, match="mlp_laplacian: x must have at most 64 features"):
            library.mlp_laplacian(**sample_inputs("mlp_laplacian", (), 2, 65, None, [5]))
