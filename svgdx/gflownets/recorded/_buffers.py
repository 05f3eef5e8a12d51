"""Private to svgdx.gflownets.recorded: memory for the activations of a policy, reused by its next rollout."""

from __future__ import annotations

import weakref
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from svgdx.gflownets.policies import MLPPolicy


class Buffers:
    """Tensors that are lent to one owner at a time.

    The owner loses them when it is destroyed or gives them back. It can still read them until they are lent again,
    which changes ``generation``.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._tensors: dict[str, Tensor] = {}
        self._owner: weakref.ref[Any] | None = None

    def lend(self, owner: object, device: torch.device) -> Buffers:
        """These buffers; fresh ones while these are lent, and for a CUDA graph, whose memory must stay its own."""
        if (self._owner is not None and self._owner() is not None) or _is_captured(device):
            fresh = Buffers()
            fresh._owner = weakref.ref(owner)
            return fresh
        self._owner = weakref.ref(owner)
        self.generation += 1
        return self

    def give_back(self) -> None:
        """Allows the next owner to take these buffers."""
        self._owner = None

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Uninitialised memory; that of the last call with this name if shape, dtype and device are the same."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.shape != shape or tensor.dtype != dtype or tensor.device != device:
            # Frees the old tensor first, so that the two never coexist.
            tensor = None
            self._tensors.pop(name, None)
            self._tensors[name] = tensor = torch.empty(shape, dtype=dtype, device=device)
        return tensor


def _is_captured(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


_of_policies: WeakKeyDictionary[MLPPolicy, Buffers] = WeakKeyDictionary()


def buffers_of(policy: MLPPolicy) -> Buffers:
    """The buffers of a policy's rollouts, which live as long as the policy. A copy of the policy has its own."""
    return _of_policies.setdefault(policy, Buffers())
