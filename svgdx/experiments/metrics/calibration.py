"""What an evaluation of an energy measures besides distances: the sampler's claims, and how f fits held-out images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from svgdx.samplers.targets import as_target
from svgdx.streams import Stream

# Standard deviations of the noise at which the score of f is compared with the denoising score, in pixel values.
SCALES = (0.06, 0.15, 0.3)


def entropy_bound(samples: Tensor) -> float:
    """The largest entropy in nats of any density with the covariance of samples (N, D): that of a Gaussian.

    It is 1/2 log det(2 pi e C). The expected deficit of log det of a Gaussian's sample covariance is added. If N <= D,
    C is singular and its diagonal stands for it, which bounds the entropy less tightly. It is -inf for samples that do
    not vary in some direction.

    Source: Cover & Thomas, Elements of Information Theory, theorem 8.6.5; the expectation is that of a Wishart matrix.
    """
    count, dim = samples.shape
    values, freedom = samples.detach().cpu().double(), count - 1
    if count > dim:
        log_det = torch.linalg.slogdet(torch.cov(values.T).reshape(dim, dim)).logabsdet
        degrees = freedom - torch.arange(dim, dtype=torch.float64)
    else:
        log_det = values.var(0).log().sum()
        degrees = torch.full((dim,), float(freedom), dtype=torch.float64)
    deficit = (torch.digamma(degrees / 2) + math.log(2 / freedom)).sum()
    return float(0.5 * (dim * math.log(2 * math.pi * math.e) + log_det - deficit))


def calibration(energy: nn.Module, images: Tensor, stream: Stream) -> dict[str, float]:
    """How well grad f fits the denoising score -z / s at images with noise s z, for each s of SCALES.

    Args:
        energy: f, (N, D) -> (N).
        images: images that the energy was not trained on, (N, D).
        stream: source of z, on the device of the energy.

    Returns:
        fit_S: the factor by which grad f must be multiplied to fit best in least squares; 1 if f is the log density
            of the noisy images up to a constant. cosine_S: the cosine of all scores with all denoising scores.

    Source: Vincent, Neural Computation 2011, for the denoising score.
    """
    quantities, target = {}, as_target(energy)
    for scale in SCALES:
        noise = stream.normal(images)
        score = target.derivatives(images + scale * noise).score.double()
        denoising = -noise.double() / scale
        product, norm = (score * denoising).sum(), score.square().sum()
        quantities[f"fit_{scale}"] = float(product / norm)
        quantities[f"cosine_{scale}"] = float(product / (norm * denoising.square().sum()).sqrt())
    return quantities


def norms(energy: nn.Module, images: Tensor, stream: Stream) -> dict[str, float]:
    """data_score_norm and data_hvp_norm: the means of |grad f| and of |H v|, v of random signs, at images (N, D)."""
    derivatives = as_target(energy).derivatives(images, "hutchinson", generator=stream)
    assert derivatives.hvp is not None
    vectors = {"data_score_norm": derivatives.score, "data_hvp_norm": derivatives.hvp}
    return {name: float(torch.linalg.vector_norm(value, dim=-1).mean()) for name, value in vectors.items()}
