"""The ops of :mod:`svgdx.ops` in plain PyTorch, written for readability.

They serve as the tests' oracle, as the fallback for ``SVGDX_DISABLE=1``, and for second derivatives.
"""

from svgdx.ops.draw import (
    gfn_sample_backward_reference as gfn_sample_backward,
)
from svgdx.ops.draw import (
    gfn_sample_forward_reference as gfn_sample_forward,
)
from svgdx.ops.draw import (
    integers_reference as integers,
)
from svgdx.ops.draw import (
    normal_reference as normal,
)
from svgdx.ops.draw import (
    uniform_reference as uniform,
)
from svgdx.ops.field import (
    ksd_reference as ksd,
)
from svgdx.ops.field import (
    svgd_field_reference as svgd_field,
)
from svgdx.ops.field import (
    svgd_phi_reference as svgd_phi,
)
from svgdx.ops.field import (
    svgd_phi_trace_reference as svgd_phi_trace,
)
from svgdx.ops.field import (
    svgd_step_reference as svgd_step,
)
from svgdx.ops.jacobian import (
    svgd_jacobian_sqnorm_reference as svgd_jacobian_sqnorm,
)
from svgdx.ops.jacobian import (
    svgd_logdet_reference as svgd_logdet,
)
from svgdx.ops.median import (
    median_distance_reference as median_distance,
)
from svgdx.ops.mlp import (
    mlp_laplacian_reference as mlp_laplacian,
)
from svgdx.ops.mlp import (
    mlp_score_hvp_reference as mlp_score_hvp,
)
from svgdx.ops.probe import (
    probe_trace_reference as probe_trace,
)
from svgdx.ops.probe import (
    rademacher_reference as rademacher,
)
from svgdx.ops.trajectory import (
    gfn_trajectory_log_prob_reference as gfn_trajectory_log_prob,
)
from svgdx.ops.trajectory import (
    linear_trajectory_log_prob_reference as linear_trajectory_log_prob,
)
from svgdx.ops.trajectory import (
    masked_trajectory_log_prob_reference as masked_trajectory_log_prob,
)

__all__ = [
    "gfn_sample_backward",
    "gfn_sample_forward",
    "gfn_trajectory_log_prob",
    "integers",
    "ksd",
    "linear_trajectory_log_prob",
    "masked_trajectory_log_prob",
    "median_distance",
    "mlp_laplacian",
    "mlp_score_hvp",
    "normal",
    "probe_trace",
    "rademacher",
    "svgd_field",
    "svgd_jacobian_sqnorm",
    "svgd_logdet",
    "svgd_phi",
    "svgd_phi_trace",
    "svgd_step",
    "uniform",
]
