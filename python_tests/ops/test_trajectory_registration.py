"""The GFlowNet ops within PyTorch: opcheck, torch.compile, torch.export, meta tensors, ops without wrappers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from ops.samples import Inputs, Variant, gradients, is_floating
from ops.trajectory_samples import DIFFERENTIABLE, MASKED, SAMPLE, TRAJECTORY, VARIANTS, sample_inputs
from torch import Tensor

from svgdx import ops


def arguments(variant: Variant, inputs: Inputs) -> tuple[Any, ...]:
    """Positional arguments of torch.ops.svgdx.<op>."""
    values = {**inputs, **dict(variant.fixed)}
    order = ("logits", "hidden", "weight", "bias", "mask", "actions", "initial_state", "state", "seed", "offset")
    return tuple(values[name] for name in (*order[:6], "offsets", *order[6:]) if name in values)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_opcheck(variant: Variant) -> None:
    inputs = sample_inputs(variant, (2, 1), 4, 3)
    inputs = {name: value.requires_grad_() if is_floating(value) else value for name, value in inputs.items()}
    name = f"{variant.op}_forward" if variant.differentiable else variant.op
    torch.library.opcheck(getattr(torch.ops.svgdx, name).default, arguments(variant, inputs))


@pytest.mark.parametrize(
    ("variant", "requested"),
    [
        *((variant, (True, True)) for variant in TRAJECTORY),
        (TRAJECTORY[0], (True, False)),
        (TRAJECTORY[0], (False, True)),
        (MASKED, (True,)),
    ],
    ids=str,
)
def test_opcheck_backward(variant: Variant, requested: tuple[bool, ...]) -> None:
    inputs = sample_inputs(variant, (2,), 4, 3)
    positional = arguments(variant, inputs)
    *outputs, normalizers = getattr(torch.ops.svgdx, f"{variant.op}_forward")(*positional)
    upstream = [torch.randn_like(out) if request else None for out, request in zip(outputs, requested, strict=True)]
    if variant != MASKED and "initial_state" not in inputs:
        positional = (*positional, None)
    op = getattr(torch.ops.svgdx, f"{variant.op}_backward")
    torch.library.opcheck(op.default, (*upstream, *positional, normalizers))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_compile_without_graph_breaks(variant: Variant) -> None:
    torch._dynamo.reset()
    inputs = sample_inputs(variant, (2,), 5, 3)
    compiled = torch.compile(lambda values: variant(values), fullgraph=True, backend="aot_eager")
    for out, expected in zip(compiled(inputs), variant(inputs), strict=True):
        assert torch.equal(out, expected)
    if variant.differentiable:
        expected_grads = gradients(variant, inputs)
        for name, grad in gradients(compiled, inputs).items():
            torch.testing.assert_close(grad, expected_grads[name], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_compile_with_inductor() -> None:
    torch._dynamo.reset()
    variant = TRAJECTORY[0]
    inputs = sample_inputs(variant, (2,), 5, 3)

    def loss(values: Inputs) -> tuple[Tensor, ...]:
        """The op compiles between pointwise operations, which the compiler fuses."""
        log_pf, log_pb = variant({**values, "logits": values["logits"].tanh()})
        return ((log_pf - log_pb).square(),)

    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(inputs), loss(inputs), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients(compiled, inputs), gradients(loss, inputs), rtol=1e-10, atol=1e-12)


def test_compile_with_dynamic_shapes_and_offsets() -> None:
    """Neither a rollout's next offset nor another batch size triggers recompilation."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter, dynamic=True)
    def step(logits: Tensor, state: Tensor, offset: int) -> tuple[Tensor, ...]:
        return ops.gfn_sample_forward(logits, state, 7, offset)

    for batch, dim, offset in [(3, 4, 2), (5, 6, 3), (7, 9, 2**40), (8, 9, -5)]:
        inputs = sample_inputs(SAMPLE[0], (batch,), dim, 0)
        for out, expected in zip(step(*inputs.values(), offset), step_eagerly(inputs, offset), strict=True):
            assert torch.equal(out, expected)
    assert counter.frame_count <= 2

    @torch.compile(fullgraph=True, backend=counter, dynamic=True)
    def log_prob(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return ops.gfn_trajectory_log_prob(logits, actions)

    counter.frame_count = 0
    for batch, dim in [(3, 4), (5, 6), (7, 9)]:
        inputs = sample_inputs(TRAJECTORY[0], (batch,), dim, dim)
        for out, expected in zip(log_prob(**inputs), TRAJECTORY[0](inputs), strict=True):
            assert torch.equal(out, expected)
    assert counter.frame_count == 1


def step_eagerly(inputs: Inputs, offset: int) -> tuple[Tensor, ...]:
    return ops.gfn_sample_forward(**inputs, seed=7, offset=offset)


def test_compiled_bad_input_names_the_argument() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(ops.gfn_trajectory_log_prob, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"actions must have shape \(\.\.\., T\) to match logits, "):
        compiled(torch.randn(2, 3, 9), torch.zeros(2, 3, dtype=torch.int64))


def test_export() -> None:
    class Step(torch.nn.Module):
        def forward(self, logits: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            action, log_prob, state = ops.gfn_sample_forward(logits, state, 1, 2)
            rows = torch.stack([logits, logits], -2)
            return log_prob, ops.gfn_trajectory_log_prob(rows, action[..., None])[0]

    state = torch.full((3, 4), -1, dtype=torch.int8)
    logits = torch.randn(3, 12, dtype=torch.float64)
    program = torch.export.export(Step(), (logits, state))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"svgdx.gfn_sample_forward.default", "svgdx.gfn_trajectory_log_prob_forward.default"} <= names
    torch.testing.assert_close(program.module()(logits, state), Step()(logits, state))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_meta_tensors_have_the_right_shapes(variant: Variant) -> None:
    for lead, dtype in [((), torch.float64), ((2, 3), torch.bfloat16)]:
        inputs = sample_inputs(variant, lead, 5, 3, dtype)
        meta = {name: value.to("meta") for name, value in inputs.items()}
        for out, expected in zip(variant(meta), variant(inputs), strict=True):
            assert out.is_meta
            assert (out.shape, out.dtype, out.stride()) == (expected.shape, expected.dtype, expected.stride())


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_torch_ops_records_gradients(variant: Variant) -> None:
    """The ops are differentiable without the Python wrappers too."""
    inputs = sample_inputs(variant, (2,), 5, 3)

    def direct(values: Inputs) -> tuple[Tensor, ...]:
        out = getattr(torch.ops.svgdx, variant.op)(*arguments(variant, values))
        return out if isinstance(out, tuple) else (out,)

    expected = gradients(variant, inputs)
    for name, grad in gradients(direct, inputs).items():
        assert torch.equal(grad, expected[name])


def test_normalizers_are_the_softmaxes(device: str) -> None:
    """The forward op's third output is the detached log-sum-exp over the valid actions, or zero if a row has none."""
    inputs = sample_inputs(TRAJECTORY[0], (3,), 4, 4, device=device)
    logits = inputs["logits"].requires_grad_()
    _, _, normalizers = torch.ops.svgdx.gfn_trajectory_log_prob_forward(**inputs)
    assert not normalizers.requires_grad
    zero = torch.zeros(3, dtype=torch.float64, device=device)
    first = torch.stack([logits[:, 0, :8].logsumexp(-1), zero], -1)
    last = torch.stack([zero, logits[:, -1, 8:].logsumexp(-1)], -1)
    torch.testing.assert_close(normalizers[:, 0], first, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(normalizers[:, -1], last, rtol=1e-12, atol=1e-12)
