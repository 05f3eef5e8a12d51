"""Shards of particles over the ranks of a process group, the comparison of all ranks' inputs, and sums over ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor

# Size of the description of a rank's input: enough for eight tensors, small compared with any shard.
SIGNATURE_BYTES = 768
# Groups whose ranks have exchanged tensors of a GPU.
_connected: WeakSet[dist.ProcessGroup] = WeakSet()


@dataclass(frozen=True)
class Shards:
    """The division of particles over the ranks of a process group, made by `Shards.of`.

    Attributes:
        group: the process group.
        rank: of this process in the group.
        counts: M_p, the number of particles of each rank.
    """

    group: dist.ProcessGroup
    rank: int
    counts: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor, group: dist.ProcessGroup | None = None) -> Shards:
        """The division of shards x (..., M_p, D). Collective.

        Raises RuntimeError, naming the rank, if leading dimensions, D, dtype or kind of device differ.
        """
        return agree("Shards", group, {"x": x})

    @property
    def size(self) -> int:
        """P, the number of ranks."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """M, the particles of all ranks."""
        return sum(self.counts)

    @property
    def largest(self) -> int:
        """The particles of the largest shard."""
        return max(self.counts)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the ranks, the same on each. Each rank's term gets the gradient unchanged."""
        total: Tensor = _Sum.apply(value, self)
        return total

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all M particles of values (..., M_p), (...)."""
        return self.sum(value.sum(-1) / self.total)

    def max(self, value: Tensor) -> Tensor:
        """The largest over all M particles of values (..., M_p), (...), detached; a NaN stays a NaN."""
        value = value.detach()
        lowest = value.new_full((*value.shape[:-1], 1), -torch.inf)
        value = torch.cat([value, lowest], -1)
        # Backends treat a NaN differently.
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
        """Starts sending tensors to the next rank of the ring and receiving from the previous one; skips empty ones."""
        after = dist.get_global_rank(self.group, (self.rank + 1) % self.size)
        before = dist.get_global_rank(self.group, (self.rank - 1) % self.size)
        transfers = [dist.P2POp(dist.isend, tensor, after, self.group) for tensor in send if tensor.numel()]
        transfers += [dist.P2POp(dist.irecv, tensor, before, self.group) for tensor in receive if tensor.numel()]
        return dist.batch_isend_irecv(transfers) if transfers else []


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
    """The particles of each rank if M are divided evenly; the first M mod P ranks get one more."""
    return tuple(total // size + (rank < total % size) for rank in range(size))


def sum_gradients(parameters: Iterable[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Sums the gradients of parameters that all ranks share over the ranks, in place, by one all-reduce per dtype.

    A parameter without a gradient on this rank counts as zero. Collective.
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for shared in by_dtype.values():
        grads = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in shared]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat, group=group)
        for parameter, grad in zip(shared, flat.split([parameter.numel() for parameter in shared]), strict=True):
            parameter.grad = grad.view_as(parameter).clone()


def agree(
    op: str,
    group: dist.ProcessGroup | None,
    sharded: Mapping[str, Tensor | None],
    shared: Mapping[str, Tensor | None] | None = None,
    check: Callable[[], object] = lambda: None,
    facts: Mapping[str, object] | None = None,
) -> Shards:
    """Compares the inputs of all ranks by one small all-gather, and counts their particles.

    Args:
        op: name of the caller, for errors.
        group: the process group; None is the default one.
        sharded: x first, (..., M_p, D), then other tensors (..., M_p) or (..., M_p, *); None for an omitted argument.
        shared: tensors that have the same shape on each rank.
        check: refuses the input of this rank by raising.
        facts: settings that must be the same on each rank.

    Raises:
        RuntimeError: there is no such group; a rank's input differs from that of rank 0 or was refused there; or a rank
            was missing until the group's timeout.
    """
    if not dist.is_initialized():
        raise RuntimeError(f"svgdx.distributed.{op}: call torch.distributed.init_process_group first")
    world = dist.group.WORLD if group is None else group
    rank = dist.get_rank(world)
    if rank < 0 or world is None:
        raise RuntimeError(f"svgdx.distributed.{op}: this process is not in the process group")
    x = next(iter(sharded.values()))
    device = host_values_device(world, x.device if isinstance(x, Tensor) else None)
    refused: Exception | None = None
    try:
        check()
        own = _signature(op, sharded, shared or {}, facts or {})
    except (TypeError, ValueError, RuntimeError) as error:
        refused, own = error, {"refused": str(error)[:400]}
    signatures = _exchange(op, own, world, device)
    for other, signature in enumerate(signatures):
        if "refused" in signature:
            if other == rank and refused is not None:
                raise refused
            raise RuntimeError(f"svgdx.distributed.{op}: rank {other} refused its input: {signature['refused']}")
    for other, signature in enumerate(signatures):
        _check_same(op, signature, signatures[0], other)
    if isinstance(x, Tensor) and x.is_cuda:
        _connect(world, x.device)
    return Shards(world, rank, tuple(signature["particles"] for signature in signatures))


def _connect(group: dist.ProcessGroup, device: torch.device) -> None:
    """Lets all ranks set up NCCL together: it hangs if a rank has no part in the first exchange of its group.

    A rank with empty shards on both sides has none. Waits once for each group.
    """
    if group not in _connected:
        dist.all_reduce(torch.zeros((), device=device), group=group)
        _connected.add(group)


def _signature(
    op: str, sharded: Mapping[str, Tensor | None], shared: Mapping[str, Tensor | None], facts: Mapping[str, object]
) -> dict[str, Any]:
    """A description of a rank's input, which must be equal on all ranks except for the particles."""
    x = next(iter(sharded.values()))
    if not isinstance(x, Tensor) or x.dim() < 2:
        raise RuntimeError(f"svgdx.distributed.{op}: x must be a tensor of shape (..., M, D)")
    axis = x.dim() - 2
    signature: dict[str, Any] = {"particles": x.shape[axis], "op": op}
    for name, value in {**sharded, **shared}.items():
        if value is None:
            signature[name] = "none"
            continue
        shape = [str(size) for size in value.shape]
        if name in sharded:
            shape[axis] = "M"
        gradient = " with gradient" if torch.is_grad_enabled() and value.requires_grad else ""
        kind = f"{str(value.dtype).removeprefix('torch.')} on {value.device.type}"
        signature[name] = f"({', '.join(shape)}) {kind}{gradient}"
    return signature | {name: str(value) for name, value in facts.items()}


def host_values_device(group: dist.ProcessGroup, device: torch.device | None = None) -> torch.device:
    """Where values of the host must lie to travel in a group: on the CPU, unless its backend, NCCL alone, takes none.

    device: of the particles; their GPU is that of this rank, which need not be the current one. None takes that one.
    """
    if "cpu:" in dist.get_backend_config(group):
        return torch.device("cpu")
    if device is not None and device.type == "cuda":
        return device
    return torch.device("cuda", torch.cuda.current_device())


def _exchange(op: str, own: dict[str, Any], group: dist.ProcessGroup, device: torch.device) -> list[dict[str, Any]]:
    """The signatures of all ranks."""
    text = json.dumps(own, ensure_ascii=True).encode()
    if len(text) > SIGNATURE_BYTES:
        text = json.dumps({"refused": f"too many dimensions to compare: {own}"[: SIGNATURE_BYTES // 2]}).encode()
    sent = torch.tensor(list(text.ljust(SIGNATURE_BYTES)), dtype=torch.uint8, device=device)
    received = [torch.empty_like(sent) for _ in range(dist.get_world_size(group))]
    try:
        dist.all_gather(received, sent, group=group)
    except RuntimeError as error:
        place = f"rank {dist.get_rank(group)} of {dist.get_world_size(group)}"
        raise RuntimeError(f"svgdx.distributed.{op}: {place} timed out waiting for another rank: {error}") from error
    return [json.loads(bytes(signature.tolist())) for signature in received]


def _check_same(op: str, signature: dict[str, Any], first: dict[str, Any], rank: int) -> None:
    """Raises RuntimeError if a rank's signature differs from that of rank 0."""
    for name in {**first, **signature}:
        if name != "particles" and signature.get(name) != first.get(name):
            difference = f"{name} {signature.get(name, 'none')}, but rank 0 has {first.get(name, 'none')}"
            raise RuntimeError(f"svgdx.distributed.{op}: rank {rank} has {difference}")
