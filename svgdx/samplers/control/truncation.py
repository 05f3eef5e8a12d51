"""Truncation, and the move that every control sees."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from svgdx.samplers.targets import Derivatives


class Move(NamedTuple):
    """A proposed step: particles x, their derivatives, and x_next = x + eps phi, (..., M, D).

    gain is log |det(I + eps J_i)|, or its first order, (..., M); None if no density is followed.
    """

    x: Tensor
    derivatives: Derivatives
    sigma: Tensor
    eps: Tensor
    x_next: Tensor
    gain: Tensor | None


class Truncation:
    """Masks particles that would leave mean +- `deviations` standard deviations of the initial distribution.

    A masked particle keeps its last position inside and does not count in means.

    Raises ValueError if `deviations` is not positive.

    Source: Messaoud et al., S2AC, ICLR 2024.
    """

    def __init__(self, deviations: float = 3.0) -> None:
        if not deviations > 0:
            raise ValueError(f"Truncation: deviations must be positive, but is {deviations}")
        self.deviations = deviations

    def inside(self, x: Tensor, box: tuple[Tensor, Tensor]) -> Tensor:
        """Whether particles x (..., M, D) are inside the box, (..., M) bool; a NaN is outside."""
        low, high = (corner.unsqueeze(-2) for corner in box)
        return ((x >= low) & (x <= high)).all(-1)
