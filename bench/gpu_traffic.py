"""SIMT-harness counts for every kernel instance: global traffic and shared-memory wavefronts relative to the minimum.

Traffic: bytes of the 32-byte sectors that the warps' requests access, relative to the bytes requested (a request moves
at least one sector). Wavefronts: those of shared-memory reads in inner loops, relative to the number without bank
conflicts; inner loops are the lines read at least a seventh as often as the kernel's most read line, except in
jacobian/cuda/forward.cuh, which is read once per particle. Caches are not modelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpu_model import padded
from simt import harness
from simt.svgd_cases import TYPES, draw
from simt.test_field_kernels import FieldCase, run_backward, run_forward
from simt.test_gfn_kernels import Case as TrajectoryCase
from simt.test_gfn_kernels import masked_case, run_masked
from simt.test_gfn_kernels import run_backward as run_trajectory_backward
from simt.test_gfn_kernels import run_forward as run_trajectory_forward
from simt.test_gfn_sample import Case as SampleCase
from simt.test_gfn_sample import run as run_sample
from simt.test_jacobian_kernels import Case as JacobianCase
from simt.test_jacobian_kernels import run_backward as run_jacobian_backward
from simt.test_jacobian_kernels import run_forward as run_jacobian_forward
from simt.test_trace_kernels import (
    LayerCase,
    ProbeCase,
    run_laplacian,
    run_layer,
    run_probe_backward,
    run_probe_trace,
    run_reverse,
    run_signs,
)

PARTICLES = {"field": 160, "jacobian": 96, "median": 160}
GFN_DIM = 256  # states and logits are sector-aligned
# Rows, width and group of a hidden layer; probes, points and dimensions.
LAYER, PROBES = (12, 256, 3), (2, 40, 64)


@dataclass(frozen=True)
class Traffic:
    moved: int
    asked: int
    wavefronts: int
    least_wavefronts: int

    @property
    def global_ratio(self) -> float:
        return self.moved / self.asked if self.asked else 1.0

    @property
    def wavefront_ratio(self) -> float:
        return self.wavefronts / self.least_wavefronts if self.least_wavefronts else 1.0


def of_kernel(counters: list[harness.Counter]) -> Traffic:
    """The traffic of one kernel, from its counters."""
    moved = [c for c in counters if c.space == "global"]
    reads = [
        c for c in counters if c.space == "shared" and not c.write and not c.file.endswith("/jacobian/cuda/forward.cuh")
    ]
    often = max((c.requests for c in reads), default=0) / 7
    inner = [c for c in reads if c.requests >= often]
    return Traffic(
        sum(32 * c.sectors for c in moved),
        sum(max(c.bytes, 32 * c.requests) for c in moved),
        sum(c.wavefronts for c in inner),
        sum(c.least_wavefronts for c in inner),
    )


def instance(launch: str, kind: str, dim: int, forward: bool) -> str:
    """Name of a kernel instance, from its launch expression, e.g. (field_forward_kernel<T, P>), and a run's values."""
    name = launch.strip("()").replace(" ", "")
    pairs = "ForwardPairs" if forward else "BackwardPairs"
    mode = pairs if name.startswith("pair_sums") else pairs.replace("Pairs", "Product")
    base, _, arguments = name.partition("<")
    values = {"T": kind, "S": kind, "C": "double" if kind == "double" else "float", "Mode": mode}
    if "P" in (names := re.findall(r"\w+", arguments)):
        values["P"] = str(padded(dim))
    return f"{base}<{', '.join(values[n] for n in names)}>" if names else base


def by_instance(result: harness.Result, kind: str, dim: int, forward: bool) -> dict[str, Traffic]:
    result.check()
    names = {c.kernel for c in result.counters}
    return {
        instance(name, kind, dim, forward): of_kernel([c for c in result.counters if c.kernel == name])
        for name in names
    }


def _median(kind: str, dim: int, **options: Any) -> harness.Result:
    m = PARTICLES["median"]
    x = draw(np.random.default_rng(0), kind, 1, m, dim)
    distances = np.linalg.norm(x[0, :, None].astype(np.float64) - x[0], axis=-1)
    median = np.zeros(1, TYPES[kind])
    result = harness.load("checked").call(f"median_distance.{kind}", 1, m, dim, x, harness.out(median), **options)
    np.testing.assert_allclose(median[0], np.sort(distances, axis=None)[(m * m - 1) // 2], rtol=1e-5)
    return result


def _row_sum(kind: str, **options: Any) -> harness.Result:
    rows, total = draw(np.random.default_rng(0), kind, 2, 1024), np.zeros(2, TYPES[kind])
    arguments = (2, 1024, rows, 1.0, None, 0, harness.out(total))
    result = harness.load("checked").call(f"row_sum.{kind}", *arguments, **options)
    np.testing.assert_allclose(total, rows.sum(1), rtol=1e-4)
    return result


def runs(kind: str, field_dims: tuple[int, ...], jacobian_dims: tuple[int, ...]) -> Iterator[dict[str, Traffic]]:
    """Runs of every launch function for one element type; each run is also checked against float64."""
    checked = harness.load("checked")
    for dim in field_dims:
        field = FieldCase(kind, (1, 0, PARTICLES["field"], dim), 0)
        yield by_instance(run_forward(checked, field, False, counters=True), kind, dim, True)
        for result in run_backward(checked, field, False, counters=True):
            yield by_instance(result, kind, dim, False)
    for dim in jacobian_dims:
        case = JacobianCase(kind, (1, PARTICLES["jacobian"], dim), "logdet-hessian", 0)
        yield by_instance(run_jacobian_forward(checked, case, counters=True), kind, dim, True)
        yield by_instance(run_jacobian_backward(checked, case, counters=True), kind, dim, False)
    yield by_instance(_median(kind, 16, counters=True), kind, 16, True)
    yield by_instance(_row_sum(kind, counters=True), kind, 1, True)


def gfn_runs(kind: str) -> Iterator[dict[str, Traffic]]:
    """Runs of the GFlowNet family for one storage type. If rows begin inside a sector, two requests that share it count
    it twice (up to 1.2 times in the row kernels, 1.5 times in the sampling kernel), although a cache reads it once."""
    checked = harness.load("checked")
    case = TrajectoryCase(kind, (1, 6, GFN_DIM), 0)
    results = [*run_trajectory_forward(checked, case, counters=True)]
    results.append(run_trajectory_backward(checked, case, counters=True))
    results += [run_sample(checked, SampleCase(kind, 6, GFN_DIM, f, 0), counters=True)[2] for f in (True, False)]
    results += run_masked(checked, kind, masked_case(kind, 400, GFN_DIM, 0), counters=True)
    yield from (by_instance(result, kind, GFN_DIM, True) for result in results)


def trace_runs(kind: str) -> Iterator[dict[str, Traffic]]:
    """Runs of the Hessian-trace family for one storage type, and of its layers for float and double. As above, rows
    that begin inside a sector count it twice: up to 1.5 times at a width of 33."""
    checked, case = harness.load("checked"), ProbeCase(kind, PROBES, 0)
    results = [run_signs(checked, kind, 20000, (1, 2), counters=True)]
    results += [run(checked, case, counters=True) for run in (run_probe_trace, run_probe_backward)]
    if kind in TYPES:
        results.append(run_reverse(checked, kind, *LAYER[:2], counters=True))
        for head in (False, True):
            for seed in range(2):
                layer = LayerCase(kind, LAYER, "silu", seed)
                results.append(run_layer(checked, layer, head, counters=True))
                results.append(run_laplacian(checked, layer, 6, head, counters=True))
    yield from (by_instance(result, kind, LAYER[1], True) for result in results)


def measure(
    kinds: tuple[str, ...] = ("float", "double"),
    field_dims: tuple[int, ...] = (2, 4, 8, 16, 64),
    jacobian_dims: tuple[int, ...] = (2, 4, 8, 16),
    storage: tuple[str, ...] = ("float", "double", "Bf16", "Fp16"),
) -> dict[str, Traffic]:
    """Traffic by kernel instance, the worst one if several runs launch the same instance."""
    worst: dict[str, Traffic] = {}
    entries = [entry for kind in kinds for entry in runs(kind, field_dims, jacobian_dims)]
    entries += [entry for kind in storage for entry in (*gfn_runs(kind), *trace_runs(kind))]
    for name, traffic in (item for entry in entries for item in entry.items()):
        if name not in worst or traffic.global_ratio > worst[name].global_ratio:
            worst[name] = traffic
    return worst
