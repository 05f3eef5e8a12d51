"""Bad input is rejected with an error that names the op and the argument: by the compiled ops, by the fake kernels used
on the meta device and under torch.compile, and by the reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops.cases import DRAWS, PARTICLES, TRAJECTORIES, VARIANTS, Inputs, Variant, sample_inputs
from simt.backend import running
from torch import Tensor

from svgdx import ops

Change = Callable[[Any], Any]
LEAD, M, D = (3,), 4, 2  # of particles; locations and steps of trajectories

# Ways to corrupt an argument: every argument of an entry is corrupted in each of its ways.
SHAPES: dict[str, Change] = {
    "one particle fewer": lambda t: t[:, 1:].contiguous(),
    "one row fewer": lambda t: t[1:].contiguous(),
    "one dimension more": lambda t: t[None],
    "flat": lambda t: t.flatten(),
}
DTYPES: dict[str, Change] = {
    "int64": lambda t: t.long(),
    "bool": lambda t: t > 0,
    "complex64": lambda t: t.to(torch.complex64),
}
OTHER_DTYPE: dict[str, Change] = {"float64": lambda t: t.double(), "float16": lambda t: t.half()}
NO_TENSOR: dict[str, Change] = {"list": lambda t: t.tolist(), "number": lambda t: 1.0, "text": lambda t: "x"}
ABSENT: dict[str, Change] = {"None": lambda t: None}
ROWS: dict[str, Change] = {
    "one row fewer": lambda t: t[1:],
    "one row for all": lambda t: t[:1],
    "one number per particle": lambda t: t[:, None].expand(3, M),
    "int64": lambda t: t.long() + 1,
    "bool": lambda t: t > 0,
}
NO_NUMBER: dict[str, Change] = {
    "text": lambda t: "median",
    "None": lambda t: None,
    "list": lambda t: [1.0, 1.0, 1.0],
    "bool": lambda t: True,
    "complex": lambda t: 1j,
}
NOT_FINITE: dict[str, Change] = {f"{v}": lambda t, v=v: v for v in (float("nan"), float("inf"), float("-inf"))}
NOT_POSITIVE: dict[str, Change] = {f"{v}": lambda t, v=v: v for v in (0, 0.0, -1, -0.5)}
NOT_POSITIVE_TENSOR: dict[str, Change] = {
    "0-d zero": lambda t: torch.zeros(()),
    "0-d negative": lambda t: torch.tensor(-1.0, dtype=torch.float64),
    "a row zero": lambda t: torch.tensor([1.0, 0.0, 1.0]),
    "a row negative": lambda t: torch.tensor([1.0, 1.0, -1.0]),
}

PARTICLE_FAULTS: dict[str, dict[str, Change]] = {
    "x": {**DTYPES, **NO_TENSOR, **ABSENT, "1-d": lambda t: t[0, 0]},
    "score": {**SHAPES, **DTYPES, **OTHER_DTYPE, **NO_TENSOR, **ABSENT, "other D": lambda t: t[..., :1]},
    "query": {
        **DTYPES,
        **OTHER_DTYPE,
        **NO_TENSOR,
        **ABSENT,
        "other D": lambda t: t[..., :1],
        "one row fewer": lambda t: t[1:],
        "one dimension more": lambda t: t[None],
    },
    "bandwidth": {**ROWS, **NO_NUMBER, **NOT_FINITE, **NOT_POSITIVE},
    "step_size": {**ROWS, **NO_NUMBER, **NOT_FINITE},
    "log_q": {**SHAPES, **DTYPES, **OTHER_DTYPE, **NO_TENSOR, **ABSENT},
    "hessian_trace": {**SHAPES, **DTYPES, **OTHER_DTYPE, **NO_TENSOR},
    "probe": {**SHAPES, **DTYPES, **OTHER_DTYPE, **NO_TENSOR, **ABSENT},
    "hvp": {**SHAPES, **DTYPES, **OTHER_DTYPE, **NO_TENSOR, **ABSENT},
    "hessian": {**SHAPES, **DTYPES, **OTHER_DTYPE, **NO_TENSOR, "not square": lambda t: t[..., :1]},
}


NOT_INT64: dict[str, Change] = {"int32": lambda t: t.int(), "float32": lambda t: t.float(), "bool": lambda t: t > 0}
NOT_INT8: dict[str, Change] = {"int64": lambda t: t.long(), "uint8": lambda t: t.byte(), "float32": lambda t: t.float()}
STATE: dict[str, Change] = {**NO_TENSOR, **NOT_INT8}
STATE_SHAPES: dict[str, Change] = {
    "one entry fewer": lambda t: t[..., 1:],
    "one row fewer": lambda t: t[1:],
    "one dimension more": lambda t: t[None],
}


TRAJECTORY_FAULTS: dict[str, dict[str, Change]] = {
    "logits": {**DTYPES, **NO_TENSOR, "None": lambda t: None, "flat": lambda t: t.flatten()[1:]},
    "hidden": {**DTYPES, **NO_TENSOR, "flat": lambda t: t.flatten(), "no state": lambda t: t[:, :0]},
    "weight": {
        **DTYPES,
        **NO_TENSOR,
        **OTHER_DTYPE,
        "None": lambda t: None,
        "not 3 D": lambda t: t[1:],
        "other H": lambda t: t[:, 1:],
        "one dimension more": lambda t: t[None],
    },
    "bias": {**DTYPES, **NO_TENSOR, **OTHER_DTYPE, "one fewer": lambda t: t[1:], "a row": lambda t: t[None]},
    "actions": {
        **NO_TENSOR,
        **NOT_INT64,
        "None": lambda t: None,
        "one dimension more": lambda t: t[None],
        "one fewer": lambda t: t[..., 1:],
    },
    "initial_state": {**STATE, **STATE_SHAPES},
    "state": {**STATE, "None": lambda t: None, "0-d": lambda t: t[0, 0]},
    "mask": {
        **NO_TENSOR,
        "uint8": lambda t: t.byte(),
        "one row fewer": lambda t: t[1:],
        "one fewer": lambda t: t[:, 1:],
    },
    "offsets": {**NO_TENSOR, **NOT_INT64, "0-d": lambda t: t[0], "2-d": lambda t: t[None], "none": lambda t: t[:0]},
}


def cases(faults: dict[str, dict[str, Change]], variants: list[Variant]) -> list[Any]:
    return [
        pytest.param(variant, argument, change, id=f"{variant}-{argument}-{fault}")
        for variant in variants
        for argument in variant.arguments()
        for fault, change in faults.get(argument, {}).items()
        if dict(variant.fixed).get("statistic") != "v"
    ]


FAULTS = [*cases(PARTICLE_FAULTS, PARTICLES), *cases(TRAJECTORY_FAULTS, [*TRAJECTORIES, *DRAWS])]
OTHERS = [
    (v, argument)
    for v in VARIANTS
    for argument in v.arguments()[0 if "query" in v.arguments() else 1 :]
    if argument != "x" and not (v.has_particles and v.fixed)
]


def to_device(inputs: Inputs, device: str) -> Inputs:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def refused(call: Callable[[Inputs], Any], variant: Variant, argument: str, inputs: Inputs) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        call(inputs)
    assert type(caught.value) in (TypeError, ValueError, RuntimeError)
    message = str(caught.value)
    assert re.match(rf"svgdx::{variant.op}: .*\b{argument}\b", message), message
    assert len(message.splitlines()[0]) < 250


@pytest.mark.parametrize(("variant", "argument", "change"), FAULTS)
def test_refused(variant: Variant, argument: str, change: Change) -> None:
    inputs = sample_inputs(variant, LEAD, M, D, torch.float32)
    bad = {**inputs, argument: change(inputs[argument])}
    refused(variant, variant, argument, bad)
    refused(variant.reference, variant, argument, bad)
    if isinstance(bad[argument], Tensor):
        refused(variant, variant, argument, to_device(bad, "meta"))


@pytest.mark.parametrize("change", STATE_SHAPES.values(), ids=STATE_SHAPES)
@pytest.mark.parametrize("variant", DRAWS, ids=str)
def test_logits_must_match_the_state(variant: Variant, change: Change) -> None:
    inputs = sample_inputs(variant, LEAD, M, D, torch.float32)
    bad = {**inputs, "state": change(inputs["state"])}
    for call, inputs in ((variant, bad), (variant.reference, bad), (variant, to_device(bad, "meta"))):
        refused(call, variant, "logits", inputs)


@pytest.mark.parametrize(("variant", "argument", "change"), cases({"bandwidth": NOT_POSITIVE_TENSOR}, PARTICLES))
def test_tensor_bandwidth_must_be_positive(variant: Variant, argument: str, change: Change) -> None:
    """Rejected on the CPU; the reference, like CUDA, cannot inspect the values and gives NaN for those rows."""
    inputs = sample_inputs(variant, LEAD, M, D, torch.float32)
    bad = {**inputs, argument: change(inputs[argument])}
    refused(variant, variant, argument, bad)
    rows_bad = (torch.as_tensor(bad["bandwidth"]) <= 0).expand(LEAD)
    for out in variant.reference(bad)[-1:]:
        assert torch.equal(out.isnan().flatten(1).all(1) if out.dim() > 1 else out.isnan(), rows_bad)


@pytest.mark.parametrize(("variant", "argument"), OTHERS, ids=str)
def test_mixed_devices(variant: Variant, argument: str) -> None:
    inputs = sample_inputs(variant, LEAD, M, D, torch.float32)
    refused(variant, variant, argument, {**inputs, argument: inputs[argument].to("meta")})


@pytest.mark.parametrize(("variant", "argument"), OTHERS, ids=str)
def test_mixed_cpu_and_cuda(variant: Variant, argument: str) -> None:
    inputs = sample_inputs(variant, LEAD, M, D, torch.float32)
    with running(on_host=(argument,)):
        refused(variant, variant, argument, inputs)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_logdet_refuses_more_than_16_dimensions(device: str) -> None:
    x = torch.randn(3, 17, device=device)
    with pytest.raises(RuntimeError, match=r"svgdx::svgd_logdet: .*17"):
        ops.svgd_logdet(x, x, 1.0, 0.1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_u_statistic_refuses_one_particle(device: str) -> None:
    x = torch.randn(2, 1, 3, device=device)
    with pytest.raises(RuntimeError, match=r"svgdx::ksd: .*at least 2 particles"):
        ops.ksd(x, x, 1.0)
    assert ops.ksd(x, x, 1.0, "v").shape == (2,)


@pytest.mark.parametrize("statistic", ["w", "U", "", None, True])
def test_ksd_statistic(statistic: Any) -> None:
    x = torch.randn(3, 2)
    with pytest.raises(ValueError, match="svgdx::ksd: statistic must be"):
        ops.ksd(x, x, 1.0, statistic)


def test_messages_say_what_was_expected_and_what_came() -> None:
    x = torch.randn(3, 4, 2)
    with pytest.raises(RuntimeError, match=r"score must have the shape of x, \(3, 4, 2\), but has \(3, 4, 1\)"):
        ops.svgd_phi(x, x[..., :1], 1.0)
    with pytest.raises(ValueError, match=r"bandwidth must be positive and finite, but is -2"):
        ops.svgd_phi(x, x, -2)


def test_bad_upstream_gradients() -> None:
    """The backward ops check their arguments as well."""
    x = torch.randn(3, 4, 2)
    sigma = torch.tensor(1.0)
    for bad in (x[1:], x[..., :1], x.flatten()):
        with pytest.raises(RuntimeError, match="svgdx::svgd_phi_trace_backward: grad_phi"):
            torch.ops.svgdx.svgd_phi_trace_backward(bad, None, x, x, sigma)
    with pytest.raises(RuntimeError, match="svgdx::ksd_backward: grad"):
        torch.ops.svgdx.ksd_backward(torch.randn(2), x, x, sigma, True)
