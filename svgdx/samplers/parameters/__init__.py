"""Bandwidths and step sizes of the steps of a chain: fixed, scheduled, learnt, from the particles or from the state."""

from svgdx.samplers.parameters.bandwidths import HEURISTICS, Heuristic, as_bandwidth, median_bandwidth
from svgdx.samplers.parameters.step_sizes import (
    BOUNDS,
    LEAKY_SLOPE,
    SCHEDULES,
    Scheduled,
    as_rows,
    as_step_size,
    bounded,
    held,
    step_bound,
)
from svgdx.samplers.parameters.values import Fixed, Learnt, OfState, Value, as_value

__all__ = [
    "BOUNDS",
    "HEURISTICS",
    "LEAKY_SLOPE",
    "SCHEDULES",
    "Fixed",
    "Heuristic",
    "Learnt",
    "OfState",
    "Scheduled",
    "Value",
    "as_bandwidth",
    "as_rows",
    "as_step_size",
    "as_value",
    "bounded",
    "held",
    "median_bandwidth",
    "step_bound",
]
