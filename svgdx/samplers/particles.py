"""Where the particles of a chain live: all in this process, or sharded over the ranks of a process group.

:class:`svgdx.samplers.SVGD` and its chains ask a :class:`Placement` for everything that depends on it. This module
holds the local one; :mod:`svgdx.distributed` lies above the samplers and registers the sharded one when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from svgdx.samplers.control import Control
from svgdx.samplers.initial import Initial
from svgdx.samplers.kernels import Interaction, Kernel
from svgdx.samplers.parameters import Value
from svgdx.samplers.state import Ensemble, LocalEnsemble, State
from svgdx.samplers.stopping import SteinStop
from svgdx.samplers.targets import Target
from svgdx.streams import Stream

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Settings(Protocol):
    """The settings of a sampler that its chains read; :class:`svgdx.samplers.SVGD` documents them."""

    target: Target
    initial: Initial
    kernel: Kernel
    step_size: Value
    bound: str
    hessian: str
    density: str
    divisor: str
    control: Control | None
    stop: SteinStop | None
    attach_every: int
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None
    callbacks: list[Callable[[State], None]]
    progress: float


@dataclass(frozen=True)
class Particles:
    """The particles of one chain: sums over all of them, and the kernel between those of this process and all."""

    ensemble: Ensemble
    interaction: Interaction


class Placement(Protocol):
    """Where the particles of a sampler's chains live."""

    def check(self, settings: Settings) -> None:
        """Raises ValueError if such a sampler's particles cannot live here."""

    def count(self, n: int | Sequence[int]) -> int:
        """The particles of this process, M_p, if a chain is to have n. Raises ValueError if n is below 1."""

    def stream(self, stream: Stream) -> Stream:
        """The source of this process's random numbers, from that of all processes."""

    def particles(self, settings: Settings, x: Tensor, log_q: Tensor | None, steps: int, recorded: bool) -> Particles:
        """The particles of a chain that starts at this process's x (..., M_p, D) with log_q (..., M_p)."""

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums the parameters' gradients over all processes, in place."""


class LocalPlacement:
    """All particles in this process."""

    def check(self, settings: Settings) -> None:
        pass

    def count(self, n: int | Sequence[int]) -> int:
        if isinstance(n, Sequence) or n < 1:
            raise ValueError(f"SVGD: n must be at least 1, one number without a process_group, but is {n}")
        return n

    def stream(self, stream: Stream) -> Stream:
        return stream

    def particles(self, settings: Settings, x: Tensor, log_q: Tensor | None, steps: int, recorded: bool) -> Particles:
        return Particles(LocalEnsemble(), settings.kernel)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        pass


_sharded: Callable[[ProcessGroup], Placement] | None = None


def register_sharded(placement: Callable[[ProcessGroup], Placement]) -> None:
    """Sets what makes the placement of a sampler with a process group."""
    global _sharded
    _sharded = placement


def placement_of(process_group: ProcessGroup | None) -> Placement:
    """The placement of a sampler; None is the local one.

    Raises RuntimeError if a process group is passed and :mod:`svgdx.distributed` was not imported.
    """
    if process_group is None:
        return LocalPlacement()
    if _sharded is None:
        raise RuntimeError(
            "SVGD: process_group needs svgdx.distributed, which svgdx imports if torch.distributed.is_available()"
        )
    return _sharded(process_group)
