"""First and second derivatives: gradcheck, and against autograd through the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from ops.backends import Backend
from ops.cases import (
    DIFFERENTIABLE,
    MODES,
    PARTICLES,
    STEPPED,
    TRAJECTORIES,
    Inputs,
    Variant,
    gradients,
    in_both_precisions,
    is_floating,
    sample_inputs,
    samples_of,
)
from ops.errors import assert_close, cancellation, largest_logit
from torch import Tensor

from svgdx.ops import second_derivatives
from svgdx.ops.registration.dispatch import OPS


def terms_of(variant: Variant, inputs: Inputs, exact: dict[str, Tensor]) -> float:
    """Magnitude of what cancels; the gradients of one loss share its terms."""
    if variant.has_particles:
        return max([cancellation(inputs) / inputs["x"].shape[-2], *(g.abs().max().item() for g in exact.values())])
    # A probability has the rounding error of a logit; a gradient of the last layer sums over all rows.
    floats = [value.double() for value in inputs.values() if is_floating(value) and value.numel()]
    return 1.0 + largest_logit(inputs) * max([1.0, *(float(value.abs().max()) for value in floats)])


def score_terms(inputs: Inputs, exact: dict[str, Tensor]) -> float:
    """Root sum of squares of the terms s_i . dL/ds_i, which are among those of sigma dL/dsigma."""
    terms = inputs["score"].detach().cpu().double() * exact["score"].cpu()
    return float(terms.square().sum().sqrt() / torch.as_tensor(inputs["bandwidth"]).detach().cpu().double().min())


def check(variant: Variant, inputs: Inputs, factor: float = 10.0) -> None:
    exact, eager = in_both_precisions(functools.partial(gradients, variant.reference), inputs)
    actual = gradients(variant, inputs)
    assert actual.keys() == exact.keys()
    for name, grad in actual.items():
        assert grad.dtype == inputs[name].dtype
        terms = score_terms(inputs, exact) if name == "bandwidth" else 0.0
        assert_close(grad, exact[name], eager[name], terms_of(variant, inputs, exact) + terms, factor)


@pytest.mark.parametrize(
    ("variant", "bandwidth"),
    [(v, mode) for v in DIFFERENTIABLE for mode in (MODES if v.has_particles else MODES[:1])],
    ids=str,
)
def test_gradcheck(variant: Variant, bandwidth: str) -> None:
    sizes = [((), 3, 2), ((2,), 2, 3), ((2, 1), 4, 1)]
    for lead, a, b in sizes if variant.has_particles else [((), 3, 2), ((2,), 2, 2), ((2, 1), 4, 1), ((2,), 1, 0)]:
        inputs = sample_inputs(variant, lead, a, b, bandwidth=bandwidth, width=3)
        names = [name for name, value in inputs.items() if is_floating(value)]

        def function(*values: Tensor, names: list[str] = names, inputs: Inputs = inputs) -> tuple[Tensor, ...]:
            return variant({**inputs, **dict(zip(names, values, strict=True))})

        values = [inputs[name].requires_grad_() for name in names]
        assert torch.autograd.gradcheck(function, values, fast_mode=False, nondet_tol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_sizes(variant: Variant, dtype: torch.dtype, backend: Backend) -> None:
    for inputs in samples_of(variant, dtype, backend, limit=200 if backend.simulated else None):
        check(variant, inputs)
    if not variant.has_particles and not backend.simulated:
        check(variant, sample_inputs(variant, (1,), 784, 40, dtype, backend.device))


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_one_input_at_a_time(variant: Variant) -> None:
    """A gradient does not depend on which others are requested, and those not requested are not computed."""
    inputs = sample_inputs(variant, (2,), 5, 3)
    for name, grad in gradients(variant, inputs).items():
        alone = gradients(variant, inputs, [name])
        assert alone.keys() == {name}
        torch.testing.assert_close(alone[name], grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "variant",
    [v for v in DIFFERENTIABLE if v in STEPPED or v.op in ("svgd_phi_trace", "svgd_step", "svgd_field")],
    ids=str,
)
@pytest.mark.parametrize("which", [0, 1])
def test_one_output_at_a_time(variant: Variant, which: int) -> None:
    inputs = sample_inputs(variant, (3,), 6, 2)
    actual = gradients(lambda values: variant(values)[which : which + 1], inputs)
    expected = gradients(lambda values: variant.reference(values)[which : which + 1], inputs)
    for name, grad in expected.items():
        torch.testing.assert_close(actual[name], grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_expanded_upstream_gradient(variant: Variant) -> None:
    """sum().backward() passes a gradient with stride 0."""
    actual, expected = (sample_inputs(variant, (2, 2), 7, 3) for _ in range(2))
    for function, inputs in ((variant, actual), (variant.reference, expected)):
        leaves = [value.requires_grad_() for value in inputs.values() if is_floating(value)]
        sum(out.sum() for out in function(inputs)).backward()
        assert all(leaf.grad is not None for leaf in leaves)
    for name, value in actual.items():
        if is_floating(value):
            torch.testing.assert_close(value.grad, expected[name].grad, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("variant", [v for v in PARTICLES if v.differentiable], ids=str)
@pytest.mark.parametrize("mode", ["rows", "number"])
def test_second_derivatives(variant: Variant, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of the reference, also if rows are summed in several blocks, or are refused by name."""
    monkeypatch.setattr(second_derivatives, "BLOCK_ELEMENTS", 20)
    inputs = sample_inputs(variant, (2,), 5, 3, bandwidth=mode)

    def gradients_of_penalty(function: Callable[[Inputs], tuple[Tensor, ...]]) -> dict[str, Tensor]:
        def penalty(values: Inputs) -> tuple[Tensor]:
            tensors = [value for value in values.values() if isinstance(value, Tensor)]
            total = sum(out.square().sum() for out in function(values))
            grads = torch.autograd.grad(total, tensors, create_graph=True)
            return (torch.stack([grad.square().sum() for grad in grads]),)

        return gradients(penalty, inputs)

    backward = OPS.get(f"{variant.op}_backward")
    if backward is not None and backward.second is None:
        with pytest.raises(RuntimeError, match=r"svgdx::\w+_backward cannot.*svgdx\.reference"):
            gradients_of_penalty(variant)
        return
    expected = gradients_of_penalty(variant.reference)
    for name, grad in gradients_of_penalty(variant).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", TRAJECTORIES, ids=str)
def test_second_derivatives_of_trajectories_are_refused(variant: Variant) -> None:
    inputs = sample_inputs(variant, (2,), 3, 2)
    leaf = next(value for value in inputs.values() if is_floating(value)).requires_grad_()
    (grad,) = torch.autograd.grad(sum(out.square().sum() for out in variant(inputs)), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"svgdx::\w+_backward cannot.*svgdx\.reference"):
        grad.sum().backward()


def test_reference_has_second_derivatives() -> None:
    for variant in DIFFERENTIABLE:
        inputs = sample_inputs(variant, () if variant.has_particles else (2,), 3, 2)
        name = "x" if variant.has_particles else next(n for n, value in inputs.items() if is_floating(value))
        leaf = inputs[name].clone().requires_grad_()
        assert torch.autograd.gradgradcheck(lambda x, v=variant, i=inputs, n=name: v.reference({**i, n: x}), leaf)
