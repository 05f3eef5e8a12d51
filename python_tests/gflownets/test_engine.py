"""The two ops of the compiled rollout: opcheck, the CUDA library, and errors for bad input that name the argument."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from simt import backend
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


@pytest.mark.parametrize("on_cuda", [False, True])
def test_a_key_draws_what_its_seed_draws(on_cuda: bool) -> None:
    """Its second number is added to the offsets of both kinds of rows."""
    inputs = forward_inputs()
    shifted = inputs | {"forward_offset": 7, "backward_offset": (1 << 32) + 7}
    for key, numbers in (([5, 0], inputs), ([5, 7], shifted)):
        arguments = [value.clone() if isinstance(value, Tensor) else value for value in inputs.values()]
        arguments[list(inputs).index("seed")] = torch.tensor(key)
        with backend.running() if on_cuda else nullcontext():
            moves = torch.ops.svgdx_inner.mlp_rollout.key(*arguments)
        expected = torch.ops.svgdx_inner.mlp_rollout(
            *(v.clone() if isinstance(v, Tensor) else v for v in numbers.values())
        )
        assert all(torch.equal(one, other) for one, other in zip(moves, expected, strict=True))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_rollout_on_cuda(dtype: torch.dtype, recorded: bool) -> None:
    """The CUDA library on the SIMT harness draws the same actions as the CPU library."""
    for split in (0, SPLIT, B):
        inputs = forward_inputs(dtype)
        inputs["split"], inputs["state"][:split], inputs["state"][split:] = split, -1, torch.ones(B - split, D).char()
        if not recorded:
            inputs |= {"logits": None, "hidden": inputs["hidden"][:, :1].contiguous()}
        on_cuda = {name: value.clone() if isinstance(value, Tensor) else value for name, value in inputs.items()}
        expected = torch.ops.svgdx_inner.mlp_rollout(*inputs.values())
        with backend.running(seed=split, preempt=0.02) as calls:
            moves = torch.ops.svgdx_inner.mlp_rollout(*on_cuda.values())
        assert all(torch.equal(one, other) for one, other in zip(moves, expected, strict=True))
        # A kernel for the first layer of the first visit; in each visit one per deeper layer and one after the head.
        assert calls[0].launches == 1 + (STEPS + recorded) * (DEEPER + 1)
        if recorded:
            for name in ("argument", "hidden", "logits"):
                torch.testing.assert_close(on_cuda[name], inputs[name])


def test_on_cuda_a_row_without_a_move_stays() -> None:
    inputs = forward_inputs()
    inputs["state"][0, 1:] = 1
    inputs["state"][-1] = -1
    with backend.running():
        actions, states = torch.ops.svgdx_inner.mlp_rollout(*inputs.values())
    assert int(actions[0, 0]) // 2 == 0
    assert bool((actions[0, 1:] == -1).all())
    assert bool((actions[-1] == -1).all())
    assert bool((states[-1] == -1).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_gradient_on_cuda(dtype: torch.dtype) -> None:
    """Over all states at once and, with tiny limits, over chunks of them."""
    inputs = tuple(backward_inputs(dtype).values())
    expected = torch.ops.svgdx_inner.mlp_rollout_backward(*inputs)
    for limits in ({}, {"kRolloutNumbers": 64}):
        with backend.running(limits=limits, preempt=0.02):
            torch.testing.assert_close(torch.ops.svgdx_inner.mlp_rollout_backward(*inputs), expected)


def test_on_cuda_half_precision_is_refused() -> None:
    inputs = forward_inputs(torch.bfloat16)
    with backend.running(), pytest.raises(RuntimeError, match="mlp_rollout: hidden must be float32 or float64 on CUDA"):
        torch.ops.svgdx_inner.mlp_rollout(*inputs.values())


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
