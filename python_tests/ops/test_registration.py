"""The ops within PyTorch: opcheck, torch.compile, torch.export, and the reference as their replacement."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forkserver
import pytest
import torch
import torch._dynamo.testing
from ops.cases import (
    DIFFERENTIABLE,
    DRAWS,
    STEPPED,
    VARIANTS,
    WITH_BANDWIDTH,
    Inputs,
    Variant,
    gradients,
    leaves,
    sample_inputs,
)
from torch import Tensor
from torch._dynamo import compiled_autograd

from svgdx import ops, reference

Function = Callable[..., Any]


def op_arguments(variant: Variant, inputs: Inputs) -> tuple[Any, ...]:
    """Positional arguments of torch.ops.svgdx.<op>."""
    values = {**inputs, **dict(variant.fixed)}
    order = inspect.signature(getattr(reference, variant.op)).parameters
    arguments = [values[name] for name in order if name in values]
    return tuple(value == "u" if isinstance(value, str) else value for value in arguments)


# A covering array of op, kind of bandwidth and whether gradients are recorded: in turn, an op is compiled for gradients
# with one kind and without them with the other.
COMPILED = [
    *(
        (variant, mode, i % 2 == k)
        for i, variant in enumerate(WITH_BANDWIDTH)
        for k, mode in enumerate(("rows", "number"))
    ),
    *(
        (variant, "rows", records)
        for variant in DIFFERENTIABLE
        if variant not in WITH_BANDWIDTH
        for records in (False, True)
    ),
    *((variant, "rows", False) for variant in VARIANTS if not variant.differentiable),
]


@pytest.mark.parametrize(("variant", "bandwidth", "records"), COMPILED, ids=str)
def test_compile_without_graph_breaks(variant: Variant, bandwidth: str, records: bool) -> None:
    torch._dynamo.reset()
    inputs = sample_inputs(variant, (2,), 5, 3, bandwidth=bandwidth)
    compiled = torch.compile(lambda values: variant(values), fullgraph=True, backend="aot_eager")
    for out, expected in zip(compiled(leaves(inputs) if records else inputs), variant(inputs), strict=True):
        assert torch.equal(out, expected)
    if not records:
        return
    expected_grads = gradients(variant, inputs)
    for name, grad in gradients(compiled, inputs).items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [Variant("svgd_step", ("hessian_trace",)), Variant("ksd")], ids=str)
def test_compile_with_inductor(variant: Variant) -> None:
    torch._dynamo.reset()
    inputs = sample_inputs(variant, (2,), 5, 3, bandwidth="number")

    def chain(values: Inputs, function: Function = variant) -> tuple[Tensor, ...]:
        """The op compiles between pointwise operations, which the compiler fuses."""
        return tuple(out.sin() for out in function({**values, "x": values["x"].tanh()}))

    compiled = torch.compile(chain, fullgraph=True)
    for out, expected in zip(compiled(inputs), chain(inputs, variant.reference), strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    expected_grads = gradients(lambda values: chain(values, variant.reference), inputs)
    for name, grad in gradients(compiled, inputs).items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_compile_trajectories_with_inductor() -> None:
    torch._dynamo.reset()
    variant = STEPPED[0]
    inputs = sample_inputs(variant, (2,), 5, 3)

    def loss(values: Inputs) -> tuple[Tensor, ...]:
        """The op compiles between pointwise operations, which the compiler fuses."""
        log_pf, log_pb = variant({**values, "logits": values["logits"].tanh()})
        return ((log_pf - log_pb).square(),)

    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(inputs), loss(inputs), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients(compiled, inputs), gradients(loss, inputs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", [Variant("svgd_step", ("hessian_trace",)), STEPPED[0]], ids=str)
def test_compiled_autograd(variant: Variant) -> None:
    torch._dynamo.reset()
    inputs = sample_inputs(variant, (2,), 4, 3)
    expected = gradients(variant, inputs)
    with compiled_autograd._enable(torch.compile(backend="aot_eager", dynamic=True)):
        actual = gradients(variant, inputs)
    for name, grad in actual.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-12, atol=1e-12)


def test_compile_with_dynamic_shapes_and_numbers() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter, dynamic=True)
    def update(x: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        return ops.svgd_step(x, -x, bandwidth, 0.1, x.sum(-1))

    for m, d, bandwidth in [(4, 3, 0.5), (7, 5, 0.7), (9, 6, 0.9), (33, 8, 1.1)]:
        x = torch.randn(2, m, d, dtype=torch.float64)
        expected = reference.svgd_step(x, -x, bandwidth, 0.1, x.sum(-1))
        torch.testing.assert_close(update(x, bandwidth), expected, rtol=1e-10, atol=1e-12)
    # Once for the first call, and again when the bandwidth turns out to vary.
    assert counter.frame_count <= 2


def test_compile_with_dynamic_shapes_and_offsets() -> None:
    """Neither a rollout's next offset nor another batch size triggers recompilation."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter, dynamic=True)
    def step(logits: Tensor, state: Tensor, offset: int) -> tuple[Tensor, ...]:
        return ops.gfn_sample_forward(logits, state, 7, offset)

    for batch, dim, offset in [(3, 4, 2), (5, 6, 3), (7, 9, 2**40), (8, 9, -5)]:
        inputs = sample_inputs(DRAWS[0], (batch,), dim, 0)
        for out, expected in zip(step(*inputs.values(), offset), step_eagerly(inputs, offset), strict=True):
            assert torch.equal(out, expected)
    assert counter.frame_count <= 2

    @torch.compile(fullgraph=True, backend=counter, dynamic=True)
    def log_prob(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return ops.gfn_trajectory_log_prob(logits, actions)

    counter.frame_count = 0
    for batch, dim in [(3, 4), (5, 6), (7, 9)]:
        inputs = sample_inputs(STEPPED[0], (batch,), dim, dim)
        for out, expected in zip(log_prob(**inputs), STEPPED[0](inputs), strict=True):
            assert torch.equal(out, expected)
    assert counter.frame_count == 1


def step_eagerly(inputs: Inputs, offset: int) -> tuple[Tensor, ...]:
    return ops.gfn_sample_forward(**inputs, seed=7, offset=offset)


def test_compiled_bad_input_names_the_argument() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(ops.svgd_phi, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 2)
    with pytest.raises(RuntimeError, match="score must have the shape of x"):
        compiled(x, x[:-1], 1.0)
    compiled = torch.compile(ops.gfn_trajectory_log_prob, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"actions must have shape \(\.\.\., T\) to match logits, "):
        compiled(torch.randn(2, 3, 9), torch.zeros(2, 3, dtype=torch.int64))


def test_export() -> None:
    class Step(torch.nn.Module):
        def forward(self, x: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
            return ops.svgd_step(x, -x, ops.median_distance(x), 0.1, log_q)

    x = torch.randn(3, 6, 2, dtype=torch.float64)
    log_q = torch.randn(3, 6, dtype=torch.float64)
    program = torch.export.export(Step(), (x, log_q))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"svgdx.svgd_step.default", "svgdx.median_distance.default"} <= names
    torch.testing.assert_close(program.module()(x, log_q), Step()(x, log_q))


def test_export_of_trajectories() -> None:
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


def python(code: str, **environment: str) -> str:
    """Run code in a new interpreter, outside this folder."""
    result = forkserver.run(["-c", code], Path("/"), os.environ | environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_disable_falls_back_to_the_reference() -> None:
    code = """
import torch, svgdx
x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
for name in svgdx.ops.__all__:
    assert getattr(svgdx.ops, name) is getattr(svgdx.reference, name), name
svgdx.ops.ksd(x, -x, 0.5).backward()
print(float(x.grad.abs().sum()) > 0)
"""
    assert python(code, SVGDX_DISABLE="1").strip() == "True"


def test_ops_and_reference_have_the_same_signatures() -> None:
    import inspect

    assert ops.__all__ == reference.__all__
    for name in ops.__all__:
        assert inspect.signature(getattr(ops, name)) == inspect.signature(getattr(reference, name)), name


class Step(torch.nn.Module):
    """A step of SVGD with the bandwidth by the median."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return ops.svgd_step(x, -x, ops.median_distance(x), 0.1, x.sum(-1))


def test_an_exported_program_decomposes_into_operations_of_torch() -> None:
    x = torch.randn(5, 3)
    program = torch.export.export(Step(), (x,))
    assert "svgdx" in str(program.graph)
    program = program.run_decompositions(reference.decompositions())
    assert "svgdx" not in str(program.graph)
    assert "median" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), Step()(x))


@pytest.mark.parametrize("variant", DIFFERENTIABLE, ids=str)
def test_torch_ops_records_gradients(variant: Variant) -> None:
    """The ops are differentiable without the Python wrappers too."""
    inputs = sample_inputs(variant, (2,), 5, 3)

    def direct(values: Inputs) -> tuple[Tensor, ...]:
        out = getattr(torch.ops.svgdx, variant.op)(*op_arguments(variant, values))
        return out if isinstance(out, tuple) else (out,)

    expected = gradients(variant, inputs)
    for name, grad in gradients(direct, inputs).items():
        assert torch.equal(grad, expected[name])


def test_normalizers_are_the_softmaxes(device: str) -> None:
    """The forward op's third output is the detached log-sum-exp over the valid actions, or zero if a row has none."""
    inputs = sample_inputs(STEPPED[0], (3,), 4, 4, device=device)
    logits = inputs["logits"].requires_grad_()
    _, _, normalizers = torch.ops.svgdx.gfn_trajectory_log_prob_forward(**inputs)
    assert not normalizers.requires_grad
    zero = torch.zeros(3, dtype=torch.float64, device=device)
    first = torch.stack([logits[:, 0, :8].logsumexp(-1), zero], -1)
    last = torch.stack([zero, logits[:, -1, 8:].logsumexp(-1)], -1)
    torch.testing.assert_close(normalizers[:, 0], first, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(normalizers[:, -1], last, rtol=1e-12, atol=1e-12)
