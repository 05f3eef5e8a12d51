"""Generators of random numbers of the pretended GPU, the default one among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

RealGenerator = torch.Generator


def is_cuda(device: Any) -> bool:
    """Whether a device argument names CUDA; a bare number does."""
    if device is None:
        return False
    return isinstance(device, int) or torch.device(device).type == "cuda"


class CudaGenerator(RealGenerator):
    """A generator that says it is on cuda:0, and has an offset as those of a GPU do."""

    device = property(lambda self: torch.device("cuda", 0))  # type: ignore[assignment]
    offset = 0

    def manual_seed(self, seed: int) -> CudaGenerator:
        self.offset = 0
        super().manual_seed(seed)
        return self

    def get_offset(self) -> int:
        return self.offset

    def set_offset(self, offset: int) -> None:
        self.offset = offset


class _Meta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, RealGenerator)

    def __call__(cls, device: Any = "cpu") -> RealGenerator:
        return CudaGenerator() if is_cuda(device) else RealGenerator(device)


class Generator(metaclass=_Meta):
    """What torch.Generator is while the GPU is pretended."""


# torch's default generator of the pretended GPU.
default = CudaGenerator()


@contextmanager
def generators_of(func: Any, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Lets a random op of the pretended GPU draw from its default generator, unless it was given another."""
    if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
        yield
        return
    with default_in_use():
        yield


@contextmanager
def default_in_use() -> Iterator[None]:
    """Puts the default generator of the pretended GPU in the place of the CPU's."""
    of_cpu = torch.default_generator.get_state()
    torch.default_generator.set_state(default.get_state())
    try:
        yield
    finally:
        default.set_state(torch.default_generator.get_state())
        torch.default_generator.set_state(of_cpu)
