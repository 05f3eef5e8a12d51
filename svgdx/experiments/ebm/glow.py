"""Glow of images, assembled from the layers of normflows, and its training by maximum likelihood.

It is the flow to which the table of the energy-based models compares them.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from svgdx.experiments.data.images import Images
from svgdx.experiments.data.points import Points
from svgdx.experiments.ebm.base import START, TRAIN, Distances, ImageTrainer
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.run.compute.adam import descend
from svgdx.experiments.run.compute.generators import seeded
from svgdx.experiments.run.compute.guard import Quantities
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.loop import stream, stream_seed
from svgdx.experiments.run.parallel import check_finite
from svgdx.streams import Stream

# An image is halved at most this often.
_MOST_LEVELS = 3


def require() -> Any:
    """The module normflows. Raises UsageError if it is not installed."""
    try:
        import normflows
    except ModuleNotFoundError as error:
        raise UsageError("--config glow needs normflows: pip install 'svgdx[flow]'") from error
    return normflows


class Glow(nn.Module):
    """A multi-scale Glow with a diagonal Gaussian at each level.

    Args:
        shape: (channels, height, width); an image is halved at least once and at most three times, while its sides are
            even. Points, (1, 1, D), are not halved; a perceptron takes the place of the convolutions.
        blocks: blocks of one level: actnorm, invertible 1x1 convolution and affine coupling.
        width: channels inside a coupling.
        first: images (N, D), two or more, from which the actnorm layers initialise themselves.

    Raises:
        UsageError: normflows is not installed, or the images cannot be halved.

    Source: Kingma & Dhariwal, Glow, NeurIPS 2018; Stimper et al., normflows, Journal of Open Source Software 2023.
    """

    def __init__(self, shape: tuple[int, int, int], blocks: int, width: int, first: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.flow = _vector_flow(shape[2], blocks, width) if shape[:2] == (1, 1) else _image_flow(shape, blocks, width)
        with torch.no_grad():
            self.log_prob(first)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats: (N, D) -> (N)."""
        if self.shape[:2] == (1, 1):
            log_prob: Tensor = self.flow.log_prob(x)
            return log_prob
        log_prob = self.flow.log_prob(x.reshape(-1, *self.shape), None)
        return log_prob

    @torch.no_grad()
    def sample(self, count: int, stream: Stream) -> tuple[Tensor, Tensor]:
        """Samples (count, D) and their log density (count,) in nats.

        normflows draws from torch's global generator, whose state is restored.
        The numbers of the CPU and of a GPU differ.
        """
        with seeded(stream.seed(), stream.device):
            samples, log_q = self.flow.sample(count)
        return samples.flatten(1), log_q


def _image_flow(shape: tuple[int, int, int], blocks: int, width: int) -> Any:
    """The multi-scale flow of images of this shape."""
    normflows = require()
    channels, height, image_width = shape
    levels = _levels(height, image_width)
    bases: list[Any] = []
    flows: list[list[Any]] = []
    for level in range(levels):
        # Level 0 is the coarsest, which keeps all of its channels; the others pass half of theirs on.
        halvings = levels - level
        deep = channels * 2 ** (halvings + 1)
        with warnings.catch_warnings():
            # normflows calls torch.lu by its deprecated name.
            warnings.filterwarnings("ignore", "torch.lu is deprecated")
            # A scale below 1 on the way to samples: its inverse, Glow's own, overflowed in rare samples.
            options = {"scale_map": "sigmoid_inv", "split_mode": "channel"}
            couplings = [normflows.flows.GlowBlock(deep, width, **options) for _ in range(blocks)]
        flows.append([*couplings, normflows.flows.Squeeze()])
        latent = (deep if level == 0 else deep // 2, height >> halvings, image_width >> halvings)
        bases.append(normflows.distributions.DiagGaussian(latent))
    merges = [normflows.flows.Merge() for _ in range(levels - 1)]
    return normflows.MultiscaleFlow(bases, flows, merges, class_cond=False)


def _vector_flow(dim: int, blocks: int, width: int) -> Any:
    """The flow of points (N, dim): per block actnorm, a linear map, and affine couplings of both halves."""
    normflows = require()
    half = dim - dim // 2
    layers: list[Any] = []
    for _ in range(blocks):
        for mode in ("channel", "channel_inv"):
            changed = dim // 2 if mode == "channel" else half
            net = normflows.nets.MLP([dim - changed, 2 * width, 2 * width, 2 * changed], init_zeros=True)
            layers.append(normflows.flows.AffineCouplingBlock(net, scale_map="sigmoid_inv", split_mode=mode))
        layers += [normflows.flows.LULinearPermute(dim), normflows.flows.ActNorm(dim)]
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(dim), layers)


def _levels(height: int, width: int) -> int:
    """How often an image is halved. Raises UsageError if it cannot be."""
    levels = 0
    while (
        levels < _MOST_LEVELS
        and not (height >> levels) % 2
        and not (width >> levels) % 2
        and min(height, width) >> levels > 2
    ):
        levels += 1
    if not levels:
        raise UsageError(f"--config glow: images must have even sides longer than 2, but are {height}x{width}")
    return levels


class GlowTrainer(ImageTrainer):
    """Minimises -E_data[log p]. An update sees as many noisy images as an update of an energy sees samples."""

    def __init__(self, config: EBMConfig, images: Images, distances: Distances) -> None:
        super().__init__(config, images, distances)
        first = self.noisy_images(
            256, stream(config.seed, 0, START, shared=True, device=self.device), self.noise()
        ).cpu()
        with seeded(stream_seed(config.seed, 0, START, shared=True)):
            self.glow = Glow(images.shape, config.glow_blocks, config.glow_width, first)
        self.glow.to(self.device)
        self.adam = torch.optim.Adam(self.glow.parameters(), config.glow_lr, fused=True)
        self.modules = {"glow": self.glow}
        self.optimisers = {"glow_adam": self.adam}

    def update(self) -> Quantities:
        self.step += 1
        config = self.config
        real = self.noisy_images(config.batch * config.particles, self.stream(TRAIN), self.noise())
        loss = -self.glow.log_prob(real).mean()
        quantities: Quantities = {"noise": self.noise(), "nll": loss.detach()}
        check_finite(self.step, quantities)
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate(config.glow_lr)
        return quantities | descend(self.step, self.adam, loss, "glow", config.clip)

    def samples(self, count: int, stream: Stream) -> tuple[Tensor, Tensor | None]:
        return self.glow.sample(count, stream)

    def diagnostics(self, stream: Stream) -> dict[str, float]:
        if not isinstance(self.images, Points):
            return {}
        with torch.no_grad():
            log_prob = self.glow.log_prob(self.images.held_out.to(self.device))
        return {"sampler_log_likelihood": float(log_prob.double().mean())}
