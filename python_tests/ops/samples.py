"""Inputs for every op, and the allowed error against the reference, shared by all tests of the ops."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from ops.backends import Backend
from torch import Tensor

import svgdx.ops
import svgdx.reference

Inputs = dict[str, Any]

SIZES = [
    # (M, D): one particle, one dimension, both sides of vector widths and tiles, then larger D.
    (1, 1),
    (1, 7),
    (2, 1),
    (2, 3),
    (3, 2),
    (5, 5),
    (7, 16),
    (8, 8),
    (9, 1),
    (15, 6),
    (16, 17),
    (17, 4),
    (31, 3),
    (33, 9),
    (64, 2),
    (65, 13),
    (100, 20),
    (130, 1),
    (130, 6),
]
WIDE_SIZES = [(2, 17), (7, 50), (33, 64), (17, 100), (5, 300), (9, 784)]
LEADS: list[tuple[int, ...]] = [(), (1,), (3,), (2, 2)]


@dataclasses.dataclass(frozen=True)
class Variant:
    """An op together with the optional arguments that it is called with."""

    op: str
    extra: tuple[str, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()
    differentiable: bool = True

    def __str__(self) -> str:
        return "-".join((self.op, *self.extra, *(str(value) for _, value in self.fixed)))

    def takes(self, m: int, d: int) -> bool:
        """Whether the op is defined at this size."""
        if dict(self.fixed).get("statistic") == "u" and m == 1:
            return False
        return self.max_dim is None or d <= self.max_dim

    @property
    def max_dim(self) -> int | None:
        return 16 if self.op == "svgd_logdet" else None

    def arguments(self) -> list[str]:
        """Names of the tensor arguments, including the optional ones in use."""
        parameters = inspect.signature(getattr(svgdx.reference, self.op)).parameters
        fixed = dict(self.fixed)
        required = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in fixed]
        return [*required, *self.extra]

    def __call__(self, inputs: Inputs) -> tuple[Tensor, ...]:
        return _tuple(getattr(svgdx.ops, self.op)(**inputs, **dict(self.fixed)))

    def reference(self, inputs: Inputs) -> tuple[Tensor, ...]:
        return _tuple(getattr(svgdx.reference, self.op)(**inputs, **dict(self.fixed)))


VARIANTS = [
    Variant("svgd_phi"),
    Variant("svgd_phi_trace"),
    Variant("svgd_step"),
    Variant("svgd_step", ("hessian_trace",)),
    Variant("svgd_field"),
    Variant("svgd_jacobian_sqnorm"),
    Variant("svgd_jacobian_sqnorm", ("probe", "hvp")),
    Variant("svgd_logdet"),
    Variant("svgd_logdet", ("hessian",)),
    Variant("ksd", fixed=(("statistic", "u"),)),
    Variant("ksd", fixed=(("statistic", "v"),)),
    Variant("median_distance", differentiable=False),
]
DIFFERENTIABLE = [variant for variant in VARIANTS if variant.differentiable]


def sample_inputs(
    variant: Variant,
    lead: Sequence[int],
    m: int,
    d: int,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    bandwidth: str = "rows",
    seed: int = 0,
) -> Inputs:
    """Random inputs; ``bandwidth`` (and the step size): "number", "scalar" (0-d) or "rows" (one per batch row)."""
    generator = torch.Generator().manual_seed(1000 * seed + 31 * m + d)

    def normal(*shape: int) -> Tensor:
        value = torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)
        return value.to(device=device, dtype=dtype)

    def number(low: float, high: float) -> Tensor | float:
        shape = tuple(lead) if bandwidth == "rows" else ()
        value = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
        if bandwidth == "number":
            return float(value)
        return value.to(device=device, dtype=torch.promote_types(dtype, torch.float32))

    width = math.sqrt(max(d, 1))
    makers: dict[str, Callable[[], Any]] = {
        "query": lambda: normal(m // 2 + 2, d),
        "x": lambda: normal(m, d),
        "score": lambda: normal(m, d),
        "bandwidth": lambda: number(0.5 * width, 1.5 * width),
        "step_size": lambda: number(0.05, 0.3),
        "log_q": lambda: normal(m),
        "hessian_trace": lambda: normal(m),
        "probe": lambda: normal(m, d).sign(),
        "hvp": lambda: normal(m, d),
        "hessian": lambda: normal(m, d, d),
    }
    return {name: makers[name]() for name in variant.arguments()}


def to(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {k: v.to(dtype) if is_floating(v) else v for k, v in inputs.items()}


def is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def leaves(inputs: Inputs, selected: Sequence[str] | None = None) -> Inputs:
    """Fresh copies that require grad."""
    result = {}
    for name, value in inputs.items():
        needs = is_floating(value) and (selected is None or name in selected)
        result[name] = value.detach().clone().requires_grad_() if needs else value
    return result


def gradients(
    function: Callable[[Inputs], tuple[Tensor, ...]], inputs: Inputs, selected: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Gradients of a fixed random combination of all outputs."""
    inputs = leaves(inputs, selected)
    generator = torch.Generator().manual_seed(7)
    loss = torch.zeros((), dtype=torch.float64)
    for out in function(inputs):
        weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        loss = loss + (out.cpu().double() * weight).sum()
    names = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.requires_grad]
    values = torch.autograd.grad(loss, [inputs[name] for name in names], allow_unused=True)
    return {
        name: torch.zeros_like(inputs[name]) if value is None else value
        for name, value in zip(names, values, strict=True)
    }


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


def cancellation(variant: Variant, inputs: Inputs) -> float:
    """Magnitude of the terms that an output sums: traces and discrepancies may be much smaller than their terms."""
    x, bandwidth = inputs["x"], inputs.get("bandwidth")
    if bandwidth is None or x.numel() == 0:
        return 0.0
    beta = float((torch.as_tensor(bandwidth).double() ** -2).max())
    return 1.0 + beta * x.shape[-1] + float(inputs["score"].double().square().sum(-1).max())


def _tuple(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)
