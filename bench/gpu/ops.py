"""Every op on one device, forward and with its gradients, beside its reference in torch: eager and by torch.compile.

    python bench/gpu/ops.py OUT.json [--device cpu] [--only NAME]

times the variants of python_tests/ops/cases.py in float32 at one shape each, and writes the seconds of one call; on a
GPU they are those between two events. bench_field.py has the peers by KeOps. A form that fails is written as its error.
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


def measured(variant: Variant, device: str, gradients: bool) -> dict[str, Any]:
    lead, a, b = shape_of(variant)
    inputs = sample_inputs(variant, lead, a, b, torch.float32, device)
    forms = {"svgdx": lambda: variant, "eager": lambda: variant.reference, "compiled": lambda: compiled(variant)}
    entry: dict[str, Any] = {"op": str(variant), "shape": [*lead, a, b], "gradients": gradients}
    for name, form in forms.items():
        try:
            entry[name] = seconds_of(call_of(form(), inputs, gradients), device)
        except Exception as error:
            entry[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return entry


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="", help="the variants whose names contain this")
    options = parser.parse_args()
    entries = []
    for variant in VARIANTS:
        for gradients in (False, True) if variant.differentiable else (False,):
            if options.only in str(variant):
                entries.append(measured(variant, options.device, gradients))
                print(entries[-1], flush=True)
                options.out.write_text(json.dumps(entries, indent=1) + "\n")
    return int(any(isinstance(entry["svgdx"], str) for entry in entries))


if __name__ == "__main__":
    sys.exit(main())
