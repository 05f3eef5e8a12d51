"""Build and drive the host SIMT harness (python_tests/simt/host), which runs CUDA kernels on the host.

    simt = harness.load("planted_checked")
    result = simt.launch("kernel", grid=4, block=128, shared=0, args=[x, harness.out(y), 3], seed=1, preempt=0.05)
    assert not result.reports

Arrays are copied to the harness's device memory and back; ``out(array)`` is passed as uninitialised memory, and
``scratch(n)`` is n bytes of it. ``call`` runs a whole launch function. The builds "planted_fast", "planted_checked"
(shadow memory, races, counters) and "planted_asan" (address and undefined-behaviour sanitizers; needs
``run_under_asan``) hold the kernels with planted bugs; simt/backend.py runs the ops.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).resolve().parent
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
        return (
            f"{self.kind} at {where}, kernel {self.kernel}, block {self.block} thread {self.thread}: {self.text} "
            f"(x{self.count})"
        )


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
    launches: int

    def check(self) -> Result:
        """Raise if anything was reported."""
        if self.reports:
            raise AssertionError("\n".join(str(r) for r in self.reports))
        return self


class Places:
    """File and line of code addresses of one library, from the innermost frame outside the harness."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self.known: dict[int | None, tuple[str, int]] = {None: ("", 0)}

    def __getitem__(self, offset: int | None) -> tuple[str, int]:
        self.look_up([offset])
        return self.known[offset]

    def look_up(self, offsets: Iterable[int | None]) -> None:
        """Resolve all of them by one process."""
        unknown = sorted({offset for offset in offsets if offset not in self.known and offset is not None})
        if not unknown:
            return
        command = ["addr2line", "-e", str(self.library), "-a", "-i", "-f", "-C", *map(hex, unknown)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for block in re.split(r"^0x", text, flags=re.MULTILINE)[1:]:
            address, *lines = block.splitlines()
            self.known[int(address, 16)] = self._outside(lines)

    @staticmethod
    def _outside(lines: list[str]) -> tuple[str, int]:
        frames = []
        for function, place in zip(lines[::2], lines[1::2], strict=True):
            file, _, line = place.split(" (")[0].rpartition(":")
            if not SHIM.search(file) and "operator=" not in function:
                frames.append((file, int(line) if line.isdigit() else 0))
        return frames[0] if frames else (lines[1], 0)


class Argument(ctypes.Structure):
    """SimtArgument of host/interface.cpp."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("integer", ctypes.c_int64),
        ("real", ctypes.c_double),
        ("dtype", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
    )

    NONE, ARRAY, OUTPUT, SCRATCH, INTEGER, REAL = range(6)

    @classmethod
    def of(cls, value: Any, name: str) -> Argument:
        if value is None:
            return cls(kind=cls.NONE)
        if isinstance(value, (int, np.integer)):
            return cls(kind=cls.INTEGER, integer=int(value))
        if isinstance(value, (float, np.floating)):
            return cls(kind=cls.REAL, real=float(value))
        kind = cls.ARRAY
        if isinstance(value, tuple):
            tag, value = value
            if tag == "scratch":
                return cls(kind=cls.SCRATCH, bytes=value, dtype=b"raw", name=name.encode())
            kind = cls.OUTPUT
        if not value.flags.c_contiguous:
            raise ValueError(f"{name}: expected a C-contiguous array")
        dtype = value.dtype.name.encode()
        return cls(kind=kind, data=value.ctypes.data, bytes=value.nbytes, dtype=dtype, name=name.encode())


class Simt:
    """One library of the harness."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.library.simt_begin.argtypes = (
            ctypes.c_uint64,
            ctypes.c_double,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int64,
            ctypes.c_int,
        )
        self.library.simt_launch.restype = self.library.simt_end.restype = ctypes.c_char_p
        self.library.simt_output.argtypes = (ctypes.c_void_p, ctypes.c_int64)
        self.places = Places(path)

    def begin(
        self,
        seed: int = 0,
        preempt: float = 0.0,
        resident: int = 2,
        counters: bool = False,
        max_switches: int = 200_000_000,
        in_op: bool = False,
    ) -> None:
        """Begin a call; `end` must follow."""
        self.library.simt_begin(seed, preempt, resident, counters, max_switches, in_op)

    def end(self) -> Result:
        """End the call and return its reports and counters."""
        raw = json.loads(self.library.simt_end())
        self.places.look_up(r[pc] for r in raw["reports"] for pc in ("pc", "other_pc"))
        self.places.look_up(c["pc"] for c in raw["counters"])
        reports = []
        for r in raw["reports"]:
            pc, other = r.pop("pc"), r.pop("other_pc")
            if pc is not None:
                r["file"], r["line"] = self.places[pc]
            reports.append(Report(other_line=self.places[other][1], **r))
        return Result(reports, self._by_line(raw["counters"]), raw["launches"])

    def _by_line(self, raw: list[dict[str, Any]]) -> list[Counter]:
        """Merge the counters of a line's code addresses that make the same kind of access."""
        sums: dict[tuple[Any, ...], Counter] = {}
        for c in raw:
            file, line = self.places[c.pop("pc")]
            new = Counter(file=file, line=line, **c)
            key = (file, line, new.kernel, new.space, new.write, new.bytes_per_lane)
            old = sums.get(key)
            counts = ("accesses", "requests", "sectors", "bytes", "wavefronts", "least_wavefronts")
            sums[key] = replace(new, **{k: getattr(old, k) + getattr(new, k) for k in counts}) if old else new
        return list(sums.values())

    def _run(self, name: str, config: Sequence[int] | None, args: Sequence[Any], **options: Any) -> Result:
        arguments = (Argument * len(args))(*(Argument.of(value, f"argument {i}") for i, value in enumerate(args)))
        dims = None if config is None else (ctypes.c_uint32 * 7)(*config)
        self.begin(**options)
        error = self.library.simt_launch(name.encode(), dims, arguments, len(args))
        result = self.end()
        if error is not None:
            raise ValueError(error.decode())
        return result

    def launch(
        self,
        kernel: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        shared: int,
        args: Sequence[Any],
        **options: Any,
    ) -> Result:
        """Run one kernel, with the options of begin."""
        dims = [(v, 1, 1) if isinstance(v, int) else (*v, 1, 1)[:3] for v in (grid, block)]
        return self._run(kernel, (*dims[0], *dims[1], shared), args, **options)

    def call(self, function: str, *args: Any, **options: Any) -> Result:
        """Run an exported host launch function, with the options of begin."""
        return self._run(function, None, args, **options)


def build_folder() -> Path:
    """Build folder of the libraries, which serve every Python and every torch."""
    return Path(os.environ.get("SVGDX_SIMT_BUILD", ROOT / "build" / "simt")) / "libraries"


@functools.cache
def build(name: str) -> Path:
    """Configure and build one library; returns its path."""
    folder = build_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # another test process may also be building
        fcntl.flock(lock, fcntl.LOCK_EX)
        _configure_and_compile(folder, name)
    return folder / f"libsvgdx_simt_{name}.so"


def _configure_and_compile(folder: Path, name: str) -> None:
    configure = ["cmake", "-S", str(SOURCE), "-B", str(folder), "-G", "Ninja", f"-DPython_EXECUTABLE={_python(folder)}"]
    compile_ = ["cmake", "--build", str(folder), "--target", f"svgdx_simt_{name}", "-j2"]
    for command in (configure, compile_):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the SIMT harness does not build:\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}")


def _python(folder: Path) -> str:
    """The interpreter that an existing build uses: with another torch, all would be compiled again."""
    cache = folder / "CMakeCache.txt"
    match = re.search(r"^Python_EXECUTABLE:\w+=(.+)$", cache.read_text(), re.MULTILINE) if cache.exists() else None
    return match[1] if match and Path(match[1]).exists() else sys.executable


@functools.cache
def load(name: str) -> Simt:
    """Load one library of the harness, compiling it on first use."""
    return Simt(build(name))


def run_under_asan(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the sanitizers' runtime preloaded, as the build "planted_asan" requires, and capture the output.

    Build the library beforehand and open it as ``Simt(path)``: compilers are slow under that runtime.
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
