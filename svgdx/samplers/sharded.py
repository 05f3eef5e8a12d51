"""Chains whose particles are sharded over the ranks of a process group: what of a run then concerns all ranks.

Each rank moves its own particles. Directions, traces and Jacobians are summed round the ring of
:mod:`svgdx.distributed`; bandwidth heuristics, the bound, recorded means and stopping are those of all particles, so
that every rank takes the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from svgdx._checks import MAX_LOGDET_DIM
from svgdx.distributed.blocks import Field, Pairs, logdet_of, sqnorm_of
from svgdx.distributed.ops import jacobian_rows
from svgdx.distributed.ring import ring_sum
from svgdx.distributed.shards import Shards, agree, even_split
from svgdx.samplers.chain import Runner
from svgdx.samplers.control import MetropolisHastings
from svgdx.samplers.kernels import RBF, Kernel, Profile
from svgdx.samplers.state import State
from svgdx.samplers.step_sizes import step_bound
from svgdx.samplers.targets import Derivatives
from svgdx.samplers.values import OfState

if TYPE_CHECKING:
    from svgdx.samplers.svgd import SVGD

# Optimisers that treat each number by itself: a shard is then descended as it would be among all particles.
_OPTIM = torch.optim
ELEMENTWISE = (_OPTIM.SGD, _OPTIM.Adam, _OPTIM.AdamW, _OPTIM.RMSprop, _OPTIM.Adagrad, _OPTIM.Adadelta, _OPTIM.Adamax)


def check_settings(sampler: SVGD) -> None:
    """Raises ValueError for what cannot be sharded."""
    if isinstance(sampler.control, MetropolisHastings):
        raise ValueError("SVGD: control metropolis-hastings and epsilon-greedy do not go with a process_group")
    for name, value in (("bandwidth", sampler.kernel.bandwidth), ("step_size", sampler.step_size)):
        if any(isinstance(each, OfState) for each in value.modules()):
            raise ValueError(
                f"SVGD: {name} by a module of the state does not go with a process_group: each rank's state is its own"
            )


def count_of_rank(n: int | Sequence[int], group: dist.ProcessGroup) -> int:
    """This rank's particles, of n in all or of so many for each rank."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    counts = even_split(n, size) if isinstance(n, int) else tuple(n)
    if len(counts) != size or min(counts) < 0 or sum(counts) < 1:
        raise ValueError(
            f"SVGD: n must be at least 1, or one number for each of {size} ranks, none negative, but is {n}"
        )
    return counts[rank]


def generator_of_rank(
    generator: torch.Generator | None, device: torch.device, group: dist.ProcessGroup
) -> torch.Generator:
    """Random numbers of this rank, from those of rank 0 and the number of this rank. Collective."""
    device = device if generator is None else generator.device
    drawn = torch.randint(2**62, (1,), generator=generator, device=device)
    # NCCL moves memory of the GPU alone.
    moved = drawn.to(torch.device("cuda", torch.cuda.current_device())) if dist.get_backend(group) == "nccl" else drawn
    dist.broadcast(moved, dist.get_global_rank(group, 0), group=group)
    words = np.random.SeedSequence([int(moved), dist.get_rank(group)]).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


class ShardedRunner(Runner):
    """Makes the steps of one chain of all ranks on this rank's particles. Making it is collective.

    Raises RuntimeError, naming the rank, where ranks differ in shapes, dtypes, settings or gradients, ValueError for an
    optimiser that is not of each number by itself.
    """

    def __init__(
        self,
        sampler: SVGD,
        x: Tensor,
        log_q: Tensor | None,
        numbers: tuple[Callable[[State], Tensor], Callable[[State], Tensor]],
        generator: torch.Generator | None,
        recorded: bool,
        steps: int,
    ) -> None:
        facts: dict[str, object] = {"steps": steps, "recorded": recorded, "kernel": type(sampler.kernel).__name__}
        facts |= {name: getattr(sampler, name) for name in ("bound", "hessian", "density", "divisor", "attach_every")}
        shards = agree("SVGD", sampler.process_group, {"x": x, "log_q": log_q}, facts=facts)
        super().__init__(sampler, x, log_q, numbers, generator, recorded)
        self.shards = self.chain.shards = shards
        self.count = shards.total
        self.kernel = ShardedKernel(sampler.kernel, shards)
        if self.leaf is not None and type(self.optimizer) not in ELEMENTWISE:
            known = ", ".join(each.__name__ for each in ELEMENTWISE)
            raise ValueError(f"SVGD: with a process_group, optimizer must be one of {known}")

    def mean(self, value: Tensor) -> Tensor:
        assert self.shards is not None
        return self.shards.mean(value)

    def _mean_dot(self, one: Tensor, other: Tensor) -> Tensor:
        assert self.shards is not None
        return self.shards.sum(super()._mean_dot(one, other))

    @torch.no_grad()
    def _limit(self, x: Tensor, found: Derivatives, sigma: Tensor) -> Tensor:
        assert self.shards is not None
        assert isinstance(self.kernel, ShardedKernel)
        if found.hessian is None:
            sqnorm = self.kernel.sqnorm(x, found.score, sigma, found.probe, found.hvp)
        else:
            sqnorm = self.kernel.exact_sqnorm(x, found.score, sigma, found.hessian)
        return step_bound(self.shards.max(sqnorm).unsqueeze(-1))


class ShardedKernel(Kernel):
    """A kernel between this rank's particles and those of all ranks."""

    def __init__(self, kernel: Kernel, shards: Shards) -> None:
        super().__init__(kernel.bandwidth)
        self.kernel, self.shards = kernel, shards

    def profile(self, u: Tensor) -> Profile:
        return self.kernel.profile(u)

    def phi(self, x: Tensor, score: Tensor, sigma: Tensor) -> Tensor:
        return self.phi_trace(x, score, sigma)[0]

    def phi_trace(self, x: Tensor, score: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        rows = slice(0, x.shape[-2])
        if isinstance(self.kernel, RBF) and not self.bandwidth.per_dimension:
            phi, trace = ring_sum(Field(self.shards.total), self.shards, x, score, rows, sigma)
        else:
            block = Pairs(self.profile, self.shards.total, jacobian=False)
            phi, trace = ring_sum(block, self.shards, x, score, rows, self._lengths(x, sigma))
        return phi.to(x.dtype), trace.to(x.dtype)

    def step(
        self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, log_q: Tensor, hessian_trace: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        phi, trace = self.phi_trace(x, score, sigma)
        if hessian_trace is not None:
            trace = trace + hessian_trace / self.shards.total
        return x + eps[..., None, None] * phi, log_q - eps[..., None] * trace

    def sqnorm(self, x: Tensor, score: Tensor, sigma: Tensor, probe: Tensor | None, hvp: Tensor | None) -> Tensor:
        def of(jacobian: Tensor, rows: slice) -> Tensor:
            v, h = (None if each is None else each[..., rows, :] for each in (probe, hvp))
            return sqnorm_of(jacobian, v, h, self.shards.total)

        return self._of_jacobians(x, score, sigma, of)

    def exact_sqnorm(self, x: Tensor, score: Tensor, sigma: Tensor, hessian: Tensor) -> Tensor:
        """|J_i|_F^2 (..., M_p) with the Hessian of log density, (..., M_p, D, D)."""

        def of(jacobian: Tensor, rows: slice) -> Tensor:
            return (jacobian + hessian[..., rows, :, :] / self.shards.total).square().sum((-2, -1))

        return self._of_jacobians(x, score, sigma, of)

    def logdet(self, x: Tensor, score: Tensor, sigma: Tensor, eps: Tensor, hessian: Tensor | None) -> Tensor:
        if x.shape[-1] > MAX_LOGDET_DIM:
            raise ValueError(f"SVGD: the exact density needs D <= {MAX_LOGDET_DIM}, but D is {x.shape[-1]}")

        def of(jacobian: Tensor, rows: slice) -> Tensor:
            some = None if hessian is None else hessian[..., rows, :, :]
            return logdet_of(jacobian, some, eps, self.shards.total)

        return self._of_jacobians(x, score, sigma, of)

    def _of_jacobians(self, x: Tensor, score: Tensor, sigma: Tensor, of: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """A number of each J_i - H_i / M, (..., M_p)."""
        block = Pairs(self.profile, self.shards.total, jacobian=True)
        lengths = self._lengths(x, sigma)
        found = [
            of(ring_sum(block, self.shards, x, score, rows, lengths)[0].to(x.dtype), rows)
            for rows in jacobian_rows(x, self.shards)
        ]
        return torch.cat(found, -1)

    def _lengths(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The bandwidth as (..., 1, D)."""
        h = sigma.unsqueeze(-2) if self.bandwidth.per_dimension else sigma[..., None, None]
        return h.expand(*h.shape[:-1], x.shape[-1])
