"""Score matching by noise, with first derivatives alone.

Source: [V11] Vincent, A connection between score matching and denoising autoencoders, Neural Computation 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx import _checks
from svgdx.densities.base import as_log_density
from svgdx.losses.energy import Target, scale_of
from svgdx.losses.score import half_square
from svgdx.streams import Source, stream_of

__all__ = ["denoising_score_matching"]


@_checks.differentiates
def denoising_score_matching(target: Target, x: Tensor, noise: float | Tensor, generator: Source = None) -> Tensor:
    """Denoising score matching, the mean of |noise ∇f(x + noise z) + z|² / 2 over normal z, [V11] equation 11.

    It fits p to the density of the noisy data. The factor noise², which [V11] leaves out, gives the loss the same size
    for every noise.

    Args:
        target: as for :func:`score_matching`, twice differentiable.
        x: data without noise, (..., D).
        noise: standard deviation of the noise in units of x, positive: a number, or a tensor that broadcasts to (...).
        generator: as for :func:`sliced_score_matching`.

    Raises:
        TypeError: the target is not callable, or x is not a tensor.
        ValueError: noise is not positive, or the generator is on another device.
    """
    log_density = as_log_density(target)
    x = _checks.features("denoising_score_matching", "x", x)
    scale = scale_of("denoising_score_matching", noise)
    normal = stream_of("denoising_score_matching", generator, x.device).normal(x)
    with torch.enable_grad():
        noisy = (x + scale * normal).detach().requires_grad_()
        value = _checks.returned("denoising_score_matching", "target", log_density(noisy), noisy)
        (score,) = torch.autograd.grad(value, noisy, torch.ones_like(value), create_graph=True)
    return half_square(scale * score + normal).mean()
