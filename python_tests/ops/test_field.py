"""Values of the particle ops in what is peculiar to them: half precision, clusters, bandwidths, many particles."""

from __future__ import annotations

import pytest
import torch
from ops.backends import Backend
from ops.cases import MODES, PARTICLES, WITH_BANDWIDTH, Variant, gradients, sample_inputs, to
from ops.errors import cancellation
from ops.test_forward import check
from ops.test_gradients import check as check_gradients
from simt import backend as simt

import svgdx.ops

PARTICLE_GRADIENTS = [variant for variant in PARTICLES if variant.differentiable]


@pytest.mark.parametrize("variant", PARTICLES, ids=str)
def test_random_sizes(variant: Variant) -> None:
    generator = torch.Generator().manual_seed(11)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    for seed in range(25):
        m, d = pick(1, 150), pick(1, variant.max_dim or 40)
        lead = tuple(pick(1, 3) for _ in range(pick(0, 2)))
        if variant.takes(m, d):
            check(variant, sample_inputs(variant, lead, m, d, torch.float32, bandwidth=MODES[seed % 3], seed=seed))


@pytest.mark.parametrize("variant", PARTICLES, ids=str)
def test_many_particles(variant: Variant) -> None:
    d = 3
    check(variant, sample_inputs(variant, (), 700, d, torch.float32))
    check(variant, sample_inputs(variant, (), 517, d, torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("variant", PARTICLES, ids=str)
def test_half_precision_accumulates_in_float32(variant: Variant, dtype: torch.dtype, device: str) -> None:
    sizes = [((), (5, 3), "number"), ((3,), (33, 9), "rows"), ((2,), (64, 16), "scalar"), ((), (18, 21), "number")]
    for lead, (m, d), mode in [*sizes, ((2,), (17, 36), "rows")]:
        if not variant.takes(m, d):
            continue
        inputs = sample_inputs(variant, lead, m, d, dtype, device, mode)
        wide = to(inputs, torch.float32)
        for out, expected in zip(variant(inputs), variant(wide), strict=True):
            assert out.dtype == dtype
            # Bit-equal to rounding once at the end.
            assert torch.equal(out, expected.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_converted_in_the_kernels(dtype: torch.dtype) -> None:
    """Neither particles nor results are copied to another dtype, and the values are those of such copies."""
    # Kernels of registers, fused ones, expanded sums with aligned rows and others, pair sums.
    for shape in [(7, 4), (20, 19), (20, 100), (70, 132), (66, 131), (9, 132)]:
        x, score = torch.randn(2, *shape).to(dtype)
        x[3] = x[2] * 1.01  # a pair that leaves the products
        with simt.running(seed=1), torch.profiler.profile(record_shapes=True) as profile:
            outputs = (svgdx.ops.svgd_phi(x, score, 4.0), svgdx.ops.ksd(x, score, 4.0))
        copies = [event.input_shapes[0] for event in profile.events() if event.name == "aten::_to_copy"]
        assert all(copied == [] for copied in copies)  # the bandwidth
        with simt.running(seed=1):
            wide = (svgdx.ops.svgd_phi(x.float(), score.float(), 4.0), svgdx.ops.ksd(x.float(), score.float(), 4.0))
        assert all(torch.equal(out, value.to(dtype)) for out, value in zip(outputs, wide, strict=True))
    for count, dim in [(1024, 11), (64, 132)]:
        query, x, score = torch.randn(3, dim).to(dtype), *torch.randn(2, count, dim).to(dtype)
        query[0] = x[7]
        with simt.running(seed=1):
            outputs = svgdx.ops.svgd_field(query, x, score, 4.0)
            wide = svgdx.ops.svgd_field(query.float(), x.float(), score.float(), 4.0)
        assert all(torch.equal(out, value.to(dtype)) for out, value in zip(outputs, wide, strict=True))
    x, score = torch.randn(2, 70, 132).to(dtype)
    numbers = [4.0, 0.1, torch.randn(70), torch.randn(70)]
    with simt.running(seed=1):
        outputs = svgdx.ops.svgd_step(x, score, *numbers)
        wide = svgdx.ops.svgd_step(x.float(), score.float(), *numbers)
    assert torch.equal(outputs[0], wide[0].to(dtype))
    assert torch.equal(outputs[1], wide[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_gradients_in_half_precision_are_converted_in_the_kernels(dtype: torch.dtype) -> None:
    """Neither particles nor their gradients are copied to another dtype, and the values are those of such copies."""

    def gradients_of(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        values = [value.to(dtype).requires_grad_() for value in (x, score)]
        outputs = svgdx.ops.svgd_phi(*values, 4.0)
        return torch.autograd.grad(outputs, values, grad.to(dtype))

    # Kernels of registers, with columns in one part and in several, fused ones, expanded sums in one block and several.
    for shape in [(7, 4), (300, 4), (20, 19), (20, 50), (34, 68), (9, 131), (130, 68)]:
        x, score, grad = torch.randn(3, *shape).to(dtype)
        x[3] = x[2] * 1.01  # a pair that leaves the products
        limits = {"kPairElements": simt.TINY["kPairElements"]} if shape[0] == 130 else None
        with simt.running(seed=1, limits=limits):
            with torch.profiler.profile(record_shapes=True) as profile:
                grads = gradients_of(dtype)
            wide = gradients_of(torch.float32)
        copies = [event.input_shapes[0] for event in profile.events() if event.name == "aten::_to_copy"]
        assert all(copied == [] for copied in copies)  # the bandwidth
        assert all(torch.equal(out, value.to(dtype)) for out, value in zip(grads, wide, strict=True))


def test_upstream_gradients_of_another_type_are_not_rounded() -> None:
    """An upstream gradient in float32 of particles in bfloat16 is used as it is."""
    x, score, grad = torch.randn(3, 20, 19)
    x, score = x.bfloat16(), score.bfloat16()
    with simt.running(seed=1):
        op = torch.ops.svgdx.svgd_phi_trace_backward
        sigma = torch.tensor(4.0)
        grads = op(grad, None, x, score, sigma, False)[:2]
        wide = op(grad, None, x.float(), score.float(), sigma, False)[:2]
    assert all(torch.equal(out, value.bfloat16()) for out, value in zip(grads, wide, strict=True))


def test_step_keeps_log_q_in_full_precision(device: str) -> None:
    variant = Variant("svgd_step", ("hessian_trace",))
    inputs = sample_inputs(variant, (2,), 9, 4, torch.bfloat16, device)
    mixed = {**inputs, "log_q": inputs["log_q"].float(), "hessian_trace": inputs["hessian_trace"].float()}
    x_next, log_q_next = variant(mixed)
    assert (x_next.dtype, log_q_next.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(log_q_next, variant.reference(mixed)[1], rtol=1e-5, atol=1e-5)
    for name, grad in gradients(variant, mixed).items():
        assert grad.dtype == mixed[name].dtype


@pytest.mark.parametrize("variant", PARTICLES, ids=str)
def test_far_off_clusters(variant: Variant, device: str) -> None:
    """With two clusters at +-100, squared distances from x.x - 2 x.y + y.y would lose all digits in float32."""
    for m, d in [(40, 2), (64, 16), (30, 50)]:
        if not variant.takes(m, d):
            continue
        inputs = sample_inputs(variant, (), m, d, torch.float32, device, "number")
        for name in ("x", "query"):
            if name in inputs:
                side = torch.where(torch.arange(inputs[name].shape[0], device=device) % 2 == 0, 100.0, -100.0)
                inputs[name] = inputs[name] + side[:, None]
        if "bandwidth" in inputs:
            inputs["bandwidth"] = 1.0 if d <= 16 else 4.0
        for out, expected in zip(variant(inputs), variant.reference(to(inputs, torch.float64)), strict=True):
            error = (out.double() - expected).abs().max()
            assert error <= 1e-5 * max(expected.abs().max().item(), 0.01 * cancellation(inputs))


@pytest.mark.parametrize("bandwidth", [1e-3, 0.03, 30.0, 1e3])
@pytest.mark.parametrize("variant", WITH_BANDWIDTH, ids=str)
def test_large_and_tiny_bandwidth(variant: Variant, bandwidth: float, device: str) -> None:
    for m, d in [(33, 3), (16, 40)]:
        if variant.takes(m, d):
            check(variant, {**sample_inputs(variant, (2,), m, d, torch.float32, device), "bandwidth": bandwidth})


def test_integer_numbers_and_numpy_scalars() -> None:
    variant = Variant("svgd_phi_trace")
    inputs = sample_inputs(variant, (), 5, 2, bandwidth="number")
    numpy_two = torch.tensor(2.0).numpy()[()]
    for two in (2, 2.0, numpy_two, torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float16)):
        phi_and_trace = variant({**inputs, "bandwidth": two})
        torch.testing.assert_close(
            phi_and_trace, variant.reference({**inputs, "bandwidth": 2.0}), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("m", [300, 517])
@pytest.mark.parametrize("variant", PARTICLE_GRADIENTS, ids=str)
def test_gradients_of_many_particles(variant: Variant, m: int) -> None:
    check_gradients(variant, sample_inputs(variant, (), m, 3, torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("variant", PARTICLE_GRADIENTS, ids=str)
def test_gradients_in_half_precision(variant: Variant, dtype: torch.dtype, device: str) -> None:
    inputs = sample_inputs(variant, (2,), 9, 4, dtype, device)
    actual, wide = gradients(variant, inputs), gradients(variant, to(inputs, torch.float32))
    for name, grad in actual.items():
        assert grad.dtype == inputs[name].dtype
        # Upstream gradients are rounded to half precision too.
        error = (grad.double() - wide[name].double()).abs().max().item()
        assert error <= 8 * torch.finfo(dtype).eps * max(g.abs().max().item() for g in wide.values())


@pytest.mark.parametrize("d", [3, 12, 200])
@pytest.mark.parametrize("variant", WITH_BANDWIDTH, ids=str)
def test_gradients_of_far_off_clusters(variant: Variant, d: int, backend: Backend) -> None:
    """Gradients, including that of sigma, do not depend on the distance between clusters that do not interact."""
    cases = [(1e2, ()), (1e3, (40,)), (1e4, ()), (1e4, (40,)), (1e6, ())]
    count = 20
    if backend.simulated:
        cases, count = [(1e2, ()), (1e4, ())], 6
    for distance, lead in cases:
        if not variant.takes(count, d) or (lead and d > 12):
            continue
        # The rounding error of csrc/jacobian/gram.h, which grows as the fourth power of the distance from the mean.
        is_expanded = d > 16 and variant.op == "svgd_jacobian_sqnorm"
        rounding = (1 + (distance / 2) ** 2) ** 2 * torch.finfo(torch.float64).eps if is_expanded else 0.0
        if rounding > 0.1:
            continue
        inputs = sample_inputs(variant, lead, count, d, torch.float32, backend.device)
        inputs["bandwidth"] = torch.full(lead, float(d) ** 0.5, device=backend.device)
        for name in ("x", "query"):
            if name in inputs:
                sign = torch.where(torch.arange(inputs[name].shape[-2], device=backend.device) % 2 == 0, 0.5, -0.5)
                inputs[name] = inputs[name] + distance * sign[:, None]  # in sigma, along the diagonal
        exact = gradients(variant.reference, to(inputs, torch.float64))
        relative = "bandwidth" if variant.op != "svgd_jacobian_sqnorm" else None
        for name, grad in gradients(variant, inputs).items():
            error = (grad.double() - exact[name]).abs().max().item()
            size = exact[name].abs().max().item()
            allowed = max(1e-5, rounding) * (size if name == relative else max(size, 0.1))
            assert error <= allowed, (name, distance, lead, error, size)


def test_median_distance_is_detached() -> None:
    x = torch.randn(4, 2, requires_grad=True)
    for out in (torch.ops.svgdx.median_distance(x), Variant("median_distance")({"x": x})[0]):
        assert not out.requires_grad


@pytest.mark.parametrize(("lead", "m", "d"), [((), 2000, 9), ((), 150, 40), ((17,), 131, 11)], ids=str)
def test_pairs_evaluated_once_agree_with_the_field(lead: tuple[int, ...], m: int, d: int) -> None:
    """If the queries are the particles, svgd_field gives the same sums, but for t, which leaves out j = i. Its kernel
    evaluates each pair twice, while svgd_phi_trace evaluates groups of blocks once for both."""
    inputs = sample_inputs(Variant("svgd_phi_trace"), lead, m, d, torch.float32)
    x, score, bandwidth = inputs["x"], inputs["score"], inputs["bandwidth"]
    phi, trace = svgdx.ops.svgd_phi_trace(x, score, bandwidth)
    expected, divergence = svgdx.ops.svgd_field(x, x, score, bandwidth)
    own = d / (m * bandwidth**2)
    torch.testing.assert_close(phi, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(trace, divergence - own[..., None], rtol=1e-5, atol=3e-6 * cancellation(inputs))

    upstream = torch.randn(2, *x.shape)
    inputs = [value.clone().requires_grad_() for value in (x, score, bandwidth)]
    phi, trace = svgdx.ops.svgd_phi_trace(*inputs)
    gradients_once = torch.autograd.grad((phi * upstream[0]).sum() + (trace * upstream[1, ..., 0]).sum(), inputs)
    phi, divergence = svgdx.ops.svgd_field(inputs[0], *inputs)
    trace = divergence - (d / (m * inputs[2] ** 2))[..., None]
    gradients_twice = torch.autograd.grad((phi * upstream[0]).sum() + (trace * upstream[1, ..., 0]).sum(), inputs)
    for one, other in zip(gradients_once, gradients_twice, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * float(other.abs().max()))
