"""Inputs for the ops of the GFlowNet family: random trajectories, states and policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from ops.samples import Inputs, Variant
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [
    # (D, T): one entry, no entry, no step; both sides of vector widths; full and local trajectories.
    (1, 1),
    (1, 0),
    (0, 0),
    (2, 2),
    (3, 0),
    (3, 2),
    (5, 5),
    (7, 3),
    (8, 8),
    (16, 16),
    (17, 5),
    (31, 31),
    (33, 32),
    (64, 10),
    (100, 100),
]
LEADS: list[tuple[int, ...]] = [(), (1,), (3,), (2, 2), (0,), (0, 2)]

TRAJECTORY = [
    Variant("gfn_trajectory_log_prob"),
    Variant("gfn_trajectory_log_prob", ("initial_state",)),
    Variant("linear_trajectory_log_prob"),
    Variant("linear_trajectory_log_prob", ("initial_state",)),
    Variant("linear_trajectory_log_prob", fixed=(("bias", None),)),
]
MASKED = Variant("masked_trajectory_log_prob")
DIFFERENTIABLE = [*TRAJECTORY, MASKED]


def sample(op: str, seed: int = 3, offset: int = 5, **options: float) -> Variant:
    fixed = (("seed", seed), ("offset", offset), *options.items())
    return Variant(op, fixed=fixed, differentiable=False)


SAMPLE = [sample("gfn_sample_forward"), sample("gfn_sample_backward")]
VARIANTS = [*DIFFERENTIABLE, *SAMPLE]


def sample_inputs(
    variant: Variant,
    lead: Sequence[int],
    dim: int,
    steps: int,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    width: int = 6,
    seed: int = 0,
) -> Inputs:
    """Trajectories of ``steps`` steps through D = ``dim`` entries, for a policy whose last layer takes ``width``."""
    generator = torch.Generator().manual_seed(1000 * seed + 31 * dim + steps)
    order = torch.rand(*lead, dim, generator=generator).argsort(-1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def bits(*shape: int) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator)

    def some_set(least: int, most: int) -> Tensor:
        """States in which the last ``least`` to ``most`` locations of ``order`` are set."""
        count = torch.randint(least, most + 1, (*lead, 1), generator=generator)
        state = torch.where(torch.arange(dim) >= dim - count, bits(*lead, dim), -1)
        return torch.empty(*lead, dim, dtype=torch.int8).scatter_(-1, order, state.to(torch.int8))

    is_sample = variant.op.startswith("gfn_sample")
    rows = () if is_sample else (steps + 1,)
    makers: dict[str, Callable[[], Any]] = {
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
    if variant.op == MASKED.op:
        inputs = ragged(math.prod(lead), steps, 3 * dim, normal, generator)
    else:
        inputs = {name: makers[name]() for name in variant.arguments()}
    return {name: value.to(device) for name, value in inputs.items()}


def ragged(batch: int, steps: int, width: int, normal: Callable[..., Tensor], generator: torch.Generator) -> Inputs:
    """Trajectories of 0 to 2 ``steps`` steps with ``width`` actions, of which about half are allowed."""
    lengths = torch.randint(0, 2 * steps + 1, (batch,), generator=generator) * (width > 0)
    rows = int(lengths.sum())
    actions = torch.randint(0, max(width, 1), (rows,), generator=generator)
    mask = torch.rand(rows, width, generator=generator) < 0.5
    if width > 0:
        mask.scatter_(-1, actions[:, None], True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return {"logits": 2 * normal(rows, width), "mask": mask, "actions": actions, "offsets": offsets}


def largest_logit(inputs: Inputs) -> float:
    """Magnitude of the terms whose differences give the log-probabilities."""
    if "hidden" in inputs:
        bias = inputs.get("bias")
        logits = torch.nn.functional.linear(inputs["hidden"].double(), inputs["weight"].double())
        logits = logits if bias is None else logits + bias.double()
    else:
        logits = inputs["logits"].double()
    finite = logits[logits.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0
