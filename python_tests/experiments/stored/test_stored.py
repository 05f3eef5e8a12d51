"""Every trainer gives the numbers that are stored beside this file, up to rounding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

for package in ("sklearn", "normflows", "gymnasium", "stable_baselines3", "zuko"):
    pytest.importorskip(package, reason="these runs need the packages of svgdx[flow,rl]")

from experiments.stored.runs import COMMANDS, STORED, command, flattened, run  # noqa: E402

NUMBERS = json.loads(STORED.read_text())
# A deviation is relative to the largest stored number of its series. Largest deviations measured against the stored
# numbers (AVX2, one thread): 2.6e-6 with SVGDX_ISA=baseline, 3.2e-6 with two threads, and 9.6e-6 with
# SVGDX_ISA=baseline, ATEN_CPU_CAPABILITY=default, ONEDNN_MAX_CPU_ISA=SSE41 and MKL_CBWR=COMPATIBLE. A learning rate
# multiplied by 1.001 changes several series of a run by 1e-4 to 1e-2.
TOLERANCE = 5e-5
# Adam divides some gradients of sigma, which nearly vanish, by their own size: the deviation is 0 before its first
# step, and was up to 3.4e-4 after it.
CHAOTIC = {("demo", "sigma"): (4, 5e-3)}
# Rounding decides in which iteration an inverse map has converged, and so which particles move: up to 1.4e-3 for the
# SIMD levels of a processor with AVX-512.
UNSTEADY = {"rl met-svgd-mh": 5e-3}


def deviations(stored: list[float], numbers: list[float]) -> list[float]:
    # A series that underflows counts as zero.
    scale = max(*map(abs, stored), 1e-12)
    return [abs(one - other) / scale for one, other in zip(stored, numbers, strict=True)]


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_are_the_stored_ones(name: str, tmp_path: Path) -> None:
    stored = NUMBERS[name]["metrics"]
    assert NUMBERS[name]["command"] == command(name)
    series = flattened(run(name, tmp_path))
    assert series.keys() == stored.keys()
    lengths = {key: (len(series[key]), len(stored[key])) for key in stored if len(series[key]) != len(stored[key])}
    assert not lengths
    wrong = {}
    for key, numbers in stored.items():
        for place, deviation in enumerate(deviations(numbers, series[key])):
            usual = UNSTEADY.get(name, TOLERANCE)
            first, tolerance = CHAOTIC.get((name, key), (0, usual))
            if not deviation <= (usual if place < first else tolerance):
                wrong[f"{key}[{place}]"] = (numbers[place], series[key][place])
    assert not wrong, f"{command(name)}: stored, now: {wrong}"


def test_nothing_else_is_stored() -> None:
    assert NUMBERS.keys() == COMMANDS.keys()
