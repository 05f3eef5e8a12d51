"""What every CUDA launch of an op does for a shape: blocks, passes of its loop, bytes. From the kernels' own plans.

An item is one pass of one warp through the kernel's main loop before unrolling: 32 pairs, or one dimension of a tile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

FLOAT = 4  # bytes
MEDIAN_STATE = 8 * (2048 + 3)  # bytes of MedianState in csrc/median/cuda/select.cuh
MEDIAN_PASSES = 3  # for float


@dataclasses.dataclass(frozen=True)
class Work:
    """All launches of one kernel in one call of an op."""

    kernel: str
    launches: int
    blocks: int  # of one launch
    threads: int  # of a block
    items: float  # of one launch
    marker: str  # opcode by which the loop is known
    per_item: float  # how often one item executes it
    filled: float = 0  # bytes that blocks read, the same ones once for each block
    written: float = 0  # bytes
    least: float = 0  # bytes that must come from or go to memory
    rounds: float = 0  # loads of a block that wait for one another
    wavefronts: float = 1  # of one shared-memory read in the loop
    without: str = "$"  # opcode that the loop does not have
    innermost: bool = True  # False: the loop has loops inside, which are rarely executed
    around: float = 0  # passes of a warp through the loop around that loop, which has instructions of that kind as well
    shared: int = 0  # bytes of dynamic shared memory of a block
    overlaps: bool = False  # copies go on while the block computes
    # Loops that copy within a block: the opcode by which each is known, and the bytes that it moves in one launch.
    copies: tuple[tuple[str, float], ...] = ()


Plan = Callable[..., dict[str, Any]]


def padded(dim: int) -> int:
    return next(p for p in (2, 4, 8, 16, 32, 64, 128, dim) if dim <= p)


def small(kernel: str, plan: dict[str, Any], m: int, dim: int, arrays: int, written: float) -> Work:
    """A kernel whose lanes take the columns of their row in turn."""
    threads, lanes, cols, blocks = plan["threads"], plan["lanes"], plan["cols"], plan["grid"]
    rows = threads / lanes
    return Work(
        f"{kernel}<float, {padded(dim)}>",
        1,
        blocks,
        threads,
        blocks * threads / 32 * -(-min(m, cols) // lanes),
        r"MUFU\.EX2",
        1,
        filled=FLOAT * blocks * dim * arrays * (min(m, cols) + min(m, rows)),
        written=FLOAT * written,
        least=FLOAT * (plan["batch"] * m * dim * arrays + written),
        rounds=-(-min(m, cols) // threads),
        wavefronts=max(1.0, lanes * 16 / 128),
    )


def rows_of(kernel: str, rows: int, length: int, parts: int, arrays: int, written: float, launches: int = 1) -> Work:
    """A kernel with a group of lanes for each row, which take packs of its numbers in turn and add their parts."""
    lanes = next((n for n in (1, 2, 4, 8, 16, 32) if 4 * n >= length), 128 if length > 512 else 32)
    chunks = -(-length // (4 * lanes))
    return Work(
        kernel,
        launches,
        -(-rows * lanes // 128),
        128,
        rows * lanes / 32 * chunks * parts * arrays,
        "LDG",
        1,
        filled=FLOAT * rows * length * parts * arrays,
        written=FLOAT * written,
        least=0,
        rounds=chunks * -(-parts // 4),
    )


def _jacobian(plan: dict[str, Any], batch: int, m: int, dim: int, arrays: int) -> list[Work]:
    """csrc/jacobian/cuda/forward.cuh: an item is a column's kernel values and products for the warp's particles."""
    blocks, particles = plan["grid"], plan["particles"]
    items = blocks * 4 * -(-m // plan["slices"])
    p = 2 * plan["lanes"]
    filled = FLOAT * blocks * dim * (2 * m + arrays * particles)
    return [
        Work(
            f"jacobian_kernel<float, {p}>",
            1,
            blocks,
            128,
            items,
            "SHFL",
            1,
            filled=filled,
            written=FLOAT * batch * m,
            rounds=-(-m // 32),
        )
    ]


def svgd_logdet(plan_of: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """With a Hessian, of at most 16 dimensions."""
    return _jacobian(plan_of("jacobian", batch, m, m, dim), batch, m, dim, 1 + dim) if dim <= 16 else []


def svgd_jacobian_sqnorm(plan_of: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """With a probe. Its Gram route consists of products of torch's, which the model does not know."""
    plan = plan_of("jacobian", batch, m, m, dim)
    if "grid" in plan:
        return _jacobian(plan, batch, m, dim, 3)
    p, blocks = plan["matrix"], batch * m
    if p == 0:
        return []
    columns = 32 if p <= 64 else 16
    # An item is one column of all products of a warp.
    return [
        Work(
            f"jacobian_matrix_kernel<float, {p}>",
            1,
            blocks,
            256,
            blocks * 8 * m,
            "DFMA",
            (p // 16) ** 2,
            filled=FLOAT * blocks * dim * (2 * m + 3),
            written=FLOAT * blocks,
            rounds=-(-m // columns),
            wavefronts=2,
            without="MUFU",
        )
    ]


def median_distance(_: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """The kernels of csrc/median/cuda/select.cuh."""
    if m <= 128 and m * (dim | 1) <= 8320:
        steps = sum(-(-(m - row // 32 * 32) // 32) for row in range(m))
        small = Work(
            "median_small<float>",
            1,
            batch,
            256,
            batch * 4 * steps * dim,
            "FFMA",
            1,
            filled=FLOAT * batch * m * dim,
            least=FLOAT * batch * m * dim,
            rounds=4,
            shared=FLOAT * m * (dim | 1),
        )
        return [small]
    tiles = -(-m // 64)
    chunks = min(tiles, max(1, 512 // (batch * tiles)))
    blocks, state = batch * tiles * chunks, batch * MEDIAN_STATE
    per_block = -(-tiles // chunks)
    reads = FLOAT * blocks * per_block * 2 * 64 * dim
    return [
        Work("median_start", 1, batch, 256, batch * 8 * 2048 / 256, "STG", 1, written=state, rounds=1),
        Work(
            "median_count<float>",
            MEDIAN_PASSES,
            blocks,
            256,
            blocks * 8 * dim * per_block,
            "FFMA",
            16,
            filled=reads,
            rounds=per_block * -(-dim // 16) + 1,
            without="LDG",
        ),
        Work(
            "median_select<float>",
            MEDIAN_PASSES,
            batch,
            256,
            batch * 8 * 2048 / 256,
            "LDG",
            1,
            filled=state,
            written=state,
            rounds=3,
        ),
    ]
