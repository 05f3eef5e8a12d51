"""Data-parallel training: what the ranks that torchrun starts share.

Each rank draws batches and samples of its own, `--batch` of them, and torch's DistributedDataParallel averages the
gradients, so that parameters stay the same on every rank. Rank 0 alone evaluates and writes. Outside torchrun there is
one rank and nothing here communicates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn

from svgdx.experiments.run.errors import DivergedError, UsageError

T = TypeVar("T")

# What torchrun tells each process it starts.
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_alone = False
_reducers: WeakKeyDictionary[torch.optim.Optimizer, nn.Module] = WeakKeyDictionary()


@contextmanager
def launched(timeout: float) -> Iterator[None]:
    """Joins the ranks that torchrun started, on Gloo, and leaves them in the end; without torchrun does nothing.

    timeout: seconds that a rank waits for the others, here and in every exchange, before it stops with an error.
    """
    if not all(name in os.environ for name in _LAUNCHED):
        yield
        return
    try:
        wait = timedelta(seconds=timeout)
        store, number, count = next(dist.rendezvous("env://", timeout=wait))
        store.set_timeout(wait)
        # torchrun keeps its store over restarts: what the ranks before left there must not be found.
        store = dist.PrefixStore(f"svgdx-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("gloo", store=store, rank=number, world_size=count, timeout=wait)
    except (RuntimeError, ValueError) as error:
        rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
        raise UsageError(f"rank {rank} of {size}: not all ranks came within {timeout:g} s: {error}") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def ranks_launched() -> int:
    """How many ranks torchrun starts; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def restarted() -> bool:
    """Whether torchrun started the ranks again after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def size() -> int:
    return 1 if _alone or not dist.is_initialized() else dist.get_world_size()


def rank() -> int:
    return 0 if _alone or not dist.is_initialized() else dist.get_rank()


def main() -> bool:
    """Whether this is the rank that evaluates and writes."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """For what rank 0 does by itself: nothing in it waits for another rank."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


@contextmanager
def together() -> Iterator[None]:
    """A UsageError or DivergedError of one rank becomes one of every rank, which names it. Waits for all ranks."""
    error: UsageError | DivergedError | None = None
    try:
        yield
    except (UsageError, DivergedError) as raised:
        error = raised
    raise_together(error)


def raise_together(error: UsageError | DivergedError | None) -> None:
    """Raises the error of the first rank that has one on every rank."""
    if size() == 1:
        if error is not None:
            raise error
        return
    first = torch.tensor(size() if error is None else rank())
    dist.all_reduce(first, dist.ReduceOp.MIN)
    failed = int(first)
    if failed == size():
        return
    facts = [None if error is None else (type(error), str(error))]
    dist.broadcast_object_list(facts, failed)
    assert facts[0] is not None
    kind, text = facts[0]
    raise kind(text if failed == 0 else f"rank {failed}: {text}") from error


def from_main(value: T) -> T:
    """Rank 0's value, on every rank."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def any_rank(value: bool) -> bool:
    """Whether it is so on any rank."""
    if size() == 1:
        return value
    found = torch.tensor(int(value))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def means(quantities: dict[str, float]) -> dict[str, float]:
    """The mean of each quantity over the ranks that have it, in the order of rank 0."""
    if size() == 1:
        return quantities
    every: list[Any] = [None] * size()
    dist.all_gather_object(every, quantities)
    found: dict[str, list[float]] = {}
    for one in every:
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def averaged(loss: Tensor, optimiser: torch.optim.Optimizer) -> Tensor:
    """A loss whose backward leaves in the optimiser's parameters the mean of the ranks' gradients."""
    if size() == 1:
        return loss
    if optimiser not in _reducers:
        # Shared seeds made the parameters the same; a broadcast now would spoil the graph of the loss. A reducer that
        # looks for unused parameters never rebuilds its buckets, which would change the order of sums after its first
        # step: a resumed run would not end with the same bits.
        _reducers[optimiser] = nn.parallel.DistributedDataParallel(
            _Carrier(optimiser), find_unused_parameters=True, init_sync=False
        )
    found: Tensor = _reducers[optimiser](loss)
    return found


class _Carrier(nn.Module):
    """Holds an optimiser's parameters; its output is the loss that was computed from them.

    Samplers and compiled policies are no modules to be called, but this is all that DistributedDataParallel asks for.
    """

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        super().__init__()
        self.carried = nn.ParameterList(each for group in optimiser.param_groups for each in group["params"])
        # The reducer warns where it looks for unused parameters in vain.
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, loss: Tensor) -> Tensor:
        return loss


def gathered_rows(rows: Tensor) -> Tensor:
    """On rank 0 the rows of all ranks in their order, (P N, ...); elsewhere those of the rank, (N, ...)."""
    if size() == 1:
        return rows
    every = [torch.empty_like(rows) for _ in range(size())] if main() else None
    dist.gather(rows.contiguous(), every)
    return rows if every is None else torch.cat(every)


def rows_of_rank(rows: Tensor, count: int) -> Tensor:
    """This rank's part of rows that so many ranks gathered, begun again from the first where they do not reach."""
    return rows[(rank() * count + torch.arange(count)) % len(rows)]
