"""Ops for CPU and CUDA: Stein variational gradient descent, Hessian traces and generative flow networks.

Each op is also registered with PyTorch under the same name in ``torch.ops.svgdx``. If ``SVGDX_DISABLE=1`` is set in the
environment at import, :mod:`svgdx.reference` is used instead.
"""

from svgdx import _library
from svgdx.ops.draw import gfn_sample_backward, gfn_sample_forward, integers, normal, uniform
from svgdx.ops.field import ksd, svgd_field, svgd_phi, svgd_phi_trace, svgd_step
from svgdx.ops.jacobian import svgd_jacobian_sqnorm, svgd_logdet
from svgdx.ops.median import median_distance
from svgdx.ops.mlp import mlp_laplacian, mlp_score_hvp
from svgdx.ops.probe import probe_trace, rademacher
from svgdx.ops.trajectory import gfn_trajectory_log_prob, linear_trajectory_log_prob, masked_trajectory_log_prob

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

if _library.disabled():
    from svgdx.ops import draw, field, jacobian, median, mlp, probe, trajectory

    for _room in (draw, field, jacobian, median, mlp, probe, trajectory):
        for _name in _room.__all__:
            globals()[_name] = getattr(_room, f"{_name}_reference")
