"""Memory for the activations of a rollout, reused by the next one."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor


class Buffers:
    """Tensors lent to one owner at a time.

    The owner loses them when it is gone or gives them back; until somebody else borrows, it can still read them, which
    ``generation`` tells.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._tensors: dict[str, Tensor] = {}
        self._owner: weakref.ref[Any] | None = None

    def lend(self, owner: object) -> Buffers:
        """These buffers, or new ones of the same kind while these are lent."""
        if self._owner is not None and self._owner() is not None:
            return Buffers().lend(owner)
        self._owner = weakref.ref(owner)
        self.generation += 1
        return self

    def give_back(self) -> None:
        self._owner = None

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Uninitialised memory, that of the last call with this name where it fits exactly."""
        held = self._tensors.get(name)
        if held is None or held.shape != shape or held.dtype != dtype or held.device != device:
            # The old one goes first, so that there are never both.
            held = None
            self._tensors.pop(name, None)
            self._tensors[name] = held = torch.empty(shape, dtype=dtype, device=device)
        return held

    def __reduce__(self) -> tuple[Any, ...]:
        # A copied or pickled policy starts with buffers of its own.
        return Buffers, ()
