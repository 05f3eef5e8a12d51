"""Divergence control: truncation, and Metropolis-Hastings with a direction r = +1 or -1."""

from __future__ import annotations

from svgdx._checks import one_of
from svgdx.samplers.control.metropolis_hastings import EpsilonGreedy, MetropolisHastings
from svgdx.samplers.control.truncation import Move, Truncation

CONTROLS = ("none", "truncation", "metropolis-hastings", "epsilon-greedy")

Control = Truncation | MetropolisHastings


def as_control(control: str | Control) -> Control | None:
    """A control unchanged, or the default one of a name in CONTROLS. Raises ValueError for another name."""
    if isinstance(control, (Truncation, MetropolisHastings)):
        return control
    controls: tuple[type[Control] | None, ...] = (None, Truncation, MetropolisHastings, EpsilonGreedy)
    kind = controls[CONTROLS.index(one_of("SVGD", "control", control, CONTROLS))]
    return None if kind is None else kind()


__all__ = ["CONTROLS", "Control", "EpsilonGreedy", "MetropolisHastings", "Move", "Truncation", "as_control"]
