"""First derivatives of the GFlowNet ops: gradcheck, and against autograd through the reference."""

from __future__ import annotations

import itertools

import pytest
import torch
from ops.backends import Backend
from ops.samples import Inputs, Variant, assert_close, gradients, is_floating, to
from ops.trajectory_samples import DIFFERENTIABLE, LEADS, MASKED, SIZES, TRAJECTORY, largest_logit, sample_inputs
from torch import Tensor


def check(variant: Variant, inputs: Inputs) -> None:
    exact = gradients(variant.reference, to(inputs, torch.float64))
    eager = gradients(variant.reference, inputs)
    actual = gradients(variant, inputs)
    assert actual.keys() == exact.keys()
    # A probability has the rounding error of a logit; a gradient of the last layer sums over all rows.
    terms = 1.0 + largest_logit(inputs) * max(1.0, *(float(value.abs().max()) for value in floats(inputs)))
    for name, grad in actual.items():
        assert_close(grad, exact[name], eager[name], terms)


def floats(inputs: Inputs) -> list[Tensor]:
    return [value.double() for value in inputs.values() if is_floating(value) and value.numel()] or [torch.zeros(1)]


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_gradcheck(variant: Variant) -> None:
    for lead, (dim, steps) in [((), (3, 2)), ((2,), (2, 2)), ((2, 1), (4, 1)), ((2,), (1, 0))]:
        inputs = sample_inputs(variant, lead, dim, steps, width=3)
        names = [name for name, value in inputs.items() if is_floating(value)]

        def function(*values: Tensor, names: list[str] = names, inputs: Inputs = inputs) -> tuple[Tensor, ...]:
            return variant({**inputs, **dict(zip(names, values, strict=True))})

        values = [inputs[name].requires_grad_() for name in names]
        assert torch.autograd.gradcheck(function, values, fast_mode=False, nondet_tol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_sizes(variant: Variant, dtype: torch.dtype, backend: Backend) -> None:
    leads = itertools.cycle(LEADS)
    for dim, steps in SIZES:
        if not backend.simulated or dim * steps <= 320:
            check(variant, sample_inputs(variant, next(leads), dim, steps, dtype, backend.device))
    if not backend.simulated:
        check(variant, sample_inputs(variant, (1,), 784, 40, dtype, backend.device))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_half_precision(variant: Variant, dtype: torch.dtype, device: str) -> None:
    inputs = sample_inputs(variant, (2,), 21, 9, dtype, device)
    actual, wide = gradients(variant, inputs), gradients(variant, to(inputs, torch.float32))
    for name, grad in actual.items():
        assert grad.dtype == dtype
        if "linear" not in variant.op:
            assert torch.equal(grad, wide[name].to(dtype))
        else:
            # The layer's matrix products round to half precision, the logits' gradients too.
            error = (grad.double() - wide[name].double()).abs().max().item()
            assert error <= 16 * torch.finfo(dtype).eps * max(g.abs().max().item() for g in wide.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_entries_that_are_not_valid_get_exactly_zero(dtype: torch.dtype, device: str) -> None:
    dim, steps = 19, 7
    variant = TRAJECTORY[1]
    inputs = sample_inputs(variant, (3,), dim, steps, dtype, device)
    grad = gradients(variant, inputs)["logits"]
    state = inputs["initial_state"].clone()
    rows = torch.arange(3, device=device)
    for t in range(steps + 1):
        valid = torch.cat([(state == -1).repeat_interleave(2, -1) & (t < steps), (state >= 0) & (t > 0)], -1)
        # With a single valid action the probability is 1, so its gradient is zero too.
        assert torch.equal(grad[:, t] == 0, ~valid | (valid.sum(-1, keepdim=True) == 1)) or t == 1
        assert bool((grad[:, t][~valid] == 0).all())
        if t < steps:
            action = inputs["actions"][:, t]
            state[rows, action // 2] = (action % 2).to(torch.int8)
    masked = sample_inputs(MASKED, (5,), 4, 3, dtype, device)
    grad = gradients(MASKED, masked)["logits"]
    assert bool((grad[~masked["mask"]] == 0).all())
    assert bool((grad[masked["mask"].sum(-1) > 1].abs().sum(-1) > 0).all())


@pytest.mark.parametrize("variant", [TRAJECTORY[1], MASKED], ids=str)
def test_large_and_infinite_logits(variant: Variant, device: str) -> None:
    inputs = sample_inputs(variant, (4,), 6, 4, torch.float32, device)
    if variant == MASKED:
        inputs["mask"][:, 12:] = True
    p_f = torch.arange(18, device=device) < 12  # so that every softmax keeps an entry
    for change in (lambda x: x * 1e4, lambda x: x + 1e4, lambda x: x.masked_fill((x < -2) & p_f, -torch.inf)):
        changed = {**inputs, "logits": change(inputs["logits"])}
        grad = gradients(variant, changed)["logits"]
        assert bool(grad.isfinite().all())
        expected = gradients(variant.reference, to(changed, torch.float64))["logits"]
        torch.testing.assert_close(grad.double(), expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_one_input_at_a_time(variant: Variant) -> None:
    """A gradient does not depend on which others are requested, and those not requested are not computed."""
    inputs = sample_inputs(variant, (2,), 5, 3)
    for name, grad in gradients(variant, inputs).items():
        alone = gradients(variant, inputs, [name])
        assert alone.keys() == {name}
        assert torch.equal(alone[name], grad)


@pytest.mark.parametrize("variant", TRAJECTORY, ids=str)
@pytest.mark.parametrize("which", [0, 1])
def test_one_output_at_a_time(variant: Variant, which: int) -> None:
    inputs = sample_inputs(variant, (3,), 6, 4)
    actual = gradients(lambda values: variant(values)[which : which + 1], inputs)
    expected = gradients(lambda values: variant.reference(values)[which : which + 1], inputs)
    for name, grad in expected.items():
        torch.testing.assert_close(actual[name], grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_expanded_upstream_gradient(variant: Variant) -> None:
    """sum().backward() passes a gradient with stride 0."""
    actual, expected = (sample_inputs(variant, (2, 2), 5, 3) for _ in range(2))
    for function, inputs in ((variant, actual), (variant.reference, expected)):
        leaves = [value.requires_grad_() for value in inputs.values() if is_floating(value)]
        sum(out.sum() for out in function(inputs)).backward()
        assert all(leaf.grad is not None for leaf in leaves)
    for name, value in actual.items():
        if is_floating(value):
            torch.testing.assert_close(value.grad, expected[name].grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_second_derivatives_are_refused(variant: Variant) -> None:
    inputs = sample_inputs(variant, (2,), 3, 2)
    leaf = next(value for value in inputs.values() if is_floating(value)).requires_grad_()
    (grad,) = torch.autograd.grad(sum(out.square().sum() for out in variant(inputs)), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"svgdx::\w+_backward cannot.*svgdx\.reference"):
        grad.sum().backward()


def test_reference_has_second_derivatives() -> None:
    for variant in DIFFERENTIABLE:
        inputs = sample_inputs(variant, (2,), 3, 2)
        name = next(name for name, value in inputs.items() if is_floating(value))
        leaf = inputs[name].clone().requires_grad_()
        assert torch.autograd.gradgradcheck(lambda x, v=variant, i=inputs, n=name: v.reference({**i, n: x}), leaf)
