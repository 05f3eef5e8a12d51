"""Score matching by second derivatives: losses that fit the gradient of a log density to data.

Sources: [H05] Hyvärinen, Estimation of non-normalized statistical models by score matching, JMLR 2005. [S19] Song,
Garg, Shi & Ermon, Sliced score matching, UAI 2019.
"""

from __future__ import annotations

from torch import Tensor

from svgdx._checks import features
from svgdx.densities.base import as_log_density
from svgdx.densities.mlp import MLPLogDensity
from svgdx.losses.energy import Target
from svgdx.ops.mlp import MAX_DIM
from svgdx.streams import Source
from svgdx.trace import hessian_trace

__all__ = ["score_matching", "sliced_score_matching"]


def score_matching(target: Target, x: Tensor) -> Tensor:
    """Exact score matching, the mean of Tr ∇²f(x) + |∇f(x)|² / 2, [H05] theorem 1.

    For an MLPLogDensity with D <= 64 one sweep through the network computes the trace, and one back its gradient
    (:func:`svgdx.ops.mlp_laplacian`). Any other target costs D products with its Hessian.

    Args:
        target: a LogDensity, an Energy or a callable log density, see :func:`svgdx.densities.as_log_density`; three
            times differentiable.
        x: data, (..., D), with noise if its density is not smooth.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`svgdx.hessian_trace`.
    """
    log_density, x = as_log_density(target), features("score_matching", "x", x)
    # A subclass may have changed f.
    if (
        isinstance(log_density, MLPLogDensity)
        and type(log_density).forward is MLPLogDensity.forward
        and log_density.dim <= MAX_DIM
    ):
        _, score, trace = log_density.laplacian(x, create_graph=True)
    else:
        derivatives = hessian_trace(log_density, x, method="exact", create_graph=True)
        score, trace = derivatives.score, derivatives.trace
    return (trace + half_square(score)).mean()


def sliced_score_matching(target: Target, x: Tensor, probes: int = 1, generator: Source = None) -> Tensor:
    """Sliced score matching, the mean of v·∇²f(x) v + |∇f(x)|² / 2 over random signs v, [S19] equation 8.

    Its expectation is :func:`score_matching`; a probe costs one product with the Hessian, whatever D is.

    Args:
        target, x: as for :func:`score_matching`.
        probes: the number of signs v for each point.
        generator: a torch.Generator or a :class:`svgdx.Stream` on the device of x; None takes a seed from torch's
            default generator of the CPU.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`svgdx.hessian_trace`.
    """
    x = features("sliced_score_matching", "x", x)
    derivatives = hessian_trace(target, x, probes, generator=generator, create_graph=True)
    return (derivatives.trace + half_square(derivatives.score)).mean()


def half_square(vector: Tensor) -> Tensor:
    return vector.square().sum(-1) / 2
