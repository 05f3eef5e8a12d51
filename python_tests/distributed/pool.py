"""Four Gloo processes, started once for all tests, which run functions in groups of 1 to 4 processes."""

from __future__ import annotations

import datetime
import multiprocessing
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import forkserver
import torch
import torch.distributed as dist

WORLD = 4
# The ranks of each group by its size; the group of 3 does not include rank 0 of the world.
RANKS = {1: [2], 2: [0, 1], 3: [1, 2, 3], 4: [0, 1, 2, 3]}
TIMEOUT = datetime.timedelta(seconds=200)


class Pool:
    """The processes; `call(size, function, *args)` runs function(group, *args) on each rank of a group."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(forkserver.PRELOADED))
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(rank, str(folder / "store"), theirs), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def outcomes(self, size: int, function: Callable[..., Any], *args: Any, per_rank: Any = None) -> list[Any]:
        """What each rank returned, or its Failure.

        per_rank: a last argument for each rank.
        """
        pipes = [self.pipes[rank] for rank in RANKS[size]]
        for index, pipe in enumerate(pipes):
            pipe.send((size, function, args if per_rank is None else (*args, per_rank[index])))
        outcomes = []
        for pipe in pipes:
            assert pipe.poll(300), "a rank hangs"
            outcomes.append(pipe.recv())
        return outcomes

    def call(self, size: int, function: Callable[..., Any], *args: Any, per_rank: Any = None) -> list[Any]:
        """What each rank returned; raises if a rank raised. Arguments as in `outcomes`."""
        outcomes = self.outcomes(size, function, *args, per_rank=per_rank)
        for rank, outcome in enumerate(outcomes):
            if isinstance(outcome, Failure):
                raise AssertionError(f"rank {rank}: {outcome.trace}")
        return outcomes

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.terminate()


class Failure:
    """An exception that a rank raised."""

    def __init__(self, error: Exception) -> None:
        self.kind, self.text, self.trace = type(error).__name__, str(error), traceback.format_exc()


def _work(rank: int, store: str, pipe: Connection) -> None:
    # Functions are unpickled by the names that pytest gave their modules, which begin with the name of this folder. The
    # path comes last, so that svgdx is the installed package and not the folder of its sources.
    sys.path.append(str(Path(__file__).parents[2]))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD, timeout=TIMEOUT)
    groups = {size: dist.new_group(ranks, timeout=TIMEOUT) for size, ranks in RANKS.items()}
    while (task := pipe.recv()) is not None:
        size, function, args = task
        # No function depends on those that ran before.
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        try:
            outcome = function(groups[size], *args)
        except Exception as error:
            outcome = Failure(error)
        pipe.send(outcome)
    dist.destroy_process_group()
