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


Plan = Callable[..., dict[str, Any]]


def padded(dim: int) -> int:
    return next(p for p in (2, 4, 8, 16, 32, 64, 128, dim) if dim <= p)


def _small(kernel: str, plan: dict[str, Any], m: int, dim: int, arrays: int, written: float) -> Work:
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


def _rows(kernel: str, rows: int, length: int, parts: int, arrays: int, written: float, launches: int = 1) -> Work:
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


def _pair_sums(plan: dict[str, Any], mode: str, rows: int, arrays: tuple[int, int], sums: int, fused: int) -> Work:
    tiles = plan["batches"] * -(-plan["rows"] // rows) * -(-plan["cols"] // 64) * plan["dim_splits"]
    dims = min(plan["dims_per_split"], plan["dim"])
    return Work(
        f"pair_sums_kernel<float, {mode}Pairs>",
        plan["launches"],
        tiles,
        256,
        tiles * 8 * dims,
        "FFMA",
        fused * rows * 64 / 256,
        filled=FLOAT * tiles * dims * (rows * arrays[0] + 64 * arrays[1]),
        written=FLOAT * sums * plan["dim_splits"] * plan["batches"] * plan["rows"] * plan["cols"],
        rounds=-(-dims // 16),
        without="LDG",
    )


def _product(plan: dict[str, Any], mode: str, matrices: int, arrays: int, outs: int, fused: int) -> Work:
    blocks = plan["batches"] * -(-plan["rows"] // 128) * -(-plan["dim"] // 32) * plan["parts"]
    cols = min(plan["cols"], plan["cols_per_part"])
    return Work(
        f"product_kernel<float, {mode}Product>",
        plan["launches"],
        blocks,
        256,
        blocks * 8 * cols,
        "FFMA",
        fused * 16,
        filled=FLOAT * blocks * cols * (128 * matrices + 32 * arrays),
        written=FLOAT * outs * plan["parts"] * plan["batches"] * plan["rows"] * plan["dim"],
        rounds=-(-cols // 16),
        without="LDG",
    )


def _fused(plan: dict[str, Any], rows: int, m: int, dim: int, forward: bool = True) -> list[Work]:
    """The kernels of csrc/field/cuda/fused: an item is eight dimensions of 16 rows and 16 columns, in the backward pass
    8; up to 32 dimensions it is all dimensions of a warp's rows and eight columns in the forward pass."""
    blocks, splits, row_warps, warp_rows = plan["grid"], plan["splits"], plan["row_warps"], plan["warp_rows"]
    cols, arrays, outs = min(m, plan["cols"]), (2 if forward else 3), (dim + 1 if forward else 2 * dim + 4)
    parts = rows * splits * outs
    narrow = forward and plan["fused"] <= 32
    pairs = blocks * row_warps * -(-cols // (8 if narrow or not forward else 16))
    tiles, padded_dims = warp_rows // 16, plan["fused"] // 8
    kernel = "narrow" if narrow else "fused" if forward else "fused_backward"
    fused = Work(
        f"field_{kernel}_kernel<{plan['fused']}{f', {tiles}' if narrow else ''}>",
        1,
        blocks,
        128,
        pairs if narrow else pairs * -(-dim // 8),
        r"HMMA\.1688",
        9 * tiles * padded_dims if narrow else 12 if forward else 21,
        filled=FLOAT * blocks * dim * arrays * (cols + warp_rows * row_warps / (2 if forward else 1)),
        written=FLOAT * parts,
        least=FLOAT * (rows * dim * arrays + parts),
        rounds=-(-cols // plan["tile_cols"]),
        around=0 if narrow else pairs,
        shared=plan["shared"],
        innermost=not narrow,
    )
    finish = f"finish_field{'' if forward else '_backward'}_kernel<float>"
    return [fused] if splits == 1 else [fused, _rows(finish, rows, dim, splits, arrays - 1, (arrays - 1) * rows * dim)]


def svgd_phi_trace(plan_of: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """The kernels of csrc/field/cuda/forward.cuh and forward_large.cuh."""
    plan = {**plan_of("forward", batch, m, m, dim), "batch": batch, "dim": dim}
    rows = batch * m
    if "fused" in plan:
        return _fused(plan, rows, m, dim)
    if not plan["large"]:
        works = [_small("field_forward_kernel", plan, m, dim, 2, rows * plan["splits"] * (dim + 1))]
        if plan["splits"] > 1:
            works.append(_rows("finish_field_kernel<float>", rows, dim, plan["splits"], 1, rows * dim))
        return works
    block_rows, cols = plan["batches"] * plan["rows"], plan["cols"]
    values = (block_rows, cols, plan["dim_splits"], 2, block_rows * cols, plan["launches"])
    finish = _rows("finish_field_kernel<float>", block_rows, dim, plan["parts"], 1, block_rows * dim, plan["launches"])
    if plan["expanded"]:
        return [*_expanded(plan), *([] if plan["parts"] == 1 else [finish])]
    return [
        _pair_sums(plan, "Forward", 64, (1, 2), 2, 2),
        _rows("forward_kernel_values<float>", *values),
        _product(plan, "Forward", 1, 2, 1, 2),
        finish,
    ]


def _pair_products(plan: dict[str, Any], arrays: int, tiles: tuple[int, int], launches: int) -> Work:
    """csrc/field/cuda/expanded/product.cuh: an item is eight summands of 64 rows and 64 columns; tiles of rows, columns."""
    blocks = plan["batches"] * tiles[0] * tiles[1] * plan["dim_splits"] * arrays
    dims = min(plan["dims_per_split"], plan["dim"])
    return Work(
        kernel=f"pair_products_kernel<{arrays}>",
        launches=launches,
        blocks=blocks,
        threads=128,
        items=blocks * 4 * -(-dims // 8),
        marker=r"HMMA\.1688",
        per_item=48,
        filled=FLOAT * blocks * dims * 3 * 64,
        written=FLOAT * 2 * blocks * 64 * 64,
        rounds=1,
        shared=FLOAT * 2 * ((2 + arrays) * 64 * 36 + 32),
        overlaps=True,
    )


def _expanded(plan: dict[str, Any]) -> list[Work]:
    """The kernels of csrc/field/cuda/expanded: an item of products is eight columns of 64 rows and 64 dimensions."""
    rows, cols, dim, batches = plan["rows"], plan["cols"], plan["dim"], plan["batches"]
    products = batches * -(-rows // 64) * -(-dim // 64) * plan["parts"]
    per_part = min(cols, plan["cols_per_part"])
    common = {"launches": plan["launches"], "threads": 128, "marker": r"HMMA\.1688", "rounds": 1, "overlaps": True}
    value_products = Work(
        kernel="value_products_kernel",
        blocks=products,
        items=products * 4 * -(-per_part // 8),
        per_item=24,
        filled=FLOAT * products * per_part * 192,
        written=FLOAT * plan["parts"] * batches * rows * dim,
        shared=FLOAT * 2 * (64 * 36 + 2 * 32 * 72),
        **common,
    )
    columns, splits = 512 // plan["value_groups"], -(-plan["dim_splits"] // plan["value_groups"])
    pieces = -(-cols // columns)
    # An item is the two sums of 128 columns, or fewer, of one split.
    kernel_values = Work(
        kernel="expanded_kernel_values",
        launches=plan["launches"],
        blocks=batches * rows,
        threads=128,
        items=batches * rows * pieces * 4 * splits,
        marker="LDG",
        per_item=4,
        filled=FLOAT * 4 * plan["dim_splits"] * batches * rows * cols,
        written=FLOAT * batches * rows * cols,
        rounds=pieces * (-(-splits // 4) + 1),
    )
    tiles = -(-rows // 64), -(-cols // 64)
    return [_pair_products(plan, 1, tiles, plan["launches"]), kernel_values, value_products]


def _expanded_backward(plan: dict[str, Any], m: int) -> list[Work]:
    """The same of the backward pass, whose blocks of pairs are squares."""
    dim, batches, rows = plan["dim"], plan["batches"], min(m, plan["rows"])
    calls = -(-plan["batch"] // batches)
    squares, tiles = -(-m // rows), -(-rows // 64)
    gathers = calls * squares**2
    pairs = batches * rows * rows
    weights = Work(
        kernel="expanded_grad_weights",
        launches=gathers,
        blocks=batches * -(-rows // 8),
        threads=128,
        # An item is one sum of one split for 32 x 4 pairs.
        items=batches * -(-rows // 8) * -(-rows // 64) * 4 * 4 * plan["dim_splits"],
        marker="LDG",
        per_item=2,
        filled=FLOAT * 7 * plan["dim_splits"] * pairs,
        written=FLOAT * 2 * pairs,
        rounds=-(-rows // 64) * (-(-plan["dim_splits"] // 2) + 1),
        innermost=False,
    )
    blocks = batches * tiles * -(-dim // 64) * plan["parts"]
    per_part = min(rows, plan["cols_per_part"])
    products = Work(
        kernel="grad_products_kernel",
        launches=gathers,
        blocks=blocks,
        threads=128,
        items=blocks * 4 * -(-per_part // 8),
        marker=r"HMMA\.1688",
        per_item=72,
        filled=FLOAT * blocks * per_part * 64 * 5,
        written=FLOAT * 2 * plan["parts"] * batches * rows * dim,
        rounds=1,
        shared=FLOAT * 2 * (2 * 64 * 20 + 3 * 16 * 72 + 16),
        overlaps=True,
    )
    all_rows = batches * m
    finish = _rows("finish_field_backward_kernel<float>", all_rows, dim, plan["parts"], 2, 2 * all_rows * dim, calls)
    return [_pair_products(plan, 2, (tiles, tiles), gathers), weights, products, finish]


def svgd_phi_trace_backward(plan_of: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """The kernels of csrc/field/cuda/backward.cuh and of its folders fused and expanded."""
    plan = {**plan_of("backward", batch, m, m, dim), "batch": batch, "dim": dim}
    rows = batch * m
    if "fused" in plan:
        return _fused(plan, rows, m, dim, False)
    if not plan["large"]:
        works = [_small("field_backward_kernel", plan, m, dim, 3, rows * plan["splits"] * (2 * dim + 4))]
        if plan["splits"] > 1:
            works.append(_rows("finish_field_backward_kernel<float>", rows, dim, plan["splits"], 2, 2 * rows * dim))
        return works
    return _expanded_backward(plan, m)


def svgd_step(plan_of: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """The kernels of svgd_phi_trace, which write the update instead of the field."""
    return svgd_phi_trace(plan_of, batch, m, dim)


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


OPS: tuple[Callable[[Plan, int, int, int], list[Work]], ...] = (
    svgd_phi_trace,
    svgd_phi_trace_backward,
    svgd_step,
    svgd_jacobian_sqnorm,
    svgd_logdet,
    median_distance,
)
# batch, particles, dimensions: the shapes of bench_field.py, one chain, and both sides of the routes' limits.
SIZES = (
    (256, 10, 6),
    (256, 64, 6),
    (1, 1000, 2),
    (1, 64, 64),
    (4, 512, 64),
    (1, 4096, 16),
    (1, 16384, 16),
    (1, 2500, 50),
    (1, 2500, 100),
    (64, 64, 128),
    (1, 512, 128),
    (1, 1024, 200),
    (1, 128, 3072),
    (1, 512, 3072),
)


def representative(plan_of: Plan) -> list[tuple[str, tuple[int, int, int], list[Work]]]:
    """Op, size, and the work of its kernels in execution order."""
    calls = [(op.__name__, size, op(plan_of, *size)) for op in OPS for size in SIZES]
    return [call for call in calls if call[2]]
