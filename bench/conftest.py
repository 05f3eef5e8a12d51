"""Benchmarks on a CPU run on one core with one thread, so that their CPU times are comparable and no peer has more."""

from __future__ import annotations

import os
import pathlib
from typing import Any

if not pathlib.Path("/dev/nvidiactl").exists() and hasattr(os, "sched_setaffinity"):
    # Before torch and JAX are imported, whose threads inherit it.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    from machine import facts

    machine_info["facts"] = facts()
