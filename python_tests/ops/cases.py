"""Inputs for every op, and the allowed error against the reference, shared by all tests of the ops.

A Variant is an op with the optional arguments that it is called with. Two families share the suites: the particle ops,
whose inputs have sizes M and D, and the trajectory ops, whose inputs have D locations and T steps.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from ops.backends import Backend
from torch import Tensor

import svgdx.ops
import svgdx.reference

Inputs = dict[str, Any]
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Variant:
    """An op together with the optional arguments that it is called with."""

    op: str
    extra: tuple[str, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()
    differentiable: bool = True

    def __str__(self) -> str:
        return "-".join((self.op, *self.extra, *(str(value) for _, value in self.fixed)))

    @property
    def has_particles(self) -> bool:
        """Whether the op takes particles, and not trajectories or states."""
        return not (self.op.startswith("gfn") or "trajectory" in self.op)

    def takes(self, m: int, d: int) -> bool:
        """Whether the op is defined at this size."""
        if dict(self.fixed).get("statistic") == "u" and m == 1:
            return False
        return self.max_dim is None or d <= self.max_dim

    @property
    def max_dim(self) -> int | None:
        return 16 if self.op == "svgd_logdet" else None

    def arguments(self) -> list[str]:
        """Names of the tensor arguments, including the optional ones in use."""
        parameters = inspect.signature(getattr(svgdx.reference, self.op)).parameters
        fixed = dict(self.fixed)
        required = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in fixed]
        return [*required, *self.extra]

    def __call__(self, inputs: Inputs) -> tuple[Tensor, ...]:
        return _tuple(getattr(svgdx.ops, self.op)(**inputs, **dict(self.fixed)))

    def reference(self, inputs: Inputs) -> tuple[Tensor, ...]:
        return _tuple(getattr(svgdx.reference, self.op)(**inputs, **dict(self.fixed)))


def sample(op: str, seed: int = 3, offset: int = 5, **options: float) -> Variant:
    """A draw of actions."""
    fixed = (("seed", seed), ("offset", offset), *options.items())
    return Variant(op, fixed=fixed, differentiable=False)


PARTICLES = [
    Variant("svgd_phi"),
    Variant("svgd_phi_trace"),
    Variant("svgd_step"),
    Variant("svgd_step", ("hessian_trace",)),
    Variant("svgd_field"),
    Variant("svgd_jacobian_sqnorm"),
    Variant("svgd_jacobian_sqnorm", ("probe", "hvp")),
    Variant("svgd_logdet"),
    Variant("svgd_logdet", ("hessian",)),
    Variant("ksd", fixed=(("statistic", "u"),)),
    Variant("ksd", fixed=(("statistic", "v"),)),
    Variant("median_distance", differentiable=False),
]
# The particle ops with a kernel.
WITH_BANDWIDTH = [variant for variant in PARTICLES if "bandwidth" in variant.arguments()]
# A trajectory of full shape, and ragged ones.
STEPPED = [
    Variant("gfn_trajectory_log_prob"),
    Variant("gfn_trajectory_log_prob", ("initial_state",)),
    Variant("linear_trajectory_log_prob"),
    Variant("linear_trajectory_log_prob", ("initial_state",)),
    Variant("linear_trajectory_log_prob", fixed=(("bias", None),)),
]
MASKED = Variant("masked_trajectory_log_prob")
TRAJECTORIES = [*STEPPED, MASKED]
# Arguments of a policy, without leading dimensions.
LAYER = ("weight", "bias")
DRAWS = [sample("gfn_sample_forward"), sample("gfn_sample_backward")]
VARIANTS = [*PARTICLES, *TRAJECTORIES, *DRAWS]
DIFFERENTIABLE = [variant for variant in VARIANTS if variant.differentiable]

# (M, D): one particle, one dimension, both sides of vector widths and tiles, then larger D, and last just past the rows
# (96) and dimensions (192, 512) of blocks of matrix products, and past the particles of small problems (128).
PARTICLE_SIZES: list[Size] = [
    *((1, 1), (1, 7), (2, 1), (2, 3), (3, 2), (5, 5), (7, 16), (8, 8), (9, 1), (15, 6), (16, 17), (17, 4), (31, 3)),
    *((33, 9), (64, 2), (65, 13), (100, 20), (130, 1), (130, 6), (2, 17), (7, 50), (33, 64), (17, 100), (5, 300)),
    # The largest has no leading dimensions (samples_of), because the reference takes M^2 D numbers a row.
    *((97, 193), (9, 520), (140, 12)),
]
# (D, T): one entry, no entry, no step; both sides of vector widths; full and local trajectories.
TRAJECTORY_SIZES: list[Size] = [
    *((1, 1), (1, 0), (0, 0), (2, 2), (3, 0), (3, 2), (5, 5), (7, 3), (8, 8), (16, 16), (17, 5), (31, 31), (33, 32)),
    *((64, 10), (100, 100)),
]
PARTICLE_LEADS: list[tuple[int, ...]] = [(), (1,), (3,), (2, 2)]
TRAJECTORY_LEADS: list[tuple[int, ...]] = [*PARTICLE_LEADS, (0,), (0, 2)]
# How a bandwidth is given: a Python number, 0-d, or one per batch row.
MODES = ["rows", "scalar", "number"]


def samples_of(variant: Variant, dtype: torch.dtype, backend: Backend, limit: int | None = None) -> Iterator[Inputs]:
    """Inputs of all sizes, with every leading shape; ``limit`` bounds the product of a size's numbers."""
    sizes = PARTICLE_SIZES if variant.has_particles else TRAJECTORY_SIZES
    leads = PARTICLE_LEADS if variant.has_particles else TRAJECTORY_LEADS
    for i, (a, b) in enumerate(sizes):
        if variant.takes(a, b) and (limit is None or a * b <= limit):
            yield sample_inputs(variant, leads[i % len(leads)], a, b, dtype, backend.device, MODES[i % 3])


def sample_inputs(
    variant: Variant,
    lead: Sequence[int],
    a: int,
    b: int,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    bandwidth: str = "rows",
    width: int = 6,
    seed: int = 0,
) -> Inputs:
    """Random inputs.

    Args:
        variant: the op.
        lead: leading dimensions.
        a, b: M particles in D dimensions; or D locations and T steps.
        dtype: dtype of the floating-point inputs.
        device: device of the inputs.
        bandwidth: how bandwidth and step size are given, one of MODES.
        width: inputs of a policy's last layer.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(1000 * seed + 31 * a + b)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    if variant == MASKED:
        inputs: Inputs = _ragged(math.prod(lead), b, 3 * a, normal, generator)
    elif variant.has_particles:
        makers = _particle_makers(lead, a, b, normal, generator, dtype, bandwidth)
        inputs = {name: makers[name]() for name in variant.arguments()}
    else:
        makers = _trajectory_makers(variant, lead, a, b, normal, generator, width)
        inputs = {name: makers[name]() for name in variant.arguments()}
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


Makers = dict[str, Callable[[], Any]]
Normal = Callable[..., Tensor]


def _particle_makers(
    lead: Sequence[int], m: int, d: int, normal: Normal, generator: torch.Generator, dtype: torch.dtype, bandwidth: str
) -> Makers:
    def number(low: float, high: float) -> Tensor | float:
        shape = tuple(lead) if bandwidth == "rows" else ()
        value = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
        return float(value) if bandwidth == "number" else value.to(torch.promote_types(dtype, torch.float32))

    width = math.sqrt(max(d, 1))
    return {
        "query": lambda: normal(*lead, m // 2 + 2, d),
        "x": lambda: normal(*lead, m, d),
        "score": lambda: normal(*lead, m, d),
        "bandwidth": lambda: number(0.5 * width, 1.5 * width),
        "step_size": lambda: number(0.05, 0.3),
        "log_q": lambda: normal(*lead, m),
        "hessian_trace": lambda: normal(*lead, m),
        "probe": lambda: normal(*lead, m, d).sign(),
        "hvp": lambda: normal(*lead, m, d),
        "hessian": lambda: normal(*lead, m, d, d),
    }


def _trajectory_makers(
    variant: Variant, lead: Sequence[int], dim: int, steps: int, normal: Normal, generator: torch.Generator, width: int
) -> Makers:
    """Trajectories of ``steps`` steps through ``dim`` locations, for a policy whose last layer takes ``width``."""
    order = torch.rand(*lead, dim, generator=generator).argsort(-1)

    def bits(*shape: int) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator)

    def some_set(least: int, most: int) -> Tensor:
        """States in which the last ``least`` to ``most`` locations of ``order`` are set."""
        count = torch.randint(least, most + 1, (*lead, 1), generator=generator)
        state = torch.where(torch.arange(dim) >= dim - count, bits(*lead, dim), -1)
        return torch.empty(*lead, dim, dtype=torch.int8).scatter_(-1, order, state.to(torch.int8))

    rows = () if variant.op.startswith("gfn_sample") else (steps + 1,)
    return {
        "logits": lambda: 2 * normal(*lead, *rows, 3 * dim),
        "actions": lambda: 2 * order[..., :steps] + bits(*lead, steps),
        # States to draw from have a void and a set entry if they have more than one entry.
        "state": lambda: (
            some_set(min(1, dim - 1), dim - 1) if "forward" in variant.op else some_set(1, max(dim - 1, 1))
        ),
        "initial_state": lambda: some_set(0, dim - steps),
        "hidden": lambda: normal(*lead, steps + 1, width),
        "weight": lambda: normal(3 * dim, width) / math.sqrt(max(width, 1)),
        "bias": lambda: normal(3 * dim),
    }


def _ragged(batch: int, steps: int, width: int, normal: Normal, generator: torch.Generator) -> Inputs:
    """Trajectories of 0 to 2 ``steps`` steps with ``width`` actions, of which about half are allowed."""
    lengths = torch.randint(0, 2 * steps + 1, (batch,), generator=generator) * (width > 0)
    rows = int(lengths.sum())
    actions = torch.randint(0, max(width, 1), (rows,), generator=generator)
    mask = torch.rand(rows, width, generator=generator) < 0.5
    if width > 0:
        mask.scatter_(-1, actions[:, None], True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return {"logits": 2 * normal(rows, width), "mask": mask, "actions": actions, "offsets": offsets}


def alike(variant: Variant, count: int) -> list[Inputs]:
    """Inputs of the same shapes that can be combined: trajectories share the order of locations, or the offsets."""
    if variant.has_particles:
        return [sample_inputs(variant, (2,), 5, 3, bandwidth="scalar", seed=seed) for seed in range(count)]
    rows = [sample_inputs(variant, (2,), 5, 3, seed=seed) for seed in range(count)]
    first = rows[0]
    for seed, row in enumerate(rows[1:]):
        if variant == MASKED:
            row.update(first, logits=first["logits"].roll(seed + 1, 0), mask=first["mask"] | (torch.rand(15) < 0.3))
            continue
        row["actions"] = first["actions"] // 2 * 2 + torch.randint(0, 2, (2, 3))
        if "initial_state" in row:
            row["initial_state"] = torch.where(first["initial_state"] == -1, -1, first["initial_state"] ^ 1)
    return rows


def to(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {k: v.to(dtype) if is_floating(v) else v for k, v in inputs.items()}


def in_both_precisions(function: Callable[[Inputs], Any], inputs: Inputs) -> tuple[Any, Any]:
    """A function of the inputs in float64, and in their own dtype: computed once if that is float64."""
    wide = to(inputs, torch.float64)
    exact = function(wide)
    return exact, exact if all(wide[name] is value for name, value in inputs.items()) else function(inputs)


def is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def leaves(inputs: Inputs, selected: Sequence[str] | None = None) -> Inputs:
    """Fresh copies that require grad."""
    result = {}
    for name, value in inputs.items():
        needs = is_floating(value) and (selected is None or name in selected)
        result[name] = value.detach().clone().requires_grad_() if needs else value
    return result


def gradients(
    function: Callable[[Inputs], tuple[Tensor, ...]], inputs: Inputs, selected: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Gradients of a fixed random combination of all outputs."""
    inputs = leaves(inputs, selected)
    generator = torch.Generator().manual_seed(7)
    loss = torch.zeros((), dtype=torch.float64)
    for out in function(inputs):
        weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        loss = loss + (out.cpu().double() * weight).sum()
    names = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.requires_grad]
    values = torch.autograd.grad(loss, [inputs[name] for name in names], allow_unused=True)
    return {
        name: torch.zeros_like(inputs[name]) if value is None else value
        for name, value in zip(names, values, strict=True)
    }


def _tuple(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)
