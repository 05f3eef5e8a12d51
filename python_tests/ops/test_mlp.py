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

# Sizes with several blocks of rows.
THREADED = [((40,), 10, 6, 17, [96, 96]), ((), 130, 64, None, [128, 128])]


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
    for size in THREADED:
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


def leaves_of(inputs: Inputs) -> list[Tensor]:
    """The tensors that mlp_laplacian can be differentiated in."""
    condition = [] if inputs["condition"] is None else [inputs["condition"]]
    return [inputs["x"], *condition, *inputs["weights"], *inputs["biases"]]


def laplacian_gradients(inputs: Inputs, library: Any = ops, outputs: tuple[int, ...] = (0, 1, 2)) -> list[Tensor]:
    """Gradients in all leaves of a fixed linear function of some outputs, zeros for a leaf that has none."""
    leaves = leaves_of(inputs)
    for leaf in leaves:
        leaf.requires_grad_()
    derivatives = library.mlp_laplacian(**inputs)
    generator = torch.Generator().manual_seed(5)
    shares = []
    for i, out in enumerate(derivatives):
        factors = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
        shares += [(factors * out).sum()] if i in outputs else []
    gradients = torch.autograd.grad(torch.stack(shares).sum(), leaves, materialize_grads=True)
    for leaf in leaves:
        leaf.requires_grad_(False)
    return list(gradients)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", COMPILED)
def test_laplacian_gradients_of_the_reference(activation: str, dtype: torch.dtype, device: str) -> None:
    """By a covering array, as for the values. A gradient in parameters sums over points, whose size is its scale."""
    turn = list(COMPILED).index(activation) + DTYPES.index(dtype)
    for size in SIZES[turn % 2 :: 2]:
        inputs = sample_inputs("mlp_laplacian", *size, activation, dtype, device)
        exact = laplacian_gradients(as_dtype(inputs, torch.float64), reference)
        eager = laplacian_gradients(inputs, reference)
        for out, one, other in zip(laplacian_gradients(inputs), exact, eager, strict=True):
            scale = 16.0 * float(one.abs().max()) + 16.0 if one.numel() else 0.0
            assert_close(out, one, other, scale=scale)


@pytest.mark.parametrize("outputs", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_laplacian_gradients_of_some_outputs(outputs: tuple[int, ...], device: str) -> None:
    inputs = sample_inputs("mlp_laplacian", (2,), 4, 6, 5, [16, 12], "tanh", device=device)
    expected = laplacian_gradients(inputs, reference, outputs)
    for out, one in zip(laplacian_gradients(inputs, outputs=outputs), expected, strict=True):
        torch.testing.assert_close(out, one, **CLOSE)


def test_laplacian_gradients_by_finite_differences() -> None:
    for activation in ("silu", "gelu", "tanh", "softplus"):
        inputs = sample_inputs("mlp_laplacian", (2,), 3, 4, 2, [6, 5], activation)
        count = len(inputs["weights"])

        def call(x: Tensor, condition: Tensor, *layers: Tensor, kind: str = activation, n: int = count) -> Any:
            return ops.mlp_laplacian(x, condition, layers[:n], layers[n:], kind)

        assert torch.autograd.gradcheck(call, [leaf.requires_grad_() for leaf in leaves_of(inputs)])


def test_third_derivative_of_every_activation() -> None:
    """The gradient in x of the trace of one unit, over the whole range and at the jumps."""
    grid = torch.cat(
        [torch.linspace(-30, 30, 3001), torch.tensor([0.0, -0.0, 20.0, 20.001, -0.25, 1e4, -1e4])]
    ).double()
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for activation in COMPILED:
        x = grid[:, None].clone().requires_grad_()
        (third,) = torch.autograd.grad(ops.mlp_laplacian(x, None, [one, one], [zero, zero], activation)[2].sum(), x)
        derivative = getattr(torch.nn.functional, activation)(x)
        for _ in range(3):
            (derivative,) = torch.autograd.grad(derivative.sum(), x, create_graph=True, materialize_grads=True)
        torch.testing.assert_close(third, derivative.detach(), rtol=1e-12, atol=1e-13)


def test_laplacian_gradients_without_parameters_or_points() -> None:
    inputs = sample_inputs("mlp_laplacian", (2,), 4, 3, 2, [6, 7])
    expected = laplacian_gradients(inputs)[0]
    inputs["x"].requires_grad_()
    derivatives = ops.mlp_laplacian(**inputs)
    generator = torch.Generator().manual_seed(5)
    factors = [torch.randn(out.shape, generator=generator, dtype=torch.float64) for out in derivatives]
    loss = torch.stack([(f * out).sum() for f, out in zip(factors, derivatives, strict=True)]).sum()
    assert torch.equal(torch.autograd.grad(loss, inputs["x"])[0], expected)
    for lead, m in [((0,), 3), ((2,), 0)]:
        for gradient in laplacian_gradients(sample_inputs("mlp_laplacian", lead, m, 3, 2, [5])):
            assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_laplacian_gradients_have_the_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    for size in THREADED:
        inputs, results = sample_inputs("mlp_laplacian", *size, dtype=dtype), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(laplacian_gradients(inputs))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_laplacian_gradients_compiled_and_mapped() -> None:
    torch._dynamo.reset()
    inputs = sample_inputs("mlp_laplacian", (3,), 4, 5, 2, [7, 8])
    leaves = [leaf.requires_grad_() for leaf in leaves_of(inputs)]

    def loss(x: Tensor, condition: Tensor) -> Tensor:
        value, score, trace = ops.mlp_laplacian(**{**inputs, "x": x, "condition": condition})
        return value.sum() + score.square().sum() / 2 + trace.square().sum()

    eager = torch.autograd.grad(loss(*leaves[:2]), leaves)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for out, one in zip(torch.autograd.grad(compiled(*leaves[:2]), leaves), eager, strict=True):
        torch.testing.assert_close(out, one, **CLOSE)
    rows = [leaf.detach() for leaf in leaves[:2]]
    mapped = torch.vmap(torch.func.grad(loss, (0, 1)))(*rows)
    for out, one in zip(mapped, eager, strict=False):
        torch.testing.assert_close(out, one, **CLOSE)


def test_laplacian_has_no_second_derivative() -> None:
    inputs = sample_inputs("mlp_laplacian", (), 4, 3, None, [5])
    x = inputs["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(ops.mlp_laplacian(**inputs)[2].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"mlp_laplacian_backward cannot be differentiated.*svgdx\.reference"):
        gradient.sum().backward()


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
