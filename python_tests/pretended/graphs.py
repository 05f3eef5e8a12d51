"""CUDA graphs of the pretended GPU: a capture notes what is launched, and a replay does that again at the same places.

A replay reads and writes the very memory that the capture saw. What Python computed in between is frozen: numbers of
the host that an update bakes in stay those of the capture, and a tensor that nobody keeps is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


class Place(NamedTuple):
    """Where a tensor lies in memory that was there before the capture and that the graph does not keep alive."""

    storage: int
    dtype: torch.dtype
    offset: int
    size: torch.Size
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage)
        if storage is None:
            raise RuntimeError("a captured graph reads memory that was freed after the capture")
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


@dataclass
class Call:
    """A call of an op: its arguments, of which a Place is looked up at each replay, and the tensors that it makes."""

    func: Any
    args: list[Any]
    spec: Any
    before: set[int]
    makes: list[tuple[int, Tensor]]


class Recording:
    """What is launched between the begin and the end of a capture, which itself changes nothing on the GPU."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        # Storages made in the capture, which belong to the graph, and the content of those that were there before.
        self.own: dict[int, torch.UntypedStorage] = {}
        self.content: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def before(self, func: Any, flat: Sequence[Any], is_on_gpu: Sequence[bool], spec: Any) -> Call:
        """Notes a call that is about to be made, with its arguments as they are inside."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise RuntimeError(f"{func} draws from torch's generator while a graph is captured")
        pairs = zip(flat, is_on_gpu, strict=True)
        args = [self._argument(x, on_gpu) if isinstance(x, Tensor) else x for x, on_gpu in pairs]
        return Call(func, args, spec, {_key(x) for x in flat if isinstance(x, Tensor)}, [])

    def after(self, call: Call, result: Any) -> Any:
        """Adds the call with its result, and returns the result."""
        for index, x in enumerate(tree_flatten(result)[0]):
            # Views and results in place lie where an argument does.
            if isinstance(x, Tensor) and _key(x) not in call.before:
                self.own[_key(x)] = x.untyped_storage()
                # An alias: its shape must stay when the tensor is squeezed in place.
                call.makes.append((index, x.detach()))
        self.calls.append(call)
        return result

    def _argument(self, x: Tensor, is_on_gpu: bool) -> Tensor | Place:
        key = _key(x)
        if key in self.own:
            return x.detach()
        if not is_on_gpu:
            return x.clone()
        storage = x.untyped_storage()
        if key not in self.content:
            self.content[key] = storage, storage.clone()
        return Place(storage._weak_ref(), x.dtype, x.storage_offset(), x.size(), x.stride())

    def end(self) -> None:
        """Puts back what the calls have changed."""
        for storage, content in self.content.values():
            storage.copy_(content)
        self.content.clear()

    def replay(self) -> None:
        for call in self.calls:
            flat = [x.tensor() if isinstance(x, Place) else x for x in call.args]
            args, kwargs = tree_unflatten(flat, call.spec)
            results = tree_flatten(call.func(*args, **kwargs))[0]
            for index, made in call.makes:
                made.copy_(results[index])


def _key(x: Tensor) -> int:
    return x.untyped_storage()._cdata
