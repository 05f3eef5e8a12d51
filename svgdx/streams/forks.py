"""A block of code with its own seed, for libraries that draw from torch's default generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seeds torch's default generators of the CPU and of a GPU, and puts their states back at the end.

    Args:
        seed: any 64-bit integer.
        device: the GPU; None or the CPU leaves the generators of all GPUs as they are.
    """
    gpus = []
    if device is not None and device.type == "cuda":
        gpus = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(gpus):
        # torch.manual_seed would also seed the generators of all other GPUs.
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield
