"""Four Gloo processes, started once for all tests, which run functions in groups of 1 to 4 processes."""

from __future__ import annotations

import datetime
import pickle
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
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

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pool-")
        folder = Path(self._folder.name)
        self.connections: list[Connection] = []
        self.processes = []
        with socket.socket(socket.AF_UNIX) as listener, open(folder / "log", "ab") as log:
            listener.bind(f"{folder}/socket")
            listener.listen()
            listener.settimeout(TIMEOUT.total_seconds())
            for rank in range(WORLD):
                program = f"from distributed.pool import work\nwork({rank}, {str(folder)!r})"
                self.processes.append(forkserver.start(["-c", program], Path(__file__).parents[1], log, log))
                self.connections.append(Connection(listener.accept()[0].detach()))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for connection in self.connections:
            send(connection, None)
        for process in self.processes:
            process.wait(10)
        self._folder.cleanup()

    def outcomes(self, size: int, function: Callable[..., Any], *args: Any, per_rank: Any = None) -> list[Any]:
        """What each rank returned, or its Failure.

        per_rank: a last argument for each rank.
        """
        connections = [self.connections[rank] for rank in RANKS[size]]
        for index, connection in enumerate(connections):
            send(connection, (size, function, args if per_rank is None else (*args, per_rank[index])))
        outcomes = []
        for connection in connections:
            assert connection.poll(300), "a rank hangs"
            outcomes.append(pickle.loads(connection.recv_bytes()))
        return outcomes

    def call(self, size: int, function: Callable[..., Any], *args: Any, per_rank: Any = None) -> list[Any]:
        """What each rank returned; raises if a rank raised. Arguments as in `outcomes`."""
        outcomes = self.outcomes(size, function, *args, per_rank=per_rank)
        for rank, outcome in enumerate(outcomes):
            if isinstance(outcome, Failure):
                raise AssertionError(f"rank {rank}: {outcome.trace}")
        return outcomes


class Failure:
    """An exception that a rank raised."""

    def __init__(self, error: Exception) -> None:
        self.kind, self.text, self.trace = type(error).__name__, str(error), traceback.format_exc()


def send(connection: Connection, value: object) -> None:
    """Sends copies of tensors, not handles of shared memory as `Connection.send` does once torch is imported."""
    connection.send_bytes(pickle.dumps(value))


def work(rank: int, folder: str) -> None:
    """Runs the functions that the pool sends."""
    # Functions are unpickled by the names that pytest gave their modules, which begin with the name of this folder. The
    # path comes last, so that svgdx is the installed package and not the folder of its sources.
    sys.path.append(str(Path(__file__).parents[2]))
    torch.set_num_threads(1)
    connection = Client(f"{folder}/socket")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=TIMEOUT)
    groups = {size: dist.new_group(ranks, timeout=TIMEOUT) for size, ranks in RANKS.items()}
    while (task := pickle.loads(connection.recv_bytes())) is not None:
        size, function, args = task
        # No function depends on those that ran before.
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        try:
            outcome = function(groups[size], *args)
        except Exception as error:
            outcome = Failure(error)
        send(connection, outcome)
    dist.destroy_process_group()
