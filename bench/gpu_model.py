"""Operations and minimal bytes of every CUDA kernel launch, counted from their source, and the lower bound on its time
that follows from a GPU's datasheet (roofline).

An operation is a float32 addition, multiplication or exponential; a fused multiply-add is two. Padding to the next
tile is not counted. Bytes: every array element that a kernel reads or writes, once. Scratch counts like any array,
although on a GPU it may stay in the second-level cache; a block processed in several launches reads its inputs again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FLOAT = 4  # bytes
MEDIAN_BINS = 2048  # of csrc/median/cuda/select.cuh
MEDIAN_STATE = 8 * (MEDIAN_BINS + 3)  # bytes of MedianState
MEDIAN_PASSES = 3  # for float


@dataclass(frozen=True)
class Gpu:
    """A GPU's peak float32 rate without tensor cores, and its memory bandwidth."""

    name: str
    flops: float
    bandwidth: float


GPUS = (
    # NVIDIA A100 Tensor Core GPU datasheet, A100 80GB SXM: FP32 19.5 TFLOPS; GPU memory bandwidth 2,039 GB/s.
    Gpu("A100", 19.5e12, 2.039e12),
    # NVIDIA H100 Tensor Core GPU datasheet, H100 SXM: FP32 67 teraFLOPS; GPU memory bandwidth 3.35 TB/s.
    Gpu("H100", 67e12, 3.35e12),
    # NVIDIA Blackwell Architecture Technical Brief, HGX B200, each GPU: FP32 80 TFLOPS; memory bandwidth 8 TB/s.
    Gpu("B200", 80e12, 8e12),
)


@dataclass(frozen=True)
class Work:
    """All launches of one kernel in one call of an op."""

    kernel: str
    launches: int
    operations: float
    bytes: float

    def bound(self, gpu: Gpu) -> float:
        """Lower bound on the time in seconds, from the datasheet."""
        return max(self.operations / gpu.flops, self.bytes / gpu.bandwidth)

    def limit(self, gpu: Gpu) -> str:
        return "compute" if self.operations / gpu.flops > self.bytes / gpu.bandwidth else "memory"


Plan = Callable[..., dict[str, Any]]


def padded(dim: int) -> int:
    return next(p for p in (2, 4, 8, 16) if dim <= p)


def _work(kernel: str, launches: int, operations: float, elements: float) -> Work:
    return Work(kernel, launches, operations, FLOAT * elements)


def _blocks(plan: dict[str, Any], batch: int, m: int, dim: int) -> tuple[int, float, float]:
    """Number of launches, and the elements of one row array and one column array that all of them read."""
    rows, cols = -(-m // plan["rows"]), -(-m // plan["cols"])
    return plan["blocks"], batch * m * dim * cols, batch * m * dim * rows


def svgd_phi_trace(plan_of: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """The kernels of csrc/field/cuda/forward.cuh and forward_large.cuh."""
    plan = plan_of("forward", batch, m, m, dim)
    rows, pairs = batch * m, batch * m * m
    if not plan["large"]:
        # Per dimension: r 1, z 2, |r|^2 2, r.z 2, sum 2. Per pair: exponent 1, exp 1, trace 3.
        splits = plan["splits"]
        kernel = f"field_forward_kernel<float, {padded(dim)}>"
        works = [_work(kernel, 1, pairs * (9 * dim + 5), rows * (2 * dim + splits * (dim + 1)))]
        if splits > 1:
            works.append(_finish_forward(rows, dim, splits, splits))
        return works
    launches, row_array, col_array = _blocks(plan, batch, m, dim)
    splits, parts = plan["dim_splits"], plan["parts"]
    return [
        # Per dimension: r 1, |r|^2 2, r.s 2.
        _work(
            "pair_sums_kernel<float, ForwardPairs>",
            launches,
            pairs * 5 * dim,
            row_array + 2 * col_array + 2 * splits * pairs,
        ),
        _work("forward_kernel_values<float>", launches, pairs * (2 * splits + 7), (2 * splits + 1) * pairs + rows),
        # Per dimension: r 1, z 2, sum 2.
        _work(
            "product_kernel<float, ForwardProduct>",
            launches,
            pairs * 5 * dim,
            pairs + row_array + 2 * col_array + parts * row_array,
        ),
        _finish_forward(rows, dim, parts, 1),
    ]


def _finish_forward(rows: int, dim: int, parts: int, trace_parts: int) -> Work:
    return _work(
        "finish_field_kernel<float>",
        1,
        rows * (dim * (parts + 1) + trace_parts),
        rows * (dim * (parts + 1) + trace_parts + 1),
    )


def svgd_phi_trace_backward(plan_of: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """The kernels of csrc/field/cuda/backward.cuh and backward_large.cuh."""
    plan = plan_of("backward", batch, m, m, dim)
    rows, pairs = batch * m, batch * m * m
    inputs, outputs = rows * (3 * dim + 1), rows * (2 * dim + 1)
    if not plan["large"]:
        # Per dimension: r 1, z_ij 2, z_ji 2, five sums 10; then x_sum 4 + 2 and score_sum 4. Per pair: weights 24.
        splits = plan["splits"]
        written = outputs if splits == 1 else splits * rows * (2 * dim + 4)
        kernel = f"field_backward_kernel<float, {padded(dim)}>"
        works = [_work(kernel, 1, pairs * (25 * dim + 24), inputs + written)]
        if splits > 1:
            works.append(_finish_backward(rows, dim, splits, splits))
        return works
    launches, row_array, col_array = _blocks(plan, batch, m, dim)
    splits, parts = plan["dim_splits"], plan["parts"]
    return [
        _work(
            "pair_sums_kernel<float, BackwardPairs>",
            launches,
            pairs * 15 * dim,
            3 * row_array + 3 * col_array + 5 * splits * pairs,
        ),
        _work("backward_weights<float>", launches, pairs * (5 * splits + 24), (5 * splits + 2) * pairs + 6 * rows),
        _work(
            "product_kernel<float, BackwardProduct>",
            launches,
            pairs * 10 * dim,
            2 * pairs + row_array + 3 * col_array + 2 * parts * row_array,
        ),
        _finish_backward(rows, dim, parts, 1),
    ]


def _finish_backward(rows: int, dim: int, parts: int, scalar_parts: int) -> Work:
    elements = rows * (2 * dim * parts + 4 * scalar_parts + 5 * dim + 2)  # x, score, upstream in; two gradients out
    return _work("finish_field_backward_kernel<float>", 1, rows * dim * (2 * parts + 14), elements)


def svgd_logdet(_: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """Per pair: kernel value 3 D + 2; per lane (D/2 of them): differences D, two weights 4, sums 4 D."""
    pairs, rows = batch * m * m, batch * m
    operations = pairs * (2.5 * dim**2 + 7 * dim + 2) + rows * 2 / 3 * dim**3
    return [_work(f"jacobian_kernel<float, {padded(dim)}>", 1, operations, rows * (2 * dim + 1))]


def svgd_logdet_backward(_: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """First pass: the forward's sums and an inverse, 2 D^3. Second pass: kernel value 3 D + 2; per lane (D/2 of them)
    differences D, the radial part 2 D + 2, and 6 D + 18 for each of two rows."""
    pairs, rows, size = batch * m * m, batch * m, padded(dim)
    first = pairs * (2.5 * dim**2 + 7 * dim + 2) + rows * 2 * dim**3
    second = pairs * (7.5 * dim**2 + 22 * dim + 2)
    return [
        _work(f"jacobian_adjoint_kernel<float, {size}>", 1, first, rows * (2 * dim + 1 + dim**2 + 2)),
        _work(f"jacobian_gather_kernel<float, {size}>", 1, second, rows * (2 * dim + dim**2 + 1 + 2 * dim + 1)),
    ]


def median_distance(_: Plan, batch: int, m: int, dim: int) -> list[Work]:
    """Each pass forms the distances of one triangle, 3 D operations per pair, and adds to at most `bins` bins."""
    pairs, state = batch * m * (m + 1) / 2, batch * MEDIAN_STATE
    bins = 2 * 8 * batch * min(MEDIAN_BINS, m * (m + 1) / 2)
    return [
        Work("median_start", 1, 0, state),
        Work(
            "median_count<float>",
            MEDIAN_PASSES,
            MEDIAN_PASSES * pairs * 3 * dim,
            MEDIAN_PASSES * (FLOAT * batch * m * dim + bins),
        ),
        Work("median_select<float>", MEDIAN_PASSES, 0, MEDIAN_PASSES * 2 * state),
    ]


# The work of ksd and of the bandwidth's gradient after the kernels above.
def row_sum(_: Plan, batch: int, m: int, dim: int) -> list[Work]:
    return [_work("row_sum_kernel<float, float>", 1, batch * m, batch * (m + 1))]


OPS: tuple[Callable[[Plan, int, int, int], list[Work]], ...] = (
    svgd_phi_trace,
    svgd_phi_trace_backward,
    svgd_logdet,
    svgd_logdet_backward,
    median_distance,
    row_sum,
)
# batch, particles, dimensions: many small sets, one large set, pixels (not for ops limited to 16 dimensions).
SIZES = ((256, 10, 6), (256, 64, 6), (1, 4096, 16), (1, 512, 3072))


def representative(plan_of: Plan) -> list[tuple[str, tuple[int, int, int], list[Work]]]:
    """Op, size, and the work of its kernels in execution order."""
    return [
        (op.__name__, size, op(plan_of, *size))
        for op in OPS
        for size in SIZES
        if size[2] <= 16 or op.__name__.startswith("svgd_phi")
    ]
