"""What every CUDA launch of the field's ops does for a shape, see work.py."""

from __future__ import annotations

import dataclasses
from typing import Any

from gpu.work import FLOAT, Plan, Work, rows_of, small


@dataclasses.dataclass(frozen=True)
class Form:
    """How particles are stored and multiplied."""

    name: str
    number: int = FLOAT  # bytes of a number of a particle
    parts: int = 2  # of TF32: two numbers take three products, one takes one

    def products(self, count: int) -> int:
        return count if self.parts == 2 else count // 3

    def copies(self, numbers: float, others: float = 0) -> tuple[tuple[str, float], ...]:
        """Loops of the expanded kernels that copy numbers of particles, and others in float32."""
        if self.number == FLOAT:
            return ((r"LDGSTS\.E\.BYPASS\.128", FLOAT * (numbers + others)),)
        floats = ((r"LDGSTS\.E\.BYPASS\.128", FLOAT * others),) if others else ()
        return *floats, (r"LDGSTS\.E\.64", self.number * numbers), (r"STS\.128", FLOAT * numbers)


FLOAT32, BFLOAT16, TF32 = Form("float32"), Form("bfloat16", number=2), Form("TF32", parts=1)


def _pair_sums(plan: dict[str, Any]) -> Work:
    rows, sums = 64, 2
    tiles = plan["batches"] * -(-plan["rows"] // rows) * -(-plan["cols"] // 64) * plan["dim_splits"]
    dims = min(plan["dims_per_split"], plan["dim"])
    return Work(
        "pair_sums_kernel<float, ForwardPairs>",
        plan["launches"],
        tiles,
        256,
        tiles * 8 * dims,
        "FFMA",
        2 * rows * 64 / 256,
        filled=FLOAT * tiles * dims * (rows + 64 * 2),
        written=FLOAT * sums * plan["dim_splits"] * plan["batches"] * plan["rows"] * plan["cols"],
        rounds=-(-dims // 16),
        without="LDG",
    )


def _product(plan: dict[str, Any]) -> Work:
    blocks = plan["batches"] * -(-plan["rows"] // 128) * -(-plan["dim"] // 32) * plan["parts"]
    cols = min(plan["cols"], plan["cols_per_part"])
    return Work(
        "product_kernel<float, ForwardProduct>",
        plan["launches"],
        blocks,
        256,
        blocks * 8 * cols,
        "FFMA",
        2 * 16,
        filled=FLOAT * blocks * cols * (128 + 32 * 2),
        written=FLOAT * plan["parts"] * plan["batches"] * plan["rows"] * plan["dim"],
        rounds=-(-cols // 16),
        without="LDG",
    )


def _fused(plan: dict[str, Any], rows: int, m: int, dim: int, form: Form, forward: bool = True) -> list[Work]:
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
        f"field_{kernel}_kernel<{plan['fused']}{f', {tiles}' if narrow else ''}, {form.parts}>",
        1,
        blocks,
        128,
        pairs if narrow else pairs * -(-dim // 8),
        r"HMMA\.1688",
        form.products(9 * tiles * padded_dims if narrow else 12 if forward else 21),
        filled=form.number * blocks * dim * arrays * (cols + warp_rows * row_warps / (2 if forward else 1)),
        written=FLOAT * parts,
        least=form.number * rows * dim * arrays + FLOAT * parts,
        rounds=-(-cols // plan["tile_cols"]),
        around=0 if narrow else pairs,
        shared=plan["shared"],
        innermost=not narrow,
    )
    return _completed(fused, splits, rows, dim, forward)


def _completed(work: Work, splits: int, rows: int, dim: int, forward: bool) -> list[Work]:
    """A kernel that sums over columns, and the one that adds its sums up if the columns are split."""
    outs = 1 if forward else 2
    finish = f"finish_field{'' if forward else '_backward'}_kernel<float>"
    return [work] if splits == 1 else [work, rows_of(finish, rows, dim, splits, outs, outs * rows * dim)]


def svgd_phi_trace(plan_of: Plan, batch: int, m: int, dim: int, form: Form = FLOAT32) -> list[Work]:
    """The kernels of csrc/field/cuda/forward.cuh and forward_large.cuh."""
    plan = {**plan_of("forward", batch, m, m, dim), "batch": batch, "dim": dim}
    rows = batch * m
    if "fused" in plan:
        return _fused(plan, rows, m, dim, form)
    if not plan["large"]:
        work = small("field_forward_kernel", plan, m, dim, 2, rows * plan["splits"] * (dim + 1))
        return _completed(work, plan["splits"], rows, dim, True)
    block_rows, cols = plan["batches"] * plan["rows"], plan["cols"]
    values = (block_rows, cols, plan["dim_splits"], 2, block_rows * cols, plan["launches"])
    finish = rows_of(
        "finish_field_kernel<float>", block_rows, dim, plan["parts"], 1, block_rows * dim, plan["launches"]
    )
    if plan["expanded"]:
        return [*_expanded(plan, form), *([] if plan["parts"] == 1 else [finish])]
    return [
        _pair_sums(plan),
        rows_of("forward_kernel_values<float>", *values),
        _product(plan),
        finish,
    ]


def _pair_products(plan: dict[str, Any], arrays: int, tiles: tuple[int, int], launches: int, form: Form) -> Work:
    """csrc/field/cuda/expanded/product.cuh: an item is eight summands of 64 rows and 64 columns; `tiles` of both."""
    blocks = plan["batches"] * tiles[0] * tiles[1] * plan["dim_splits"] * arrays
    dims = min(plan["dims_per_split"], plan["dim"])
    numbers = blocks * dims * 3 * 64
    return Work(
        kernel=f"pair_products_kernel<{arrays}, {form.parts}>",
        launches=launches,
        blocks=blocks,
        threads=128,
        items=blocks * 4 * -(-dims // 8),
        marker=r"HMMA\.1688",
        per_item=form.products(48),
        filled=form.number * numbers,
        written=FLOAT * 2 * blocks * 64 * 64,
        rounds=1,
        shared=FLOAT * 2 * ((2 + arrays) * 64 * 36 + 32),
        overlaps=True,
        copies=form.copies(numbers),
    )


def _expanded(plan: dict[str, Any], form: Form) -> list[Work]:
    """The kernels of csrc/field/cuda/expanded: an item of products is eight columns of 64 rows and 64 dimensions."""
    rows, cols, dim, batches = plan["rows"], plan["cols"], plan["dim"], plan["batches"]
    products = batches * -(-rows // 64) * -(-dim // 64) * plan["parts"]
    per_part = min(cols, plan["cols_per_part"])
    common = {"launches": plan["launches"], "threads": 128, "marker": r"HMMA\.1688", "rounds": 1, "overlaps": True}
    values, numbers = products * per_part * 64, products * per_part * 128
    value_products = Work(
        kernel=f"value_products_kernel<{form.parts}>",
        blocks=products,
        items=products * 4 * -(-per_part // 8),
        per_item=form.products(24),
        filled=FLOAT * values + form.number * numbers,
        copies=form.copies(numbers, values),
        written=FLOAT * plan["parts"] * batches * rows * dim,
        shared=FLOAT * 2 * (64 * 36 + 2 * 32 * 72),
        **common,
    )
    groups, value_rows = plan["value_groups"], plan["value_rows"]
    columns, splits = 512 // (groups * value_rows), -(-plan["dim_splits"] // groups)
    pieces = -(-cols // columns)
    blocks = -(-batches * rows // value_rows)
    # An item is the two sums of 128 columns, or fewer, of one split.
    kernel_values = Work(
        kernel="expanded_kernel_values",
        launches=plan["launches"],
        blocks=blocks,
        threads=128,
        items=blocks * pieces * 4 * splits,
        marker="LDG",
        per_item=4,
        filled=FLOAT * 4 * plan["dim_splits"] * batches * rows * cols,
        written=FLOAT * batches * rows * cols,
        rounds=pieces * (-(-splits // 4) + 1),
    )
    tiles = -(-rows // 64), -(-cols // 64)
    return [_pair_products(plan, 1, tiles, plan["launches"], form), kernel_values, value_products]


def _expanded_backward(plan: dict[str, Any], m: int, form: Form) -> list[Work]:
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
        threads=256,
        # An item is one sum of one split for 32 x 4 pairs.
        items=batches * -(-rows // 8) * -(-rows // 128) * 8 * 4 * plan["dim_splits"],
        marker="LDG",
        per_item=2,
        filled=FLOAT * 7 * plan["dim_splits"] * pairs,
        written=FLOAT * 2 * pairs,
        rounds=-(-rows // 128) * (plan["dim_splits"] + 1),
        innermost=False,
    )
    blocks = batches * tiles * -(-dim // 64) * plan["parts"]
    per_part = min(rows, plan["cols_per_part"])
    values, numbers = blocks * per_part * 64 * 2, blocks * per_part * 64 * 3
    products = Work(
        kernel=f"grad_products_kernel<{form.parts}>",
        launches=gathers,
        blocks=blocks,
        threads=128,
        items=blocks * 4 * -(-per_part // 8),
        marker=r"HMMA\.1688",
        per_item=form.products(72),
        filled=FLOAT * values + form.number * numbers,
        copies=form.copies(numbers, values),
        written=FLOAT * 2 * plan["parts"] * batches * rows * dim,
        rounds=1,
        shared=FLOAT * 2 * (2 * 64 * 20 + 3 * 16 * 72 + 16),
        overlaps=True,
    )
    all_rows = batches * m
    finish = rows_of("finish_field_backward_kernel<float>", all_rows, dim, plan["parts"], 2, 2 * all_rows * dim, calls)
    return [_pair_products(plan, 2, (tiles, tiles), gathers, form), weights, products, finish]


def svgd_phi_trace_backward(plan_of: Plan, batch: int, m: int, dim: int, form: Form = FLOAT32) -> list[Work]:
    """The kernels of csrc/field/cuda/backward.cuh and of its folders fused and expanded."""
    plan = {**plan_of("backward", batch, m, m, dim), "batch": batch, "dim": dim}
    rows = batch * m
    if "fused" in plan:
        return _fused(plan, rows, m, dim, form, False)
    if not plan["large"]:
        work = small("field_backward_kernel", plan, m, dim, 3, rows * plan["splits"] * (2 * dim + 4))
        return _completed(work, plan["splits"], rows, dim, False)
    return _expanded_backward(plan, m, form)


def svgd_step(plan_of: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """The kernels of svgd_phi_trace, which write the update instead of the field."""
    return svgd_phi_trace(plan_of, batch, m, dim)
