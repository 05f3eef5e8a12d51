"""vmap, torch.func, autocast, inference mode and threads for the GFlowNet ops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.samples import Inputs, Variant, gradients, is_floating
from ops.trajectory_samples import DIFFERENTIABLE, MASKED, SAMPLE, TRAJECTORY, VARIANTS, sample_inputs
from torch import Tensor

from svgdx import ops

EXACT = {"rtol": 1e-10, "atol": 1e-11}
FOLDED = [*TRAJECTORY, *SAMPLE]
LAYER = ("weight", "bias")


def mapped(function: Any, inputs: Inputs, in_dims: dict[str, int | None]) -> Any:
    names = list(inputs)
    dims = tuple(in_dims[name] for name in names)
    return torch.vmap(lambda *values: function(dict(zip(names, values, strict=True))), in_dims=dims)(*inputs.values())


def stacked(variant: Variant, rows: list[Inputs]) -> Inputs:
    """Stack rows of equal shapes along a new dimension."""
    return {name: torch.stack([row[name] for row in rows]) for name in variant.arguments()}


def same_shapes(variant: Variant, count: int) -> list[Inputs]:
    """Several inputs that can be combined, because they share the order of locations or the offsets."""
    rows = [sample_inputs(variant, (2,), 5, 3, seed=seed) for seed in range(count)]
    first = rows[0]
    for seed, row in enumerate(rows[1:]):
        if variant == MASKED:
            row.update(first, logits=first["logits"].roll(seed + 1, 0), mask=first["mask"] | (torch.rand(15) < 0.3))
            continue
        row["actions"] = first["actions"] // 2 * 2 + torch.randint(0, 2, (2, 3))
        if "initial_state" in row:
            row["initial_state"] = torch.where(first["initial_state"] == -1, -1, first["initial_state"] ^ 1)
    return rows


@pytest.mark.parametrize("variant", FOLDED, ids=str)
def test_vmap_is_one_more_leading_dimension(variant: Variant) -> None:
    for lead in [(4,), (4, 2), (4, 2, 1)]:
        inputs = sample_inputs(variant, lead, 5, 3)
        out = mapped(variant, inputs, {name: None if name in LAYER else 0 for name in inputs})
        for got, expected in zip(out, variant(inputs), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("variant", FOLDED, ids=str)
def test_vmap_over_an_inner_dimension(variant: Variant) -> None:
    inputs = sample_inputs(variant, (2, 4), 5, 3)
    rows = {name: value if name in LAYER else value.transpose(0, 1).contiguous() for name, value in inputs.items()}
    out = mapped(variant, inputs, {name: None if name in LAYER else 1 for name in inputs})
    for got, expected in zip(out, variant(rows), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_vmap_over_any_arguments(variant: Variant) -> None:
    """vmap over all arguments, including those of the last layer, and over one at a time."""
    rows = same_shapes(variant, 3)
    many = stacked(variant, rows)
    for name in (None, *variant.arguments()):
        inputs = many if name is None else {**rows[0], name: many[name]}
        mapped_rows = [row if name is None else {**rows[0], name: row[name]} for row in rows]
        out = mapped(variant, inputs, {key: 0 if name in (None, key) else None for key in inputs})
        for got, expected in zip(out, zip(*(variant(row) for row in mapped_rows), strict=True), strict=True):
            torch.testing.assert_close(got, torch.stack(expected), **EXACT)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_vmap_over_nothing(variant: Variant) -> None:
    inputs = sample_inputs(variant, (2,), 5, 3)
    out = mapped(variant, {n: v[None][:0] for n, v in inputs.items()}, dict.fromkeys(inputs, 0))
    for got, expected in zip(out, variant(inputs), strict=True):
        assert (got.shape, got.dtype) == ((0, *expected.shape), expected.dtype)


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


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_func_grad(variant: Variant) -> None:
    inputs = sample_inputs(variant, (2,), 4, 3)
    expected = grad_of(variant.reference, inputs)
    for name, grad in grad_of(variant, inputs).items():
        torch.testing.assert_close(grad, expected[name], **EXACT)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_gradients_of_each_row_by_vmap(variant: Variant) -> None:
    """Under vmap of grad, an argument shared by the rows gets one gradient per row."""
    rows = same_shapes(variant, 3)
    many = {**stacked(variant, rows), **{name: rows[0][name] for name in LAYER if name in rows[0]}}
    dims = {name: None if name in LAYER else 0 for name in many}
    actual = mapped(lambda inputs: grad_of(variant, inputs), many, dims)
    for i, row in enumerate(rows):
        layer = {name: rows[0][name] for name in LAYER if name in row}
        for name, grad in grad_of(variant.reference, {**row, **layer}).items():
            torch.testing.assert_close(actual[name][i], grad, **EXACT)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_gradient_of_vmap(variant: Variant) -> None:
    rows = same_shapes(variant, 3)
    many = {**stacked(variant, rows), **{name: rows[0][name] for name in LAYER if name in rows[0]}}
    dims = {name: None if name in LAYER else 0 for name in many}
    actual = grad_of(lambda inputs: mapped(variant, inputs, dims), many)

    def losses(inputs: Inputs) -> list[Tensor]:
        single = [{n: v if n in LAYER else v[i] for n, v in inputs.items()} for i in range(3)]
        return [torch.stack(outs) for outs in zip(*(variant.reference(row) for row in single), strict=True)]

    for name, grad in grad_of(losses, many).items():
        torch.testing.assert_close(actual[name], grad, **EXACT)


def test_second_derivatives_by_func_are_refused() -> None:
    inputs = sample_inputs(TRAJECTORY[0], (), 3, 2)

    def total(logits: Tensor) -> Tensor:
        return ops.gfn_trajectory_log_prob(logits, inputs["actions"])[0]

    with pytest.raises(RuntimeError, match="gfn_trajectory_log_prob_backward cannot be differentiated"):
        torch.func.jacrev(torch.func.jacrev(total))(inputs["logits"])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
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
