"""The ops of :mod:`svgdx.ops` in plain PyTorch, written for reading.

They are the oracle of the tests, what ``SVGDX_DISABLE=1`` falls back to, and the way to second derivatives.
"""

from svgdx.reference.gfn import (
    gfn_sample_backward,
    gfn_sample_forward,
    gfn_trajectory_log_prob,
    linear_trajectory_log_prob,
    masked_trajectory_log_prob,
)
from svgdx.reference.svgd import (
    ksd,
    median_distance,
    svgd_field,
    svgd_jacobian_sqnorm,
    svgd_logdet,
    svgd_phi,
    svgd_phi_trace,
    svgd_step,
)
from svgdx.reference.trace import probe_trace, rademacher

__all__ = [
    "gfn_sample_backward",
    "gfn_sample_forward",
    "gfn_trajectory_log_prob",
    "ksd",
    "linear_trajectory_log_prob",
    "masked_trajectory_log_prob",
    "median_distance",
    "probe_trace",
    "rademacher",
    "svgd_field",
    "svgd_jacobian_sqnorm",
    "svgd_logdet",
    "svgd_phi",
    "svgd_phi_trace",
    "svgd_step",
]
