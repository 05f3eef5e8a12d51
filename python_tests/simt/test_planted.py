"""Proof that the harness can fail: every planted bug is reported with kind and line, the correct kernels never are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from simt import harness

PLANTED = harness.SOURCE / "planted"
SCHEDULES = [(seed, preempt) for seed in range(5) for preempt in (0.0, 0.05)]

# bug -> (copied kernel, kind of report)
BUGS = {
    "no_barrier_after_load": ("rows", "shared-race"),
    "no_barrier_before_reload": ("rows", "shared-race"),
    "no_barrier_in_reduction": ("rows", "shared-race"),
    "shared_off_by_one": ("rows", "out-of-bounds"),
    "carved_off_by_one": ("rows", "out-of-bounds"),
    "write_past_buffer": ("rows", "out-of-bounds"),
    "early_return": ("rows", "barrier-divergence"),
    "half_block": ("rows", "barrier-divergence"),
    "uncleared_padding": ("rows", "uninitialized-read"),
    "misaligned": ("rows", "misaligned"),
    "unaligned_shared": ("rows", "misaligned"),
    "no_syncwarp": ("warps", "shared-race"),
    "shuffle_as_sync": ("warps", "shared-race"),
    "absent_lane": ("warps", "shuffle-absent-lane"),
    "exited_lane": ("warps", "shuffle-absent-lane"),
    "mask_without_caller": ("warps", "mask-mismatch"),
    "no_fence": ("last_block", "global-race"),
    "plain_shared_histogram": ("histogram", "shared-race"),
    "plain_global_histogram": ("histogram", "global-race"),
    "unwritten_output": ("square", "uninitialized-read"),
    "no_wait": ("copies", "uninitialized-read"),
    "no_barrier_after_wait": ("copies", "shared-race"),
    "no_barrier_before_copy": ("copies", "shared-race"),
}
FILES = {
    "rows": "rows",
    "warps": "warps",
    "last_block": "blocks",
    "histogram": "blocks",
    "square": "blocks",
    "copies": "copies",
}


@pytest.fixture(scope="module")
def simt() -> harness.Simt:
    return harness.load("planted_checked")


def run_rows(simt: harness.Simt, name: str, **options: float) -> harness.Result:
    n, dim, block = 150, 3, 64
    x = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
    sums, block_sums = np.zeros(n, np.float32), np.zeros(3, np.float32)
    args = [x, harness.out(sums), harness.out(block_sums), n, dim]
    result = simt.launch(name, 3, block, block * 16 + 16, args, **options)
    if not result.reports:
        expected = (x @ x.sum(0)).astype(np.float64)
        np.testing.assert_allclose(sums, expected, atol=1e-3)
        np.testing.assert_allclose(block_sums.sum(), expected.sum(), rtol=1e-4)
    return result


def run_warps(simt: harness.Simt, name: str, **options: float) -> harness.Result:
    n = 200
    x = np.arange(n, dtype=np.float32)
    y = np.zeros_like(x)
    result = simt.launch(name, 2, 128, 0, [x, harness.out(y), n], **options)
    if not result.reports:
        padded = np.append(x, np.zeros(56, np.float32)).reshape(-1, 32)
        expected = np.roll(padded, -1, axis=1) + padded.sum(1, keepdims=True)
        np.testing.assert_array_equal(y, expected.reshape(-1)[:n])
    return result


def run_last_block(simt: harness.Simt, name: str, **options: float) -> harness.Result:
    n = 300
    x, total, ticket = np.arange(n, dtype=np.float32), np.zeros(1, np.float32), np.zeros(1, np.uint32)
    result = simt.launch(name, 5, 64, 0, [x, harness.scratch(40), ticket, harness.out(total), n], **options)
    if not result.reports:
        assert total[0] == x.sum()
        assert ticket[0] == 5
    return result


def run_histogram(simt: harness.Simt, name: str, **options: float) -> harness.Result:
    keys, counts = np.random.default_rng(0).integers(0, 16, 500).astype(np.int32), np.zeros(16, np.int32)
    result = simt.launch(name, 3, 64, 0, [keys, counts, 500], **options)
    if not result.reports:
        np.testing.assert_array_equal(counts, np.bincount(keys, minlength=16))
    return result


def run_square(simt: harness.Simt, name: str, **options: float) -> harness.Result:
    x = np.arange(100, dtype=np.float32)
    z = np.zeros_like(x)
    result = simt.call(name, x, harness.scratch(400), harness.out(z), 100, **options)
    if not result.reports:
        np.testing.assert_array_equal(z, x * x + 1)
    return result


def run_copies(simt: harness.Simt, name: str, **options: float) -> harness.Result:
    x = np.arange(4 * 64, dtype=np.float32)
    sums = np.zeros(64, np.float32)
    result = simt.launch(name, 1, 64, 0, [x, harness.out(sums), 4], **options)
    if not result.reports:
        np.testing.assert_array_equal(sums, np.roll(x.reshape(4, 64).sum(0), -1))
    return result


RUNS: dict[str, Callable[..., harness.Result]] = {
    "rows": run_rows,
    "warps": run_warps,
    "last_block": run_last_block,
    "histogram": run_histogram,
    "square": run_square,
    "copies": run_copies,
}


def due_lines(kernel: str, bug: str) -> set[int]:
    """Lines whose comment says that the bug is due there."""
    lines = (PLANTED / f"{FILES[kernel]}.cuh").read_text().splitlines()
    return {i for i, text in enumerate(lines, 1) if bug in text.partition("// due:")[2].split()}


@pytest.mark.parametrize(("seed", "preempt"), SCHEDULES)
@pytest.mark.parametrize("kernel", RUNS)
def test_correct_kernel_has_no_report(simt: harness.Simt, kernel: str, seed: int, preempt: float) -> None:
    RUNS[kernel](simt, f"{kernel}.correct", seed=seed, preempt=preempt).check()


@pytest.mark.parametrize("preempt", [0.0, 0.05])
@pytest.mark.parametrize("bug", BUGS)
def test_bug_is_reported_by_kind_and_line(simt: harness.Simt, bug: str, preempt: float) -> None:
    kernel, kind = BUGS[bug]
    due = due_lines(kernel, bug)
    assert due, "the file marks no line for this bug"
    for seed in range(3):
        reports = RUNS[kernel](simt, f"{kernel}.{bug}", seed=seed, preempt=preempt).reports
        matching = [r for r in reports if r.kind == kind and Path(r.file).name == f"{FILES[kernel]}.cuh"]
        assert any({r.line, r.other_line} & due for r in matching), "\n".join(str(r) for r in reports)


@pytest.mark.parametrize("bug", [b for b, (_, kind) in BUGS.items() if "race" in kind or "bounds" in kind])
def test_reports_name_nothing_else(simt: harness.Simt, bug: str) -> None:
    """A race or a bad address is reported as one kind only, without follow-up reports."""
    kernel, kind = BUGS[bug]
    reports = RUNS[kernel](simt, f"{kernel}.{bug}", seed=1).reports
    # The numbers of a copy that is under way count as unwritten.
    late = bug == "no_barrier_after_load" or kernel == "copies"
    allowed = {kind, "uninitialized-read"} if late else {kind}
    allowed |= {"uninitialized-read"} if bug in ("no_barrier_in_reduction", "no_syncwarp", "shuffle_as_sync") else set()
    assert {r.kind for r in reports} <= allowed, "\n".join(str(r) for r in reports)
