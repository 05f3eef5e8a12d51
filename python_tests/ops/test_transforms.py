"""vmap, torch.func, autocast and inference mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.cases import (
    DIFFERENTIABLE,
    DRAWS,
    LAYER,
    MASKED,
    PARTICLES,
    STEPPED,
    TRAJECTORIES,
    VARIANTS,
    WITH_BANDWIDTH,
    Inputs,
    Variant,
    alike,
    gradients,
    is_floating,
    sample_inputs,
)
from torch import Tensor

from svgdx import ops, reference

EXACT = {"rtol": 1e-10, "atol": 1e-11}
FOLDED = [variant for variant in VARIANTS if variant != MASKED]
# Arguments that all mapped rows share, so that each row has a gradient of its own.
SHARED = (*LAYER, "bandwidth", "step_size")


def mapped(function: Any, inputs: Inputs, in_dims: dict[str, int | None]) -> Any:
    names = list(inputs)
    dims = tuple(in_dims[name] for name in names)
    return torch.vmap(lambda *values: function(dict(zip(names, values, strict=True))), in_dims=dims)(*inputs.values())


def stacked(rows: list[Inputs]) -> Inputs:
    """Stack rows of equal shapes along a new dimension, and take what they share from the first."""
    return {name: rows[0][name] if name in SHARED else torch.stack([row[name] for row in rows]) for name in rows[0]}


def dims_of(inputs: Inputs, shared: tuple[str, ...] = SHARED, dim: int = 0) -> dict[str, int | None]:
    return {name: None if name in shared else dim for name in inputs}


@pytest.mark.parametrize("variant", FOLDED, ids=str)
def test_vmap_is_one_more_leading_dimension(variant: Variant) -> None:
    for lead in [(4,), (4, 2), (4, 2, 1)]:
        inputs = sample_inputs(variant, lead, 5, 3)
        out = mapped(variant, inputs, dims_of(inputs, LAYER))
        for got, expected in zip(out, variant(inputs), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("variant", FOLDED, ids=str)
def test_vmap_over_an_inner_dimension(variant: Variant) -> None:
    inputs = sample_inputs(variant, (2, 4), 5, 3)
    rows = {name: value if name in LAYER else value.transpose(0, 1).contiguous() for name, value in inputs.items()}
    out = mapped(variant, inputs, dims_of(inputs, LAYER, 1))
    for got, expected in zip(out, variant(rows), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_vmap_over_any_arguments(variant: Variant) -> None:
    """vmap over all arguments, including those of the last layer, and over one at a time."""
    rows = alike(variant, 3)
    many = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    for name in (None, *variant.arguments()):
        inputs = many if name is None else {**rows[0], name: many[name]}
        mapped_rows = [row if name is None else {**rows[0], name: row[name]} for row in rows]
        out = mapped(variant, inputs, {key: 0 if name in (None, key) else None for key in inputs})
        for got, expected in zip(out, zip(*(variant(row) for row in mapped_rows), strict=True), strict=True):
            torch.testing.assert_close(got, torch.stack(expected), **EXACT)


@pytest.mark.parametrize("variant", WITH_BANDWIDTH, ids=str)
def test_vmap_over_0d_bandwidths(variant: Variant) -> None:
    """A sweep over bandwidths: particles with leading dimensions, and a 0-d bandwidth per mapped row."""
    inputs = {**sample_inputs(variant, (2,), 5, 3), "bandwidth": torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)}
    out = mapped(variant, inputs, {key: 0 if key == "bandwidth" else None for key in inputs})
    for i, bandwidth in enumerate([0.5, 1.0, 2.0]):
        for got, expected in zip(out, variant.reference({**inputs, "bandwidth": bandwidth}), strict=True):
            torch.testing.assert_close(got[i], expected, **EXACT)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_vmap_over_nothing(variant: Variant) -> None:
    inputs = sample_inputs(variant, (2,), 5, 3)
    out = mapped(variant, {n: v[None][:0] for n, v in inputs.items()}, dict.fromkeys(inputs, 0))
    for got, expected in zip(out, variant(inputs), strict=True):
        assert (got.shape, got.dtype) == ((0, *expected.shape), expected.dtype)


def test_nested_vmap() -> None:
    x = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    bandwidth = torch.rand(2, dtype=torch.float64) + 0.5
    out = torch.vmap(torch.vmap(lambda x, b: ops.svgd_phi(x, -x, b)), in_dims=(0, None))(x, bandwidth)
    torch.testing.assert_close(out, reference.svgd_phi(x, -x, bandwidth.expand(3, 2)), **EXACT)


def test_vmapped_draws_are_independent() -> None:
    """With an unmapped state and mapped logits, every row gets its own draw."""
    state = torch.full((6,), -1, dtype=torch.int8)
    action = torch.vmap(lambda x: ops.gfn_sample_forward(x, state, 1, 2)[0])(torch.zeros(50, 18))
    assert len(action.unique()) > 5


def loss_of(function: Any) -> Any:
    return lambda inputs: sum((out * out.detach().cos()).sum() for out in function(inputs))


def grad_of(function: Any, inputs: Inputs) -> Any:
    """torch.func.grad with respect to the floating-point inputs."""
    return torch.func.grad(
        lambda leaves, rest: loss_of(function)({**rest, **leaves}),
    )(
        {name: value for name, value in inputs.items() if is_floating(value)},
        {name: value for name, value in inputs.items() if not is_floating(value)},
    )


@pytest.mark.parametrize("mode", ["rows", "scalar"])
@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_func_grad(variant: Variant, mode: str) -> None:
    inputs = sample_inputs(variant, (2,), 4, 3, bandwidth=mode)
    expected = grad_of(variant.reference, inputs)
    for name, grad in grad_of(variant, inputs).items():
        torch.testing.assert_close(grad, expected[name], **EXACT)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_gradients_of_each_row_by_vmap(variant: Variant) -> None:
    """Under vmap of grad, an argument shared by the rows gets one gradient per row."""
    rows = alike(variant, 3)
    many = stacked(rows)
    actual = mapped(lambda inputs: grad_of(variant, inputs), many, dims_of(many))
    for i, row in enumerate(rows):
        shared = {name: rows[0][name] for name in SHARED if name in row}
        for name, grad in grad_of(variant.reference, {**row, **shared}).items():
            torch.testing.assert_close(actual[name][i], grad, **EXACT)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_gradient_of_vmap(variant: Variant) -> None:
    many = stacked(alike(variant, 3))
    actual = grad_of(lambda inputs: mapped(variant, inputs, dims_of(many)), many)

    def losses(inputs: Inputs) -> list[Tensor]:
        single = [{n: v if n in SHARED else v[i] for n, v in inputs.items()} for i in range(3)]
        return [torch.stack(outs) for outs in zip(*(variant.reference(row) for row in single), strict=True)]

    for name, grad in grad_of(losses, many).items():
        torch.testing.assert_close(actual[name], grad, **EXACT)


def test_func_jacrev_and_functional_call() -> None:
    x = torch.randn(4, 2, dtype=torch.float64)
    actual = torch.func.jacrev(lambda x: ops.svgd_phi(x, -x, 0.8))(x)
    expected = torch.func.jacrev(lambda x: reference.svgd_phi(x, -x, 0.8))(x)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("backend", [None, "aot_eager"], ids=["eager", "compiled"])
def test_transforms_of_transforms(backend: str | None) -> None:
    """grad, jacrev, vmap of grad and nested ones, also under torch.compile, agree with those of the reference."""
    x = torch.randn(2, 4, 2, dtype=torch.float64)
    grad, jacrev, vmap = torch.func.grad, torch.func.jacrev, torch.vmap
    transforms: dict[str, Any] = {
        "grad": lambda f: grad(lambda x: f(x)[0].square().sum())(x),
        "jacrev": lambda f: jacrev(f)(x[0]),
        "vmap of grad": lambda f: vmap(grad(lambda x: f(x)[1].square().sum()))(x),
        "grad of grad": lambda f: grad(lambda x: grad(lambda y: f(y)[0].cos().sum())(x).square().sum())(x[0]),
        "jacrev of jacrev": lambda f: jacrev(jacrev(lambda x: f(x)[1].sum()))(x[0]),
        "vmap of jacrev of grad": lambda f: vmap(jacrev(grad(lambda x: f(x)[0].cos().sum())))(x),
    }
    if backend is not None:  # the next ones contain these
        del transforms["grad"], transforms["jacrev"]
    for name, transform in transforms.items():
        torch._dynamo.reset()
        call = transform if backend is None else torch.compile(transform, backend=backend, fullgraph=True)
        expected = transform(lambda x: reference.svgd_phi_trace(x, -x, 0.8))
        torch.testing.assert_close(call(lambda x: ops.svgd_phi_trace(x, -x, 0.8)), expected, **EXACT, msg=name)


def test_second_derivatives_of_trajectories_by_func_are_refused() -> None:
    inputs = sample_inputs(STEPPED[0], (), 3, 2)

    def total(logits: Tensor) -> Tensor:
        return ops.gfn_trajectory_log_prob(logits, inputs["actions"])[0]

    with pytest.raises(RuntimeError, match="gfn_trajectory_log_prob_backward cannot be differentiated"):
        torch.func.jacrev(torch.func.jacrev(total))(inputs["logits"])


@pytest.mark.parametrize("variant", PARTICLES, ids=str)
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_float32(variant: Variant, low: torch.dtype, device: str) -> None:
    inputs = sample_inputs(variant, (2,), 5, 3, low, device)
    wide = {name: value.float() for name, value in inputs.items()}
    with torch.autocast(device, dtype=low):
        for values in (inputs, {**wide, "x": inputs["x"]}):
            expected = variant({**values, **{name: value.float() for name, value in values.items()}})
            for out, value in zip(variant(values), expected, strict=True):
                assert out.dtype == torch.float32
                assert torch.equal(out, value)
        if variant.differentiable:
            x = inputs["x"].clone().requires_grad_()
            sum(out.sum() for out in variant({**inputs, "x": x})).backward()
            assert x.grad is not None
            assert x.grad.dtype == low
            assert bool(x.grad.isfinite().all())
        (double, *_) = variant({name: value.double() for name, value in inputs.items()})
        assert double.dtype == torch.float64


@pytest.mark.parametrize("variant", [*TRAJECTORIES, *DRAWS], ids=str)
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_does_not_apply(variant: Variant, low: torch.dtype, device: str) -> None:
    """Half-precision logits are the result of autocast's own matrix products, so they are read unconverted."""
    for dtype in (low, torch.float32, torch.float64):
        inputs = sample_inputs(variant, (2,), 5, 3, dtype, device)
        expected = variant(inputs)
        expected_grads = gradients(variant, inputs) if variant.differentiable else {}
        with torch.autocast(device, dtype=low):
            for out, value in zip(variant(inputs), expected, strict=True):
                assert out.dtype == value.dtype
                assert torch.equal(out, value)
            for name, grad in (gradients(variant, inputs) if variant.differentiable else {}).items():
                assert torch.equal(grad, expected_grads[name])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_no_grad_and_inference_mode(variant: Variant) -> None:
    inputs = sample_inputs(variant, (2,), 5, 3)
    inputs = {name: value.requires_grad_() if is_floating(value) else value for name, value in inputs.items()}
    expected = [out.detach() for out in variant.reference(inputs)]
    with torch.no_grad():
        for out, value in zip(variant(inputs), expected, strict=True):
            assert not out.requires_grad
            torch.testing.assert_close(out, value, **EXACT)
    with torch.inference_mode():
        inside = {name: value.clone() for name, value in inputs.items()}
        for out, value in zip(variant(inside), expected, strict=True):
            assert not out.requires_grad
            torch.testing.assert_close(out, value, **EXACT)


def test_number_made_in_inference_mode_does_not_leak() -> None:
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        ops.svgd_phi(x.detach().clone(), -x.detach(), 0.625)
    ops.svgd_phi(x, -x, 0.625).sum().backward()
    assert isinstance(x.grad, Tensor)
