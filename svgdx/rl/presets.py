"""How a Stein policy samples: its settings, and presets for the rows of the published comparison."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from svgdx._checks import integer, one_of
from svgdx.rl.targets import TARGETS
from svgdx.samplers import BOUNDS, CONTROLS, DENSITIES, DIVISORS, HESSIANS, HEURISTICS

STARTS = ("soft", "clamp")
STEP_PER_PARTICLE = 0.1

PRESETS: dict[str, dict[str, Any]] = {
    "p-svgd": {
        "target": "s2ac",
        "bandwidth": "s2ac-median",
        "step": "fixed",
        "bound": "none",
        "hessian": "none",
        "divisor": "M-1",
        "control": "truncation",
        "start": "clamp",
        "step_size": 0.1,
    },
    "met-svgd-sigma-no-trace": {"step": "fixed", "hessian": "none"},
    "met-svgd-no-trace": {"hessian": "none"},
    "met-svgd": {},
    "met-svgd-no-bound": {"bound": "none"},
    "met-svgd-lc": {"stop_threshold": 1e-3},
    "met-svgd-mh": {"control": "metropolis-hastings"},
    "met-svgd-mh-greedy": {"control": "epsilon-greedy"},
    "met-svgd-64": {"particles": 64},
    "met-svgd-64-mh": {"particles": 64, "control": "metropolis-hastings"},
    "met-svgd-64-mh-greedy": {"particles": 64, "control": "epsilon-greedy"},
}


@dataclass(frozen=True)
class SteinSettings:
    """Settings of the SVGD chains of a Stein policy. Lengths are in units of the actions before their tanh.

    Attributes:
        particles: M, for each state.
        steps: L, the length of a chain.
        target: the density that SVGD moves the particles to, one of `svgdx.rl.targets.TARGETS`.
        bandwidth: "learnt" separately for each step, or one of `svgdx.samplers.HEURISTICS`.
        bandwidth_start: the learnt bandwidth before training.
        step: whether the step size eps is "learnt" separately for each step, or "fixed".
        step_size: the fixed eps, or the learnt one before training; None is STEP_PER_PARTICLE times M. A particle's own
            score enters its direction with weight 1 / M, so that 0.1 moves ten particles by a fifth of their deviation.
        start: how the network's output becomes a deviation in `svgdx.rl.actor.STD`: "soft", by a sigmoid, or "clamp",
            which has no gradient outside.
        bound, hessian, density, divisor, control: see `svgdx.samplers.SVGD`.
        mh_iterations: the most iterations of the inverse map in a Metropolis-Hastings step.
        mh_low, mh_high: the probability of a Metropolis-Hastings step at the start and at the end of training, with
            control "epsilon-greedy".
        stop_threshold, patience: see `svgdx.samplers.SteinStop`; 0 disables either.

    Raises:
        ValueError: a value that is not allowed; the message names the setting.
    """

    particles: int = 10
    steps: int = 3
    target: str = "max-entropy"
    bandwidth: str = "learnt"
    bandwidth_start: float = 1.0
    step: str = "learnt"
    step_size: float | None = None
    start: str = "soft"
    bound: str = "leaky"
    hessian: str = "hutchinson"
    density: str = "first-order"
    divisor: str = "M"
    control: str = "none"
    mh_iterations: int = 10
    mh_low: float = 0.1
    mh_high: float = 0.9
    stop_threshold: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        choices = {
            "target": TARGETS,
            "bandwidth": ("learnt", *HEURISTICS),
            "step": ("learnt", "fixed"),
            "bound": BOUNDS,
            "hessian": HESSIANS,
            "density": DENSITIES,
            "divisor": DIVISORS,
            "control": CONTROLS,
            "start": STARTS,
        }
        for name, values in choices.items():
            one_of("SteinSettings", name, getattr(self, name), values)
        for name, least in (("particles", 1), ("steps", 0), ("mh_iterations", 1), ("patience", 0)):
            value = getattr(self, name)
            try:
                number = integer("SteinSettings", name, value)
            except TypeError:
                number = least - 1
            if number < least:
                raise ValueError(f"SteinSettings: {name} must be an integer, at least {least}, but is {value!r}")
            object.__setattr__(self, name, number)
        if self.step_size is None:
            object.__setattr__(self, "step_size", STEP_PER_PARTICLE * self.particles)
        if self.bandwidth != "learnt" and self.particles < 2:
            raise ValueError(f"SteinSettings: bandwidth {self.bandwidth} needs at least 2 particles")


def settings_of(preset: str, changes: dict[str, Any] | None = None) -> SteinSettings:
    """The settings of a preset, one of PRESETS, with some of them replaced.

    - "p-svgd" is S2AC as its authors ran it: median bandwidth, fixed step size, score of Q without tanh, no Hessian
      term, divisor M - 1, truncation, clamped start (Messaoud et al., S2AC, ICLR 2024).
    - "met-svgd" learns bandwidth and step size for each step, estimates the Hessian term by Hutchinson's method and
      has a leaky bound on the step size (Messaoud et al., Particles Don't Care About Z, ICML 2026).
    - The suffixes "-sigma-no-trace", "-no-trace" and "-no-bound" leave parts of it out, "-lc" stops chains early, "-mh"
      and "-mh-greedy" correct steps by Metropolis-Hastings, and "-64" uses 64 particles.

    Args:
        preset: one of PRESETS.
        changes: fields of SteinSettings that replace those of the preset.

    Raises:
        ValueError: an unknown preset or setting.
    """
    one_of("SteinSAC", "preset", preset, tuple(PRESETS))
    settings = PRESETS[preset] | (changes or {})
    names = [field.name for field in dataclasses.fields(SteinSettings)]
    for name in settings:
        one_of("SteinSAC", "stein_kwargs", name, names)
    return SteinSettings(**settings)


__all__ = ["PRESETS", "SteinSettings", "settings_of"]
