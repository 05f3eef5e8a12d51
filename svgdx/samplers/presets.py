"""SVGD samplers with published settings, by their usual names."""

from __future__ import annotations

from typing import Any

from torch import distributions, nn

from svgdx._checks import one_of
from svgdx.samplers.initial import LearntGaussian
from svgdx.samplers.kernels import RBF
from svgdx.samplers.parameters import Heuristic, Learnt
from svgdx.samplers.svgd import SVGD
from svgdx.samplers.targets import LogProb, Target

PRESETS = ("svgd", "p-svgd", "met-svgd")


def preset(
    name: str,
    target: Target | distributions.Distribution | nn.Module | LogProb,
    initial: LearntGaussian | distributions.Distribution,
    steps: int,
    **changes: Any,
) -> SVGD:
    """Makes a sampler with published settings.

    - "svgd": bandwidth by the median, fixed step size (Liu & Wang, NeurIPS 2016);
    - "p-svgd": S2AC's bandwidth by the median, no Hessian term, divisor M - 1, truncation at three standard deviations
      (Messaoud et al., ICLR 2024);
    - "met-svgd": bandwidth and step size learnt for each step, starting at 1 and 0.1, Hutchinson's Hessian term, leaky
      bound (Messaoud et al., ICML 2026).

    Args:
        name: one of PRESETS.
        target, initial: as for :class:`svgdx.samplers.SVGD`.
        steps: L, the steps that "met-svgd" learns.
        changes: arguments of SVGD that override the preset's.

    Raises:
        ValueError: an unknown name; otherwise as SVGD.
    """
    one_of("preset", "name", name, PRESETS)
    settings: dict[str, Any] = {"kernel": RBF("median"), "step_size": 0.1}
    if name == "p-svgd":
        settings = {"kernel": RBF(Heuristic("s2ac-median")), "step_size": 0.1, "hessian": "none", "divisor": "M-1"}
        settings["control"] = "truncation"
    if name == "met-svgd":
        settings = {"kernel": RBF(Learnt(1.0, steps)), "step_size": Learnt(0.1, steps), "bound": "leaky"}
    return SVGD(target, initial, **(settings | changes))
