"""Maximum likelihood of a Glow, the flow beside which the energy-based models' rows stand."""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx.experiments.data import images as data
from svgdx.experiments.ebm.base import START, TRAIN, ImageTrainer, descend
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.ebm.glow import Glow
from svgdx.experiments.metrics.images import ImageDistances
from svgdx.experiments.run.loop import check_finite, stream


class GlowTrainer(ImageTrainer):
    """Minimises -E_data[log p] on as many noisy images an update as an energy's update takes."""

    def __init__(self, config: EBMConfig, images: data.Images, distances: ImageDistances) -> None:
        super().__init__(config, images, distances)
        start = stream(config.seed, 0, START, shared=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.initial_seed())
            self.glow = Glow(images.shape, config.glow_blocks, config.glow_width, self.noisy_images(256, start))
        self.adam = torch.optim.Adam(self.glow.parameters(), config.glow_lr)
        self.modules = {"glow": self.glow}
        self.optimisers = {"glow_adam": self.adam}

    def update(self) -> dict[str, float]:
        self.step += 1
        config = self.config
        real = self.noisy_images(config.batch * config.particles, stream(config.seed, self.step, TRAIN))
        loss = -self.glow.log_prob(real).mean()
        quantities = {"noise": self.noise(), "nll": loss.item()}
        check_finite(self.step, quantities)
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate(config.glow_lr)
        return quantities | descend(self.step, self.adam, loss, self.glow, "glow")

    def samples(self, count: int, generator: torch.Generator) -> Tensor:
        return self.glow.sample(count, generator)
