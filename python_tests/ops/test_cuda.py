"""What is peculiar to the CUDA library: schedules, limits of a launch, shapes that its plans treat specially.

It runs on the SIMT harness, which reports races, accesses out of bounds, uninitialised reads and broken rules of the
host layer in every call.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from gflownets.test_engine import backward_inputs
from ops.cases import (
    DRAWS,
    TRAJECTORIES,
    VARIANTS,
    Inputs,
    Variant,
    gradients,
    is_floating,
    sample_inputs,
    to,
)
from ops.errors import assert_close, cancellation
from ops.test_mlp import laplacian_gradients
from ops.test_mlp import sample_inputs as network
from simt import backend, harness
from torch import Tensor

from svgdx import ops, reference

Function = Callable[[], tuple[Tensor, ...]]


def outputs_of(variant: Variant, inputs: Inputs) -> list[Tensor]:
    """Values and gradients."""
    values = list(variant(inputs))
    return [*values, *gradients(variant, inputs).values()] if variant.differentiable else values


def probes(kind: torch.dtype, *shape: int) -> Function:
    probe, hvp = torch.randn(2, *shape).to(kind)
    return lambda: tuple(outputs_of(Variant("probe_trace"), {"probe": probe, "hvp": hvp}))


@functools.cache
def calls(m: int, d: int, steps: int, batch: int) -> dict[str, Function]:
    """One call of every op, which leaves its inputs as they are."""
    result: dict[str, Function] = {}
    for variant in VARIANTS:
        lead, size = ((4,), (m, d)) if variant.has_particles else ((batch,), (d, steps))
        if variant.takes(*size):
            inputs = sample_inputs(variant, lead, *size, torch.float32)
            result[str(variant)] = lambda v=variant, i=inputs: tuple(outputs_of(v, i))
    for op in ("mlp_score_hvp", "mlp_laplacian"):
        values = network(op, (4,), 5, d, 2, [16, 12], dtype=torch.float32)
        result[op] = lambda op=op, i=values: getattr(ops, op)(**i)
    result["mlp_laplacian_backward"] = lambda i=values: tuple(laplacian_gradients(i))
    result["probe_trace"] = probes(torch.float32, 5, 3, m, d)
    like, key = torch.empty(batch * 700), torch.tensor([-3, 5])
    for seed in (9, key):
        for draw in (ops.rademacher, ops.uniform, ops.normal):
            result[f"{draw.__name__}-{type(seed).__name__}"] = lambda draw=draw, seed=seed: (draw(like, seed, 2),)
        result[f"integers-{type(seed).__name__}"] = lambda seed=seed: (ops.integers(like, 1000, seed, 2),)
    return result


NAMES = list(calls(5, 3, 3, 2))


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_in_any_order(name: str) -> None:
    """Results do not depend on the order in which blocks and threads run."""
    for m, d, steps in [(35, 6, 4), (9, 17, 17)]:
        call = calls(m, d, steps, 7).get(name)
        results = []
        for seed in range(3 if call else 0):
            with backend.running(seed=seed, preempt=0.01 * seed):
                results.append(call())
        for other in results[1:]:
            for out, expected in zip(other, results[0], strict=True):
                assert torch.equal(out, expected)


def split(call: Function, limits: dict[str, int] = backend.TINY) -> None:
    """Assert that a call takes more launches with these limits, and gives the same values."""
    with backend.running() as whole:
        expected = call()
    with backend.running(limits=limits) as parts:
        results = call()
    assert sum(r.launches for r in parts) > sum(r.launches for r in whole)
    largest = max(float(value.double().abs().max()) for value in expected)
    for out, value in zip(results, expected, strict=True):
        torch.testing.assert_close(out, value, rtol=1e-5, atol=2e-6 * largest)


@pytest.mark.parametrize("name", NAMES)
def test_work_that_is_too_large_for_one_launch(name: str) -> None:
    split(calls(35, 6, 4, 100)[name])


# An op that each limit splits, with its leading and its own sizes, (M, D) or (D, T).
LIMITED: dict[str, tuple[Variant, tuple[int, ...], tuple[int, int]]] = {
    "kMaxGrid": (Variant("svgd_phi"), (5,), (35, 6)),
    "kPairElements": (Variant("svgd_field"), (3,), (9, 131)),
    "kMostCols": (Variant("svgd_field"), (1,), (70, 131)),
    "kMedianBatches": (Variant("median_distance", differentiable=False), (5,), (130, 3)),
    "kLinearRows": (Variant("linear_trajectory_log_prob"), (5,), (6, 4)),
    "kLinearNumbers": (Variant("linear_trajectory_log_prob"), (5,), (6, 4)),
    "kGramElements": (Variant("svgd_jacobian_sqnorm", ("probe", "hvp")), (5,), (35, 129)),
    "kMatrixProducts": (Variant("svgd_jacobian_sqnorm", ("probe", "hvp")), (2,), (9, 40)),
}
# Rows are added up in the blocks that kLinearRows makes.
TOGETHER = {"kLinearNumbers": {"kLinearRows": backend.TINY["kLinearRows"]}}
LIMITS = re.findall(r"^SVGDX_LIMIT\((\w+)", (harness.ROOT / "csrc/common/limits.h").read_text(), re.MULTILINE)


def limited(limit: str) -> list[Function]:
    """Calls that the limit splits."""
    if limit == "kMlpNumbers":
        return [calls(35, 6, 4, 100)[op] for op in ("mlp_score_hvp", "mlp_laplacian", "mlp_laplacian_backward")]
    if limit == "kRolloutNumbers":
        inputs = backward_inputs(torch.float64).values()
        return [lambda: (torch.ops.svgdx_inner.mlp_rollout_backward(*inputs),)]
    variant, lead, size = LIMITED[limit]
    arguments = sample_inputs(variant, lead, *size, torch.float32)
    return [lambda: tuple(outputs_of(variant, arguments))]


@pytest.mark.parametrize("limit", LIMITS)
def test_each_limit(limit: str) -> None:
    """Every limit of csrc/common/limits.h splits some op's work, which gives the same values."""
    for call in limited(limit):
        split(call, {limit: backend.TINY[limit], **TOGETHER.get(limit, {})})


@pytest.mark.parametrize("variant", [Variant("svgd_phi_trace"), Variant("svgd_field")], ids=str)
def test_pairs_that_are_too_many_for_the_scratch(variant: Variant) -> None:
    """Several blocks of rows and columns, with the diagonal in some; of columns and batch rows, with other queries."""
    lead, m, dim = ((2,), 70, 65) if variant.op == "svgd_field" else ((), 70, 131)
    inputs = sample_inputs(variant, lead, m, dim, torch.float32)
    split(lambda: tuple(outputs_of(variant, inputs)))


def check(variant: Variant, inputs: Inputs) -> None:
    """Values and gradients against the float64 reference."""
    scale = cancellation(inputs)
    exact, eager = variant.reference(to(inputs, torch.float64)), variant.reference(inputs)
    with backend.running(seed=1):
        outputs, grads = variant(inputs), gradients(variant, inputs)
    for out, one, other in zip(outputs, exact, eager, strict=True):
        assert_close(out, one, other, scale)
    exact_grads, eager_grads = (gradients(variant.reference, i) for i in (to(inputs, torch.float64), inputs))
    scale += max(float(grad.abs().max()) for grad in exact_grads.values())
    for name, grad in grads.items():
        assert_close(grad, exact_grads[name], eager_grads[name], scale, 10.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_columns_split_over_blocks(dtype: torch.dtype) -> None:
    """Few queries among many particles, and the other way round."""
    wide = dtype == torch.float64
    for queries, m, d in [(1, 4100, 3)] if wide else [(9, 4100, 2), (150, 40, 7), (150, 3, 33), (3, 300, 20)]:
        variant = Variant("svgd_field")
        inputs = sample_inputs(variant, (), m, d, dtype)
        check(variant, {**inputs, "query": torch.randn(queries, d, dtype=dtype)})


@pytest.mark.parametrize("dim", [2, 16, 20])
def test_far_cluster(dim: int) -> None:
    """A cloud shifted by a power of two far beyond its size gives the same numbers, without cancellation."""
    x, score = (torch.randn(40, dim) * 256).round() / 256, torch.randn(40, dim)
    with backend.running():
        near, far = (ops.svgd_phi_trace(x + shift, score, dim**0.5) for shift in (0.0, 2.0**14))
    assert all(torch.equal(a, b) for a, b in zip(near, far, strict=True))


def clouds(m: int, dim: int) -> dict[str, torch.Tensor]:
    """Particles for which expanded distances keep their digits, or lose some or all of them."""
    x = torch.randn(m, dim)
    outlier, twins = x.clone(), x.clone()
    outlier[0] += 1e4
    twins[1::2] = twins[::2] + 1e-4 * torch.randn(m // 2, dim)
    far = 1e3 * torch.arange(m).remainder(3)[:, None]
    return {"random": x, "clusters": x + far, "outlier": outlier, "twins": twins, "off": x + 4096, "huge": x * 1e15}


def assert_float32(outputs: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> None:
    """Within four rounding errors of float32."""
    for out, expected in zip(outputs, exact, strict=True):
        error = torch.linalg.vector_norm(out.double() - expected)
        assert error <= 4 * torch.finfo(torch.float32).eps * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("cloud", list(clouds(2, 2)))
@pytest.mark.parametrize("dim", [20, 132])
def test_products_on_tensor_cores(dim: int, cloud: str) -> None:
    """Within four rounding errors of float32 of the exact values, whatever cancels."""
    unit = 1e15 if cloud == "huge" else 1.0
    x, score, sigma = clouds(66, dim)[cloud], torch.randn(66, dim) / unit, dim**0.5 * unit
    with backend.running(seed=1):
        outputs = ops.svgd_phi_trace(x, score, sigma)
    assert_float32(outputs, reference.svgd_phi_trace(x.double(), score.double(), sigma))


@pytest.mark.parametrize("distance", [6.0, 15.0])
def test_repulsion_alone_on_tensor_cores(distance: float) -> None:
    """The same where nothing is larger than what cancels: no scores, and an outlier as centre, within four sigma."""
    x = torch.randn(66, 28)
    x[0] += distance / 28**0.5
    with backend.running(seed=1):
        outputs = ops.svgd_phi_trace(x, torch.zeros_like(x), 4.5)
    assert_float32(outputs, reference.svgd_phi_trace(x.double(), torch.zeros_like(x).double(), 4.5))


@pytest.mark.parametrize("cloud", list(clouds(2, 2)))
@pytest.mark.parametrize(
    ("dim", "kernel"),
    [
        (20, "field_fused_backward_kernel<P, Parts>"),
        (50, "field_fused_backward_kernel<P, Parts>"),
        (131, "grad_products_kernel<Parts>"),
    ],
)
def test_gradients_by_products_on_tensor_cores(dim: int, kernel: str, cloud: str) -> None:
    """As above; that of the bandwidth, a sum over rows that may cancel, relative to the gradients of the rows."""
    m, unit = 42, 1e15 if cloud == "huge" else 1.0
    inputs = [clouds(m, dim)[cloud], torch.randn(m, dim) / unit, torch.tensor(dim**0.5 * unit)]
    upstream = [torch.randn(m, dim), torch.randn(m) * unit]

    def grads(op: Callable[..., tuple[torch.Tensor, ...]], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        values = [value.to(dtype, copy=True).requires_grad_() for value in inputs]
        return torch.autograd.grad(op(*values), values, [value.to(dtype) for value in upstream])

    with backend.running(seed=1, counters=True) as calls:
        actual = grads(ops.svgd_phi_trace, torch.float32)
    assert f"({kernel})" in {counter.kernel for counter in calls[1].counters}
    exact = grads(reference.svgd_phi_trace, torch.float64)
    norms = [torch.linalg.vector_norm(expected) for expected in exact]
    norms[2] = max(norms[2], m**0.5 * norms[0])
    for grad, expected, norm in zip(actual, exact, norms, strict=True):
        error = torch.linalg.vector_norm(grad.double() - expected)
        assert error <= 4 * torch.finfo(torch.float32).eps * norm


def test_products_of_wide_blocks_of_rows() -> None:
    """Enough problems that a warp takes 32 rows, of 33; the first problems are the clouds."""
    rows, m, dim = 33, 1024, 11
    x, score = torch.randn(16, m, dim), torch.randn(16, m, dim)
    clusters = list(clouds(m, dim).values())[:-1]
    x[: len(clusters)] = torch.stack(clusters)
    query = x[:, :rows] + 1e-3
    with backend.running(seed=1, counters=True) as calls:
        outputs = ops.svgd_field(query, x, score, 3.0)
    assert "(field_narrow_kernel<P, 2, Parts>)" in {counter.kernel for counter in calls[0].counters}
    exact = reference.svgd_field(query.double(), x.double(), score.double(), 3.0)
    for out, expected in zip(outputs, exact, strict=True):
        norms = [torch.linalg.vector_norm(v.flatten(1), dim=1) for v in (out.double() - expected, expected)]
        assert bool((norms[0] <= 4 * torch.finfo(torch.float32).eps * norms[1]).all())


def test_products_of_blocks_of_rows() -> None:
    """Rows that are not the particles, in several blocks and batch entries, of which one has a sum that cancels."""
    rows, m, dim = 130, 64, 131
    query, x, score = torch.randn(2, rows, dim), torch.randn(2, m, dim), torch.randn(2, m, dim)
    query[1, rows // 2], x[1, 5] = 1e3, 1e3 + 1e-2
    exact = reference.svgd_field(query.double(), x.double(), score.double(), 9.0)
    with backend.running(seed=1, limits={"kPairElements": backend.TINY["kPairElements"]}):
        outputs = ops.svgd_field(query, x, score, 9.0)
    for out, expected in zip(outputs, exact, strict=True):
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_pairs_that_leave_the_products() -> None:
    """Pairs whose expanded sums cancel, in all pieces of a row's columns and also from a pair with the largest numbers,
    which overflow in products."""
    m, dim = 520, 131
    query, x, score = torch.randn(3, dim), torch.randn(m, dim), torch.randn(m, dim)
    x[::2] += 1e3
    query[1:] += 1e3
    query[2], x[[1, 300, 515]] = x[514], query[0] + 1e-2
    x[7], score[9] = 1e32, 3e30
    exact = reference.svgd_field(query.double(), x.double(), score.double(), 9.0)
    with backend.running(seed=1) as calls:
        outputs = ops.svgd_field(query, x, score, 9.0)
    assert calls[0].launches == 4
    for out, expected in zip(outputs, exact, strict=True):
        assert bool(((out.double() - expected).abs() <= 1e-5 * expected.abs() + 1e-6 * expected[1:].abs().max()).all())


def test_products_over_many_columns() -> None:
    """The sums on tensor cores round towards zero, which must not add up over the columns."""
    x, score = torch.randn(1, 12), torch.ones(2100, 12)
    with backend.running(seed=1):
        phi, _ = ops.svgd_field(x, x + 1e-3 * torch.randn(2100, 12), score, 30.0)
    torch.testing.assert_close(phi, torch.ones(1, 12), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dim", [3, 20])
def test_bandwidths_that_are_not_positive(dim: int) -> None:
    """They give NaN in their batch row and nowhere else, because reading them on the host would synchronise."""
    x, sigma = torch.randn(3, 12, dim), torch.tensor([1.0, 0.0, -1.0])
    with backend.running():
        for op in (ops.svgd_phi_trace, ops.svgd_jacobian_sqnorm if dim > 3 else ops.svgd_phi):
            for out in op(x, -x, sigma) if op is ops.svgd_phi_trace else (op(x, -x, sigma),):
                assert bool(out[0].isfinite().all())
                assert bool(out[1:].isnan().all())


def test_narrow_loads() -> None:
    """Seven dimensions, unsuitable for 16-byte loads, give bit-equal results to eight with a zero last dimension."""
    x, score = torch.randn(2, 1, 37, 8)
    x[..., 7] = score[..., 7] = 0
    with backend.running():
        wide, narrow = ops.svgd_phi(x, score, 2.0), ops.svgd_phi(x[..., :7], score[..., :7], 2.0)
    assert torch.equal(wide[..., :7], narrow)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_isolated_particles(dtype: torch.dtype) -> None:
    """If no two particles interact, the gradients of x and of the bandwidth cancel exactly."""
    for dim in (4, 20):
        inputs = sample_inputs(Variant("svgd_phi"), (), 9, dim, dtype)
        inputs["bandwidth"] = torch.tensor(1e-3, dtype=dtype)
        with backend.running():
            grads = gradients(Variant("svgd_phi"), inputs)
        assert bool((grads["x"] == 0).all())
        expected = gradients(lambda values: (values["score"] / 9,), inputs, ["score"])
        torch.testing.assert_close(grads["score"], expected["score"], rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", DRAWS, ids=str)
def test_wide_rows_of_draws(variant: Variant, dtype: torch.dtype) -> None:
    """Rows of the whole block, and rows with more packs than shared memory holds, which are read again."""
    for rows, dim in [(2, 700), *([(1, 5200)] if dtype in (torch.float32, torch.float64) else [])]:
        inputs = sample_inputs(variant, (rows,), dim, 0, dtype)
        with backend.running():
            action, log_prob, state = variant(inputs)
        expected = variant.reference(inputs)
        assert torch.equal(action, expected[0])
        assert torch.equal(state, expected[2])
        torch.testing.assert_close(log_prob, expected[1], rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", TRAJECTORIES, ids=str)
def test_wide_rows_of_trajectories(variant: Variant, dtype: torch.dtype) -> None:
    """Rows of groups of 8, 16 and 32 lanes, and of the whole block."""
    for dim, steps in [(21, 9), (101, 3), (530, 1)]:
        inputs = sample_inputs(variant, (2,), dim, steps, dtype)
        exact = variant.reference(to(inputs, torch.float64))
        with backend.running(seed=2, preempt=0.02):
            outputs, grads = variant(inputs), gradients(variant, inputs)
        rounding = 4e-2 if "linear" in variant.op and dtype == torch.bfloat16 else 4e-6
        for out, one in zip(outputs, exact, strict=True):
            torch.testing.assert_close(out.double(), one, rtol=rounding, atol=20 * rounding)
        for name, grad in gradients(variant.reference, to(inputs, torch.float64)).items():
            error = float((grads[name].double() - grad).abs().max())
            assert error <= (1e-5 if dtype == torch.float32 else 0.03) * max(1.0, float(grad.abs().max())), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_wide_rows_of_probes(dtype: torch.dtype) -> None:
    for shape in [(3, 2, 2100), (2, 2, 2103)]:
        inputs: dict[str, Any] = dict(zip(("probe", "hvp"), torch.randn(2, *shape).to(dtype), strict=True))
        wide = to(inputs, torch.float64)
        with backend.running(seed=1, preempt=0.02):
            out = ops.probe_trace(**inputs)
        for value, expected in zip(out, reference.probe_trace(**wide), strict=True):
            torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-2 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", [(3, 256), (3, 520), (2, 1031)], ids=str)
@pytest.mark.parametrize("op", ["mlp_score_hvp", "mlp_laplacian"])
def test_wide_layers(op: str, shape: tuple[int, int]) -> None:
    """Layers whose rows are handled by groups of lanes and by the whole block."""
    m, width = shape
    inputs = network(op, (), m, 6, 2, [width, 33], dtype=torch.float64)
    with backend.running(seed=1, preempt=0.02):
        out = getattr(ops, op)(**inputs)
    for value, expected in zip(out, getattr(reference, op)(**inputs), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


def test_numbers_on_the_host() -> None:
    """A 0-d bandwidth may be on the CPU; it is checked and copied."""
    variant = Variant("svgd_step", ("hessian_trace",))
    inputs = sample_inputs(variant, (2,), 5, 3, torch.float32, bandwidth="scalar")
    with backend.running(on_host=("bandwidth", "step_size")):
        outputs = variant(inputs)
        with pytest.raises(RuntimeError, match="svgdx::svgd_step: bandwidth must be positive, but is -1"):
            variant({**inputs, "bandwidth": torch.tensor(-1.0)})
    with backend.running():
        for out, expected in zip(outputs, variant(inputs), strict=True):
            assert torch.equal(out, expected)
    assert all(is_floating(value) for value in inputs.values())
