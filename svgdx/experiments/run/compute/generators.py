"""Torch's default generators, of the CPU and of the GPU that computes: seeded for a while, saved and restored."""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx.streams import seeded

__all__ = ["restore", "seeded", "states"]


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
