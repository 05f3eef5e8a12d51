"""The static budget of bench/gpu_static.py: no spills, occupancy, global traffic, bank conflicts."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def static() -> Any:
    """Import a module of bench/, which is not a package: its modules import one another like scripts in one folder."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCH))
    try:
        importlib.import_module("gpu_traffic")
        yield importlib.import_module("gpu_static")
    finally:
        sys.path[:] = before


@pytest.fixture(scope="module")
def usages(static: Any) -> Any:
    logs = static.build_logs()
    if logs is None:
        reason = "no build of the CUDA library from these sources, whose reports are read; SVGDX_CUDA=on builds it"
        (pytest.fail if os.environ.get("SVGDX_EXPECT_CUDA") else pytest.skip)(reason)
    return static.fill_occupancy(logs)


def test_registers_and_occupancy(static: Any, usages: Any) -> None:
    assert static.violations(usages, {}) == []
    compiled = {u.kernel.split("<")[0] for u in usages}
    assert compiled == set(static.launches())


def test_traffic_and_wavefronts(static: Any) -> None:
    """Covers every padded dimension and the large kernels."""
    traffic = sys.modules["gpu_traffic"].measure(storage=("float", "Bf16"), kernels=static.launches())
    assert static.violations([], traffic) == []
    assert {name.split("<")[0] for name in traffic} == set(static.launches())
    assert traffic["field_forward_kernel<float, 4>"].least_wavefronts > 0


def test_a_bad_kernel_is_named(static: Any) -> None:
    """Every limit is reported, which proves that the tests above can fail."""
    report = (
        "ptxas info    : Compiling entry function '_ZN5svgdx4cuda12median_startEv' for 'sm_90'\n"
        "    8 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers, 64 bytes smem\n"
    )
    (usage,) = static.parse_report(report)
    assert (usage.kernel, usage.architecture, usage.registers) == ("median_start", 90, 255)
    assert (usage.spills, usage.shared, usage.barriers) == (12, 64, 1)
    usage.warps, usage.most_warps = 8, 64
    traffic = sys.modules["gpu_traffic"].Traffic(moved=111, asked=100, wavefronts=106, least_wavefronts=100)
    violations = static.violations([usage], {"kernel": traffic})
    for limit in ("spills 12 bytes", "occupancy of 12%", "1.11 times the bytes", "1.06 times the least wavefronts"):
        assert sum(limit in text for text in violations) == 1
    assert len(violations) == 4


def test_compiler_and_kernels_agree_on_threads(static: Any) -> None:
    threads = {name: launch.threads for name, launch in static.launches().items()}
    assert threads["field_forward_kernel"] == 128
    assert threads["field_backward_kernel"] == 64
    assert threads["finish_field_kernel"] == 128
    assert threads["median_start"] == 256
