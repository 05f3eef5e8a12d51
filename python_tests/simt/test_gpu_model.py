"""The predicted times of bench/gpu/model.py, by hand on a few instructions."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
DISASSEMBLY = """
        Function : _Z4pairPf
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   STS.128 [R8], R4 ;
        /*0030*/               @P0 BRA 0x10 ;
        /*0040*/                   LDS.128 R4, [R8] ;
        /*0050*/                   FADD R4, R4, -R9 ;
        /*0060*/                   FFMA R10, R4, R4, R10 ;
        /*0070*/                   FFMA R11, R4, R5, R11 ;
        /*0080*/              @P1 MUFU.EX2 R4, R10 ;
        /*0090*/                   MUFU.EX2 R5, R11 ;
        /*00a0*/               @P0 BRA 0x40 ;
        /*00b0*/               @P2 BRA 0x10 ;
        /*00c0*/                   EXIT ;
        /*00d0*/                   BRA 0xd0;
"""


@pytest.fixture(scope="module")
def model() -> Any:
    before = list(sys.path)
    sys.path.insert(0, str(BENCH))
    try:
        yield importlib.import_module("gpu.model")
    finally:
        sys.path[:] = before


def test_loops_of_a_kernel(model: Any) -> None:
    (code,) = model.sass.parse(DISASSEMBLY).values()
    assert [(loop.first, loop.last) for loop in code.innermost] == [(0x10, 0x30), (0x40, 0xA0)]
    (outer,) = (loop for loop in code.loops if not loop.innermost)
    assert (outer.first, outer.last, dict(outer.opcodes)) == (0x10, 0xB0, {"BRA": 1})
    assert code.around(code.loop_of("MUFU"), "BRA") == outer
    assert code.opcodes["MUFU.EX2"] == 2
    assert code.loop_of("MUFU").count("F(FMA|ADD)") == 3
    assert code.loop_of("MUFU", without="LDS") is None


def test_time_of_a_kernel(model: Any) -> None:
    """264 blocks of 8 warps; on 132 multiprocessors, the two blocks of each make one wave."""
    (code,) = model.sass.parse(DISASSEMBLY).values()
    gpu = next(gpu for gpu in model.GPUS if gpu.name == "H100")
    work = model.work.Work("pair", 3, 264, 256, 264 * 8 * 1000, r"MUFU\.EX2", 1, filled=132e6, rounds=8)
    usage = model.gpu_static.Usage("pair", 90, 32, 1, 0, 0, warps=32, most_warps=64)
    prediction = model.predict(gpu, code, usage, work)
    # A pass of the loop has two items and occupies MUFU for 16 cycles; a pass of the copy moves 512 bytes in 8 cycles.
    warps = 4  # of a scheduler
    cycles = warps * (1000 * 16 / 2 + 132e6 / (264 * 8) * 8 / 512) / (warps / (warps + 0.5))
    assert prediction.pipe == "special"
    assert prediction.parts["compute"] == pytest.approx(cycles / gpu.clock)
    assert prediction.parts["fill"] == pytest.approx(132e6 / gpu.cache)
    assert prediction.parts["rounds"] == pytest.approx(10 * 600 / gpu.clock)
    assert prediction.seconds == pytest.approx(3 * sum(prediction.parts.values()))
    with pytest.raises(ValueError, match="pair has no loop with HMMA"):
        model.predict(gpu, code, usage, model.dataclasses.replace(work, marker="HMMA"))


def test_measured_times_have_a_prediction(model: Any) -> None:
    times = model.measured()
    assert times["svgd_phi_trace", (1, 512, 3072)][1]
    assert {size for op, size in times if op == "svgd_phi_trace"} <= set(model.shapes.SIZES)
