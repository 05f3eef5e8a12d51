"""Chains of :class:`svgdx.SVGD` whose particles are sharded over the ranks of a process group.

Each rank moves its own particles. Directions, traces and Jacobians are summed round the ring; bandwidth heuristics, the
bound, recorded means and stopping are those of all particles, so that every rank makes the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from svgdx._checks import MAX_LOGDET_DIM
from svgdx.distributed.blocks import Field, Pairs, logdet_of, sqnorm_of
from svgdx.distributed.median import median_distance
from svgdx.distributed.ops import jacobian_rows
from svgdx.distributed.ring import ring_sum
from svgdx.distributed.shards import Shards, agree, even_split, host_values_device, sum_gradients
from svgdx.samplers.control import MetropolisHastings
from svgdx.samplers.kernels import RBF, Kernel
from svgdx.samplers.parameters import OfState
from svgdx.samplers.particles import Particles, Settings, register_sharded
from svgdx.streams import Stream

# Optimisers that treat each number on its own: they move a shard as they would move it among all particles.
_OPTIM = torch.optim
ELEMENTWISE = (_OPTIM.SGD, _OPTIM.Adam, _OPTIM.AdamW, _OPTIM.RMSprop, _OPTIM.Adagrad, _OPTIM.Adadelta, _OPTIM.Adamax)


class ShardedPlacement:
    """The particles of a sampler's chains over the ranks of a process group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def check(self, settings: Settings) -> None:
        """Raises ValueError for settings that need all particles in one process."""
        if isinstance(settings.control, MetropolisHastings):
            raise ValueError("SVGD: control metropolis-hastings and epsilon-greedy do not support a process_group")
        for name, value in (("bandwidth", settings.kernel.bandwidth), ("step_size", settings.step_size)):
            if any(isinstance(module, OfState) for module in value.modules()):
                raise ValueError(
                    f"SVGD: {name} by a module of the state does not support a process_group: it would see the state "
                    "of its rank only"
                )
        if settings.optimizer is not None:
            kind = type(settings.optimizer([torch.zeros(1, requires_grad=True)]))
            if kind not in ELEMENTWISE:
                known = ", ".join(elementwise.__name__ for elementwise in ELEMENTWISE)
                raise ValueError(
                    f"SVGD: with a process_group, optimizer must be one of {known}, but is {kind.__name__}"
                )

    def count(self, n: int | Sequence[int]) -> int:
        """This rank's share of n particles, or its entry of a sequence with one number per rank."""
        rank, size = dist.get_rank(self.group), dist.get_world_size(self.group)
        counts = even_split(n, size) if isinstance(n, int) else tuple(n)
        if len(counts) != size or min(counts) < 0 or sum(counts) < 1:
            raise ValueError(
                f"SVGD: n must be at least 1, or one number for each of {size} ranks, none negative, but is {n}"
            )
        return counts[rank]

    def stream(self, stream: Stream) -> Stream:
        """A stream whose seed follows from rank 0's stream and the number of this rank. Collective."""
        seed = torch.tensor(stream.seed() >> 1, device=host_values_device(self.group, stream.device))
        dist.broadcast(seed, dist.get_global_rank(self.group, 0), group=self.group)
        return Stream(int(seed), device=stream.device, rank=dist.get_rank(self.group))

    def particles(self, settings: Settings, x: Tensor, log_q: Tensor | None, steps: int, recorded: bool) -> Particles:
        """Counts the particles of all ranks. Collective.

        Raises RuntimeError, naming the rank, if ranks differ in shapes, dtypes, settings or gradients, or if a rank's
        settings are refused.
        """
        facts: dict[str, object] = {"steps": steps, "recorded": recorded, "kernel": type(settings.kernel).__name__}
        facts |= {name: getattr(settings, name) for name in ("bound", "hessian", "density", "divisor", "attach_every")}
        facts |= {name: type(getattr(settings, name)).__name__ for name in ("control", "stop")}
        sharded = {"x": x, "log_q": log_q}
        shards = agree("SVGD", self.group, sharded, check=lambda: self.check(settings), facts=facts)
        return Particles(ShardedEnsemble(shards), ShardedInteraction(settings.kernel, shards))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums the gradients over the ranks, in place."""
        sum_gradients(parameters, self.group)


class ShardedEnsemble:
    """Particles of which each rank holds a shard. Every method but `count` is collective."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def count(self, x: Tensor) -> int:
        return self.shards.total

    def mean(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return self.shards.mean(value)
        count = self.shards.sum(mask.to(value.dtype).sum(-1))
        return self.shards.sum(torch.where(mask, value, 0).sum(-1) / count)

    def mean_dot(self, one: Tensor, other: Tensor) -> Tensor:
        return self.shards.sum(torch.linalg.vecdot(one.flatten(-2), other.flatten(-2)) / self.shards.total)

    def maxima(self, value: Tensor) -> Tensor:
        return self.shards.max(value).unsqueeze(-1)

    def variance(self, x: Tensor) -> Tensor:
        return self.shards.variance(x)

    def median_distance(self, x: Tensor) -> Tensor:
        return median_distance(x, self.shards.group)


class ShardedInteraction:
    """A kernel between this rank's particles, (..., M_p, D), and those of all ranks. Every method is collective."""

    def __init__(self, kernel: Kernel, shards: Shards) -> None:
        self.kernel, self.shards = kernel, shards

    def phi(self, x: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
        return self.phi_trace(x, score, sigma)[0]

    def phi_trace(self, x: Tensor, score: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        kernel, shards, rows = self.kernel, self.shards, slice(0, x.shape[-2])
        if isinstance(kernel, RBF) and not kernel.bandwidth.per_dimension:
            phi, trace = ring_sum(Field(shards.total), shards, x, score, rows, sigma)
        else:
            block = Pairs(kernel.profile, shards.total, jacobian=False)
            phi, trace = ring_sum(block, shards, x, score, rows, kernel.lengths(x, sigma))
        return phi.to(x.dtype), trace.to(x.dtype)

    def step(
        self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, log_q: Tensor, hessian_trace: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        phi, trace = self.phi_trace(x, score, sigma)
        if hessian_trace is not None:
            trace = trace + hessian_trace / self.shards.total
        return x + eps[..., None, None] * phi, log_q - eps[..., None] * trace

    def sqnorm(self, x: Tensor, score: Tensor, sigma: Tensor, probe: Tensor | None, hvp: Tensor | None) -> Tensor:
        def sqnorm(jacobian: Tensor, rows: slice) -> Tensor:
            v, h = (None if vector is None else vector[..., rows, :] for vector in (probe, hvp))
            return sqnorm_of(jacobian, v, h, self.shards.total)

        return self._of_jacobians(x, score, sigma, sqnorm)

    def exact_sqnorm(self, x: Tensor, score: Tensor, sigma: Tensor, hessian: Tensor) -> Tensor:
        def sqnorm(jacobian: Tensor, rows: slice) -> Tensor:
            return (jacobian + hessian[..., rows, :, :] / self.shards.total).square().sum((-2, -1))

        return self._of_jacobians(x, score, sigma, sqnorm)

    def logdet(self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, hessian: Tensor | None) -> Tensor:
        if x.shape[-1] > MAX_LOGDET_DIM:
            raise ValueError(f"SVGD: the exact density needs D <= {MAX_LOGDET_DIM}, but D is {x.shape[-1]}")

        def logdet(jacobian: Tensor, rows: slice) -> Tensor:
            return logdet_of(jacobian, None if hessian is None else hessian[..., rows, :, :], eps, self.shards.total)

        return self._of_jacobians(x, score, sigma, logdet)

    def _of_jacobians(
        self, x: Tensor, score: Tensor, sigma: Tensor, function: Callable[[Tensor, slice], Tensor]
    ) -> Tensor:
        """A function of each J_i - H_i / M, given as (..., Q, D, D) with the rows of its particles, (..., M_p)."""
        block = Pairs(self.kernel.profile, self.shards.total, jacobian=True)
        lengths = self.kernel.lengths(x, sigma)
        values = [
            function(ring_sum(block, self.shards, x, score, rows, lengths)[0].to(x.dtype), rows)
            for rows in jacobian_rows(x, self.shards)
        ]
        return torch.cat(values, -1)


register_sharded(ShardedPlacement)
