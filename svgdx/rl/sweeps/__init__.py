"""Derivatives of the least Q in the action, by forward and backward sweeps through the layers of all critics.

Private to svgdx.rl.critics. Read `network.py` for what is differentiated, `plain.py` for the formulas in torch's own
operations, and `compiled.py` for the same computation in C++ and CUDA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from svgdx.rl.sweeps.compiled import CompiledSweeps
from svgdx.rl.sweeps.network import Network
from svgdx.rl.sweeps.plain import PlainSweeps
from svgdx.rl.sweeps.tanh_target import tanh_target

Sweeps: TypeAlias = CompiledSweeps | PlainSweeps


def sweeps_of(networks: Sequence[Network]) -> Sweeps:
    """The sweeps through networks of one shape: compiled for two in float32 and float64, otherwise plain."""
    return CompiledSweeps(networks) if CompiledSweeps.serve(networks) else PlainSweeps(networks)


__all__ = ["CompiledSweeps", "Network", "PlainSweeps", "Sweeps", "sweeps_of", "tanh_target"]
