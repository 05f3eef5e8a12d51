"""The errors that the tests of the ops allow."""

from __future__ import annotations

import torch
from ops.backends import Backend
from ops.cases import Inputs, Variant
from torch import Tensor


def assert_close(actual: Tensor, expected: Tensor, eager: Tensor, scale: float = 0.0, factor: float = 8.0) -> None:
    """Assert that ``actual`` is close to ``expected`` (float64): at most ``factor`` times as far as ``eager``, the
    reference in the dtype of ``actual``, plus a few rounding errors of the largest value and of ``scale``, the size of
    cancelling terms.
    """
    assert actual.dtype == eager.dtype, (actual.dtype, eager.dtype)
    assert actual.shape == expected.shape == eager.shape, (actual.shape, expected.shape)
    if actual.numel() == 0:
        return
    epsilon = torch.finfo(actual.dtype).eps
    actual, eager, expected = (value.detach().cpu().double() for value in (actual, eager, expected))
    assert torch.equal(actual.isnan(), expected.isnan())
    if bool(expected.isnan().all()):
        return
    error = (actual - expected).nan_to_num(0.0).abs().max().item()
    eager_error = (eager - expected).nan_to_num(0.0).abs().max().item()
    largest = expected.nan_to_num(0.0).abs().max().item()
    allowed = factor * eager_error + 16 * epsilon * (largest + scale)
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}, largest value {largest:.3g}"


def assert_same(actual: Tensor, expected: Tensor, backend: Backend, terms: float = 1.0) -> None:
    """Assert that two results are bit-equal. On a GPU the order of a row's sum depends on whether packs of 16 bytes can
    be read, so that numbers may differ by a few rounding errors of ``terms``.
    """
    if backend.name == "cpu" or not actual.is_floating_point():
        assert torch.equal(actual, expected)
        return
    epsilon = torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=8 * epsilon, atol=8 * epsilon * terms, equal_nan=True)


def scale_of(variant: Variant, inputs: Inputs) -> float:
    """Magnitude of the terms that an output sums: it may be much smaller than its terms."""
    if variant.has_particles:
        return cancellation(inputs)
    scale = largest_logit(inputs)
    if "hidden" in inputs and inputs["hidden"].dtype in (torch.bfloat16, torch.float16):
        # The layer's output is rounded to half precision, with an independent error in each step.
        steps = inputs["hidden"].shape[-2]
        scale *= steps**0.5 * torch.finfo(inputs["hidden"].dtype).eps / (8 * torch.finfo(torch.float32).eps)
    return scale


def cancellation(inputs: Inputs) -> float:
    """Magnitude of the terms of traces and discrepancies."""
    x, bandwidth = inputs["x"], inputs.get("bandwidth")
    if bandwidth is None or x.numel() == 0:
        return 0.0
    beta = float((torch.as_tensor(bandwidth).double() ** -2).max())
    return 1.0 + beta * x.shape[-1] + float(inputs["score"].double().square().sum(-1).max())


def largest_logit(inputs: Inputs) -> float:
    """Magnitude of the terms whose differences give the log-probabilities."""
    if "hidden" in inputs:
        bias = inputs.get("bias")
        logits = torch.nn.functional.linear(inputs["hidden"].double(), inputs["weight"].double())
        logits = logits if bias is None else logits + bias.double()
    else:
        logits = inputs["logits"].double()
    finite = logits[logits.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0
