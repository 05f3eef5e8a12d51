"""Properties of the CUDA kernels known without a GPU: registers, spills, occupancy, traffic, bank conflicts.

    python bench/gpu_static.py [--out bench/results/gpu_static]

Compiles every kernel for sm_80, 90, 100 and 120 with nvcc (CUDACXX, CUDA_HOME or PATH), runs the toolkit's occupancy
calculator, and counts memory traffic in the SIMT harness. Prints Markdown; --out writes Markdown and JSON. The results
are estimates; gpu/model.py predicts times from them, and bench_field.py measures them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(p) for p in (ROOT / "bench", ROOT / "python_tests") if str(p) not in sys.path]

CSRC = ROOT / "csrc"
BACKEND = ("-DSVGDX_BACKEND=cuda", "-DSVGDX_NAMESPACE=svgdx")
ARCHITECTURES = (80, 90, 100, 120)
MOST_TRAFFIC, MOST_WAVEFRONTS, LEAST_OCCUPANCY = 1.10, 1.05, 0.5
ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:, used (\d+) barriers)?")
SHARED = re.compile(r"(\d+) bytes smem")
BOUNDS = re.compile(r"((?:^//.*\n)*)(?:^template.*\n)?^.*__global__ void __launch_bounds__\((\w+).*\s+(\w+)\(", re.M)
CONSTANT = re.compile(r"constexpr int (k\w+) = (\d+);")


@dataclasses.dataclass
class Usage:
    """One kernel instance on one architecture."""

    kernel: str
    architecture: int
    registers: int
    barriers: int
    spills: int  # bytes stored and loaded
    shared: int  # bytes
    warps: int = 0  # resident on a multiprocessor
    most_warps: int = 1

    @property
    def occupancy(self) -> float:
        return self.warps / self.most_warps


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a kernel's source states."""

    threads: int  # per block
    comment: str  # the comment above the kernel


def nvcc() -> str | None:
    """The compiler that the build would use, or None if there is none."""
    if os.environ.get("CUDACXX"):
        return shutil.which(os.environ["CUDACXX"])
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home:
            return shutil.which(f"{home}/bin/nvcc")
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def compile_unit(*arguments: str) -> str:
    compiler = nvcc()
    if compiler is None:
        raise SystemExit("nvcc was not found: put it in PATH, or set CUDA_HOME to the toolkit's folder.")
    command = [compiler, "-std=c++17", "--expt-relaxed-constexpr", f"-I{CSRC}", *BACKEND, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"nvcc failed:\n{done.stdout[-4000:]}")
    return done.stdout


def short_names(mangled: Iterable[str]) -> dict[str, str]:
    """Kernel name, such as field_forward_kernel<float, 4>, from its mangled symbol."""
    names = list(mangled)
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = {}
    for name, full in zip(names, done.stdout.splitlines(), strict=True):
        plain = re.sub(r"svgdx::(cuda::)?|\((?:int|long)\)|^void ", "", full)
        short[name] = re.sub(r"^void ", "", plain).split("(")[0]
    return short


def parse_report(report: str) -> list[Usage]:
    """The report of `ptxas -v` for every kernel."""
    usages: list[Usage] = []
    mangled: list[str] = []
    for line in report.splitlines():
        if entry := ENTRY.search(line):
            mangled.append(entry[1])
            usages.append(Usage("", int(entry[2]), 0, 0, 0, 0))
        elif spills := SPILLS.search(line):
            usages[-1].spills = int(spills[1]) + int(spills[2])
        elif used := USED.search(line):
            usages[-1].registers, usages[-1].barriers = int(used[1]), int(used[2] or 0)
            shared = SHARED.search(line)
            usages[-1].shared = int(shared[1]) if shared else 0
    names = short_names(mangled)
    for usage, name in zip(usages, mangled, strict=True):
        if usage.registers == 0:
            raise ValueError(f"no registers reported for {name}")
        usage.kernel = names[name]
    return usages


def sources() -> list[Path]:
    """All units, the slowest to compile first."""
    return sorted(CSRC.glob("*/cuda/*.cu"), key=lambda p: (p.parts[-3:] != ("jacobian", "cuda", "backward.cu"), p))


def compile_all(architectures: Iterable[int] = ARCHITECTURES, units: Iterable[Path] | None = None) -> list[Usage]:
    """Compile every unit for all architectures, two units at a time."""
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:

        def report(unit: Path) -> str:
            return compile_unit(
                "-O3",
                "--fatbin",
                "-Xptxas=-v",
                *codes,
                str(unit),
                "-o",
                f"{folder}/{unit.parts[-3]}_{unit.stem}.fatbin",
            )

        return [u for text in pool.map(report, sources() if units is None else units) for u in parse_report(text)]


def build_logs() -> list[Usage] | None:
    """The compiler's reports from the CUDA library's build (cmake/nvcc_log.py), or None if kernels are newer."""
    folder = ROOT / "build" / "cmake" / "CMakeFiles" / "svgdx_cuda.dir"
    kernels = max(p.stat().st_mtime for p in CSRC.glob("**/cuda/**/*.cu*"))
    logs = [folder / f"{unit.relative_to(ROOT)}.o.log" for unit in sources()]
    if not all(log.exists() and log.stat().st_mtime > kernels for log in logs):
        return None
    return [usage for log in logs for usage in parse_report(log.read_text())]


@functools.cache
def _host_folder() -> tempfile.TemporaryDirectory[str]:
    """Folder with `host`, gpu_static_host.cu compiled with the toolkit's occupancy header; removed at exit."""
    folder = tempfile.TemporaryDirectory(prefix="svgdx_gpu_static_")
    compile_unit("-O1", "-arch=compute_80", str(ROOT / "bench" / "gpu_static_host.cu"), "-o", f"{folder.name}/host")
    return folder


def _ask_host(*commands: str) -> list[str]:
    program, asked = f"{_host_folder().name}/host", "\n".join(commands) + "\n"
    return subprocess.run([program], input=asked, capture_output=True, text=True, check=True).stdout.splitlines()


def plan_of(direction: str, *sizes: int) -> dict[str, Any]:
    """The launch plan computed by the kernels' own headers."""
    return dict(json.loads(_ask_host(f"{direction} {' '.join(map(str, sizes))}")[0]))


def launches() -> dict[str, Launch]:
    """For each kernel, the threads per block and the comment above it."""
    text = "\n".join(p.read_text() for p in sorted(CSRC.glob("*/cuda/**/*.cu*")))
    constants = {name: int(value) for name, value in CONSTANT.findall(text)}
    return {
        name: Launch(int(threads) if threads.isdigit() else constants[threads], comment)
        for comment, threads, name in BOUNDS.findall(text)
    }


def fill_occupancy(usages: list[Usage]) -> list[Usage]:
    threads = {name: launch.threads for name, launch in launches().items()}
    commands = [
        f"occupancy {u.architecture // 10} {u.architecture % 10} {u.registers} {u.shared} "
        f"{threads[u.kernel.split('<')[0]]} {u.barriers}"
        for u in usages
    ]
    for usage, answer in zip(usages, _ask_host(*commands), strict=True):
        usage.warps, usage.most_warps = map(int, answer.split())
    return usages


def violations(usages: list[Usage], traffic: dict[str, Any]) -> list[str]:
    """One sentence for every limit that is exceeded."""
    known = launches()
    violations = []
    for u in usages:
        where = f"{u.kernel} on sm_{u.architecture}"
        if u.spills:
            violations.append(f"{where} spills {u.spills} bytes")
        if u.occupancy < LEAST_OCCUPANCY and "occupancy" not in known[u.kernel.split("<")[0]].comment.lower():
            violations.append(
                f"{where} has an occupancy of {u.occupancy:.0%} and no comment above it that explains why"
            )
    for kernel, t in traffic.items():
        if t.global_ratio > MOST_TRAFFIC:
            violations.append(f"{kernel} moves {t.global_ratio:.2f} times the bytes that it requests")
        if t.wavefront_ratio > MOST_WAVEFRONTS:
            violations.append(f"{kernel} needs {t.wavefront_ratio:.2f} times the least wavefronts")
    return violations


def main() -> None:
    import gpu_table
    import gpu_traffic

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="write OUT.md and OUT.json")
    arguments = parser.parse_args()
    usages = fill_occupancy(build_logs() or compile_all())
    traffic = gpu_traffic.measure(kernels=launches())
    release = re.search(r"release [\d.]+, V([\d.]+)", compile_unit("--version"))
    facts = {
        "command": "python bench/gpu_static.py --out bench/results/gpu_static",
        "nvcc": release[1] if release else "unknown",
    }
    missed = violations(usages, traffic)
    table = gpu_table.markdown(facts, usages, traffic, missed)
    print(table)
    if arguments.out:
        Path(arguments.out + ".md").write_text(table)
        Path(arguments.out + ".json").write_text(gpu_table.as_json(facts, usages, traffic, missed))


if __name__ == "__main__":
    main()
