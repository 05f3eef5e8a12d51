"""The interquartile mean of returns and its confidence interval, as rliable defines them.

Source: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

RESAMPLES = 10_000
_TRIMMED = 0.25
# Numbers that are resampled at a time.
_BLOCK = 4_000_000


def iqm(scores: Any) -> float:
    """Interquartile mean: the mean of the middle half of all scores; of fewer than four scores, the mean of all."""
    return float(trim_mean(np.asarray(scores, np.float64), _TRIMMED, axis=None))


def interval(
    scores: NDArray[np.float64], resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of the interquartile mean by stratified bootstrap; None for a single run.

    Args:
        scores: (runs, tasks). Runs are drawn with replacement, independently for each task.
        resamples: number of bootstrap resamples.
        confidence: fraction of the resamples that the interval contains.
        seed: of the draws.

    Raises:
        ValueError: scores have another shape, or one is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"interval: scores must have shape (runs, tasks), but have shape {scores.shape}")
    if not bool(np.isfinite(scores).all()):
        raise ValueError("interval: scores must be finite")
    if len(scores) == 1:
        return None
    generator = np.random.default_rng(seed)
    means, block = [], max(1, _BLOCK // scores.size)
    for begin in range(0, resamples, block):
        count = min(block, resamples - begin)
        drawn = generator.integers(len(scores), size=(count, *scores.shape))
        resampled = np.take_along_axis(scores[None], drawn, axis=1).reshape(count, -1)
        means.append(trim_mean(resampled, _TRIMMED, axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


__all__ = ["RESAMPLES", "interval", "iqm"]
