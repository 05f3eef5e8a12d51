"""Data-parallel training: what the ranks that torchrun starts share.

Each rank draws batches and samples of its own, `--batch` of them, and torch's DistributedDataParallel averages the
gradients, so that the parameters stay equal on all ranks. Only rank 0 evaluates and writes. Without torchrun there is
one rank, and nothing here communicates.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn

from svgdx.experiments.run.compute.device import local_rank, without_cuda
from svgdx.experiments.run.errors import StoppedError, StopRequested, UsageError, require_finite

T = TypeVar("T")
# Errors that end the run on every rank once one rank raises them.
Shared = UsageError | StoppedError | StopRequested

# What torchrun tells each process it starts.
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_reducers: WeakKeyDictionary[torch.optim.Optimizer, nn.Module] = WeakKeyDictionary()


@contextmanager
def launched(timeout: float) -> Iterator[None]:
    """Joins the ranks that torchrun started, and leaves them at the end. Does nothing without torchrun.

    Tensors of the CPU and Python objects travel by Gloo, tensors of a GPU by NCCL. Each rank takes the GPU of its
    LOCAL_RANK.

    Args:
        timeout: seconds that a rank waits for the others, here and in every exchange, before it fails.

    Raises:
        UsageError: not all ranks joined in time.
    """
    if not all(name in os.environ for name in _LAUNCHED):
        yield
        return
    try:
        wait = timedelta(seconds=timeout)
        store, number, count = next(dist.rendezvous("env://", timeout=wait))
        store.set_timeout(wait)
        # torchrun keeps its store over restarts: a restarted rank must not see what the ranks before it left there.
        store = dist.PrefixStore(f"svgdx-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(_backend(), store=store, rank=number, world_size=count, timeout=wait)
    except (RuntimeError, ValueError) as error:
        rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
        raise UsageError(f"rank {rank} of {size}: not all ranks joined within {timeout:g} s: {error}") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def _backend() -> str:
    """The backends of the process group; also makes this rank's GPU the current one."""
    if without_cuda() is not None or not dist.is_nccl_available():
        return "gloo"
    torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    return "cpu:gloo,cuda:nccl"


def restarted() -> bool:
    """Whether torchrun restarted the ranks after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def size() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def main() -> bool:
    """Whether this is rank 0, which evaluates and writes."""
    return rank() == 0


@contextmanager
def together() -> Iterator[None]:
    """Raises an error that one rank raises inside on every rank, with the rank's number. Waits for all ranks."""
    error: Shared | None = None
    try:
        yield
    except (UsageError, StoppedError, StopRequested) as raised:
        error = raised
    raise_together(error)


def raise_together(error: Shared | None) -> None:
    """Raises the error of the lowest rank that has one on every rank."""
    if size() == 1:
        if error is not None:
            raise error
        return
    first = torch.tensor(size() if error is None else rank())
    dist.all_reduce(first, dist.ReduceOp.MIN)
    failed = int(first)
    if failed == size():
        return
    message = [None if error is None else (type(error), str(error))]
    dist.broadcast_object_list(message, failed)
    assert message[0] is not None
    kind, text = message[0]
    raise kind(text if failed == 0 else f"rank {failed}: {text}") from error


def check_finite(step: int, quantities: Mapping[str, float | Tensor]) -> None:
    """Raises DivergedError on every rank if a quantity of one rank is not finite. Waits for all ranks.

    Tensors of a GPU are left to `svgdx.experiments.run.compute.guard.Guard`, which does not wait for the GPU.
    """
    with together():
        present = quantities.items()
        require_finite(step, {n: value for n, value in present if not isinstance(value, Tensor) or value.is_cpu})


def from_main(value: T) -> T:
    """Rank 0's value, on every rank."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def any_rank(value: bool) -> bool:
    """Whether the value is true on any rank."""
    if size() == 1:
        return value
    flag = torch.tensor(int(value))
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def means(quantities: dict[str, float]) -> dict[str, float]:
    """The mean of each quantity over the ranks that have it, in the order of rank 0."""
    if size() == 1:
        return quantities
    gathered: list[Any] = [None] * size()
    dist.all_gather_object(gathered, quantities)
    values: dict[str, list[float]] = {}
    for of_rank in gathered:
        for name, value in of_rank.items():
            values.setdefault(name, []).append(value)
    return {name: sum(of_ranks) / len(of_ranks) for name, of_ranks in values.items()}


def averaged(loss: Tensor, optimiser: torch.optim.Optimizer) -> Tensor:
    """A loss whose backward leaves the mean of the ranks' gradients in the optimiser's parameters."""
    if size() == 1:
        return loss
    if optimiser not in _reducers:
        # Shared seeds made the parameters equal; a broadcast now would spoil the graph of the loss. A reducer that
        # looks for unused parameters never rebuilds its buckets, which would change the order of sums after its first
        # step: a resumed run would not end with the same bits.
        _reducers[optimiser] = nn.parallel.DistributedDataParallel(
            _Carrier(optimiser), find_unused_parameters=True, init_sync=False
        )
    with warnings.catch_warnings():
        # It need not find any; a parameter without a gradient would cost a wait for the GPU at every step.
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
        carried: Tensor = _reducers[optimiser](loss)
    return carried


class _Carrier(nn.Module):
    """Holds an optimiser's parameters; its output is the loss that was computed from them.

    Samplers and compiled policies are not modules that can be called, but DistributedDataParallel needs no more.
    """

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        super().__init__()
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        self.carried = nn.ParameterList(parameters)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


def gathered_rows(rows: Tensor) -> Tensor:
    """On rank 0 the rows of all P ranks in their order, (P N, ...); on other ranks their own, (N, ...); on the CPU."""
    rows = rows.cpu()
    if size() == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(size())] if main() else None
    dist.gather(rows.contiguous(), gathered)
    return rows if gathered is None else torch.cat(gathered)


def rows_of_rank(rows: Tensor, count: int) -> Tensor:
    """This rank's `count` rows of those that ranks gathered; starts again from the first row after the last."""
    return rows[(rank() * count + torch.arange(count)) % len(rows)]
