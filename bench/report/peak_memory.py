"""Measures the peak memory of one call beyond its inputs and outputs.

PYTHONPATH=bench python bench/report/peak_memory.py PEER B M D
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys


def peak_extra_bytes(peer: str, shape: tuple[int, int, int]) -> int:
    """Run this file for one peer and shape (B, M, D) and parse its output. Linux only (/proc/self)."""
    arguments = [sys.executable, __file__, peer, *map(str, shape)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    return int(result.stdout.split()[-1])


def status(key: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def measure(peer: str, batch: int, particles: int, dim: int) -> int:
    import torch
    from peers.field import PEERS

    torch.set_num_threads(1)
    form = PEERS[peer]()

    def inputs(m: int) -> tuple[torch.Tensor, ...]:
        return torch.randn(batch, m, dim), torch.randn(batch, m, dim), torch.full((batch,), dim**0.5)

    # Excludes code and thread stacks; compiled peers specialise on the shape, so they warm up with it.
    arguments = inputs(particles)
    form(*(arguments if peer.startswith("compiled") else inputs(min(particles, 8))))
    before = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    outputs = form(*arguments)
    return max(0, status("VmHWM") - before - sum(t.nbytes for t in outputs))


if __name__ == "__main__":
    print(measure(sys.argv[1], *map(int, sys.argv[2:5])))
