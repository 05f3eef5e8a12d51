"""Derivatives of min(Q1, Q2) in the action, by forward and backward sweeps through the layers of both critics.

Private to svgdx.rl.critics. Read `network.py` for what is differentiated, `plain.py` for the formulas in torch's own
operations, and `compiled.py` for the same computation in C++.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from svgdx.rl.sweeps.compiled import CompiledSweeps
from svgdx.rl.sweeps.network import Network, first_is_smaller
from svgdx.rl.sweeps.plain import PlainSweeps

Sweeps: TypeAlias = CompiledSweeps | PlainSweeps


def sweeps_of(networks: Sequence[Network]) -> Sweeps:
    """The sweeps through two networks: compiled on the CPU in float32 and float64, otherwise plain."""
    return CompiledSweeps(networks) if CompiledSweeps.serve(networks) else PlainSweeps(networks)


__all__ = ["CompiledSweeps", "Network", "PlainSweeps", "Sweeps", "first_is_smaller", "sweeps_of"]
