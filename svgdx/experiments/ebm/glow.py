"""Glow of images, put together from the layers of normflows."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from svgdx.experiments.run.errors import UsageError


def require() -> Any:
    """The module normflows. Raises UsageError where it is not installed."""
    try:
        import normflows
    except ModuleNotFoundError as error:
        raise UsageError("--config glow needs normflows: pip install 'svgdx[flow]'") from error
    return normflows


class Glow(nn.Module):
    """A multi-scale Glow with a diagonal Gaussian at each level.

    Args:
        shape: (channels, height, width); an image is halved while its sides are even, at most three times, and at
            least once.
        blocks: blocks of one level: actnorm, invertible 1x1 convolution and affine coupling.
        width: channels inside a coupling.
        first: images (N, D), two or more, by which the actnorm layers set themselves.

    Raises:
        UsageError: normflows is not installed, or the images cannot be halved.

    Source: Kingma & Dhariwal, Glow, NeurIPS 2018; Stimper et al., normflows, Journal of Open Source Software 2023.
    """

    def __init__(self, shape: tuple[int, int, int], blocks: int, width: int, first: Tensor) -> None:
        super().__init__()
        normflows = require()
        channels, height, side = shape
        levels = 0
        while (
            levels < 3 and not (height >> levels) % 2 and not (side >> levels) % 2 and min(height, side) >> levels > 2
        ):
            levels += 1
        if not levels:
            raise UsageError(f"--config glow: images must have even sides longer than 2, but are {height}x{side}")
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
                kind = {"scale_map": "sigmoid_inv", "split_mode": "channel"}
                couplings = [normflows.flows.GlowBlock(deep, width, **kind) for _ in range(blocks)]
            flows.append([*couplings, normflows.flows.Squeeze()])
            latent = (deep if level == 0 else deep // 2, height >> halvings, side >> halvings)
            bases.append(normflows.distributions.DiagGaussian(latent))
        merges = [normflows.flows.Merge() for _ in range(levels - 1)]
        self.shape = shape
        self.flow = normflows.MultiscaleFlow(bases, flows, merges, class_cond=False)
        with torch.no_grad():
            self.log_prob(first)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats: (N, D) -> (N)."""
        found: Tensor = self.flow.log_prob(x.reshape(-1, *self.shape), None)
        return found

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples (count, D). normflows draws from torch's global generator, which is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            samples: Tensor = self.flow.sample(count)[0]
        return samples.flatten(1)
