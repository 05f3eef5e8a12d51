"""What must see operations one by one, so that a fast way around the dispatcher is closed."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

__all__ = ["is_observed", "is_transformed"]


def is_transformed() -> bool:
    """Whether a compiler, torch.func or forward mode transforms the functions that are called."""
    return (
        torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


def is_observed() -> bool:
    """Whether any of these, autocast or a mode such as FakeTensorMode must see calls through the dispatcher."""
    return is_transformed() or torch._C._is_any_autocast_enabled() or torch._C._len_torch_dispatch_stack() > 0
