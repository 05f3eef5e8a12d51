"""Invalid values of trajectories and states: the CPU names op, argument and entry; elsewhere they are NaN."""

from __future__ import annotations

import pytest
import torch
from ops.backends import Backend
from ops.cases import DRAWS, MASKED, STEPPED, TRAJECTORIES, Inputs, Variant, gradients, sample_inputs
from ops.test_bad_input import to_device
from simt.backend import running
from torch import Tensor

from svgdx import ops

LEAD, D, T = (3,), 4, 2


def changed(tensor: Tensor, *index: int, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


def is_nan(variant: Variant, inputs: Inputs, rows: list[int]) -> None:
    """Neither the reference nor CUDA raises for bad values: those rows are NaN and the others unaffected."""
    with running():
        on_cuda = variant(inputs)
    for out in (*variant.reference(inputs), *on_cuda):
        assert out.isnan().nonzero().flatten().tolist() == rows


@pytest.mark.parametrize("variant", STEPPED, ids=str)
@pytest.mark.parametrize("action", [8, -1, 2**40])
def test_action_out_of_range(variant: Variant, action: int) -> None:
    inputs = sample_inputs(variant, LEAD, D, T)
    inputs["actions"][1, 1] = action
    message = rf"svgdx::{variant.op}: actions\[b=1, t=1\] is {action}, but must be in \[0, 8\)"
    with pytest.raises(RuntimeError, match=message):
        variant(inputs)
    is_nan(variant, inputs, [1])


@pytest.mark.parametrize("variant", STEPPED, ids=str)
def test_location_set_twice(variant: Variant) -> None:
    inputs = sample_inputs(variant, LEAD, D, T)
    location = int(inputs["actions"][2, 0]) // 2
    inputs["actions"][2, 1] = 2 * location
    message = rf"svgdx::{variant.op}: actions\[b=2, t=1\] sets location {location}, which is already set"
    with pytest.raises(RuntimeError, match=message):
        variant(inputs)
    is_nan(variant, inputs, [2])


@pytest.mark.parametrize("variant", STEPPED[1::2], ids=str)
def test_location_set_from_the_start(variant: Variant) -> None:
    inputs = sample_inputs(variant, LEAD, D, T)
    location = int(inputs["actions"][0, 1]) // 2
    inputs["initial_state"][0, location] = 0
    message = rf"svgdx::{variant.op}: actions\[b=0, t=1\] sets location {location}, which is already set"
    with pytest.raises(RuntimeError, match=message):
        variant(inputs)
    is_nan(variant, inputs, [0])


@pytest.mark.parametrize("entry", [2, -2, 127, -128])
@pytest.mark.parametrize("variant", [*STEPPED[1::2], *DRAWS], ids=str)
def test_entry_out_of_range(variant: Variant, entry: int) -> None:
    name = variant.arguments()[-1]
    for dim in (D, 40):
        inputs = sample_inputs(variant, LEAD, dim, T)
        location = int((inputs[name][1] >= 0).nonzero()[-1]) if name == "state" else dim - 1
        inputs[name][1, location] = entry
        with pytest.raises(RuntimeError, match=rf"svgdx::{variant.op}: {name}\[b=1, d=\d+\] is {entry}, but must be"):
            variant(inputs)
        if variant.differentiable:
            is_nan(variant, inputs, [1])
        else:
            not_drawn(variant, inputs, 1)


def not_drawn(variant: Variant, inputs: Inputs, row: int) -> None:
    with running():
        on_cuda = variant(inputs)
    for action, log_prob, next_state in (variant.reference(inputs), on_cuda):
        bad = torch.arange(len(action)) == row
        assert torch.equal(action == -1, bad)
        assert torch.equal(log_prob.isnan(), bad)
        assert torch.equal(next_state[row], inputs["state"][row])


def test_nothing_to_draw() -> None:
    for variant, entry, what in [(DRAWS[0], 1, "void"), (DRAWS[1], -1, "set")]:
        inputs = sample_inputs(variant, LEAD, D, T)
        inputs["state"][2] = entry
        with pytest.raises(RuntimeError, match=rf"svgdx::{variant.op}: state\[b=2\] has no {what} entry"):
            variant(inputs)
        not_drawn(variant, inputs, 2)
        for empty in (to_device(sample_inputs(variant, (2,), 0, 0), "cpu"),):
            with pytest.raises(RuntimeError, match=rf"svgdx::{variant.op}: state\[b=0\] has no {what} entry"):
                variant(empty)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("variant", DRAWS, ids=str)
def test_logits_that_are_no_distribution(variant: Variant, value: float) -> None:
    inputs = sample_inputs(variant, LEAD, D, T, torch.float32)
    valid = (inputs["state"][1] == -1).repeat_interleave(2) if "forward" in variant.op else inputs["state"][1] >= 0
    columns = valid.nonzero().flatten() + (0 if "forward" in variant.op else 2 * D)
    inputs["logits"][1, columns if value == -torch.inf else columns[-1:]] = value
    with pytest.raises(RuntimeError, match=rf"svgdx::{variant.op}: logits\[b=1"):
        variant(inputs)
    not_drawn(variant, inputs, 1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("variant", DRAWS, ids=str)
def test_temperature_and_epsilon(variant: Variant, device: str) -> None:
    inputs = to_device(sample_inputs(variant, LEAD, D, T, torch.float32), device)
    for call in (getattr(ops, variant.op), getattr(torch.ops.svgdx, variant.op)):
        for name, values in {
            "temperature": (0.0, -1.0, float("inf"), float("nan")),
            "epsilon": (-0.1, 1.1, float("inf"), float("nan")),
        }.items():
            for value in values:
                with pytest.raises((ValueError, RuntimeError), match=rf"svgdx::{variant.op}: {name} must be"):
                    call(*inputs.values(), 1, 2, **{name: value})
    for name in ("temperature", "epsilon"):
        for value in ("x", None, True):
            with pytest.raises(TypeError, match=rf"svgdx::{variant.op}: {name} must be a number"):
                getattr(ops, variant.op)(*inputs.values(), 1, 2, **{name: value})
    for name in ("seed", "offset"):
        for value in (1.5, None, "x"):
            with pytest.raises((TypeError, RuntimeError), match=name):
                getattr(ops, variant.op)(*inputs.values(), **{"seed": 1, "offset": 2, name: value})


def ragged() -> Inputs:
    """Five rows of four allowed actions in three trajectories, the second one empty."""
    return {
        "logits": torch.randn(5, 4),
        "mask": torch.ones(5, 4, dtype=torch.bool),
        "actions": torch.tensor([0, 1, 2, 3, 0]),
        "offsets": torch.tensor([0, 2, 2, 5]),
    }


def test_ragged_actions() -> None:
    for action in (4, -1):
        inputs = ragged()
        inputs["actions"] = changed(inputs["actions"], 3, value=action)
        message = rf"svgdx::{MASKED.op}: actions\[n=3\] is {action}, but must be in \[0, 4\)"
        with pytest.raises(RuntimeError, match=message):
            MASKED(inputs)
        is_nan(MASKED, inputs, [2])
    inputs = ragged()
    inputs["mask"] = changed(inputs["mask"], 1, 1, value=False)
    with pytest.raises(RuntimeError, match=rf"svgdx::{MASKED.op}: actions\[n=1\] is 1, which mask forbids"):
        MASKED(inputs)
    is_nan(MASKED, inputs, [0])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 5, 4, 5], r"offsets must not fall, but offsets\[1\] = 5 and offsets\[2\] = 4"),
        ([0, 2, 9, 5], r"offsets must not fall, but offsets\[2\] = 9 and offsets\[3\] = 5"),
        ([1, 2, 2, 5], r"offsets.*\b0\b.*\b1\b"),
        ([0, 2, 2, 4], r"offsets.*\b5\b.*\b4\b"),
        ([0, 2, 2, 6], r"offsets.*\b5\b.*\b6\b"),
        ([-1, 2, 2, 5], r"offsets.*\b0\b.*-1\b"),
        ([3, 0, 0, 5], r"offsets.*\b0\b.*\b3\b"),
        ([0], r"offsets.*\b5\b.*\b0\b"),
    ],
)
def test_offsets(offsets: list[int], message: str) -> None:
    inputs = {**ragged(), "offsets": torch.tensor(offsets)}
    with pytest.raises(RuntimeError, match=rf"svgdx::{MASKED.op}: {message}"):
        MASKED(inputs)
    # A fall anywhere makes all trajectories of the set invalid, even those whose own two offsets are in order.
    with running():
        on_cuda, grads = MASKED(inputs), gradients(MASKED, inputs)
    for out in (*MASKED.reference(inputs), *on_cuda, *grads.values()):
        assert bool(out.isnan().all())


def test_bad_upstream_gradients() -> None:
    """The backward ops check their arguments as well."""
    logits, actions = torch.randn(3, 3, 12), torch.tensor([[0, 2], [4, 6], [1, 3]])
    *_, normalizers = torch.ops.svgdx.gfn_trajectory_log_prob_forward(logits, actions)
    op = torch.ops.svgdx.gfn_trajectory_log_prob_backward
    for bad in (torch.ones(2), torch.ones(3, 1), torch.ones(())):
        with pytest.raises(RuntimeError, match="svgdx::gfn_trajectory_log_prob_backward: grad_log_pf"):
            op(bad, None, logits, actions, None, normalizers)
    with pytest.raises(RuntimeError, match="svgdx::gfn_trajectory_log_prob_backward: normalizers"):
        op(torch.ones(3), None, logits, actions, None, normalizers[:2])
    assert torch.equal(op(None, None, logits, actions, None, normalizers), torch.zeros_like(logits))


def spoilt(variant: Variant) -> Inputs:
    """Three rows, one of which is invalid."""
    if variant == MASKED:
        inputs = ragged()
        inputs["mask"] = changed(inputs["mask"], 1, 1, value=False)
        return inputs
    inputs = sample_inputs(variant, LEAD, D, T, torch.float32)
    if variant.differentiable:
        inputs["actions"][1, 1] = inputs["actions"][1, 0]
    else:
        inputs["state"][1] = 1 if "forward" in variant.op else -1
    return inputs


@pytest.mark.parametrize("variant", [*TRAJECTORIES, *DRAWS], ids=str)
def test_marked_on_cuda(variant: Variant, backend: Backend) -> None:
    """CUDA does not raise for bad values: it returns NaN, action -1 and the unchanged state."""
    inputs = spoilt(variant)
    if backend.raises:
        with pytest.raises(RuntimeError, match=f"svgdx::{variant.op}: "):
            variant(inputs)
        return
    for out, expected in zip(variant(to_device(inputs, backend.device)), variant.reference(inputs), strict=True):
        torch.testing.assert_close(out.cpu(), expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    if variant in STEPPED:
        rows = "hidden" if "hidden" in inputs else "logits"
        grad = gradients(variant, to_device(inputs, backend.device))[rows]
        assert grad.isnan().flatten(1).any(1).tolist() == [False, True, False]
