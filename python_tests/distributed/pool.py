"""Four Gloo processes, started once for all tests, that run functions in groups of 1 to 4 of them."""

from __future__ import annotations

import datetime
import multiprocessing
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

WORLD = 4
# Groups of each size; that of 3 does not begin with rank 0 of the world.
RANKS = {1: [2], 2: [0, 1], 3: [1, 2, 3], 4: [0, 1, 2, 3]}
TIMEOUT = datetime.timedelta(seconds=200)


class Pool:
    """`call(size, function, *args)` runs function(group, *args) on each rank of a group."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(rank, str(folder / "store"), theirs), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def outcomes(self, size: int, function: Callable[..., Any], *args: Any, each: Any = None) -> list[Any]:
        """What each rank returned, or the exception it raised. each: a further argument of each rank."""
        pipes = [self.pipes[rank] for rank in RANKS[size]]
        for index, pipe in enumerate(pipes):
            pipe.send((size, function, args if each is None else (*args, each[index])))
        found = []
        for pipe in pipes:
            assert pipe.poll(300), "a rank hangs"
            found.append(pipe.recv())
        return found

    def call(self, size: int, function: Callable[..., Any], *args: Any, each: Any = None) -> list[Any]:
        """What each rank returned; raises where one raised."""
        found = self.outcomes(size, function, *args, each=each)
        for rank, outcome in enumerate(found):
            if isinstance(outcome, Failure):
                raise AssertionError(f"rank {rank}: {outcome.trace}")
        return found

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.terminate()


class Failure:
    """An exception of a rank."""

    def __init__(self, error: Exception) -> None:
        self.kind, self.text, self.trace = type(error).__name__, str(error), traceback.format_exc()


def _work(rank: int, store: str, pipe: Connection) -> None:
    # Functions come by the names that pytest gave their modules, which begin with this folder's. Last, so that svgdx is
    # the installed one and not the folder of its sources.
    sys.path.append(str(Path(__file__).parents[2]))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD, timeout=TIMEOUT)
    groups = {size: dist.new_group(ranks, timeout=TIMEOUT) for size, ranks in RANKS.items()}
    while (task := pipe.recv()) is not None:
        size, function, args = task
        # As for every test: what one function leaves behind must not change the next.
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        try:
            outcome = function(groups[size], *args)
        except Exception as error:
            outcome = Failure(error)
        pipe.send(outcome)
    dist.destroy_process_group()
