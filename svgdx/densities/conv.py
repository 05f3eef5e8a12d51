"""A small residual convolutional network as unnormalised log density of images."""

from __future__ import annotations

from torch import Tensor, nn

from svgdx.activations import ACTIVATIONS, SMOOTH

# An image is halved while its sides are even and longer than this.
SMALLEST_SIDE = 4
# Channels double with each halving, up to this multiple of the first width.
MOST_WIDENING = 4


class ConvLogDensity(nn.Module):
    """f(x) = ResNet(x) - (confinement / 2) |x|^2, with p(x) proportional to exp(f(x)).

    A 3x3 convolution, then at each resolution a residual block of two 3x3 convolutions, a 1x1 convolution that widens
    and an average over 2x2 pixels; at the smallest resolution one more block and a linear layer.

    Args:
        shape: (channels, height, width) of an image.
        width: channels after the first convolution.
        activation: one of `svgdx.activations.SMOOTH`, because the Hessian of f must exist.
        confinement: precision of the Gaussian factor that makes p normalisable, in units of 1 / x^2.

    Raises:
        ValueError: an unknown activation or a size below 1.

    Source: residual energies of images are those of Du & Mordatch, NeurIPS 2019, here without normalisation.
    """

    def __init__(
        self, shape: tuple[int, int, int], width: int, activation: str = "silu", confinement: float = 0.0
    ) -> None:
        super().__init__()
        if min(*shape, width) < 1:
            raise ValueError(f"ConvLogDensity: shape and width must be at least 1, but are {shape}, {width}")
        if activation not in SMOOTH:
            raise ValueError(f"ConvLogDensity: activation must be one of {', '.join(SMOOTH)}, but is {activation!r}")
        self.shape, self.confinement = shape, confinement
        channels, height, side = shape
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        now = width
        while min(height, side) > SMALLEST_SIDE and height % 2 == side % 2 == 0:
            wider = min(2 * now, MOST_WIDENING * width)
            layers += [ResidualBlock(now, activation), nn.Conv2d(now, wider, 1), nn.AvgPool2d(2)]
            now, height, side = wider, height // 2, side // 2
        layers += [ResidualBlock(now, activation), ACTIVATIONS[activation].module(), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Linear(now * height * side, 1))

    def forward(self, x: Tensor) -> Tensor:
        """f in nats, up to a constant: (..., D) -> (...), D = channels * height * width."""
        value: Tensor = self.layers(x.reshape(-1, *self.shape)).reshape(x.shape[:-1])
        return value - 0.5 * self.confinement * x.square().sum(-1)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), 3x3 convolutions that keep channels and size."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ACTIVATIONS[activation].module(),
            nn.Conv2d(channels, channels, 3, padding=1),
            ACTIVATIONS[activation].module(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.layers(x)
        return x + change
