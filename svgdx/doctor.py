"""`svgdx doctor`: what was built, what is loaded and why one thing is not; exits with 1 when something is wrong."""

import argparse
import ctypes
import json
import math
import os
import pathlib
import platform
import sys
from typing import Any

import torch

import svgdx
from svgdx import _library

OLDEST_TORCH = (2, 10)


def main(argv: list[str] | None = None) -> int:
    """Prints the report. Returns 1 when it holds a problem."""
    parser = argparse.ArgumentParser(prog="svgdx doctor", description="Checks this installation of svgdx.")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    options = parser.parse_args(argv)
    report = examine()
    print(json.dumps(report, indent=2) if options.json else render(report))
    return 1 if report["problems"] else 0


def examine() -> dict[str, Any]:
    """The report: facts, then the problems found in them."""
    report: dict[str, Any] = {
        "svgdx": {"version": svgdx.__version__, "folder": str(pathlib.Path(svgdx.__file__).parent)},
        "python": platform.python_version(),
        "build": _library.build_facts(),
        "libraries": {name: _describe(library) for name, library in _library.libraries.items()},
        "torch": _torch_facts(),
        "simd": _simd_level(),
        "threads": {"torch": torch.get_num_threads(), "cores": len(os.sched_getaffinity(0))},
        "disabled": _library.disabled(),
    }
    report["problems"] = _problems(report)
    return report


def render(report: dict[str, Any]) -> str:
    build, torch_facts = report["build"], report["torch"]
    lines = [("svgdx", f"{report['svgdx']['version']} in {report['svgdx']['folder']}, Python {report['python']}")]
    if build is None:
        lines.append(("built", "nothing"))
    else:
        cuda = build["cuda"]
        lines += [
            ("built", f"{build['version']} with {build['compiler']} against torch {build['torch']}"),
            ("built for CPU", ", ".join(build["simd_levels"])),
            ("built for CUDA", _built_for_cuda(cuda)),
        ]
    for name, library in report["libraries"].items():
        state = f"loaded, {library['ops']} ops, {library['path']}" if library["loaded"] else library["reason"]
        lines.append((f"{name} library", state if library["loaded"] else f"not loaded: {state}"))
    devices = ", ".join(f"{d['name']} (sm_{d['capability']})" for d in torch_facts["devices"]) or "no GPU"
    lines += [
        ("torch", f"{torch_facts['version']}, CUDA {torch_facts['cuda'] or 'not built in'}, {devices}"),
        ("SIMD in use", report["simd"] or "none"),
        ("threads", f"{report['threads']['torch']} of {report['threads']['cores']} cores"),
    ]
    if report["disabled"]:
        lines.append(("SVGDX_DISABLE", "set: the plain PyTorch reference runs, not these libraries"))
    lines += [("PROBLEM", problem) for problem in report["problems"]] or [("problems", "none")]
    width = max(len(title) for title, _ in lines)
    return "\n".join(f"{title:<{width}}  {text}" for title, text in lines)


def _built_for_cuda(cuda: dict[str, Any]) -> str:
    if not cuda["built"]:
        return f"no: {cuda['reason']}"
    names = [code if kind == "real" else f"PTX {code}" for code, kind in map(_split, cuda["architectures"])]
    return f"{', '.join(names)} with nvcc {cuda['nvcc']}"


def _split(architecture: str) -> tuple[str, str]:
    code, kind = architecture.split("-")
    return code, kind


def _describe(library: _library.Library) -> dict[str, Any]:
    key = library.name.upper()
    ops = [name for name in _op_names() if torch._C._dispatch_has_kernel_for_dispatch_key(name, key)]
    return {"path": str(library.path), "loaded": library.loaded, "reason": library.reason, "ops": len(ops)}


def _op_names() -> list[str]:
    return [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("svgdx::")]


def _torch_facts() -> dict[str, Any]:
    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            devices.append({"name": torch.cuda.get_device_name(index), "capability": 10 * major + minor})
    return {"version": str(torch.__version__), "cuda": torch.version.cuda, "devices": devices}


def _simd_level() -> str | None:
    library = _library.libraries["cpu"]
    if not library.loaded:
        return None
    function = ctypes.CDLL(str(library.path)).svgdx_simd_level
    function.restype = ctypes.c_char_p
    level: bytes | None = function()
    return level.decode() if level else None


def _problems(report: dict[str, Any]) -> list[str]:
    found = _build_problems(report)
    cpu, cuda = report["libraries"]["cpu"], report["libraries"]["cuda"]
    if not cpu["loaded"]:
        return [*found, f"the CPU library is not loaded: {cpu['reason']}"]
    if report["simd"] is None:
        return [*found, f"SVGDX_ISA must be baseline, avx2 or avx512, but is '{os.environ.get('SVGDX_ISA')}'"]
    if not _library.disabled():
        found += _wrong_answers()
    built = report["build"] is not None and report["build"]["cuda"]["built"]
    if report["torch"]["cuda"] is not None and not cuda["loaded"] and (built or report["torch"]["devices"]):
        found.append(f"torch has CUDA, but the CUDA library is not loaded: {cuda['reason']}")
    if cuda["loaded"] and cuda["ops"] < cpu["ops"]:
        found.append(f"only {cuda['ops']} of {cpu['ops']} ops have CUDA kernels")
    return found


def _build_problems(report: dict[str, Any]) -> list[str]:
    found = []
    version = tuple(int(part) for part in report["torch"]["version"].split(".")[:2])
    if version < OLDEST_TORCH:
        found.append(f"torch 2.10 or newer is needed, but this is {report['torch']['version']}")
    build = report["build"]
    if build is None:
        return found
    if build["version"] != report["svgdx"]["version"]:
        found.append(
            f"the libraries are those of svgdx {build['version']}, not {report['svgdx']['version']}: reinstall"
        )
    if build["cuda"]["built"]:
        for device in report["torch"]["devices"]:
            if not any(runs_on(device["capability"], arch) for arch in build["cuda"]["architectures"]):
                found.append(
                    f"the CUDA library was not built for {device['name']} (sm_{device['capability']}): rebuild with "
                    f"TORCH_CUDA_ARCH_LIST={device['capability'] / 10}"
                )
    return found


def runs_on(capability: int, architecture: str) -> bool:
    """Whether code for an architecture ("90-real", "90a-real", "120-virtual") runs on a GPU of that capability."""
    code, kind = _split(architecture)
    number = int(code.rstrip("af"))
    if code.endswith("a"):
        return capability == number
    if kind == "virtual" and not code.endswith("f"):
        return capability >= number
    return capability // 10 == number // 10 and capability >= number


def _wrong_answers() -> list[str]:
    """Two particles at distance 1 with known scores, on every device: phi_0 = (s_0 + k (s_1 + x_0 - x_1)) / 2."""
    kappa = math.exp(-0.5)
    found = []
    devices = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count()) if _library.libraries["cuda"].loaded]
    for device in devices:
        x = torch.tensor([[0.0], [1.0]], device=device)
        score = torch.tensor([[0.25], [-0.5]], device=device)
        expected = torch.tensor([[(0.25 - 1.5 * kappa) / 2], [(-0.5 + 1.25 * kappa) / 2]])
        try:
            phi = torch.ops.svgdx.svgd_phi(x, score, torch.ones((), device=device)).cpu()
        except (RuntimeError, AttributeError) as error:
            found.append(f"svgd_phi fails on {device}: {error}")
            continue
        if not torch.allclose(phi, expected, rtol=1e-5):
            found.append(f"svgd_phi on {device} gives {phi.flatten().tolist()}, not {expected.flatten().tolist()}")
    return found


if __name__ == "__main__":
    sys.exit(main())
