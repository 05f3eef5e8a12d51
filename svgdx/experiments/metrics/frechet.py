"""The Fréchet distance between two sets of samples."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from svgdx import _checks


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet (2-Wasserstein) distance of the Gaussians fitted to a (N, D) and b (K, D), full covariances.

    It is |mean_a - mean_b|^2 + Tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2), in squared units of the samples. FID is
    this distance in the features of Inception, not in pixels. Finite sets of samples of one distribution have a
    positive distance.

    Raises:
        TypeError, ValueError: a or b is not a matrix of finite numbers, has fewer than 2 rows, or they differ in D.

    Source: Dowson & Landau, Journal of Multivariate Analysis 1982; Heusel et al., NeurIPS 2017.
    """
    a = _checks.features("frechet_distance", "a", a, rank=2)
    b = _checks.features("frechet_distance", "b", b, a.shape[1], rank=2)
    for name, samples in (("a", a), ("b", b)):
        if len(samples) < 2:
            raise ValueError(f"frechet_distance: {name} must have at least 2 rows, but has {len(samples)}")
        unsound = int((~samples.isfinite()).any(1).sum())
        if unsound > 0:
            raise ValueError(f"frechet_distance: {name} must be finite, but {unsound} of {len(samples)} rows are not")
    first, second = (samples.detach().cpu().double().numpy() for samples in (a, b))
    cov_a, cov_b = (np.atleast_2d(np.cov(samples, rowvar=False)) for samples in (first, second))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # The eigenvalues of C_a^1/2 C_b C_a^1/2 are real and, up to rounding, not negative.
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    gap = first.mean(0) - second.mean(0)
    distance = float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
    # Rounding can put a distance of zero below zero; NaN, of squares that overflow, stays.
    return 0.0 if distance < 0 else distance
