"""Empty inputs, NaN confined to its batch row, and more than 2^31 elements."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ops.backends import Backend
from ops.cases import PARTICLES, WITH_BANDWIDTH, Inputs, Variant, gradients, sample_inputs, to
from torch import Tensor

from svgdx import ops

# (leading shape, M, D) with a zero somewhere
EMPTY = [((0,), 4, 3), ((2, 0, 3), 4, 3), ((2,), 0, 3), ((2,), 4, 0), ((), 0, 2), ((), 3, 0), ((0,), 0, 0)]


@pytest.mark.parametrize("mode", ["rows", "number"])
@pytest.mark.parametrize(("lead", "m", "d"), EMPTY, ids=str)
@pytest.mark.parametrize("variant", [v for v in PARTICLES if v.op != "median_distance"], ids=str)
def test_empty(variant: Variant, lead: tuple[int, ...], m: int, d: int, mode: str, device: str) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        inputs = sample_inputs(variant, lead, m, d, dtype, device, mode)
        inputs.pop("hessian_trace", None)  # for D = 0 it can only be zero
        for out, expected in zip(variant(inputs), variant.reference(inputs), strict=True):
            assert out.dtype == expected.dtype
            assert out.shape == expected.shape
            assert torch.equal(out, expected)
        selected = [name for name in inputs if name != "bandwidth"]
        expected_grads = gradients(variant.reference, inputs, selected)
        for name, grad in gradients(variant, inputs, selected).items():
            assert torch.equal(grad, expected_grads[name]), name
        for name, grad in gradients(variant, inputs).items():
            assert grad.shape == inputs[name].shape
            assert name != "bandwidth" or (grad == 0).all()


@pytest.mark.parametrize("lead", [(0,), (2, 0)], ids=str)
def test_empty_batch_of_medians(lead: tuple[int, ...], device: str) -> None:
    assert ops.median_distance(torch.empty(*lead, 4, 3, device=device)).shape == lead
    assert ops.median_distance(torch.empty(*lead, 0, 3, device=device)).shape == lead


def test_no_query_points(device: str) -> None:
    x = torch.randn(2, 5, 3, device=device, requires_grad=True)
    query = torch.empty(2, 0, 3, device=device, requires_grad=True)
    phi, divergence = ops.svgd_field(query, x, -x, torch.ones(2, device=device))
    assert phi.shape == (2, 0, 3)
    assert divergence.shape == (2, 0)
    (phi.sum() + divergence.sum()).backward()
    assert x.grad is not None
    assert (x.grad == 0).all()
    assert query.grad is not None
    assert query.grad.shape == (2, 0, 3)


SPOILT = [(6, 3), (18, 9), (5, 40)]


@pytest.mark.parametrize(("m", "d"), SPOILT, ids=str)
@pytest.mark.parametrize("variant", PARTICLES, ids=str)
def test_nan_stays_in_its_batch_row(variant: Variant, m: int, d: int, backend: Backend) -> None:
    if not variant.takes(m, d):
        pytest.skip("D <= 16")
    inputs = sample_inputs(variant, (3,), m, d, torch.float32, backend.device)
    clean = variant(inputs)
    clean_grads = gradients(variant, inputs) if variant.differentiable else {}
    # On the harness every op has an infinity in one size, in turn; in the others it has the NaN that an infinity makes.
    takes_infinity = not backend.simulated or SPOILT.index((m, d)) == PARTICLES.index(variant) % 3
    for bad in (float("nan"), float("inf"))[: 2 if takes_infinity else 1]:
        for name in inputs:
            if name == "bandwidth" and bad == float("inf"):
                continue
            spoilt = {**inputs, name: inputs[name].clone()}
            spoilt[name][1].view(-1)[-1] = bad
            outputs = variant(spoilt)
            for out, expected in zip(outputs, clean, strict=True):
                assert torch.equal(out[[0, 2]], expected[[0, 2]]), name
            if bad != bad:
                assert any(out[1].isnan().any() for out in outputs), name
            grads = gradients(variant, spoilt) if variant.differentiable else {}
            for other, grad in grads.items():
                assert torch.equal(grad[[0, 2]], clean_grads[other][[0, 2]]), (name, other)
            if bad != bad and name in ("x", "score", "bandwidth"):
                assert all(grads[other][1].isnan().any() for other in grads if other in ("x", "bandwidth")), name


# Bandwidths whose squares leave the dtype, or nearly.
SCALES = {
    torch.float32: [1e-18, 3e-19, 1e-20, 1e-30, 1e-44, 1e18, 2e19, 1e30, 3e38],
    torch.float64: [1e-150, 1e-160, 1e-300, 1e150, 1e300],
}
EXTREME_SIZES = [((), 6, 3), ((2,), 6, 12), ((), 20, 40), ((40,), 6, 3), ((), 7, 300)]


def limit(variant: Variant, narrow: bool) -> Callable[[Inputs], tuple[Tensor, ...]]:
    """The op as sigma goes to zero (``narrow``), with no two particles or points in one place, or to infinity."""

    def function(inputs: Inputs) -> tuple[Tensor, ...]:
        score, step = inputs["score"], inputs.get("step_size")
        count, zero, mean = score.shape[-2], 0 * score.sum(-1), score.mean(-2, keepdim=True)
        phi = score / count if narrow else mean.expand_as(score)
        if variant.op in ("svgd_phi", "svgd_phi_trace"):
            return (phi, zero)[: 2 if variant.op == "svgd_phi_trace" else 1]
        if variant.op == "svgd_step":
            trace = inputs.get("hessian_trace", zero) / count
            return inputs["x"] + step * phi, inputs["log_q"] - step * trace
        if variant.op == "svgd_field":
            query = inputs["query"]
            return 0 * query if narrow else mean.expand_as(query), 0 * query.sum(-1)
        if variant.op == "ksd":
            products = (score.sum(-2).square() - (score.square().sum(-2) if unbiased(variant) else 0)).sum(-1)
            return (products * (not narrow) / count / (count - unbiased(variant)),)
        if variant.op == "svgd_jacobian_sqnorm":
            return ((inputs["hvp"] / count).square().sum(-1) if "hvp" in inputs else zero,)
        hessian = inputs["hessian"] / count if "hessian" in inputs else torch.zeros(score.shape[-1])
        update = torch.eye(score.shape[-1], dtype=score.dtype) + step * hessian.to(score).expand(*score.shape, -1)
        return (torch.linalg.slogdet(update)[1],)

    return function


def unbiased(variant: Variant) -> bool:
    return dict(variant.fixed).get("statistic") == "u"


@pytest.mark.parametrize("dtype", SCALES, ids=str)
@pytest.mark.parametrize(("lead", "m", "d"), EXTREME_SIZES)
@pytest.mark.parametrize("variant", WITH_BANDWIDTH, ids=str)
def test_bandwidths_whose_squares_leave_the_dtype(
    variant: Variant, lead: tuple[int, ...], m: int, d: int, dtype: torch.dtype, backend: Backend
) -> None:
    """Outputs and gradients are the limits: no pair interacts, or all do as if they coincided."""
    if not variant.takes(m, d) or (backend.simulated and (lead == (40,) or d == 300)):
        pytest.skip("D <= 16" if not variant.takes(m, d) else "slow on the harness")
    # On the harness every op has every bandwidth in one of its sizes, and every size all of them in some op.
    sizes = 3 if variant.max_dim is None else 2
    turn = WITH_BANDWIDTH.index(variant) + EXTREME_SIZES.index((lead, m, d))
    for sigma in SCALES[dtype][turn % sizes :: sizes] if backend.simulated else SCALES[dtype]:
        if sigma < 1 and variant.op == "ksd" and not unbiased(variant):
            continue  # the statistic diverges as 1 / sigma^2
        for step_size in (0.1, 1e10) if "step_size" in variant.arguments() and not backend.simulated else (0.1,):
            inputs = sample_inputs(variant, lead, m, d, dtype, backend.device)
            inputs["bandwidth"] = torch.tensor(sigma, dtype=dtype, device=backend.device)
            if "step_size" in inputs:
                inputs["step_size"] = torch.tensor(step_size, dtype=dtype, device=backend.device)
            wide = {name: value.cpu() for name, value in to(inputs, torch.float64).items()}
            expected = dict(enumerate(limit(variant, sigma < 1)(wide))) | gradients(limit(variant, sigma < 1), wide)
            actual = dict(enumerate(variant(inputs))) | gradients(variant, inputs)
            assert actual.keys() == expected.keys()
            for name, value in actual.items():
                scale = max(float(expected[name].abs().max()), 1e-6)
                if variant.op == "ksd":  # s_i . phi_i and s_i . s_i / M cancel
                    scale = max(scale, float(wide["score"].abs().max()) / m)
                if variant.op == "svgd_logdet" and name == 0:  # the logarithm of a number near 1
                    scale = max(scale, 1.0)
                error = float((value.cpu().double() - expected[name]).abs().max())
                # The gradients of log|det| have an inverse's error.
                tolerance = 2e-5 if variant.op == "svgd_logdet" else 2e-6
                assert error <= tolerance * scale, (name, sigma, step_size, error, scale)


def strided(tmp_path: object, rows: int, m: int, d: int, stride: int) -> Tensor:
    """A tensor (rows, m, d) with rows ``stride`` elements apart, in a sparse file: only written pages take memory."""
    path = f"{tmp_path}/sparse"
    elements = (rows - 1) * stride + m * d
    with open(path, "wb") as file:
        file.truncate(4 * elements)
    storage = torch.from_file(path, shared=True, size=elements, dtype=torch.float32)
    view = storage.as_strided((rows, m, d), (stride, d, 1))
    return view.copy_(torch.randn(rows, m, d))


@pytest.mark.parametrize("variant", [v for v in PARTICLES if v.differentiable], ids=str)
def test_strides_past_2_to_the_31(variant: Variant, tmp_path: object) -> None:
    """Strides work if the last row starts at element 2^32 of its storage."""
    inputs = sample_inputs(variant, (3,), 5, 4, torch.float32)
    far = strided(tmp_path, 3, 5, 4, 2**31)
    near = far.contiguous()
    assert far.stride(0) * 2 == 2**32
    for out, expected in zip(variant({**inputs, "x": far}), variant({**inputs, "x": near}), strict=True):
        assert torch.equal(out, expected)


@pytest.mark.parametrize("variant", PARTICLES, ids=str)
def test_sizes_past_2_to_the_31(variant: Variant) -> None:
    """Shapes of 2^33 elements work on the meta device, which needs no memory."""
    m, d = (2**17, 2**16) if variant.max_dim is None else (2**30, 8)
    small = {name: value.to("meta") for name, value in sample_inputs(variant, (2,), 3, 2, torch.float32).items()}
    per_particle = {1: (m,), 2: (m, d), 3: (m, d, d)}
    big: Inputs = {k: v.new_empty(2, *per_particle[v.dim() - 1]) if v.dim() > 1 else v for k, v in small.items()}
    for out, expected in zip(variant(big), variant(small), strict=True):
        assert out.shape[0] == 2
        assert out.dim() == expected.dim()
        assert out.dim() == 1 or out.shape[1:] == per_particle[out.dim() - 1]


@pytest.mark.slow
def test_more_than_2_to_the_31_elements() -> None:
    """With 2^31 + 64 elements of bfloat16 the last rows are correct, so indices do not wrap."""
    import gc

    rows, m, d = (2**31 + 64) // 8, 2, 4
    memory = 16 * 2**30 + 3 * 4 * 2**31
    available = _available_memory()
    if available < memory:
        pytest.skip(f"needs {memory / 2**30:.0f} GiB of memory, {available / 2**30:.0f} GiB are free")
    x = torch.zeros(rows, m, d, dtype=torch.bfloat16)
    x[-8:] = torch.randn(8, m, d)
    phi = ops.svgd_phi(x, x, 0.7)
    assert torch.equal(phi[-8:], ops.svgd_phi(x[-8:].clone(), x[-8:].clone(), 0.7))
    assert (phi[:8] == 0).all()
    del x, phi
    gc.collect()


def _available_memory() -> int:
    with open("/proc/meminfo") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
