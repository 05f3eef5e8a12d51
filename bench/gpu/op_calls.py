"""Every op on one device, forward and with its gradients, beside its reference in torch: eager and by torch.compile.

    python bench/gpu/op_calls.py OUT.json [--device cpu] [--only NAME] [--limit SECONDS]

times the variants of python_tests/ops/cases.py in float32 at one shape each, and writes the seconds of one call; on a
GPU they are those between two events. bench_field.py has the peers by KeOps. A form that fails is written as its error.
Compiling takes longest, so it comes last and ends at the limit; what it did not reach is null.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "python_tests"))

from ops.cases import VARIANTS, Inputs, Variant, sample_inputs  # noqa: E402

# Leading dimensions and (M, D), or (D, T): chains of an energy of 8x8 digits, and trajectories through them. Few
# dimensions where an op allows no more.
PARTICLES, NARROW, TRAJECTORIES = ((4,), 512, 64), ((256,), 64, 6), ((64,), 64, 64)
SECONDS = 0.2  # of repeated calls per entry
Call = Callable[[], Any]


def shape_of(variant: Variant) -> tuple[tuple[int, ...], int, int]:
    if not variant.has_particles:
        return TRAJECTORIES
    return NARROW if variant.max_dim is not None else PARTICLES


def call_of(function: Callable[[Inputs], tuple[Tensor, ...]], inputs: Inputs, gradients: bool) -> Call:
    """One call, with the gradients of the sum of its outputs in all floating inputs."""
    if not gradients:
        return lambda: function(inputs)
    leaves = {
        name: value.clone().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    wanted = [value for value in leaves.values() if isinstance(value, Tensor) and value.requires_grad]

    def call() -> Any:
        outputs = [output for output in function(leaves) if output.requires_grad]
        ones = [torch.ones_like(output) for output in outputs]
        return torch.autograd.grad(outputs, wanted, ones, allow_unused=True)

    return call


def seconds_of(call: Call, device: str) -> float:
    """The mean time of one call, after three others."""
    for _ in range(3):
        call()
    if device == "cpu":
        return _timed(call, 1, time.perf_counter, lambda: None)
    torch.cuda.synchronize()
    once = _timed(call, 1, time.perf_counter, torch.cuda.synchronize)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    count = max(1, min(1000, int(SECONDS / once)))
    begin.record()
    for _ in range(count):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000 / count


def _timed(call: Call, count: int, clock: Callable[[], float], wait: Callable[[], None]) -> float:
    began = clock()
    for _ in range(count):
        call()
    wait()
    return (clock() - began) / count


def compiled(variant: Variant) -> Callable[[Inputs], tuple[Tensor, ...]]:
    torch._dynamo.reset()
    return torch.compile(variant.reference, dynamic=False)


FORMS: dict[str, Callable[[Variant], Callable[[Inputs], tuple[Tensor, ...]]]] = {
    "svgdx": lambda variant: variant,
    "eager": lambda variant: variant.reference,
    "compiled": compiled,
}


def measured(variant: Variant, gradients: bool, form: str, device: str) -> float | str:
    lead, a, b = shape_of(variant)
    inputs = sample_inputs(variant, lead, a, b, torch.float32, device)
    try:
        return seconds_of(call_of(FORMS[form](variant), inputs, gradients), device)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="", help="the variants whose names contain this")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which nothing is compiled")
    options = parser.parse_args()
    began = time.perf_counter()
    chosen = [variant for variant in VARIANTS if options.only in str(variant)]
    calls = [(v, gradients) for v in chosen for gradients in ((False, True) if v.differentiable else (False,))]
    entries: list[dict[str, Any]] = [
        {"op": str(v), "shape": [*shape_of(v)[0], *shape_of(v)[1:]], "gradients": gradients, **dict.fromkeys(FORMS)}
        for v, gradients in calls
    ]
    for form in FORMS:
        for entry, (variant, gradients) in zip(entries, calls, strict=True):
            if form == "compiled" and time.perf_counter() - began > options.limit:
                break
            entry[form] = measured(variant, gradients, form, options.device)
            print(f"{entry['op']}, gradients {gradients}, {form}: {entry[form]}", flush=True)
            options.out.write_text(json.dumps(entries, indent=1) + "\n")
    return int(any(isinstance(entry["svgdx"], str) for entry in entries))


if __name__ == "__main__":
    sys.exit(main())
