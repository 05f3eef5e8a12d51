"""The two CPU ops of the compiled rollout: opcheck, and errors for bad input that name the argument."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from svgdx import _library, gflownets  # noqa: F401 - registers the fake kernels

if _library.disabled():
    pytest.skip("SVGDX_DISABLE: the compiled rollout is off", allow_module_level=True)

B, D, H, DEEPER, STEPS = 5, 4, 8, 2, 4
SPLIT = 3
Inputs = dict[str, Any]


def forward_inputs(dtype: torch.dtype = torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape: int, of: torch.dtype = wide) -> Tensor:
        return torch.randn(shape, generator=generator).to(of)

    state = torch.full((B, D), -1, dtype=torch.int8)
    state[SPLIT:] = torch.randint(2, (B - SPLIT, D), generator=generator, dtype=torch.int8)
    return {
        "argument": normal(B, H),
        "state": state,
        "split": SPLIT,
        "steps": STEPS,
        "columns": normal(D, H),
        "deeper": normal(DEEPER, H, H, of=dtype),
        "deeper_bias": normal(DEEPER, H),
        "head": normal(3 * D, H, of=dtype),
        "head_bias": normal(3 * D),
        "slope": 0.01,
        "hidden": torch.zeros(1 + DEEPER, STEPS + 1, B, H, dtype=dtype),
        "first_visit": 0,
        "logits": torch.zeros(B, STEPS + 1, 3 * D, dtype=dtype),
        "seed": 5,
        "forward_offset": 0,
        "backward_offset": 1 << 32,
        "temperature": 1.0,
        "epsilon": 0.1,
        "backward_epsilon": 0.0,
    }


def backward_inputs(dtype: torch.dtype = torch.float32) -> Inputs:
    forward = forward_inputs(dtype)
    actions, reached = torch.ops.svgdx_inner.mlp_rollout(*forward.values())
    set_time = torch.zeros(B, D, dtype=torch.int32)
    set_time.scatter_(1, actions // 2, torch.arange(STEPS, dtype=torch.int32).expand(B, STEPS))
    final = torch.cat([reached[:SPLIT], forward["state"][SPLIT:]])
    generator = torch.Generator().manual_seed(2)
    return {
        "grad_logits": torch.randn(B, STEPS + 1, 3 * D, generator=generator).to(dtype),
        "hidden": forward["hidden"],
        "split": SPLIT,
        "set_time": set_time,
        "final": final,
        "deeper": forward["deeper"],
        "head": forward["head"],
        "slope": 0.01,
    }


INPUTS = {"mlp_rollout": forward_inputs, "mlp_rollout_backward": backward_inputs}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", INPUTS)
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    op = getattr(torch.ops.svgdx_inner, name).default
    torch.library.opcheck(op, tuple(INPUTS[name](dtype).values()), test_utils=("test_schema", "test_faketensor"))


BAD: dict[str, dict[str, Any]] = {
    "mlp_rollout": {
        "argument": lambda t: t[1:],
        "state": lambda t: t.long(),
        "split": lambda _: B + 1,
        "steps": lambda _: -1,
        "columns": lambda t: t.t(),
        "deeper": lambda t: t.double(),
        "deeper_bias": lambda t: t[1:],
        "head": lambda t: t[1:],
        "head_bias": lambda t: t[1:],
        "hidden": lambda t: t[:, :2].contiguous(),
        "logits": lambda t: t[:, 1:].contiguous(),
        "temperature": lambda _: 0.0,
        "epsilon": lambda _: 1.5,
    },
    "mlp_rollout_backward": {
        "grad_logits": lambda t: t[1:],
        "hidden": lambda t: t.long(),
        "split": lambda _: -1,
        "set_time": lambda t: t.long(),
        "final": lambda t: t[1:],
        "deeper": lambda t: t[1:],
        "head": lambda t: t.double(),
    },
}


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name, bad in BAD.items() for argument in bad])
def test_bad_input_is_named(name: str, argument: str) -> None:
    inputs = INPUTS[name]()
    inputs[argument] = BAD[name][argument](inputs[argument])
    with pytest.raises(RuntimeError, match=rf"svgdx::\w+: .*{argument}"):
        getattr(torch.ops.svgdx_inner, name)(*inputs.values())
