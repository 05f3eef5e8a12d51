"""Build and drive the host SIMT harness (csrc/simt), which runs the CUDA kernels on the host.

    simt = harness.load("checked")
    result = simt.launch("kernel", grid=4, block=128, shared=0, args=[x, harness.out(y), 3], seed=1, preempt=0.05)
    assert not result.reports

Arrays are copied to the harness's device memory and back; ``out(array)`` is passed as uninitialised memory, and
``scratch(n)`` is n bytes of it. ``call`` runs a whole launch function, as the CUDA library does. The builds are "fast",
"checked" (shadow memory, races, counters) and "asan" (address and undefined-behaviour sanitizers; needs
``run_under_asan``).
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "csrc" / "simt"
# Frames of the harness itself and assignments of packs; their accesses belong to the calling line of the kernel.
SHIM = re.compile(r"(simt|cuda_types|cuda_intrinsics)\.h$")


def out(array: np.ndarray) -> tuple[str, np.ndarray]:
    """An output, which the kernel must write before reading."""
    return ("out", array)


def scratch(nbytes: int) -> tuple[str, int]:
    """Device memory that only kernels access."""
    return ("scratch", nbytes)


@dataclass(frozen=True)
class Report:
    kind: str
    file: str
    line: int
    other_line: int  # line of the conflicting access; 0 if none
    kernel: str
    block: str
    thread: str
    text: str
    count: int

    def __str__(self) -> str:
        other = f" against line {self.other_line}" if self.other_line else ""
        where = f"{Path(self.file).name}:{self.line}{other}"
        return f"{self.kind} at {where}, block {self.block} thread {self.thread}: {self.text} (x{self.count})"


@dataclass(frozen=True)
class Counter:
    """The cost of one source line's accesses, over all launches of a call."""

    file: str
    line: int
    kernel: str
    space: str  # "global" or "shared"
    write: bool
    bytes_per_lane: int
    accesses: int  # by single threads
    requests: int  # by warps
    sectors: int  # global: 32-byte sectors moved
    bytes: int  # global: distinct bytes requested
    wavefronts: int  # shared: passes over the 32 banks
    least_wavefronts: int  # shared: passes needed without conflicts


@dataclass(frozen=True)
class Result:
    reports: list[Report]
    counters: list[Counter]
    value: float = 0.0

    def check(self) -> Result:
        """Raise if anything was reported."""
        if self.reports:
            raise AssertionError("\n".join(str(r) for r in self.reports))
        return self


@functools.cache
def _resolve(library: str, offset: int) -> tuple[str, int]:
    """File and line of a code address, from the innermost frame outside the harness."""
    command = ["addr2line", "-e", library, "-i", "-f", "-C", hex(offset)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    frames = []
    for function, place in zip(lines[::2], lines[1::2], strict=True):
        file, _, line = place.split(" (")[0].rpartition(":")
        if not SHIM.search(file) and "operator=" not in function:
            frames.append((file, int(line) if line.isdigit() else 0))
    return frames[0] if frames else (lines[1], 0)


def _line(pc: tuple[str, int] | None) -> tuple[str, int]:
    return _resolve(*pc) if pc else ("", 0)


def _by_line(raw: list[dict[str, Any]]) -> list[Counter]:
    """Merge the counters of a line's code addresses that make the same kind of access."""
    sums: dict[tuple[Any, ...], Counter] = {}
    for c in raw:
        file, line = _line(c.pop("pc"))
        new = Counter(file=file, line=line, **c)
        key = (file, line, new.kernel, new.space, new.write, new.bytes_per_lane)
        old = sums.get(key)
        counts = ("accesses", "requests", "sectors", "bytes", "wavefronts", "least_wavefronts")
        sums[key] = replace(new, **{k: getattr(old, k) + getattr(new, k) for k in counts}) if old else new
    return list(sums.values())


class Simt:
    """One build of the harness."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def _run(self, name: str, config: Any, args: Sequence[Any], **options: Any) -> Result:
        raw = self.module.run(name, config, list(args), options)
        reports = []
        for r in raw["reports"]:
            pc, other = r.pop("pc"), r.pop("other_pc")
            if pc:
                r["file"], r["line"] = _line(pc)
            reports.append(Report(other_line=_line(other)[1], **r))
        return Result(reports, _by_line(raw["counters"]), raw.get("value", 0.0))

    def launch(
        self,
        kernel: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        shared: int,
        args: Sequence[Any],
        **options: Any,
    ) -> Result:
        """Run one kernel. Options: seed, preempt, resident, counters, max_switches."""
        dims = [[v] if isinstance(v, int) else list(v) for v in (grid, block)]
        return self._run(kernel, (dims[0], dims[1], shared), args, **options)

    def call(self, function: str, *args: Any, **options: Any) -> Result:
        """Run an exported host launch function, with the options of launch."""
        return self._run(function, None, args, **options)


def build_folder() -> Path:
    """Build folder of this interpreter, on which the modules depend."""
    return Path(os.environ.get("SVGDX_SIMT_BUILD", ROOT / "build" / "simt")) / sys.implementation.cache_tag


@functools.cache
def build(name: str) -> Path:
    """Configure and build one module; returns its path."""
    folder = build_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # another test process may also be building
        fcntl.flock(lock, fcntl.LOCK_EX)
        _configure_and_compile(folder, name)
    return next(folder.glob(f"svgdx_simt_{name}.*so"))


def _configure_and_compile(folder: Path, name: str) -> None:
    configure = ["cmake", "-S", str(SOURCE), "-B", str(folder), "-G", "Ninja", f"-DPython_EXECUTABLE={_python(folder)}"]
    compile_ = ["cmake", "--build", str(folder), "--target", f"svgdx_simt_{name}", "-j2"]
    for command in (configure, compile_):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the SIMT harness does not build:\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}")


def _python(folder: Path) -> str:
    """The interpreter that an existing build uses: with another one, the bindings would be compiled again."""
    cache = folder / "CMakeCache.txt"
    match = re.search(r"^Python_EXECUTABLE:\w+=(.+)$", cache.read_text(), re.MULTILINE) if cache.exists() else None
    return match[1] if match and Path(match[1]).exists() else sys.executable


@functools.cache
def load(name: str = "checked") -> Simt:
    """Load one build of the harness, compiling it on first use."""
    return load_file(build(name))


def load_file(path: Path) -> Simt:
    """Load the harness from a module built by `build`."""
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Simt(module)


def run_under_asan(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the sanitizers' runtime preloaded, as the build "asan" requires, and capture the output.

    Build the module beforehand and open it with ``load_file``: compilers are slow under that runtime.
    """
    library = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "python_tests"), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
