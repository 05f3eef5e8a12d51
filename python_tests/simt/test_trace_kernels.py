"""The kernels of the Hessian-trace ops on the host: errors against float64, and no reports from the checked build."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from simt import gfn_oracle as oracle
from simt import harness
from simt.test_gfn_kernels import ROUNDING, assert_close

from svgdx import ops
from svgdx.activations import COMPILED

KINDS = list(oracle.COMPUTE)
WIDE_KINDS = ["float", "double"]
DTYPES = {"float": torch.float32, "double": torch.float64, "Bf16": torch.bfloat16, "Fp16": torch.float16}
TOLERANCE = {"float": 4e-6, "double": 1e-14, "Bf16": 4e-6, "Fp16": 4e-6}
SCHEDULES = [(0, 0.0), (1, 0.05)]

# Less than a block of 128 signs, one block, slightly more, a warp's share, several blocks of threads.
COUNTS = [1, 127, 128, 129, 4096, 4099, 16384, 40001]
SEEDS = [(0, 0), (1, 2), (-1, -1), (2**40 + 7, 2**33), (2**63 - 1, -(2**63))]

# probes, points, dim: less than a pack, odd, 16-byte loads, groups of 1 to 32 lanes, and of the whole block.
PROBES = [
    (1, 1, 1),
    (2, 9, 1),
    (3, 40, 2),
    (1, 70, 6),
    (5, 7, 17),
    (3, 33, 64),
    (2, 3, 129),
    (3, 2, 2100),
    (2, 2, 2103),
]
CHECKED_PROBES = [(2, 9, 6), (3, 5, 64), (2, 2, 2103), (2, 1, 2104)]


def run_signs(simt: harness.Simt, kind: str, count: int, key: tuple[int, int], **options: Any) -> harness.Result:
    """The CPU library's bits for a seed and an offset."""
    seed, offset = key
    expected = ops.rademacher(torch.empty(count, dtype=DTYPES[kind]), seed, offset)
    got = np.zeros(count, oracle.store(kind, np.zeros(1)).dtype)
    args = {"count": count, "seed": seed, "offset": offset, "out": harness.out(got)}
    result = simt.call(f"rademacher.{kind}", args, **options).check()
    np.testing.assert_array_equal(got, oracle.store(kind, expected.double().numpy()))
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_signs(kind: str) -> None:
    for count in COUNTS:
        for key in SEEDS:
            run_signs(harness.load("fast"), kind, count, key)


@pytest.mark.parametrize("kind", KINDS)
def test_signs_checked(kind: str) -> None:
    for count in (0, 1, 131, 4097, 16400):
        for seed, preempt in SCHEDULES:
            run_signs(harness.load("checked"), kind, count, (3, 4), seed=seed, preempt=preempt)


def test_signs_of_an_independent_philox() -> None:
    signs = np.zeros(300, np.float32)
    args = {"count": 300, "seed": -5, "offset": 2**40, "out": harness.out(signs)}
    harness.load("fast").call("rademacher.float", args).check()
    words = [word for block in range(3) for word in oracle.philox(-5, block, 2**40)]
    assert signs.tolist() == [1 - 2 * (words[i // 32] >> i % 32 & 1) for i in range(300)]


class ProbeCase:
    """Probes, products and upstream gradients."""

    def __init__(self, kind: str, shape: tuple[int, int, int], seed: int) -> None:
        self.kind, (self.probes, self.points, self.dim) = kind, shape
        self.compute = oracle.COMPUTE[kind]
        rng = np.random.default_rng(seed)
        self.probe, self.hvp = (oracle.store(kind, rng.standard_normal(shape)) for _ in range(2))
        self.of_mean, self.of_variance = rng.standard_normal((2, self.points)).astype(self.compute)

    def fields(self, **arrays: Any) -> dict[str, Any]:
        sizes = {"probes": self.probes, "points": self.points, "dim": self.dim}
        return {**sizes, "probe": self.probe, "hvp": self.hvp, **arrays}

    def wide(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probes, products and values in float64."""
        probe, hvp = (oracle.load(self.kind, a).astype(np.float64) for a in (self.probe, self.hvp))
        return probe, hvp, (probe * hvp).sum(-1)


def run_probe_trace(simt: harness.Simt, case: ProbeCase, **options: Any) -> harness.Result:
    mean, variance = np.zeros((2, case.points), case.compute)
    args = case.fields(mean=harness.out(mean), variance=harness.out(variance))
    result = simt.call(f"probe_trace.{case.kind}", args, **options).check()
    _, _, values = case.wide()
    scale = TOLERANCE[case.kind] * max(1, case.dim)
    assert_close(mean, values.mean(0), scale)
    expected = values.var(0, ddof=1) if case.probes > 1 else np.full(case.points, np.nan)
    assert_close(variance, expected, 4 * scale)
    return result


def run_probe_backward(simt: harness.Simt, case: ProbeCase, upstream: str = "both", **options: Any) -> harness.Result:
    probe, hvp, values = case.wide()
    grad = np.zeros(values.shape)
    if upstream != "variance":
        grad += case.of_mean / case.probes
    if upstream != "mean":
        with np.errstate(invalid="ignore"):  # one probe
            grad += 2 * case.of_variance * (values - values.mean(0)) / np.float64(case.probes - 1)
    to_probe, to_hvp = np.zeros_like(case.probe), np.zeros_like(case.hvp)
    args = case.fields(
        grad_mean=None if upstream == "variance" else case.of_mean,
        grad_variance=None if upstream == "mean" else case.of_variance,
        grad_probe=harness.out(to_probe),
        grad_hvp=harness.out(to_hvp),
    )
    result = simt.call(f"probe_trace_backward.{case.kind}", args, **options).check()
    scale = ROUNDING[case.kind] + TOLERANCE[case.kind] * max(1, case.dim)
    assert_close(oracle.load(case.kind, to_probe), grad[..., None] * hvp, scale)
    assert_close(oracle.load(case.kind, to_hvp), grad[..., None] * probe, scale)
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", PROBES, ids=str)
def test_probe_trace(kind: str, shape: tuple[int, int, int]) -> None:
    simt = harness.load("fast")
    run_probe_trace(simt, ProbeCase(kind, shape, 0))
    for seed, upstream in enumerate(["mean"] if shape[0] == 1 else ["both", "mean", "variance"]):
        run_probe_backward(simt, ProbeCase(kind, shape, seed), upstream, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", CHECKED_PROBES, ids=str)
def test_probe_trace_checked(kind: str, shape: tuple[int, int, int]) -> None:
    for seed, preempt in SCHEDULES:
        run_probe_trace(harness.load("checked"), ProbeCase(kind, shape, seed), seed=seed, preempt=preempt)
        run_probe_backward(harness.load("checked"), ProbeCase(kind, shape, seed), seed=seed, preempt=preempt)


def test_no_points_and_no_dimensions() -> None:
    """Without dimensions every value is zero."""
    for shape in ((2, 0, 3), (2, 3, 0)):
        run_probe_trace(harness.load("checked"), ProbeCase("float", shape, 0))
        run_probe_backward(harness.load("checked"), ProbeCase("float", shape, 0))


def test_variance_keeps_its_digits_beside_a_large_mean() -> None:
    case = ProbeCase("float", (50, 7, 1), 0)
    case.probe[:], case.hvp[:] = 1, 1e4 + case.hvp
    mean, variance = np.zeros((2, 7), np.float32)
    args = case.fields(mean=harness.out(mean), variance=harness.out(variance))
    harness.load("fast").call("probe_trace.float", args).check()
    np.testing.assert_allclose(variance, case.wide()[2].var(0, ddof=1), rtol=1e-3)


# rows, width, rows per condition: one unit, less than a pack, 16-byte loads, odd, a row for the whole block.
LAYERS = [(1, 1, 1), (5, 3, 2), (9, 8, 3), (6, 33, 4), (3, 256, 2), (3, 520, 1), (2, 1031, 2)]
CHECKED_LAYERS = [(5, 3, 2), (7, 64, 3), (2, 521, 2)]
DIMS = [1, 6, 33, 64]


def activation_jets(activation: str, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, first and second derivative, by autograd."""
    x = torch.from_numpy(z).requires_grad_()
    value = getattr(torch.nn.functional, activation)(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    second = torch.zeros_like(x)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), x, materialize_grads=True)
    return value.detach().numpy(), first.detach().numpy(), second.numpy()


class LayerCase:
    """One layer's argument and its shift: rows [first, first + rows) of a larger problem."""

    def __init__(self, kind: str, shape: tuple[int, int, int], activation: str, seed: int) -> None:
        self.kind, self.activation, self.compute = kind, activation, oracle.COMPUTE[kind]
        self.rows, self.width, self.group = shape
        self.rng, self.first = np.random.default_rng(seed), 2 * seed
        self.argument, self.bias = self.draw(self.rows, self.width), self.draw(self.width)
        last = (self.first + self.rows - 1) // self.group
        self.condition = self.draw(last + 1, self.width) if seed % 2 == 0 else None
        self.weight, self.head_bias = self.draw(self.width), self.draw(1)

    def draw(self, *shape: int) -> np.ndarray:
        return (3 * self.rng.standard_normal(shape)).astype(self.compute)

    def empty(self, *shape: int) -> np.ndarray:
        return np.full(shape, 7, self.compute)

    def jets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z = self.argument.astype(np.float64) + self.bias
        if self.condition is not None:
            z += self.condition[(self.first + np.arange(self.rows)) // self.group]
        return activation_jets(self.activation, z)

    def fields(self, **arrays: Any) -> dict[str, Any]:
        shift = {"bias": self.bias, "condition": self.condition, "first": self.first, "group": self.group}
        code = COMPILED[self.activation]
        return {"rows": self.rows, "width": self.width, "activation": code, **shift, **arrays}

    def head(self, value: np.ndarray) -> dict[str, Any]:
        return {"head_weight": self.weight, "head_bias": self.head_bias, "value": harness.out(value)}

    def close(self, got: np.ndarray, expected: np.ndarray, terms: float = 1.0) -> None:
        assert_close(got, expected, 16 * TOLERANCE[self.kind] * terms)


def run_layer(simt: harness.Simt, case: LayerCase, head: bool, **options: Any) -> harness.Result:
    """Run mlp_forward for a hidden layer or the last one."""
    rows, width = case.rows, case.width
    tangent, stacked = case.draw(rows, width), case.empty(2, rows, width)
    slope, bend, value = case.empty(rows, width), case.empty(rows, width), case.empty(rows)
    more = case.head(value) if head else {"slope": harness.out(slope), "bend": harness.out(bend)}
    product = np.stack([case.argument, tangent])
    args = case.fields(product=product, stacked=harness.out(stacked), **more)
    result = simt.call(f"mlp_forward.{case.kind}", args, **options).check()
    h, first, second = case.jets()
    if head:
        case.close(stacked, np.stack([first * case.weight, second * tangent * case.weight]), 9)
        case.close(value, h @ case.weight.astype(np.float64) + case.head_bias, width)
    else:
        case.close(stacked, np.stack([h, first * tangent]), 9)
        case.close(slope, first)
        case.close(bend, second * tangent, 9)
    return result


def run_reverse(simt: harness.Simt, kind: str, rows: int, width: int, **options: Any) -> harness.Result:
    rng = np.random.default_rng(rows)
    product = rng.standard_normal((2, rows, width)).astype(oracle.COMPUTE[kind])
    slope, bend = rng.standard_normal((2, rows, width)).astype(oracle.COMPUTE[kind])
    stacked = np.full_like(product, 7)
    args = {"rows": rows, "width": width, "product": product, "slope": slope, "bend": bend}
    result = simt.call(f"mlp_reverse.{kind}", {**args, "stacked": harness.out(stacked)}, **options).check()
    g, tangent = product.astype(np.float64)
    assert_close(stacked, np.stack([slope * g, slope * tangent + bend * g]), TOLERANCE[kind])
    return result


def run_laplacian(simt: harness.Simt, case: LayerCase, dim: int, head: bool, **options: Any) -> harness.Result:
    """Run mlp_laplacian; without a Laplacian all rows share one Jacobian, as in a network's first layer."""
    rows, width = case.rows, case.width
    is_first = case.condition is not None
    laplacian = None if is_first else case.draw(rows, width)
    jacobian = case.draw(1 if is_first else rows, dim, width)
    stacked, value, score, trace = case.empty((dim + 2) * rows, width), case.empty(rows), case.empty(rows, dim), None
    more: dict[str, Any] = {"stacked": harness.out(stacked)}
    if head:
        trace = case.empty(rows)
        more = {**case.head(value), "score": harness.out(score), "trace": harness.out(trace)}
    args = case.fields(dim=dim, argument=case.argument, laplacian=laplacian, jacobian=jacobian, **more)
    result = simt.call(
        f"mlp_laplacian.{case.kind}", {**args, "jacobian_stride": 0 if is_first else dim * width}, **options
    ).check()
    h, first, second = case.jets()
    slopes = np.broadcast_to(jacobian, (rows, dim, width)).astype(np.float64)
    bent = second * (slopes**2).sum(1) + (0 if laplacian is None else first * laplacian)
    moved = first[:, None] * slopes
    if head:
        weight = case.weight.astype(np.float64)
        for got, expected in ((value, h @ weight + case.head_bias), (score, moved @ weight), (trace, bent @ weight)):
            case.close(got, expected, 9 * width * dim)
    else:
        expected = np.concatenate([h, bent, moved.reshape(rows * dim, width)])
        case.close(stacked, expected, 9 * dim)
    return result


@pytest.mark.parametrize("activation", COMPILED)
@pytest.mark.parametrize("kind", WIDE_KINDS)
def test_layers(kind: str, activation: str) -> None:
    simt = harness.load("fast")
    for i, shape in enumerate(LAYERS):
        for seed in range(2):
            for head in (False, True):
                run_layer(simt, LayerCase(kind, shape, activation, seed), head, seed=seed)
                run_laplacian(simt, LayerCase(kind, shape, activation, seed), DIMS[i % 4], head, seed=seed)


@pytest.mark.parametrize("shape", CHECKED_LAYERS, ids=str)
@pytest.mark.parametrize("kind", WIDE_KINDS)
def test_layers_checked(kind: str, shape: tuple[int, int, int]) -> None:
    simt = harness.load("checked")
    for seed, preempt in SCHEDULES:
        for head in (False, True):
            run_layer(simt, LayerCase(kind, shape, "gelu", seed), head, seed=seed, preempt=preempt)
            for dim in (3, 40):
                run_laplacian(simt, LayerCase(kind, shape, "softplus", seed), dim, head, seed=seed, preempt=preempt)


@pytest.mark.parametrize("build", ["fast", "checked"])
@pytest.mark.parametrize("kind", WIDE_KINDS)
def test_reverse(kind: str, build: str) -> None:
    for rows, width in ((1, 1), (3, 5), (4, 64), (9, 129)):
        run_reverse(harness.load(build), kind, rows, width)


@pytest.mark.parametrize("activation", COMPILED)
@pytest.mark.parametrize("kind", WIDE_KINDS)
def test_activations_everywhere(kind: str, activation: str) -> None:
    """Value and derivatives match autograd over the whole range, at the jumps and at zero."""
    case = LayerCase(kind, (1, 4009, 1), activation, 1)
    points = [0.0, -0.0, 20.0, 20.001, -0.25, 1e4, -1e4, 1e-8]
    case.argument = np.concatenate([np.linspace(-40, 40, 4001), points]).astype(case.compute)[None]
    case.bias[:] = 0
    run_layer(harness.load("fast"), case, False)


@pytest.mark.parametrize("activation", COMPILED)
def test_nan_stays_with_its_unit(activation: str) -> None:
    case = LayerCase("float", (2, 9, 1), activation, 1)
    tangent, outputs = case.draw(2, 9), []
    for _ in range(2):
        stacked, slope, bend = case.empty(4, 9), case.empty(2, 9), case.empty(2, 9)
        product = np.concatenate([case.argument, tangent])
        args = case.fields(product=product, stacked=stacked, slope=slope, bend=bend)
        harness.load("fast").call("mlp_forward.float", args).check()
        outputs.append(np.stack([*stacked.reshape(2, 2, 9), slope, bend]))
        case.argument[1, 4] = np.nan
    clean, got = outputs
    assert np.isnan(got[0, 1, 4])
    got[:, 1, 4] = clean[:, 1, 4]
    np.testing.assert_array_equal(got, clean)


@pytest.mark.parametrize("kind", WIDE_KINDS)
def test_same_bits_in_any_order(kind: str) -> None:
    results = []
    for seed in range(3):
        case = LayerCase(kind, (2, 1031, 1), "silu", 0)
        value, stacked = case.empty(2), case.empty(4, 1031)
        args = case.fields(product=case.draw(4, 1031), stacked=harness.out(stacked), **case.head(value))
        harness.load("checked").call(f"mlp_forward.{kind}", args, seed=seed, preempt=0.1 * seed).check()
        results.append([value, stacked])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
