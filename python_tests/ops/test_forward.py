"""Values of every op against the float64 reference, and the same values for any layout of the inputs."""

from __future__ import annotations

import pytest
import torch
from ops.backends import Backend
from ops.cases import (
    DRAWS,
    LAYER,
    MASKED,
    PARTICLES,
    TRAJECTORIES,
    VARIANTS,
    Inputs,
    Variant,
    in_both_precisions,
    sample_inputs,
    samples_of,
)
from ops.errors import assert_close, assert_same, scale_of
from torch import Tensor

WIDE = [torch.float32, torch.float64]
HALF = [torch.bfloat16, torch.float16]


def check(variant: Variant, inputs: Inputs) -> None:
    exact, eager = in_both_precisions(variant.reference, inputs)
    outputs = variant(inputs)
    assert len(outputs) == len(exact)
    for out, expected, other in zip(outputs, exact, eager, strict=True):
        assert out.is_contiguous()
        assert_close(out, expected, other, scale_of(variant, inputs))


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [(v, dtype) for v in PARTICLES for dtype in WIDE] + [(v, dtype) for v in TRAJECTORIES for dtype in WIDE + HALF],
    ids=str,
)
def test_sizes(variant: Variant, dtype: torch.dtype, backend: Backend) -> None:
    for inputs in samples_of(variant, dtype, backend, limit=400 if backend.simulated else None):
        check(variant, inputs)


LAYOUTS = {
    "strided": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "offset": lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape),
    "every second row": lambda t: torch.stack([t, t + 1], 1)[:, 0] if t.dim() and t.dtype != torch.bool else t.clone(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_layouts_give_the_same_bits(variant: Variant, dtype: torch.dtype, backend: Backend) -> None:
    inputs = sample_inputs(variant, (2, 2), 17, 5, dtype, backend.device)
    outputs = variant(inputs)
    # The sums of particles have the same order for any layout.
    terms = 0.0 if variant.has_particles else scale_of(variant, inputs)
    for layout in LAYOUTS.values():
        laid_out = {k: layout(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        for out, expected in zip(variant(laid_out), outputs, strict=True):
            assert_same(out, expected, backend, terms)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != MASKED and v not in DRAWS], ids=str)
def test_expanded_inputs_give_the_same_bits(variant: Variant, backend: Backend) -> None:
    inputs = sample_inputs(variant, (1,), 17, 5, torch.float32, backend.device)
    expanded = {k: v if k in LAYER else v.expand(4, *v.shape[1:]) for k, v in inputs.items()}
    for out, expected in zip(variant(expanded), variant({k: v.clone() for k, v in expanded.items()}), strict=True):
        assert torch.equal(out, expected)
