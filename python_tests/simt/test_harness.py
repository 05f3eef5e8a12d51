"""The harness itself: indices, warp operations, schedules, counters, further reports, and rejected arguments."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from simt import harness


@pytest.fixture(scope="module", params=["fast", "checked"])
def simt(request: pytest.FixtureRequest) -> harness.Simt:
    return harness.load(f"planted_{request.param}")


@pytest.fixture(scope="module")
def checked() -> harness.Simt:
    return harness.load("planted_checked")


def kinds(result: harness.Result) -> set[str]:
    return {r.kind for r in result.reports}


@pytest.mark.parametrize(("grid", "block"), [(3, 70), ((2, 3), (8, 5)), ((2, 3, 2), (4, 3, 5)), (1, 1), (1, 1024)])
def test_indices(simt: harness.Simt, grid: int | tuple[int, ...], block: int | tuple[int, ...]) -> None:
    blocks, threads = int(np.prod(grid)), int(np.prod(block))
    out = np.zeros((blocks, threads), np.int32)
    simt.launch("indices", grid, block, 0, [harness.out(out)], seed=5).check()
    np.testing.assert_array_equal(out, np.arange(blocks)[:, None] * 1000 + np.arange(threads))


@pytest.mark.parametrize("seed", range(3))
def test_warp_operations(simt: harness.Simt, seed: int) -> None:
    v = np.random.default_rng(seed).integers(0, 9, 32).astype(np.int32)
    out = np.zeros((12, 32), np.int32)
    simt.launch("warp_operations", 1, 32, 0, [v, harness.out(out)], seed=seed, preempt=0.1).check()
    lane = np.arange(32)
    ballot = sum(1 << int(i) for i in lane[v % 2 == 1])
    match = [sum(1 << int(j) for j in lane[v % 3 == v[i] % 3]) for i in lane]
    expected = [
        np.full(32, v[5]),
        v[lane // 8 * 8 + 3],
        v[np.where(lane < 2, lane, lane - 2)],
        v[np.where(lane % 16 + 3 > 15, lane, lane + 3) % 32],
        v[lane ^ 9],
        np.full(32, ballot),
        np.full(32, int((v == 7).any()) * 2 + 1),
        np.full(32, v.sum()),
        np.full(32, v.min() * 100 + v.max()),
        np.array(match, np.uint32).view(np.int32),
        np.repeat([v[:16].sum(), v[16:].sum()], 16),
        v[31 - lane] * 4 + 1,
    ]
    for row, (got, want) in enumerate(zip(out, expected, strict=True)):
        want = np.asarray(want).astype(np.uint32).view(np.int32) if row == 5 else want
        np.testing.assert_array_equal(got, want, err_msg=f"row {row}")


def test_product_on_tensor_cores(simt: harness.Simt) -> None:
    a, b = (
        np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        for seed, shape in ((0, (16, 8)), (1, (8, 8)))
    )
    c = np.zeros((16, 8), np.float32)
    simt.launch("product", 1, 32, 0, [a, b, harness.out(c)], seed=1, preempt=0.1).check()
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(c).max())


@pytest.mark.parametrize("ones", [0, 1, 99, 100])
def test_barrier_votes(simt: harness.Simt, ones: int) -> None:
    p, out = (np.arange(100) < ones).astype(np.int32), np.zeros(100, np.int32)
    simt.launch("barrier_votes", 1, 100, 0, [p, harness.out(out)], seed=1).check()
    np.testing.assert_array_equal(out, ones * 100 + (ones == 100) * 10 + (ones > 0))


def test_seed_decides_the_schedule(checked: harness.Simt) -> None:
    def updates(seed: int, preempt: float) -> int:
        counter = np.zeros(1, np.int32)
        checked.launch("lost_update", 1, 64, 0, [counter], seed=seed, preempt=preempt).check()
        return int(counter[0])

    assert updates(0, 0.0) == 64  # no other thread runs between a thread's read and its write
    counts = [updates(seed, 0.5) for seed in range(6)]
    assert max(counts) < 64
    assert len(set(counts)) > 1
    assert counts == [updates(seed, 0.5) for seed in range(6)]


# stride in elements -> wavefronts; 16 lanes of 8 bytes use every bank once
@pytest.mark.parametrize(
    ("kind", "stride", "wavefronts", "least"),
    [
        ("float", 1, 1, 1),
        ("float", 2, 2, 1),
        ("float", 32, 32, 1),
        ("float", 33, 1, 1),
        ("double", 1, 2, 2),
        ("double", 2, 4, 2),
        ("double", 17, 2, 2),
    ],
)
def test_bank_conflicts(checked: harness.Simt, kind: str, stride: int, wavefronts: int, least: int) -> None:
    x = np.arange(32, dtype=np.float32 if kind == "float" else np.float64)
    y = np.zeros_like(x)
    shared = 32 * stride * x.itemsize
    result = checked.launch(f"strided.{kind}", 1, 32, shared, [x, harness.out(y), stride], counters=True).check()
    (read,) = [c for c in result.counters if c.space == "shared" and not c.write]
    assert (read.requests, read.accesses) == (1, 32)
    assert (read.wavefronts, read.least_wavefronts) == (wavefronts, least)
    np.testing.assert_array_equal(y, x[np.arange(32) * stride % 32])


@pytest.mark.parametrize(("stride", "sectors", "nbytes"), [(0, 1, 4), (1, 4, 128), (2, 8, 128), (8, 32, 128)])
def test_sectors(checked: harness.Simt, stride: int, sectors: int, nbytes: int) -> None:
    x, y = np.zeros(256, np.float32), np.zeros(32, np.float32)
    result = checked.launch("strided_global", 1, 32, 0, [x, harness.out(y), stride], counters=True).check()
    (read,) = [c for c in result.counters if not c.write]
    (write,) = [c for c in result.counters if c.write]
    assert (read.sectors, read.bytes) == (sectors, nbytes)
    assert (write.sectors, write.bytes) == (4, 128)


def test_bounds_are_exact_to_the_byte(checked: harness.Simt) -> None:
    y = np.zeros(32, np.float32)
    report = checked.launch("strided_global", 1, 32, 0, [np.zeros(31, np.float32), harness.out(y), 1]).reports
    assert [(r.kind, r.count) for r in report] == [("out-of-bounds", 1)]
    assert "argument 0 (124 bytes" in report[0].text


def test_blocks_run_side_by_side(simt: harness.Simt) -> None:
    for seed in range(4):
        flag, data, out = np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, np.float32)
        simt.launch("hand_over", 2, 1, 0, [flag, harness.out(data), harness.out(out)], seed=seed).check()
        assert out[0] == 3


def test_endless_waiting_ends(simt: harness.Simt) -> None:
    result = simt.launch("wait_forever", 1, 4, 0, [np.zeros(1, np.int32)], max_switches=1000)
    assert kinds(result) == {"livelock"}


def test_deadlock(simt: harness.Simt) -> None:
    assert kinds(simt.launch("crossed", 1, 32, 0, [np.zeros(32, np.int32)])) == {"deadlock", "shuffle-absent-lane"}
    # and the next call is not affected
    simt.launch("indices", 1, 32, 0, [np.zeros(32, np.int32)]).check()


def test_host_memory_is_refused(checked: harness.Simt) -> None:
    host = np.ones(4)
    pointer = np.array([host.ctypes.data], np.uint64).view(np.float32)
    assert kinds(checked.launch("host_pointer", 1, 1, 0, [pointer])) == {"illegal-address"}
    null = np.zeros(2, np.float32)
    assert kinds(checked.launch("host_pointer", 1, 1, 0, [null])) == {"illegal-address"}


def test_output_left_unwritten(checked: harness.Simt) -> None:
    y = np.zeros(10, np.float32)
    assert kinds(checked.launch("skip_last", 1, 32, 0, [harness.out(y), 10])) == {"unwritten-output"}
    checked.launch("skip_last", 1, 32, 0, [y, 10]).check()


@pytest.mark.parametrize("bug", ["early_return", "half_block"])
def test_barriers_are_watched_in_the_fast_build(bug: str) -> None:
    x, y, z = np.zeros((150, 3), np.float32), np.zeros(150, np.float32), np.zeros(3, np.float32)
    result = harness.load("planted_fast").launch(f"rows.{bug}", 3, 64, 64 * 16 + 16, [x, y, z, 150, 3])
    assert "barrier-divergence" in kinds(result)
    assert all(r.file.endswith("rows.cuh") and r.line > 0 for r in result.reports)


@pytest.mark.parametrize(
    ("grid", "block", "shared"),
    [(0, 32, 0), (1, 0, 0), (1, 1025, 0), (1, (1, 1, 65), 0), ((1, 65536), 32, 0), (1, 32, 228 * 1024)],
)
def test_launches_that_cuda_refuses(simt: harness.Simt, grid: int, block: int, shared: int) -> None:
    result = simt.launch("indices", grid, block, shared, [np.zeros(1, np.int32)])
    assert kinds(result) == {"invalid-launch"}


def test_more_shared_memory_than_launched_with(simt: harness.Simt) -> None:
    x, y, z = np.zeros((64, 3), np.float32), np.zeros(64, np.float32), np.zeros(1, np.float32)
    result = simt.launch("rows.correct", 1, 64, 64 * 16 + 4, [x, y, z, 64, 3])
    assert kinds(result) == {"shared-overflow"}


def test_an_array_named_twice_is_one_array(simt: harness.Simt) -> None:
    x = np.arange(32, dtype=np.float32)
    simt.launch("strided_global", 1, 32, 0, [x, x, 1]).check()
    np.testing.assert_array_equal(x, np.arange(32))


def test_bad_arguments(simt: harness.Simt) -> None:
    out = np.zeros(32, np.int32)
    with pytest.raises(ValueError, match="expected an array of int32, but got float32"):
        simt.launch("indices", 1, 32, 0, [np.zeros(32, np.float32)])
    with pytest.raises(ValueError, match="expected 1 arguments, but got 2"):
        simt.launch("indices", 1, 32, 0, [out, 1])
    with pytest.raises(ValueError, match="C-contiguous"):
        simt.launch("indices", 1, 32, 0, [np.zeros(64, np.int32)[::2]])
    with pytest.raises(ValueError, match="expected an integer"):
        simt.launch("strided_global", 1, 32, 0, [np.zeros(32, np.float32), np.zeros(32, np.float32), 1.5])
    with pytest.raises(TypeError, match="sed"):
        simt.launch("indices", 1, 32, 0, [out], sed=1)
    with pytest.raises(ValueError, match="no kernel indexes"):
        simt.launch("indexes", 1, 32, 0, [out])


CUDA_UNIT = """
#include "planted/probes.cuh"
#define PLANTED correct
#include "planted/blocks.cuh"
#include "planted/copies.cuh"
#include "planted/rows.cuh"
#include "planted/warps.cuh"
template __global__ void svgdx::planted::correct::row_sums<64>(const float*, float*, float*, int, int);
template __global__ void svgdx::planted::strided<double>(const double*, double*, int);
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_nvcc_takes_the_same_source(tmp_path: Path) -> None:
    (tmp_path / "unit.cu").write_text(CUDA_UNIT)
    include = [f"-I{harness.ROOT / 'csrc'}", f"-I{harness.SOURCE}"]
    command = [
        "nvcc",
        "-std=c++17",
        "-arch=sm_80",
        "-Werror",
        "all-warnings",
        *include,
        "-c",
        "unit.cu",
        "-o",
        "unit.o",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SANITIZED = """
import sys
from pathlib import Path
from simt import harness, test_planted
simt = harness.Simt(Path(sys.argv[2]))
for kernel, run in test_planted.RUNS.items():
    run(simt, kernel + ".correct", seed=1).check()
print("correct", flush=True)
test_planted.RUNS["rows"](simt, "rows." + sys.argv[1])
print("passed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("write_past_buffer", "use-after-poison"),
        ("shared_off_by_one", "use-after-poison"),
        ("carved_off_by_one", "use-after-poison"),
        ("misaligned", "misaligned address"),
    ],
)
def test_sanitizers_see_the_kernels(bug: str, message: str) -> None:
    done = harness.run_under_asan("-c", SANITIZED, bug, str(harness.build("planted_asan")))
    assert done.stdout == "correct\n", done.stderr[-2000:]
    assert done.returncode != 0
    assert message in done.stderr
    assert "rows.cuh" in done.stderr
