"""SVGD over particles that are sharded along M over the ranks of a process group of torch.distributed.

Each rank holds its shard of the particles, (..., M_p, D), of any size including 0, and gets the results of its own
particles. Blocks of positions and scores travel round a ring, and the next block is transferred while the current one
is processed. Up to rounding, results equal those of :mod:`svgdx.ops` on all M particles.

- Every rank of the group calls the same functions in the same order. Before any work the ranks compare their inputs: if
  shapes, dtypes or the need for a gradient differ, or if one rank's input is refused, every rank raises an error that
  names the rank.
- A missing rank raises after the group's timeout (`timeout` of `torch.distributed.init_process_group`).
- A bandwidth or step size must be the same on every rank.
- Gradients: every rank calls backward, on losses that depend on the same results. The differentiated loss is the sum of
  the ranks' losses, in which a number that is the same on all ranks (`ksd`, `Shards.mean`) counts once. Gradients of x
  and score are those of the shard. For a bandwidth or another number that all ranks share, each rank gets a part of the
  gradient, and `sum_gradients` sums the parts.

The memory of a rank is a few times its own shard and two visiting blocks, O(M / P D), unless a function says otherwise.
"""

from svgdx.distributed.chain import ShardedPlacement
from svgdx.distributed.median import median_distance
from svgdx.distributed.ops import (
    ksd,
    step_bound,
    svgd_jacobian_sqnorm,
    svgd_logdet,
    svgd_phi,
    svgd_phi_trace,
    svgd_step,
)
from svgdx.distributed.shards import Shards, even_split, sum_gradients

__all__ = [
    "ShardedPlacement",
    "Shards",
    "even_split",
    "ksd",
    "median_distance",
    "step_bound",
    "sum_gradients",
    "svgd_jacobian_sqnorm",
    "svgd_logdet",
    "svgd_phi",
    "svgd_phi_trace",
    "svgd_step",
]
