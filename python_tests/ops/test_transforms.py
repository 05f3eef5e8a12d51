"""vmap, torch.func, autocast and inference mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.samples import DIFFERENTIABLE, VARIANTS, Inputs, Variant, sample_inputs
from torch import Tensor

from svgdx import ops, reference

EXACT = {"rtol": 1e-10, "atol": 1e-11}


def mapped(variant: Variant, function: Any, inputs: Inputs, in_dims: dict[str, int | None]) -> Any:
    names = list(inputs)
    dims = tuple(in_dims[name] for name in names)
    return torch.vmap(lambda *values: function(dict(zip(names, values, strict=True))), in_dims=dims)(*inputs.values())


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_vmap_is_one_more_leading_dimension(variant: Variant) -> None:
    for lead in [(4,), (4, 2), (4, 2, 1)]:
        inputs = sample_inputs(variant, lead, 5, 3)
        out = mapped(variant, variant, inputs, dict.fromkeys(inputs, 0))
        for got, expected in zip(out, variant(inputs), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_vmap_over_an_inner_dimension(variant: Variant) -> None:
    inputs = sample_inputs(variant, (2, 4), 5, 3)
    out = mapped(variant, variant, inputs, dict.fromkeys(inputs, 1))
    for got, expected in zip(out, variant(inputs), strict=True):
        assert torch.equal(got, expected.movedim(1, 0))


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_vmap_over_one_argument(variant: Variant) -> None:
    """One argument is mapped; all rows share the others."""
    one = sample_inputs(variant, (2,), 5, 3)
    many = sample_inputs(variant, (4, 2), 5, 3, seed=1)
    for name in one:
        inputs = {**one, name: many[name]}
        out = mapped(variant, variant, inputs, {key: 0 if key == name else None for key in one})
        rows = [variant({**one, name: many[name][i]}) for i in range(4)]
        for got, expected in zip(out, zip(*rows, strict=True), strict=True):
            assert torch.equal(got, torch.stack(expected))


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_vmap_over_0d_bandwidths(variant: Variant) -> None:
    """A sweep over bandwidths: particles with leading dimensions, and a 0-d bandwidth per mapped row."""
    inputs = {**sample_inputs(variant, (2,), 5, 3), "bandwidth": torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)}
    out = mapped(variant, variant, inputs, {key: 0 if key == "bandwidth" else None for key in inputs})
    for i, bandwidth in enumerate([0.5, 1.0, 2.0]):
        for got, expected in zip(out, variant.reference({**inputs, "bandwidth": bandwidth}), strict=True):
            torch.testing.assert_close(got[i], expected, **EXACT)


def test_nested_vmap() -> None:
    x = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    bandwidth = torch.rand(2, dtype=torch.float64) + 0.5
    out = torch.vmap(torch.vmap(lambda x, b: ops.svgd_phi(x, -x, b)), in_dims=(0, None))(x, bandwidth)
    torch.testing.assert_close(out, reference.svgd_phi(x, -x, bandwidth.expand(3, 2)), **EXACT)


def loss_of(function: Any) -> Any:
    return lambda inputs: sum((out * out.detach().cos()).sum() for out in function(inputs))


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_func_grad(variant: Variant) -> None:
    for mode in ("rows", "scalar"):
        inputs = sample_inputs(variant, (2,), 4, 3, bandwidth=mode)
        expected = torch.func.grad(loss_of(variant.reference))(inputs)
        for name, grad in torch.func.grad(loss_of(variant))(inputs).items():
            torch.testing.assert_close(grad, expected[name], **EXACT)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_gradients_of_each_row_by_vmap(variant: Variant) -> None:
    """Under vmap of grad, a shared 0-d bandwidth gets one gradient per mapped row."""
    inputs = sample_inputs(variant, (3, 2), 4, 3, bandwidth="scalar")
    dims = {name: None if value.dim() == 0 else 0 for name, value in inputs.items()}
    actual = mapped(variant, torch.func.grad(loss_of(variant)), inputs, dims)
    expected = mapped(variant, torch.func.grad(loss_of(variant.reference)), inputs, dims)
    for name, grad in actual.items():
        torch.testing.assert_close(grad, expected[name], **EXACT)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_gradient_of_vmap(variant: Variant) -> None:
    inputs = sample_inputs(variant, (3, 2), 4, 3, bandwidth="scalar")
    dims = {name: None if value.dim() == 0 else 0 for name, value in inputs.items()}

    def loss(function: Any) -> Any:
        return lambda values: mapped(variant, loss_of(function), values, dims).square().sum()

    expected = torch.func.grad(loss(variant.reference))(inputs)
    for name, grad in torch.func.grad(loss(variant))(inputs).items():
        torch.testing.assert_close(grad, expected[name], **EXACT)


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
    for name, transform in transforms.items():
        torch._dynamo.reset()
        call = transform if backend is None else torch.compile(transform, backend=backend, fullgraph=True)
        expected = transform(lambda x: reference.svgd_phi_trace(x, -x, 0.8))
        torch.testing.assert_close(call(lambda x: ops.svgd_phi_trace(x, -x, 0.8)), expected, **EXACT, msg=name)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
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


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_no_grad_and_inference_mode(variant: Variant) -> None:
    inputs = {name: value.requires_grad_() for name, value in sample_inputs(variant, (2,), 5, 3).items()}
    expected = variant.reference(inputs)
    with torch.no_grad():
        for out, value in zip(variant(inputs), expected, strict=True):
            assert not out.requires_grad
            torch.testing.assert_close(out, value.detach(), **EXACT)
    with torch.inference_mode():
        inside = {name: value + 0 for name, value in inputs.items()}
        for out, value in zip(variant(inside), expected, strict=True):
            assert not out.requires_grad
            torch.testing.assert_close(out, value.detach(), **EXACT)


def test_number_made_in_inference_mode_does_not_leak() -> None:
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        ops.svgd_phi(x.detach().clone(), -x.detach(), 0.625)
    ops.svgd_phi(x, -x, 0.625).sum().backward()
    assert isinstance(x.grad, Tensor)
