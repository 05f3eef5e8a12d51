"""The ops of Hessian-trace estimation.

Sources:
  [H89]    Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989.
  [PHILOX] Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011: Philox4x32-10.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx import _checks
from svgdx._dtype import wide
from svgdx.reference.gfn import philox

__all__ = ["probe_trace", "rademacher"]


def rademacher(like: Tensor, seed: int, offset: int) -> Tensor:
    """Independent signs, +1 or -1, in the shape, dtype and device of ``like``.

    Element i, counted in row-major order, is -1 where bit i % 128 of the Philox block with key seed and counter
    (i // 128, offset) is set, [PHILOX].
    """
    _checks.floating("rademacher", "like", like)
    count = like.numel()
    counter = torch.arange((count + 127) // 128, device=like.device)
    words = torch.stack(philox(seed, counter, offset), -1)
    bits = words[..., None] >> torch.arange(32, device=like.device) & 1
    return (1 - 2 * bits).flatten()[:count].view(like.shape).to(like.dtype)


def probe_trace(probe: Tensor, hvp: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sample variance over V probes of v . (H v), whose expectation is Tr H, [H89].

    Shapes: probe, hvp (V, ..., D); results (...), float32 for half precision; the variance is NaN for V = 1.
    """
    _checks.probes("probe_trace", probe, hvp)
    forms = (wide(probe) * wide(hvp)).sum(-1)
    mean = forms.mean(0)
    if len(forms) == 1:
        return mean, torch.full_like(mean, torch.nan)
    return mean, (forms - mean).square().sum(0) / (len(forms) - 1)
