"""Ops for CPU and CUDA: Stein variational gradient descent, Hessian traces and generative flow networks.

Each op is also registered with PyTorch under the same name in ``torch.ops.svgdx``. If ``SVGDX_DISABLE=1`` is set in the
environment at import, :mod:`svgdx.reference` is used instead.
"""

from svgdx import _library

if _library.disabled():
    from svgdx.reference import (
        gfn_sample_backward,
        gfn_sample_forward,
        gfn_trajectory_log_prob,
        ksd,
        linear_trajectory_log_prob,
        masked_trajectory_log_prob,
        median_distance,
        mlp_laplacian,
        mlp_score_hvp,
        probe_trace,
        rademacher,
        svgd_field,
        svgd_jacobian_sqnorm,
        svgd_logdet,
        svgd_phi,
        svgd_phi_trace,
        svgd_step,
    )
else:
    _library.require()
    from svgdx.ops.discrepancy import ksd, median_distance
    from svgdx.ops.gfn import (
        gfn_sample_backward,
        gfn_sample_forward,
        gfn_trajectory_log_prob,
        linear_trajectory_log_prob,
        masked_trajectory_log_prob,
    )
    from svgdx.ops.jacobian import svgd_jacobian_sqnorm, svgd_logdet
    from svgdx.ops.mlp import mlp_laplacian, mlp_score_hvp
    from svgdx.ops.svgd import svgd_field, svgd_phi, svgd_phi_trace, svgd_step
    from svgdx.ops.trace import probe_trace, rademacher

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
