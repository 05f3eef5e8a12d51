"""First derivatives of every op: gradcheck, and against autograd through the reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from ops.backends import Backend
from ops.samples import DIFFERENTIABLE, LEADS, Inputs, Variant, assert_close, cancellation, gradients, sample_inputs, to
from torch import Tensor

from svgdx.ops import second_derivatives

SIZES = [(1, 1), (1, 5), (2, 1), (3, 2), (5, 7), (9, 16), (16, 3), (17, 17), (33, 5), (65, 2), (64, 20), (130, 4)]
WIDE_SIZES = [(2, 17), (5, 40), (9, 64), (3, 300), (20, 100)]


def check(variant: Variant, inputs: Inputs, factor: float = 10.0) -> None:
    exact = gradients(variant.reference, to(inputs, torch.float64))
    eager = gradients(variant.reference, inputs)
    actual = gradients(variant, inputs)
    assert actual.keys() == exact.keys()
    # Gradients of one loss share its terms, and hence the magnitude of what cancels.
    scale = max(
        [cancellation(variant, inputs) / inputs["x"].shape[-2]] + [g.abs().max().item() for g in exact.values()]
    )
    for name, grad in actual.items():
        assert grad.dtype == inputs[name].dtype
        terms = euler_terms(inputs, exact) if name == "bandwidth" else 0.0
        assert_close(grad, exact[name], eager[name], scale + terms, factor)


def euler_terms(inputs: Inputs, exact: dict[str, Tensor]) -> float:
    """Root sum of squares of the terms x_i . dL/dx_i and s_i . dL/ds_i, from which sigma dL/dsigma is summed."""
    x, score = (inputs[name].detach().cpu().double() for name in ("x", "score"))
    terms = torch.stack([(x - x[..., :1, :]) * exact["x"].cpu(), score * exact["score"].cpu()])
    return float(terms.square().sum().sqrt() / torch.as_tensor(inputs["bandwidth"]).detach().cpu().double().min())


@pytest.mark.parametrize("bandwidth", ["number", "scalar", "rows"])
@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_gradcheck(variant: Variant, bandwidth: str) -> None:
    for lead, (m, d) in [((), (3, 2)), ((2,), (2, 3)), ((2, 1), (4, 1))]:
        inputs = sample_inputs(variant, lead, m, d, bandwidth=bandwidth)
        names = [name for name, value in inputs.items() if isinstance(value, Tensor)]

        def function(*values: Tensor, names: list[str] = names, inputs: Inputs = inputs) -> tuple[Tensor, ...]:
            return variant({**inputs, **dict(zip(names, values, strict=True))})

        values = [inputs[name].requires_grad_() for name in names]
        assert torch.autograd.gradcheck(function, values, fast_mode=False, nondet_tol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_sizes(variant: Variant, dtype: torch.dtype, backend: Backend) -> None:
    leads, modes = itertools.cycle(LEADS), itertools.cycle(["rows", "scalar", "number"])
    for m, d in SIZES + WIDE_SIZES:
        if variant.takes(m, d) and (not backend.simulated or m * d <= 320):
            check(variant, sample_inputs(variant, next(leads), m, d, dtype, backend.device, next(modes)))


@pytest.mark.parametrize("m", [300, 517])
@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_many_particles(variant: Variant, m: int) -> None:
    check(variant, sample_inputs(variant, (), m, 3, torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_half_precision(variant: Variant, dtype: torch.dtype, device: str) -> None:
    inputs = sample_inputs(variant, (2,), 9, 4, dtype, device)
    actual, wide = gradients(variant, inputs), gradients(variant, to(inputs, torch.float32))
    for name, grad in actual.items():
        assert grad.dtype == inputs[name].dtype
        # Upstream gradients are rounded to half precision too.
        error = (grad.double() - wide[name].double()).abs().max().item()
        assert error <= 8 * torch.finfo(dtype).eps * max(g.abs().max().item() for g in wide.values())


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_far_off_clusters(variant: Variant, device: str) -> None:
    """Gradients, including that of sigma, do not depend on the distance between clusters that do not interact."""
    inputs = sample_inputs(variant, (), 20, 3, torch.float32, device)
    inputs["bandwidth"] = torch.tensor(1.0, device=device)
    for name in ("x", "query"):
        if name in inputs:
            side = torch.where(torch.arange(inputs[name].shape[0], device=device) % 2 == 0, 100.0, -100.0)
            inputs[name] = inputs[name] + side[:, None]
    exact = gradients(variant.reference, to(inputs, torch.float64))
    for name, grad in gradients(variant, inputs).items():
        error = (grad.double() - exact[name]).abs().max().item()
        # Euler's identity, which gives the gradient in sigma, multiplies rounding errors by the distance.
        tolerance = 3e-4 if name == "bandwidth" else 2e-5
        assert error <= tolerance * max(exact[name].abs().max().item(), 0.1), name


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_one_input_at_a_time(variant: Variant) -> None:
    """A gradient does not depend on which others are requested, and those not requested are not computed."""
    inputs = sample_inputs(variant, (2,), 5, 3)
    together = gradients(variant, inputs)
    for name, grad in together.items():
        alone = gradients(variant, inputs, [name])
        assert alone.keys() == {name}
        torch.testing.assert_close(alone[name], grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "variant", [v for v in DIFFERENTIABLE if v.op in ("svgd_phi_trace", "svgd_step", "svgd_field")]
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
    inputs = sample_inputs(variant, (2,), 7, 3)
    x = inputs["x"].clone().requires_grad_()
    sum(out.sum() for out in variant({**inputs, "x": x})).backward()
    expected = inputs["x"].clone().requires_grad_()
    sum(out.sum() for out in variant.reference({**inputs, "x": expected})).backward()
    torch.testing.assert_close(x.grad, expected.grad, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
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

    if variant.op in ("svgd_jacobian_sqnorm", "svgd_logdet"):
        with pytest.raises(RuntimeError, match=r"svgdx::\w+_backward cannot.*svgdx\.reference"):
            gradients_of_penalty(variant)
        return
    expected = gradients_of_penalty(variant.reference)
    for name, grad in gradients_of_penalty(variant).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-9)


def test_reference_has_second_derivatives() -> None:
    for variant in DIFFERENTIABLE:
        inputs = sample_inputs(variant, (), 3, 2)
        x = inputs["x"].clone().requires_grad_()
        assert torch.autograd.gradgradcheck(lambda x, v=variant, i=inputs: v.reference({**i, "x": x}), x)


def test_median_distance_is_detached() -> None:
    x = torch.randn(4, 2, requires_grad=True)
    for out in (torch.ops.svgdx.median_distance(x), Variant("median_distance")({"x": x})[0]):
        assert not out.requires_grad
