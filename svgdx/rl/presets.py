"""Settings of a Stein policy, and the rows of the published comparison."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from svgdx.rl.targets import TARGETS
from svgdx.samplers import BOUNDS, CONTROLS, DENSITIES, HESSIANS, HEURISTICS
from svgdx.samplers.svgd import DIVISORS
from svgdx.samplers.values import one_of

PRESETS: dict[str, dict[str, Any]] = {
    "p-svgd": {
        "target": "s2ac",
        "bandwidth": "s2ac-median",
        "step": "fixed",
        "bound": "none",
        "hessian": "none",
        "divisor": "M-1",
        "control": "truncation",
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
    """How a Stein policy samples. Lengths are in the units of actions before their tanh.

    particles: M. steps: L. target: one of TARGETS. bandwidth: "learnt" for each step, or one of HEURISTICS;
    bandwidth_start: before training. step: eps "learnt" for each step, or "fixed"; step_size: eps before training, or
    for good. bound, hessian, density, divisor, control: as for `svgdx.samplers.SVGD`. mh_iterations: most iterations of
    the inverse map. mh_low, mh_high: of "epsilon-greedy", the probability of a Metropolis-Hastings step at the start
    and at the end of training. stop_threshold, patience: of `svgdx.samplers.SteinStop`; 0: never.

    Raises:
        ValueError: a value that does not fit, by name.
    """

    particles: int = 10
    steps: int = 3
    target: str = "max-entropy"
    bandwidth: str = "learnt"
    bandwidth_start: float = 1.0
    step: str = "learnt"
    step_size: float = 0.1
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
        known = {
            "target": TARGETS,
            "bandwidth": ("learnt", *HEURISTICS),
            "step": ("learnt", "fixed"),
            "bound": BOUNDS,
            "hessian": HESSIANS,
            "density": DENSITIES,
            "divisor": DIVISORS,
            "control": CONTROLS,
        }
        for name, values in known.items():
            one_of("SteinSettings", name, getattr(self, name), values)
        for name, least in (("particles", 1), ("steps", 0), ("mh_iterations", 1), ("patience", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"SteinSettings: {name} must be an integer, at least {least}, but is {value!r}")
        if self.bandwidth != "learnt" and self.particles < 2:
            raise ValueError(f"SteinSettings: bandwidth {self.bandwidth} needs at least 2 particles")


def settings_of(preset: str, changes: dict[str, Any] | None = None) -> SteinSettings:
    """The settings of a preset, one of PRESETS, with changes.

    - "p-svgd": S2AC as its authors ran it: bandwidth by the median, fixed step size, score of Q without tanh, no
      Hessian term, divisor M - 1, truncation (Messaoud et al., S2AC, ICLR 2024);
    - "met-svgd": bandwidth and step size learnt for each step, Hutchinson's Hessian term, leaky bound (Messaoud et al.,
      ICML 2026); "-sigma-no-trace", "-no-trace", "-no-bound" leave parts out, "-lc" stops chains early, "-mh" and
      "-mh-greedy" correct steps by Metropolis-Hastings, "-64" has 64 particles.

    Raises ValueError for an unknown preset or setting.
    """
    one_of("SteinSAC", "preset", preset, tuple(PRESETS))
    given = PRESETS[preset] | (changes or {})
    names = [each.name for each in dataclasses.fields(SteinSettings)]
    for name in given:
        one_of("SteinSAC", "stein_kwargs", name, names)
    return SteinSettings(**given)


__all__ = ["PRESETS", "SteinSettings", "settings_of"]
