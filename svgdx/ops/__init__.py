"""The ops of Stein variational gradient descent, for CPU and CUDA.

Each is also registered with PyTorch under the same name, ``torch.ops.svgdx``. With ``SVGDX_DISABLE=1`` in the
environment at import, :mod:`svgdx.reference` takes their place.
"""

from svgdx import _library

if _library.disabled():
    from svgdx.reference import (
        ksd,
        median_distance,
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
    from svgdx.ops.jacobian import svgd_jacobian_sqnorm, svgd_logdet
    from svgdx.ops.svgd import svgd_field, svgd_phi, svgd_phi_trace, svgd_step

__all__ = [
    "ksd",
    "median_distance",
    "svgd_field",
    "svgd_jacobian_sqnorm",
    "svgd_logdet",
    "svgd_phi",
    "svgd_phi_trace",
    "svgd_step",
]
