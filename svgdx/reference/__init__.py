"""The ops of :mod:`svgdx.ops` in plain PyTorch, written for readability.

They serve as the tests' oracle, as the fallback for ``SVGDX_DISABLE=1``, and for second derivatives.
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
from svgdx.reference.trace import mlp_laplacian, mlp_score_hvp, probe_trace, rademacher

__all__ = [
    "gfn_sample_backward",
    "gfn_sample_forward",
    "gfn_trajectory_log_prob",
    "ksd",
    "linear_trajectory_log_prob",
    "masked_trajectory_log_prob",
    "median_distance",
    "mlp_laplacian",
    "mlp_score_hvp",
    "probe_trace",
    "rademacher",
    "svgd_field",
    "svgd_jacobian_sqnorm",
    "svgd_logdet",
    "svgd_phi",
    "svgd_phi_trace",
    "svgd_step",
]
