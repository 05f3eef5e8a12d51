"""A small residual convolutional network as an unnormalised log density of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from svgdx._checks import features, of_parameters, one_of
from svgdx.activations import ACTIVATIONS, SMOOTH
from svgdx.densities.base import LogDensity

# An image is halved as long as its sides are even and the shorter one exceeds this.
SMALLEST_SIDE = 4
# Each halving doubles the channels, up to this multiple of the first width.
MOST_WIDENING = 4


class ConvLogDensity(LogDensity):
    """Log density f(x) = ResNet(x) - (confinement / 2) |x|^2 of images, with p(x) ∝ exp(f(x)).

    The network starts with a 3x3 convolution. Each resolution then has a residual block of two 3x3 convolutions, a 1x1
    convolution that widens it and an average over 2x2 pixels; the lowest resolution has one more block and a linear
    layer.

    Args:
        shape: (channels, height, width) of an image.
        width: channels after the first convolution.
        activation: one of `svgdx.activations.SMOOTH`, because the Hessian of f must exist.
        confinement: precision of the Gaussian factor that makes p normalisable, in units of 1 / x^2.

    Raises:
        ValueError: the activation is unknown, or a size is below 1.

    Source: Du & Mordatch, NeurIPS 2019, train residual energies of images; this one has no normalisation layers.
    """

    def __init__(
        self, shape: tuple[int, int, int], width: int, activation: str = "silu", confinement: float = 0.0
    ) -> None:
        super().__init__()
        if min(*shape, width) < 1:
            raise ValueError(f"ConvLogDensity: shape and width must be at least 1, but are {shape}, {width}")
        one_of("ConvLogDensity", "activation", activation, SMOOTH)
        self.shape, self.confinement = shape, confinement
        image_channels, rows, columns = shape
        layers: list[nn.Module] = [nn.Conv2d(image_channels, width, 3, padding=1)]
        channels = width
        while min(rows, columns) > SMALLEST_SIDE and rows % 2 == columns % 2 == 0:
            wider = min(2 * channels, MOST_WIDENING * width)
            layers += [ResidualBlock(channels, activation), nn.Conv2d(channels, wider, 1), nn.AvgPool2d(2)]
            channels, rows, columns = wider, rows // 2, columns // 2
        layers += [ResidualBlock(channels, activation), ACTIVATIONS[activation].module(), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Linear(channels * rows * columns, 1))

    def forward(self, x: Tensor) -> Tensor:
        """f in nats, up to a constant: (..., D) -> (...), D = channels * height * width."""
        features("ConvLogDensity", "x", x, math.prod(self.shape))
        of_parameters("ConvLogDensity", x, self.layers)
        value: Tensor = self.layers(x.reshape(-1, *self.shape)).reshape(x.shape[:-1])
        return torch.add(value, x.square().sum(-1), alpha=-0.5 * self.confinement)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), with 3x3 convolutions that preserve channels and size."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ACTIVATIONS[activation].module(),
            nn.Conv2d(channels, channels, 3, padding=1),
            ACTIVATIONS[activation].module(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.layers(x)
        return x + residual
