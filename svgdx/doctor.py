"""`svgdx doctor`: reports what was built, what is loaded and what is wrong; exits with 1 if there is a problem."""

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
from svgdx.experiments.run.compute.device import automatic, runs_on

OLDEST_TORCH = (2, 10)


def main(argv: list[str] | None = None) -> int:
    """Prints the report; returns 1 if it contains a problem, else 0."""
    parser = argparse.ArgumentParser(prog="svgdx doctor", description="Check this installation of svgdx.")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    options = parser.parse_args(argv)
    report = examine()
    print(json.dumps(report, indent=2) if options.json else render(report))
    return 1 if report["problems"] else 0


def examine() -> dict[str, Any]:
    """Collects the facts about this installation and the problems that they show."""
    report: dict[str, Any] = {
        "svgdx": {"version": svgdx.__version__, "folder": str(pathlib.Path(svgdx.__file__).parent)},
        "python": platform.python_version(),
        "build": _library.build_facts(),
        "libraries": {name: _describe(library) for name, library in _library.libraries.items()},
        "torch": _torch_facts(),
        "simd": _simd_level(),
        "products": _product_facts(),
        "tf32": _tf32_setting(_library.libraries["cuda"]),
        "threads": {"torch": torch.get_num_threads(), "cores": len(os.sched_getaffinity(0))},
        "disabled": _library.disabled(),
        "device": automatic()._asdict(),
    }
    report["problems"] = _problems(report)
    return report


def render(report: dict[str, Any]) -> str:
    """Formats a report as text."""
    build, torch_facts = report["build"], report["torch"]
    lines = [("svgdx", f"{report['svgdx']['version']} in {report['svgdx']['folder']}, Python {report['python']}")]
    if build is None:
        lines.append(("build", "nothing has been built"))
    else:
        cuda = build["cuda"]
        lines += [
            ("build", f"svgdx {build['version']}, compiled with {build['compiler']} against torch {build['torch']}"),
            ("CPU build", f"SIMD levels {', '.join(build['simd_levels'])}"),
            ("CUDA build", _cuda_build(cuda)),
        ]
    for name, library in report["libraries"].items():
        loaded = f"loaded with {library['ops']} ops from {library['path']}"
        lines.append((f"{name.upper()} library", loaded if library["loaded"] else f"not loaded: {library['reason']}"))
    gpus = ", ".join(f"{gpu['name']} (sm_{gpu['capability']})" for gpu in torch_facts["devices"]) or "no GPU"
    cuda_version = f"with CUDA {torch_facts['cuda']}" if torch_facts["cuda"] else "without CUDA"
    lines += [
        ("torch", f"{torch_facts['version']} {cuda_version}, {gpus}"),
        ("SIMD in use", report["simd"] or "none"),
        ("device", f"{report['device']['name']}, as --device auto takes it: {report['device']['reason']}"),
        ("products", _products(report["products"])),
        ("TF32", report["tf32"]),
        ("threads", f"{report['threads']['torch']} on {report['threads']['cores']} cores"),
    ]
    if report["disabled"]:
        lines.append(("SVGDX_DISABLE", "set; the plain PyTorch reference runs instead of these libraries"))
    lines += [("PROBLEM", problem) for problem in report["problems"]] or [("problems", "none")]
    width = max(len(title) for title, _ in lines)
    return "\n".join(f"{title:<{width}}  {text}" for title, text in lines)


def _products(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "not measured"
    rates = f"torch {facts['torch']:.0f} and oneDNN {facts['onednn']:.0f} GFLOP/s a thread"
    if facts["onednn"] == 0:
        rates = f"torch {facts['torch']:.0f} GFLOP/s a thread; this torch has no oneDNN"
    elif not facts["exact"]:
        rates += "; oneDNN rounds to a narrower type"
    return f"large float32 products take the route {facts['route']}: {rates}"


def _tf32_setting(library: _library.Library) -> str:
    """Whether kernels on a GPU form products in TF32, which torch's settings permit or not."""
    if not library.loaded:
        return "not used without the CUDA library"
    permitted = ctypes.CDLL(str(library.path)).svgdx_tf32()
    if permitted < 0:
        return "not used, because this torch's setting of the precision of float32 products cannot be read"
    return "permitted by torch's setting of the precision of float32 products" if permitted else "not permitted"


def _cuda_build(cuda: dict[str, Any]) -> str:
    if not cuda["built"]:
        return f"not built: {cuda['reason']}"
    names = [code if kind == "real" else f"PTX {code}" for code, kind in map(_split, cuda["architectures"])]
    return f"architectures {', '.join(names)}, compiled with nvcc {cuda['nvcc']}"


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


def _product_facts() -> dict[str, Any] | None:
    if not _library.libraries["cpu"].loaded:
        return None
    try:
        return _library.product_facts()._asdict()
    except RuntimeError:  # SVGDX_PRODUCTS names no route
        return None


def _problems(report: dict[str, Any]) -> list[str]:
    problems = _build_problems(report)
    cpu, cuda = report["libraries"]["cpu"], report["libraries"]["cuda"]
    if not cpu["loaded"]:
        return [*problems, f"the CPU library is not loaded: {cpu['reason']}"]
    wrong = []
    if report["simd"] is None:
        wrong.append(f"SVGDX_ISA must be baseline, avx2 or avx512, but is '{os.environ.get('SVGDX_ISA')}'")
    if report["products"] is None:
        wrong.append(f"SVGDX_PRODUCTS must be torch or onednn, but is '{os.environ.get('SVGDX_PRODUCTS')}'")
    if wrong:
        return problems + wrong
    if not _library.disabled():
        problems += _wrong_results()
    built = report["build"] is not None and report["build"]["cuda"]["built"]
    if report["torch"]["cuda"] is not None and not cuda["loaded"] and (built or report["torch"]["devices"]):
        problems.append(f"torch is built with CUDA, but the CUDA library is not loaded: {cuda['reason']}")
    if cuda["loaded"] and cuda["ops"] < cpu["ops"]:
        problems.append(f"only {cuda['ops']} of {cpu['ops']} ops have CUDA kernels")
    return problems


def _build_problems(report: dict[str, Any]) -> list[str]:
    problems = []
    version = tuple(int(number) for number in report["torch"]["version"].split(".")[:2])
    if version < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        problems.append(f"svgdx needs torch {oldest} or newer, but torch is {report['torch']['version']}")
    build = report["build"]
    if build is None:
        return problems
    if build["version"] != report["svgdx"]["version"]:
        problems.append(
            f"the libraries were built for svgdx {build['version']}, but the Python files are of svgdx "
            f"{report['svgdx']['version']}; reinstall svgdx"
        )
    if build["cuda"]["built"]:
        for device in report["torch"]["devices"]:
            if not any(runs_on(device["capability"], arch) for arch in build["cuda"]["architectures"]):
                problems.append(
                    f"the CUDA library was not built for {device['name']} (sm_{device['capability']}); rebuild it with "
                    f"TORCH_CUDA_ARCH_LIST={device['capability'] / 10}"
                )
    return problems


def _wrong_results() -> list[str]:
    """Checks svgd_phi on every device.

    For two particles at distance 1 with known scores, phi_0 = (s_0 + k (s_1 + x_0 - x_1)) / 2.
    """
    kappa = math.exp(-0.5)
    problems = []
    devices = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count()) if _library.libraries["cuda"].loaded]
    for device in devices:
        x = torch.tensor([[0.0], [1.0]], device=device)
        score = torch.tensor([[0.25], [-0.5]], device=device)
        expected = torch.tensor([[(0.25 - 1.5 * kappa) / 2], [(-0.5 + 1.25 * kappa) / 2]])
        try:
            phi = torch.ops.svgdx.svgd_phi(x, score, torch.ones((), device=device)).cpu()
        except (RuntimeError, AttributeError) as error:
            problems.append(f"svgd_phi fails on {device}: {error}")
            continue
        if not torch.allclose(phi, expected, rtol=1e-5):
            results = f"{phi.flatten().tolist()} instead of {expected.flatten().tolist()}"
            problems.append(f"svgd_phi on {device} returns {results}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
