"""How particles are sharded over the ranks of a process group, what all ranks agree on, and sums over all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Of what each rank tells the others about its input: enough for eight tensors, small beside any shard.
SIGNATURE_BYTES = 768


@dataclass(frozen=True)
class Shards:
    """Particles over the ranks of a process group, made by `Shards.of`.

    Attributes:
        group: the process group.
        rank: of this process in the group.
        counts: M_p, the particles of each rank.
    """

    group: dist.ProcessGroup
    rank: int
    counts: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor, group: dist.ProcessGroup | None = None) -> Shards:
        """The shards x (..., M_p, D) of all ranks. Collective.

        Raises RuntimeError, naming the rank, where leading dimensions, D, dtype or kind of device differ.
        """
        return agree("Shards", group, {"x": x})

    @property
    def size(self) -> int:
        return len(self.counts)

    @property
    def total(self) -> int:
        """M, the particles of all ranks."""
        return sum(self.counts)

    @property
    def largest(self) -> int:
        return max(self.counts)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the ranks, the same on each. Its gradient goes to each rank's term unchanged."""
        found: Tensor = _Sum.apply(value, self)
        return found

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all M particles of values (..., M_p), (...)."""
        return self.sum(value.sum(-1) / self.total)

    def max(self, value: Tensor) -> Tensor:
        """The largest over all M particles of values (..., M_p), (...), detached; a NaN stays a NaN."""
        value = value.detach()
        lowest = value.new_full((*value.shape[:-1], 1), -torch.inf)
        value = torch.cat([value, lowest], -1)
        # Backends differ in what they make of a NaN.
        both = torch.stack(
            [value.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(-1), value.isnan().any(-1).to(value)]
        )
        if self.size > 1:
            dist.all_reduce(both, dist.ReduceOp.MAX, self.group)
        return torch.where(both[1] > 0, torch.nan, both[0])

    def variance(self, x: Tensor) -> Tensor:
        """The variance of each coordinate over all M particles x (..., M_p, D), (..., D)."""
        centre = self.sum(x.sum(-2) / self.total)
        return self.sum((x - centre.unsqueeze(-2)).square().sum(-2) / self.total)

    def exchange(self, send: Iterable[Tensor], receive: Iterable[Tensor]) -> list[dist.Work]:
        """Starts to send tensors to the next rank of the ring and to receive from the one before; empty ones stay."""
        after = dist.get_global_rank(self.group, (self.rank + 1) % self.size)
        before = dist.get_global_rank(self.group, (self.rank - 1) % self.size)
        moves = [dist.P2POp(dist.isend, each, after, self.group) for each in send if each.numel()]
        moves += [dist.P2POp(dist.irecv, each, before, self.group) for each in receive if each.numel()]
        return dist.batch_isend_irecv(moves) if moves else []


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shards: Shards) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        if shards.size > 1:
            dist.all_reduce(total, group=shards.group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def even_split(total: int, size: int) -> tuple[int, ...]:
    """Particles of each rank where M are shared out evenly; the first M mod P ranks get one more."""
    return tuple(total // size + (rank < total % size) for rank in range(size))


def sum_gradients(parameters: Iterable[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Adds up over the ranks the gradients of parameters that all ranks share, in place, by one all-reduce a dtype.

    A parameter without a gradient on this rank counts as zero. Collective.
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for each in parameters:
        by_dtype.setdefault(each.dtype, []).append(each)
    for shared in by_dtype.values():
        flat = torch.cat([(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in shared])
        dist.all_reduce(flat, group=group)
        for each, grad in zip(shared, flat.split([each.numel() for each in shared]), strict=True):
            each.grad = grad.view_as(each).clone()


def agree(
    op: str,
    group: dist.ProcessGroup | None,
    sharded: Mapping[str, Tensor | None],
    shared: Mapping[str, Tensor | None] | None = None,
    check: Callable[[], None] = lambda: None,
    facts: Mapping[str, object] | None = None,
) -> Shards:
    """Compares over the ranks what they were given, by one small all-gather, and counts their particles.

    Args:
        op: who asks, for the error.
        group: None is the default group.
        sharded: x first, (..., M_p, D); then tensors (..., M_p) or (..., M_p, anything) beside it. None: not given.
        shared: tensors that have the same shape on each rank.
        check: refuses the input of this rank by raising.
        facts: plain settings that must be the same on each rank.

    Raises:
        RuntimeError: there is no such group; a rank's input differs from that of rank 0 or was refused there; or a rank
            did not come within the group's time-out.
    """
    if not dist.is_initialized():
        raise RuntimeError(f"svgdx.distributed.{op}: call torch.distributed.init_process_group first")
    world = dist.group.WORLD if group is None else group
    rank = dist.get_rank(world)
    if rank < 0 or world is None:
        raise RuntimeError(f"svgdx.distributed.{op}: this process is not in the process group")
    refused: Exception | None = None
    try:
        check()
        mine = _signature(op, sharded, shared or {}, facts or {})
    except (TypeError, ValueError, RuntimeError) as error:
        refused, mine = error, {"refused": str(error)[:400]}
    every = _exchange(op, mine, world)
    for other, found in enumerate(every):
        if "refused" in found:
            if other == rank and refused is not None:
                raise refused
            raise RuntimeError(f"svgdx.distributed.{op}: rank {other} refused its input: {found['refused']}")
    for other, found in enumerate(every):
        _same(op, found, every[0], other)
    return Shards(world, rank, tuple(found["particles"] for found in every))


def _signature(
    op: str, sharded: Mapping[str, Tensor | None], shared: Mapping[str, Tensor | None], facts: Mapping[str, object]
) -> dict[str, Any]:
    x = next(iter(sharded.values()))
    if not isinstance(x, Tensor) or x.dim() < 2:
        raise RuntimeError(f"svgdx.distributed.{op}: x must be a tensor of shape (..., M, D)")
    axis = x.dim() - 2
    found: dict[str, Any] = {"particles": x.shape[axis], "op": op}
    for name, value in {**sharded, **shared}.items():
        if value is None:
            found[name] = "none"
            continue
        size = [str(each) for each in value.shape]
        if name in sharded:
            size[axis] = "M"
        wants = " with gradient" if torch.is_grad_enabled() and value.requires_grad else ""
        kind = f"{str(value.dtype).removeprefix('torch.')} on {value.device.type}"
        found[name] = f"({', '.join(size)}) {kind}{wants}"
    return found | {name: str(value) for name, value in facts.items()}


def _exchange(op: str, mine: dict[str, Any], group: dist.ProcessGroup) -> list[dict[str, Any]]:
    text = json.dumps(mine, ensure_ascii=True).encode()
    if len(text) > SIGNATURE_BYTES:
        text = json.dumps({"refused": f"more dimensions than can be compared: {mine}"[: SIGNATURE_BYTES // 2]}).encode()
    # NCCL moves memory of the GPU alone.
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else None
    sent = torch.tensor(list(text.ljust(SIGNATURE_BYTES)), dtype=torch.uint8, device=device)
    received = [torch.empty_like(sent) for _ in range(dist.get_world_size(group))]
    try:
        dist.all_gather(received, sent, group=group)
    except RuntimeError as error:
        where = f"rank {dist.get_rank(group)} of {dist.get_world_size(group)}"
        raise RuntimeError(f"svgdx.distributed.{op}: {where} waited in vain for another rank: {error}") from error
    return [json.loads(bytes(each.tolist())) for each in received]


def _same(op: str, found: dict[str, Any], first: dict[str, Any], rank: int) -> None:
    for name in {**first, **found}:
        if name != "particles" and found.get(name) != first.get(name):
            what = f"{name} {found.get(name, 'none')}, but rank 0 has {first.get(name, 'none')}"
            raise RuntimeError(f"svgdx.distributed.{op}: rank {rank} has {what}")
