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

import torch
from gpu_model import padded
from simt import backend, harness
from torch import Tensor

from svgdx import ops

PARTICLES = {"field": 160, "jacobian": 96, "median": 160}
PARTICLE_KINDS = ("float", "double")
DTYPES = {"float": torch.float32, "double": torch.float64, "Bf16": torch.bfloat16, "Fp16": torch.float16}
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


def measured(kind: str, dim: int, *outputs: Any) -> Iterator[dict[str, Traffic]]:
    """Traffic of functions of no argument that each call one op, and of the op's gradient if the results have one."""
    for function in outputs:
        with backend.running(counters=True) as calls:
            results = function()
            forward = len(calls)
            values = results if isinstance(results, tuple) else (results,)
            if any(value.requires_grad for value in values):
                sum(value.sum() for value in values if value.requires_grad).backward()
        for i, result in enumerate(calls):
            yield by_instance(result, kind, dim, i < forward)


def normal(kind: str, *shape: int, gradient: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(DTYPES[kind]).requires_grad_(gradient)


def runs(kind: str, field_dims: tuple[int, ...], jacobian_dims: tuple[int, ...]) -> Iterator[dict[str, Traffic]]:
    """Runs of the SVGD family for one element type."""
    for dim in field_dims:
        x, score = normal(kind, 1, PARTICLES["field"], dim), normal(kind, 1, PARTICLES["field"], dim)
        yield from measured(kind, dim, lambda x=x, score=score: ops.svgd_phi_trace(x, score, x.shape[-1] ** 0.5))
    for dim in jacobian_dims:
        m = PARTICLES["jacobian"]
        x, score, hessian = normal(kind, 1, m, dim), normal(kind, 1, m, dim), normal(kind, 1, m, dim, dim)
        sigma = dim**0.5
        yield from measured(kind, dim, lambda v=(x, score, sigma, 0.3, hessian): ops.svgd_logdet(*v))
    yield from measured(kind, 16, lambda: ops.median_distance(normal(kind, 1, PARTICLES["median"], 16)))


def gfn_runs(kind: str) -> Iterator[dict[str, Traffic]]:
    """Runs of the GFlowNet family for one storage type. If rows begin inside a sector, two requests that share it count
    it twice (up to 1.2 times in the row kernels, 1.5 times in the sampling kernel), although a cache reads it once."""
    logits, actions = normal(kind, 1, 7, 3 * GFN_DIM), torch.randperm(GFN_DIM)[None, :6] * 2
    rows, mask = normal(kind, 400, GFN_DIM), torch.rand(400, GFN_DIM) < 0.6
    mask[:, 0] = True
    taken, offsets = torch.zeros(400, dtype=torch.int64), torch.tensor([0, 96, 96, 256, 400])
    state = torch.randint(-1, 2, (6, GFN_DIM), dtype=torch.int8)
    policy = normal(kind, 6, 3 * GFN_DIM)
    yield from measured(
        kind,
        GFN_DIM,
        lambda: ops.gfn_trajectory_log_prob(logits, actions),
        lambda: ops.masked_trajectory_log_prob(rows, mask, taken, offsets),
        lambda: ops.gfn_sample_forward(policy, state, 1, 2),
        lambda: ops.gfn_sample_backward(policy, state, 1, 2),
    )


def trace_runs(kind: str) -> Iterator[dict[str, Traffic]]:
    """Runs of the Hessian-trace family for one storage type, and of its layers for float and double. As above, rows
    that begin inside a sector count it twice: up to 1.5 times at a width of 33."""
    probe, hvp = normal(kind, *PROBES), normal(kind, *PROBES)
    functions: list[Any] = [
        *(
            lambda f=f: f(torch.empty(20000, dtype=DTYPES[kind]), 1, 2)
            for f in (ops.rademacher, ops.uniform, ops.normal)
        ),
        lambda: ops.integers(torch.empty(20000), 1000, 1, 2),
        lambda: ops.probe_trace(probe, hvp),
    ]
    if kind in PARTICLE_KINDS:
        rows, width, group = LAYER
        x, condition = normal(kind, rows // group, group, 6, gradient=False), normal(kind, rows // group, 3)
        weights = [normal(kind, width, 9), normal(kind, width, width), normal(kind, 1, width)]
        layers = ([w.detach() for w in weights], [normal(kind, len(w), gradient=False) for w in weights], "silu")
        functions.append(lambda: ops.mlp_score_hvp(x, condition.detach(), *layers, x))
        functions.append(lambda: ops.mlp_laplacian(x, condition.detach(), *layers))
    yield from measured(kind, LAYER[1], *functions)


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
