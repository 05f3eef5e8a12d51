"""Torch's default generators, of the CPU and of the GPU that computes: seeded for a while, saved and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CPU = torch.device("cpu")


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seeds the default generators of the CPU and of `device` inside, and puts their states back afterwards.

    Generators of other GPUs are left alone, which torch.manual_seed would seed as well.
    """
    gpus = []
    if device.type == "cuda":
        gpus = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


def states(device: torch.device) -> dict[str, Tensor]:
    """The states of the default generators of the CPU and of `device`, by name."""
    saved = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        saved["cuda"] = torch.cuda.get_rng_state(device)
    return saved


def restore(saved: dict[str, Tensor], device: torch.device) -> None:
    """Puts the states back that `states` returned; one of a GPU only if the run is on a GPU now."""
    torch.set_rng_state(saved["torch"])
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], device)
