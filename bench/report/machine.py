"""The facts of a machine that a benchmark's results depend on: chip, versions, and the rate of its best product."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

import svgdx

# The packages of the peers, by the names that the tables give them.
PACKAGES = {
    "torch": "torch",
    "jax": "jax",
    "torchgfn": "torchgfn",
    "keops": "pykeops",
    "stable-baselines3": "stable_baselines3",
    "sbx": "sbx-rl",
}
# (R, K, C) of the products whose best rate is the chip's ceiling.
SHAPES = [(8448, 256, 256), (512, 512, 512), (1024, 1024, 1024)]


def versions() -> dict[str, str]:
    """The versions of svgdx and of the peers that are installed."""
    facts = {"svgdx": svgdx.__version__}
    for name, package in PACKAGES.items():
        try:
            facts[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def chip() -> str:
    """The processor's name, as the kernel knows it."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def facts() -> dict[str, Any]:
    """All of them; measures the products, in about 3 s."""
    rates = product_rates()
    return {
        "chip": chip(),
        "cores": len(os.sched_getaffinity(0)),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(),
        "products": rates,
        "ceiling": max(rates.values()),
    }


def product_rates() -> dict[str, float]:
    """The best GFLOP/s of each library's float32 matrix product on one thread, by CPU time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: max(_rate(form(*shape), shape) for shape in SHAPES) for name, form in _products().items()}
    finally:
        torch.set_num_threads(before)


def _rate(call: Callable[[], object], shape: tuple[int, int, int]) -> float:
    rows, inner, cols = shape
    least, start = float("inf"), time.process_time()
    call()
    while time.process_time() - start < 0.3:
        before = time.process_time_ns()
        call()
        least = min(least, 1e-9 * (time.process_time_ns() - before))
    return 2e-9 * rows * inner * cols / least


def _products() -> dict[str, Callable[[int, int, int], Callable[[], object]]]:
    forms: dict[str, Callable[[int, int, int], Callable[[], object]]] = {"torch.mm": _torch}
    if torch.backends.mkldnn.is_available():
        forms["oneDNN in torch"] = _onednn
    if importlib.util.find_spec("jax") is not None:
        forms["JAX"] = _jax
    return forms


def _torch(rows: int, inner: int, cols: int) -> Callable[[], object]:
    a, b = torch.randn(rows, inner), torch.randn(inner, cols)
    out = torch.empty(rows, cols)
    return lambda: torch.mm(a, b, out=out)


def _onednn(rows: int, inner: int, cols: int) -> Callable[[], object]:
    a, weight = torch.randn(rows, inner), torch.randn(cols, inner)
    return lambda: torch.ops.mkldnn._linear_pointwise(a, weight, None, "none", [], "")


def _jax(rows: int, inner: int, cols: int) -> Callable[[], object]:
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    a, b = jnp.ones((rows, inner), jnp.float32), jnp.ones((inner, cols), jnp.float32)
    product = jax.jit(jnp.dot)
    return lambda: jax.block_until_ready(product(a, b))
