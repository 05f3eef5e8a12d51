"""Renders what gpu_static.py found, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from gpu_model import GPUS, Gpu, Work

HEAD = """# Static budget of the CUDA kernels

An estimate made without a GPU, never a timing. Made by `{command}`
with nvcc {nvcc}; source: [gpu_static.py](../gpu_static.py).

- regs, occupancy: of `ptxas -v` and of CUDA's occupancy calculator, for sm_80 / 90 / 100 / 120. Where occupancy is
  below 50 %, the comment above the kernel in csrc/*/cuda says why.
- spills: bytes, the sum over the four architectures. shared: bytes of a block.
- traffic: bytes of the 32-byte sectors that requests touch, against the bytes asked for; limit 1.10.
- wavefronts: passes over the shared-memory banks by reads in inner loops, against the least; limit 1.05; a dash where
  a kernel has no such loop. Reads once per particle or per tile (jacobian.cuh, form_traces) are not inner loops; some
  of them take four times the least. Both from the SIMT harness (csrc/simt), which runs the kernels on the host.

On a machine with a GPU `pytest -m gpu` runs the ops' cases on it; timings are the business of bench_svgd.py and
bench_gfn.py.
"""
ROOFLINE = """## Roofline

Bounds by the float32 operations or the bytes of one call of an op, in microseconds, and which of the two sets the bound
on an H100. Launch overhead, occupancy and everything else that makes a GPU slower are left out. Rates: A100 19.5
TFLOP/s and 2.039 TB/s; H100 67 and 3.35; B200 80 and 8 (datasheets of the SXM and HGX boards, see gpu_model.py).
Operations: a fused multiply-add is two. Bytes: each element of each array once per launch, scratch included; where
scratch stays in the second-level cache, a kernel whose bound is memory can be faster than its row.
"""


def _short(values: list[str]) -> str:
    """One value where all agree."""
    return values[0] if len(set(values)) == 1 else " / ".join(values)


def _kernel_rows(usages: list[Any], traffic: dict[str, Any]) -> list[str]:
    rows = [
        "| kernel | regs | spills | shared | occupancy, % | traffic | wavefronts |",
        "|---|---|---|---|---|---|---|",
    ]
    for kernel in sorted({u.kernel for u in usages}):
        own = sorted((u for u in usages if u.kernel == kernel), key=lambda u: u.architecture)
        t = traffic[kernel]
        cells = [
            f"`{kernel}`",
            _short([str(u.registers) for u in own]),
            str(sum(u.spills for u in own)),
            _short([str(u.shared) for u in own]),
            _short([f"{100 * u.occupancy:.0f}" for u in own]),
            f"{t.global_ratio:.2f}",
            f"{t.wavefront_ratio:.2f}" if t.least_wavefronts else "-",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _work_cells(work: Work) -> list[str]:
    bounds = [_number(1e6 * work.bound(gpu)) for gpu in GPUS]
    h100: Gpu = GPUS[1]
    return [
        f"`{work.kernel}`" + (f" x {work.launches}" if work.launches > 1 else ""),
        _number(work.operations / 1e6),
        _number(work.bytes / 1e6),
        _number(work.operations / work.bytes),
        *bounds,
        work.limit(h100),
    ]


def _roofline_rows(work: list[tuple[str, tuple[int, int, int], list[Work]]]) -> list[str]:
    names = " | ".join(f"{gpu.name}, us" for gpu in GPUS)
    rows = [f"| op | (B, M, D) | kernel | Mop | MB | op/byte | {names} | bound |", "|---" * 10 + "|"]
    for op, size, works in work:
        for k, kernel in enumerate(works):
            first = [f"`{op}`", str(size)] if k == 0 else ["", ""]
            rows.append(f"| {' | '.join([*first, *_work_cells(kernel)])} |")
        if len(works) > 1:
            totals = [_number(1e6 * sum(w.bound(gpu) for w in works)) for gpu in GPUS]
            operations, moved = sum(w.operations for w in works), sum(w.bytes for w in works)
            cells = ["", "", "all", _number(operations / 1e6), _number(moved / 1e6), _number(operations / moved)]
            rows.append(f"| {' | '.join([*cells, *totals, ''])} |")
    return rows


def markdown(
    facts: dict[str, str], usages: list[Any], traffic: dict[str, Any], work: list[Any], missed: list[str]
) -> str:
    limits = ["All limits are kept."] if not missed else ["Limits missed:", "", *(f"- {m}" for m in missed)]
    parts = [HEAD.format(**facts), *limits, "", *_kernel_rows(usages, traffic), "", ROOFLINE, *_roofline_rows(work), ""]
    return "\n".join(parts)


def as_json(
    facts: dict[str, str], usages: list[Any], traffic: dict[str, Any], work: list[Any], missed: list[str]
) -> str:
    """One line a kernel, so that a change shows as one line."""
    kernels = [{**dataclasses.asdict(u), "occupancy": round(u.occupancy, 4)} for u in usages]
    kernels.sort(key=lambda k: (k["kernel"], k["architecture"]))
    counted = [
        {"kernel": name, "traffic": round(t.global_ratio, 4), "wavefronts": round(t.wavefront_ratio, 4)}
        for name, t in sorted(traffic.items())
    ]
    roofline = [
        {
            "op": op,
            "shape": size,
            **dataclasses.asdict(w),
            "bound_us": {gpu.name: float(f"{1e6 * w.bound(gpu):.4g}") for gpu in GPUS},
        }
        for op, size, works in work
        for w in works
    ]
    gpus = [dataclasses.asdict(gpu) for gpu in GPUS]
    sections: dict[str, list[Any]] = {"limits_missed": missed, "gpus": gpus, "kernels": kernels}
    sections.update(traffic=counted, roofline=roofline)
    lines = [
        f'"kind": "estimate, not a timing",\n"command": {json.dumps(facts["command"])}',
        f'"nvcc": "{facts["nvcc"]}"',
    ]
    for name, entries in sections.items():
        body = ",\n".join(json.dumps(e) for e in entries)
        lines.append(f'"{name}": [\n{body}\n]' if entries else f'"{name}": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"
