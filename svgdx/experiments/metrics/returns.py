"""The interquartile mean of returns and its interval, by the definitions of rliable.

Source: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

RESAMPLES = 10_000
_TRIMMED = 0.25
# Resamples worked on at a time, in numbers.
_BLOCK = 4_000_000


def iqm(scores: Any) -> float:
    """The interquartile mean: that of the middle half of all runs and tasks; of fewer than four numbers, the mean."""
    return float(trim_mean(np.asarray(scores, np.float64), _TRIMMED, axis=None))


def interval(
    scores: NDArray[np.float64], resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of the interquartile mean by stratified bootstrap; None for a single run.

    Args:
        scores: (runs, tasks). Runs are drawn with replacement, for each task by themselves.
        resamples: how often. confidence: share of the resamples within. seed: of the draws.

    Raises:
        ValueError: scores of another shape, or a score that is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"interval: scores must have shape (runs, tasks), but have {scores.shape}")
    if not bool(np.isfinite(scores).all()):
        raise ValueError("interval: scores must be finite")
    if len(scores) == 1:
        return None
    generator = np.random.default_rng(seed)
    found, block = [], max(1, _BLOCK // scores.size)
    for begin in range(0, resamples, block):
        count = min(block, resamples - begin)
        drawn = generator.integers(len(scores), size=(count, *scores.shape))
        resampled = np.take_along_axis(scores[None], drawn, axis=1).reshape(count, -1)
        found.append(trim_mean(resampled, _TRIMMED, axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return float(low), float(high)


__all__ = ["RESAMPLES", "interval", "iqm"]
