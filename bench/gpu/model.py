"""Predicted time of each CUDA kernel, from the machine code of the build and the launch plan of a shape.

    python bench/gpu/model.py [--library LIBRARY] [--out bench/results/gpu/model]

Without a library, the units of the kernels are compiled for sm_80 and sm_90 with nvcc. docs/gpu_kernels.md has
the formula and its assumptions. The times that bench/gpu/session.sh measured stand beside the predictions.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(p) for p in (ROOT / "bench",) if str(p) not in sys.path]

import gpu_static  # noqa: E402
from gpu import sass, shapes, work  # noqa: E402

MEASURED = ROOT / "bench" / "results" / "gpu"
UNITS = ("field/cuda/*.cu", "jacobian/cuda/forward.cu", "jacobian/cuda/gram.cu", "median/cuda/*.cu")
DETAILED = "H100"
HEAD = """# Predicted times of the CUDA kernels

Computed without a GPU by `python bench/gpu/model.py --out bench/results/gpu/model`, from the machine code of the
kernels and their launch plans. [GPU kernels](../../../docs/gpu_kernels.md) has the formula and its assumptions.
"""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Rates of a multiprocessor per clock cycle, and of the whole GPU in bytes per second."""

    name: str
    architecture: int
    processors: int
    clock: float  # Hz, boost
    shared: int  # bytes of shared memory
    fp32: int  # lanes of a scheduler
    fp64: int
    tensor: int  # TF32 multiply-adds of mma.sync
    memory: float
    cache: float  # second level, reading

    def __post_init__(self) -> None:
        assert self.fp32 in (16, 32), self


# NVIDIA's datasheets and architecture white papers (A100, H100, H200: SXM boards). mma.sync reaches 62 % of the rate of
# wgmma on sm_90 (Luo et al. 2024, "Benchmarking and dissecting the NVIDIA Hopper GPU architecture"), and second-level
# caches were measured at 4.4 (A100) and 5.6 TB/s (H100) by the same and by Chips and Cheese.
GPUS = (
    Gpu("A100", 80, 108, 1.41e9, 164 << 10, 16, 8, 512, 2.039e12, 4.4e12),
    Gpu("H100", 90, 132, 1.755e9, 228 << 10, 32, 16, 640, 3.35e12, 5.6e12),
    Gpu("H200", 90, 132, 1.755e9, 228 << 10, 32, 16, 640, 4.8e12, 5.6e12),
)
LAUNCH = 2.5e-6  # s, from the end of one kernel to the work of the next in the same stream
ROUND = 600  # cycles from a load that the second-level cache answers to the use of its value behind a barrier
EPILOGUE = 2  # rounds of a block outside its loop: arguments and rows before it, results after it

INTEGER = r"(IADD|VIADD|LOP|SHF|LEA|ISETP|FSETP|FSEL|SEL|MOV|FMNMX|IMNMX|VIMNMX|PRMT|PLOP|CS2R|IABS|R2P|P2R|LOP3)"
MULTIPLY = r"(IMAD|HFMA2|HADD2|HMUL2)"
FLOAT = r"(FFMA|FADD|FMUL)"
DOUBLE = r"(DFMA|DADD|DMUL|DSETP)"
SPECIAL = r"(MUFU|I2F|F2I|F2F|I2FP|FRND|POPC|FLO)"
SHARED = r"(LDS|STS|LDG|STG|SHFL|ATOM|RED|LDSM|LDGSTS)"


def cycles(gpu: Gpu, loop: sass.Loop, wavefronts: float = 1) -> dict[str, float]:
    """Cycles for which one pass of a warp through a loop occupies each pipe of a scheduler.

    Args:
        wavefronts: of one shared-memory read, from the harness or the layout.
    """
    memory = loop.count(SHARED) - loop.count("LDS") + wavefronts * loop.count("LDS")
    return {
        "issue": sum(loop.opcodes.values()),
        "fp32": loop.count(FLOAT) * 32 / gpu.fp32 + 2 * loop.count(MULTIPLY),
        "integer": 2 * loop.count(INTEGER),
        "fp64": loop.count(DOUBLE) * 32 / gpu.fp64,
        "special": 8 * loop.count(SPECIAL),
        "memory": 4 * memory,
        "tensor": 4 * 1024 / gpu.tensor * loop.count(r"HMMA\.1688"),
    }


@dataclasses.dataclass(frozen=True)
class Prediction:
    work: work.Work
    seconds: float  # of all launches
    parts: dict[str, float]  # seconds of one launch: launch, compute, fill, rounds
    pipe: str  # the busiest in the loop
    blocks: int  # resident on a multiprocessor


def loop_cost(gpu: Gpu, code: sass.Code, w: work.Work) -> tuple[float, str]:
    """Cycles of the busiest pipe for one item of the kernel's loop, and the pipe."""
    loop = code.loop_of(w.marker, w.without, w.innermost)
    if loop is None:
        raise ValueError(f"{w.kernel} has no loop with {w.marker}")
    costs = {pipe: cost * w.per_item / loop.count(w.marker) for pipe, cost in cycles(gpu, loop, w.wavefronts).items()}
    if w.around:
        around = code.around(loop, w.marker)
        if around is None:
            raise ValueError(f"{w.kernel} has no loop with {w.marker} around that with most of them")
        for pipe, cost in cycles(gpu, around).items():
            costs[pipe] += cost * w.around / w.items
    for marker, moved in w.copies:
        copy = max((a for a in code.innermost if a.count(marker)), key=lambda a: a.count(marker), default=None)
        if copy is None:
            raise ValueError(f"{w.kernel} has no loop with {marker}")
        for pipe, cost in cycles(gpu, copy).items():
            costs[pipe] += cost * moved / _moved(copy, marker.partition(r"\.")[0]) / w.items
    pipe = max(costs, key=lambda name: costs[name])
    return costs[pipe], pipe


def _moved(loop: sass.Loop, opcode: str) -> float:
    """Bytes that one pass of a warp moves by instructions that begin with an opcode."""
    return 32 * sum(_width(op) * n for op, n in loop.opcodes.items() if op.startswith(opcode))


def fill_cost(gpu: Gpu, code: sass.Code) -> float:
    """Cycles per byte and warp of the widest loop that copies from global to shared memory."""
    loops = [loop for loop in code.innermost if loop.count("LDG") and loop.count("STS") and not loop.count("MUFU")]
    moved = [_moved(loop, "LDG") for loop in loops]
    best = max(range(len(loops)), key=moved.__getitem__, default=None)
    return 0.0 if best is None else max(cycles(gpu, loops[best]).values()) / moved[best]


def _width(opcode: str) -> int:
    return next((bytes_ for text, bytes_ in ((".128", 16), (".64", 8), (".U8", 1)) if text in opcode), 4)


def predict(gpu: Gpu, code: sass.Code, usage: Any, w: work.Work) -> Prediction:
    """The formula of docs/gpu_kernels.md."""
    warps = -(-w.threads // 32)
    resident = max(1, min(usage.warps // warps, gpu.shared // (w.shared + 1024)))
    busy = -(-w.blocks // gpu.processors)  # blocks of the busiest multiprocessor
    together = min(resident, busy)
    per_scheduler = max(1.0, warps * together / 4)
    # A scheduler with one warp idles while that warp waits; more warps fill in for one another.
    efficiency = per_scheduler / (per_scheduler + 0.5)
    item, pipe = loop_cost(gpu, code, w)
    fill = 0.0 if w.overlaps else fill_cost(gpu, code) * w.filled
    compute = busy * warps * (item * w.items + fill) / (w.blocks * warps)
    parts = {
        "launch": LAUNCH,
        "compute": max(compute / 4, item * w.items / (w.blocks * warps)) / gpu.clock / efficiency,
        # A block either loads or computes, so that the two add up, unless it copies asynchronously.
        "fill": max((w.filled + w.written) / gpu.cache, w.least / gpu.memory),
        "rounds": ROUND * (w.rounds + EPILOGUE) * busy / together / gpu.clock,
    }
    if w.overlaps:
        parts["fill"] = max(0.0, parts["fill"] - parts["compute"])
    return Prediction(w, w.launches * sum(parts.values()), parts, pipe, resident)


def _codes(architecture: int, library: Path | None) -> tuple[dict[str, sass.Code], dict[str, Any]]:
    """Code and registers of every kernel, by its short name."""
    if library is not None:
        usages = gpu_static.build_logs()
        if usages is None:
            raise SystemExit("build/cmake holds no build of these kernels, whose reports give registers and occupancy.")
        text = sass.disassemble(library, architecture)
    else:
        usages, text = _compiled(architecture)
    codes = sass.parse(text)
    short = gpu_static.short_names(codes)
    usages = gpu_static.fill_occupancy([u for u in usages if u.architecture == architecture])
    return {short[name]: code for name, code in codes.items()}, {u.kernel: u for u in usages}


def _compiled(architecture: int) -> tuple[list[Any], str]:
    usages, text = [], ""
    with tempfile.TemporaryDirectory() as folder:
        for unit in (path for pattern in UNITS for path in sorted(gpu_static.CSRC.glob(pattern))):
            cubin = Path(folder, f"{unit.parts[-3]}_{unit.stem}.cubin")
            arguments = ("-O3", "-cubin", "-Xptxas=-v", f"-arch=sm_{architecture}", str(unit), "-o", str(cubin))
            usages += gpu_static.parse_report(gpu_static.compile_unit(*arguments))
            text += sass.disassemble(cubin, architecture)
    return usages, text


Row = tuple[Gpu, str, tuple[int, int, int], list[Prediction]]


def predictions(gpus: Iterable[Gpu], library: Path | None) -> list[Row]:
    """The kernels of the representative calls."""
    rows: list[Row] = []
    codes: dict[int, Any] = {}
    for gpu in gpus:
        if gpu.architecture not in codes:
            codes[gpu.architecture] = _codes(gpu.architecture, library)
        code, usage = codes[gpu.architecture]
        for op, size, works in shapes.representative(gpu_static.plan_of):
            rows.append((gpu, op, size, [predict(gpu, code[w.kernel], usage[w.kernel], w) for w in works]))
    return rows


def seconds(kernels: list[Prediction]) -> float:
    return sum(kernel.seconds for kernel in kernels)


def measured(folder: Path = MEASURED) -> dict[tuple[str, tuple[int, int, int]], tuple[float, bool]]:
    """Seconds of a call on an H200, by op and size, and whether they include the host: field.json has the fastest of
    single calls, ops.json the mean of many between two events."""
    times = {}
    for entry in json.loads((folder / "field.json").read_text())["benchmarks"]:
        size = re.match(r"test_forward\[\((\d+), (\d+), (\d+)\)-svgdx-cuda\]", entry["name"])
        if size:
            times["svgd_phi_trace", (int(size[1]), int(size[2]), int(size[3]))] = entry["stats"]["min"], True
    for entry in json.loads((folder / "ops.json").read_text()):
        if len(entry["shape"]) == 3 and not entry["gradients"]:
            times[entry["op"], tuple(entry["shape"])] = entry["svgdx"], False
    return times


def _validation(rows: list[Row]) -> list[str]:
    """Measurements beside the predictions for the kernels that were measured, and for today's. The host's part of a
    single call is what the one with the shortest prediction takes beyond it."""
    then: dict[tuple[str, tuple[int, ...]], float] = {}
    for entry in json.loads((MEASURED / "model_measured.json").read_text()):
        if entry["gpu"] == "H200":
            key = entry["op"], tuple(entry["shape"])
            then[key] = then.get(key, 0) + 1e-6 * entry["us"]
    now = {(op, size): seconds(kernels) for gpu, op, size, kernels in rows if gpu.name == "H200"}
    times = {key: value for key, value in measured().items() if key in now and key in then}
    host = min((then[key], time - then[key]) for key, (time, single) in times.items() if single)[1]
    head = ["op", "(B, M, D)", "measured, us", "predicted then, us", "predicted / measured", "predicted now, us"]
    table = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, (time, single) in times.items():
        gpu_time = time - host if single else time
        if single and gpu_time < host:
            continue  # hidden behind the host
        numbers = [f"{1e6 * gpu_time:.0f}", f"{1e6 * then[key]:.0f}", f"{then[key] / gpu_time:.2f}"]
        table.append(f"| `{key[0]}` | {key[1]} | {' | '.join(numbers)} | {1e6 * now[key]:.0f} |")
    return [
        f"On an H200. The host's part of a single call, {1e6 * host:.0f} us, is subtracted.",
        "",
        *table,
    ]


def markdown(rows: list[Row]) -> str:
    names = list(dict.fromkeys(gpu.name for gpu, *_ in rows))
    totals: dict[tuple[str, tuple[int, int, int]], dict[str, list[Prediction]]] = {}
    for gpu, op, size, kernels in rows:
        totals.setdefault((op, size), {})[gpu.name] = kernels
    lines = [HEAD, "## Calls", "", f"| op | (B, M, D) | {' | '.join(f'{name}, us' for name in names)} |"]
    lines.append("|---" * (2 + len(names)) + "|")
    for (op, size), by_gpu in totals.items():
        lines.append(f"| `{op}` | {size} | {' | '.join(f'{1e6 * seconds(by_gpu[name]):.1f}' for name in names)} |")
    lines += ["", "## Measured", "", *_validation(rows), "", f"## Kernels on {DETAILED}", ""]
    lines += ["Microseconds of one launch.", ""]
    lines += ["| op | (B, M, D) | kernel | blocks | pipe | launch | compute | fill | rounds | all |", "|---" * 10 + "|"]
    for (op, size), by_gpu in totals.items():
        for k, kernel in enumerate(by_gpu[DETAILED]):
            w = kernel.work
            first = [f"`{op}`", str(size)] if k == 0 else ["", ""]
            name = f"`{w.kernel}`" + (f" x {w.launches}" if w.launches > 1 else "")
            parts = [f"{1e6 * part:.1f}" for part in (*kernel.parts.values(), kernel.seconds / w.launches)]
            lines.append(f"| {' | '.join([*first, name, str(w.blocks), kernel.pipe, *parts])} |")
    return "\n".join([*lines, ""])


def as_json(rows: list[Row]) -> str:
    """One line per kernel, so that a change is one line of a diff."""
    entries = [
        {
            "gpu": gpu.name,
            "op": op,
            "shape": size,
            "kernel": kernel.work.kernel,
            "launches": kernel.work.launches,
            "blocks": kernel.work.blocks,
            "pipe": kernel.pipe,
            "us": float(f"{1e6 * kernel.seconds:.4g}"),
        }
        for gpu, op, size, kernels in rows
        for kernel in kernels
    ]
    return "[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, help="a CUDA library that build/cmake has built")
    parser.add_argument("--out", help="write OUT.md and OUT.json")
    arguments = parser.parse_args()
    rows = predictions(GPUS, arguments.library)
    text = markdown(rows)
    print(text)
    if arguments.out:
        Path(arguments.out + ".md").write_text(text)
        Path(arguments.out + ".json").write_text(as_json(rows))


if __name__ == "__main__":
    main()
