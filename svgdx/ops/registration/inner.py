"""Inner ops, ``torch.ops.svgdx_inner.<name>``: each is called by one folder, which prepares every argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from svgdx import _library
from svgdx.ops.registration.observers import is_transformed

__all__ = ["fake", "serves"]

Function = TypeVar("Function", bound=Callable[..., Any])


def fake(*names: str) -> Callable[[Function], Function]:
    """Registers the decorated function as the fake kernel of the inner ops with these names."""

    def register(function: Function) -> Function:
        for name in () if _library.disabled() else names:
            torch.library.register_fake(f"svgdx_inner::{name}", function)
        return function

    return register


def serves(*tensors: Tensor) -> bool:
    """Whether inner ops take these tensors: of one supported dtype and device, outside transformations of functions."""
    first = tensors[0]
    if first.dtype not in (torch.float32, torch.float64) or first.device.type not in ("cpu", "cuda"):
        return False
    if any(tensor.dtype != first.dtype or tensor.device != first.device for tensor in tensors[1:]):
        return False
    return not (is_transformed() or _library.disabled())
