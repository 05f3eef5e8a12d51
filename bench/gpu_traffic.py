"""SIMT-harness counts for every kernel instance: global traffic and shared-memory wavefronts relative to the minimum.

Traffic: bytes of the 32-byte sectors that the warps' requests access, relative to the bytes requested (a request moves
at least one sector). Wavefronts: those of shared-memory reads in inner loops, relative to the number without bank
conflicts; inner loops are the lines read at least a seventh as often as the kernel's most read line, except in
jacobian/cuda/forward.cuh, which is read once per particle. Caches are not modelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gpu.work import padded
from ops import inputs
from simt import backend, harness
from torch import Tensor

from svgdx import ops
from svgdx.activations import COMPILED
from svgdx.ops.registration.dispatch import OPS

INNER = torch.ops.svgdx_inner

PARTICLES = {"field": 136, "wide field": 64, "jacobian": 64, "median": 160}
# With this many columns, the fused kernels also serve small dimensions.
QUERIES, MANY = 64, 1024
PARTICLE_KINDS = ("float", "double")
DTYPES = {"float": torch.float32, "double": torch.float64, "Bf16": torch.bfloat16, "Fp16": torch.float16}
GFN_DIM = 256  # states and logits are sector-aligned
# Rows, width and group of a hidden layer; probes, points and dimensions.
LAYER, PROBES = (12, 256, 3), (2, 40, 64)


# Sizes of the inputs that are made from an op's line of shapes.
SIZES = {**inputs.SIZES, "M": 64, "D": 16, "*": (2,)}


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
    values = {
        "Arrays": "1" if forward else "2",
        "T": kind,
        "S": kind,
        "C": "double" if kind == "double" else "float",
        "Mode": mode,
        "In": kind,
    }
    if "P" in (names := re.findall(r"\w+", arguments)):
        values["P"] = str(padded(dim))
    return f"{base}<{', '.join(values.get(n, n) for n in names)}>" if names else base


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
        count = PARTICLES["field" if dim <= 16 else "wide field"]
        x, score = normal(kind, 1, count, dim), normal(kind, 1, count, dim)
        yield from measured(kind, dim, lambda x=x, score=score: ops.svgd_phi_trace(x, score, x.shape[-1] ** 0.5))
    # Kernels of float also read and write bfloat16. Not those of more dimensions, which do so in two requests for each
    # sector of a row of results, one after the other.
    for dim in (8, 32, 64) if kind == "float" else ():
        x, score = (normal("Bf16", 1, PARTICLES["wide field"], dim) for _ in range(2))
        yield from measured(kind, dim, lambda x=x, score=score: ops.svgd_phi_trace(x, score, x.shape[-1] ** 0.5))
    for dim in (12, 16) if kind == "float" else ():
        query, x, score = (normal(kind, 1, count, dim) for count in (QUERIES, MANY, MANY))
        yield from measured(kind, dim, lambda v=(query, x, score, dim**0.5): ops.svgd_field(*v))
    for dim in jacobian_dims:
        m = PARTICLES["jacobian"]
        x, score, hessian = normal(kind, 1, m, dim), normal(kind, 1, m, dim), normal(kind, 1, m, dim, dim)
        sigma = dim**0.5
        yield from measured(kind, dim, lambda v=(x, score, sigma, 0.3, hessian): ops.svgd_logdet(*v))
    for count, dim in ((40, 32), (40, 64), (20, 128), (m, 144)):
        terms = tuple(normal(kind, 1, count, dim) for _ in range(4))
        yield from measured(kind, dim, lambda t=terms: ops.svgd_jacobian_sqnorm(t[0], t[1], 8.0, t[2], t[3]))
    yield from measured(kind, 16, lambda: ops.median_distance(normal(kind, 1, PARTICLES["median"], 16)))


def twin_runs(kind: str) -> Iterator[dict[str, Traffic]]:
    """Runs of the sweeps through twin critics, and of the density that is made of them."""
    states, actions, dim, width = 6, 4, 8, 256
    widths = torch.tensor([dim, width, width, 1])
    count = dim * width + width * (width + 1) + width + 4
    network = (normal(kind, 2, count, gradient=False) / 16, widths, COMPILED["elu"])
    shift, temperature = normal(kind, 2, states, width, gradient=False), torch.ones((), dtype=DTYPES[kind])
    u, v = (normal(kind, states * actions, dim, gradient=False) for _ in range(2))
    trace = normal(kind, len(u), gradient=False)

    def calls() -> None:
        *_, order, values, back = INNER.mlp_minimum(u, shift, *network, 2)
        INNER.mlp_along(v, order, values, back, *network, 2)
        saved = INNER.mlp_tanh_target(u, v, temperature, shift, *network, True)
        order, values, back, gradient, product, third = saved[4:]
        INNER.mlp_tanh_target_backward(
            trace, v, trace, u, v, temperature, gradient, product, third, order, values, back, *network
        )

    with backend.running(counters=True) as results:
        calls()
    yield from (by_instance(result, kind, dim, True) for result in results)


def rollout_runs(kind: str) -> Iterator[dict[str, Traffic]]:
    """Runs of the rollout of an MLP policy and of its gradient."""
    batch, split, dim, width, steps = 12, 8, 64, 256, 3
    deeper, head = normal(kind, 1, width, width, gradient=False), normal(kind, 3 * dim, width, gradient=False)
    hidden, logits = torch.zeros(2, steps + 1, batch, width), torch.zeros(batch, steps + 1, 3 * dim)
    hidden, logits = hidden.to(DTYPES[kind]), logits.to(DTYPES[kind])
    state = torch.full((batch, dim), -1, dtype=torch.int8)
    state[split:] = 1
    draws = (1, 2, 3, 1.0, 0.1, 0.0)
    with backend.running(counters=True) as results:
        _, final = INNER.mlp_rollout(
            normal(kind, batch, width, gradient=False),
            state,
            split,
            steps,
            normal(kind, dim, width, gradient=False),
            deeper,
            normal(kind, 1, width, gradient=False),
            head,
            normal(kind, 3 * dim, gradient=False),
            0.01,
            hidden,
            0,
            logits,
            *draws,
        )
        set_time = torch.zeros(batch, dim, dtype=torch.int32)
        INNER.mlp_rollout_backward(logits, hidden, split, set_time, final, deeper, head, 0.01)
    yield from (by_instance(result, kind, dim, True) for result in results)


def chain_runs(kind: str) -> Iterator[dict[str, Traffic]]:
    """Runs of the small steps of a chain and of Metropolis-Hastings."""
    batch, particles, dim = 8, 64, 16
    x, score, query, query_score = (normal(kind, batch, particles, dim, gradient=False) for _ in range(4))
    numbers = [normal(kind, batch, particles, gradient=False) for _ in range(5)]
    chances = [torch.rand(batch, particles, dtype=DTYPES[kind]) for _ in range(2)]
    flags = [torch.ones(batch, particles, dtype=torch.bool) for _ in range(2)]
    raw, one = normal(kind, 512, gradient=False), torch.ones((), dtype=DTYPES[kind])
    with backend.running(counters=True) as results:
        limit, _ = INNER.chain_bound(normal(kind, 512, particles, gradient=False), one, 0.01)
        for step in (one, raw):
            INNER.chain_bound_backward(raw, limit, step, 0.01)
        INNER.chain_learnt(raw, -1.0, 2.0)
        INNER.chain_moved(query, x, score, one, query_score)
        opened = torch.zeros(2, dtype=torch.int32)
        INNER.chain_inverse(query, query_score, x, score, one, one, one, None, opened, 0)
        proposals = (x, query, score, *numbers, *flags, *chances)
        INNER.chain_accept(*proposals)
        INNER.chain_accept_backward(x, numbers[0], *proposals)
    yield from (by_instance(result, kind, dim, True) for result in results)


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
        steep = x.clone().requires_grad_()
        functions.append(lambda: ops.mlp_laplacian(steep, condition.detach(), *layers))
    yield from measured(kind, LAYER[1], *functions)


def other_runs(kind: str, kernels: Iterable[str]) -> Iterator[dict[str, Traffic]]:
    """Runs of the registered ops that take any numbers, with inputs from their lines of shapes, until all of these
    kernels have run."""
    missing = set(kernels)
    for name, op in OPS.items():
        if missing and name not in inputs.BACKWARD and inputs.takes_any_size(name):
            values = [inputs.value_of(argument, SIZES, DTYPES[kind]) for argument in op.signature.arguments]
            values = inputs.requiring_grad(values)
            for entry in measured(kind, SIZES["D"], lambda op=op, values=values: op(*values)):
                missing -= {name.partition("<")[0] for name in entry}
                yield entry


def measure(
    kinds: tuple[str, ...] = ("float", "double"),
    field_dims: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 160),
    jacobian_dims: tuple[int, ...] = (2, 4, 8, 16),
    storage: tuple[str, ...] = ("float", "double", "Bf16", "Fp16"),
    kernels: Iterable[str] = (),
) -> dict[str, Traffic]:
    """Traffic by kernel instance, the worst one if several runs launch the same instance.

    Those of `kernels` that no run above launches are measured in runs of the registered ops.
    """
    worst: dict[str, Traffic] = {}
    entries = [entry for kind in kinds for entry in runs(kind, field_dims, jacobian_dims)]
    entries += [entry for kind in kinds for entry in (*twin_runs(kind), *rollout_runs(kind), *chain_runs(kind))]
    entries += [entry for kind in storage for entry in (*gfn_runs(kind), *trace_runs(kind))]
    ran = {name.partition("<")[0] for entry in entries for name in entry}
    others = [entry for kind in kinds for entry in other_runs(kind, set(kernels) - ran)]
    entries += [{name: entry[name] for name in entry if name.partition("<")[0] not in ran} for entry in others]
    for name, traffic in (item for entry in entries for item in entry.items()):
        if name not in worst or traffic.global_ratio > worst[name].global_ratio:
            worst[name] = traffic
    return worst
