"""Maximum-likelihood training of an energy-based model of images against samples of SVGD or Langevin dynamics."""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx import losses
from svgdx.densities import ConvLogDensity, MLPLogDensity
from svgdx.experiments.data.images import Images
from svgdx.experiments.data.points import Points
from svgdx.experiments.ebm.base import START, TRAIN, Distances, ImageTrainer
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.ebm.negatives import LangevinNegatives, Negatives, SVGDNegatives
from svgdx.experiments.ebm.points.evaluation import energy_likelihoods, sampler_likelihoods
from svgdx.experiments.metrics.calibration import calibration, norms
from svgdx.experiments.run.compute.adam import descend
from svgdx.experiments.run.compute.amp import lower
from svgdx.experiments.run.compute.generators import seeded
from svgdx.experiments.run.compute.graph import Graphs
from svgdx.experiments.run.compute.guard import Quantities
from svgdx.experiments.run.loop import stream_seed
from svgdx.experiments.run.parallel import check_finite
from svgdx.streams import Stream


class EBMTrainer(ImageTrainer):
    """Trains p(x) ∝ exp(f(x)), where the energy f minimises L = E_q[f] - E_data[f] + H(q).

    Each update draws negatives from q, which may itself be trained to maximise L, and then updates f on them. Samples
    and entropy are constants for f: with L = log Z - E_data[f] - KL(q | p), whose maximum over q is at KL = 0, the
    envelope theorem makes the gradient of E_q[f] - E_data[f] that of the negative log-likelihood, up to O(KL). To let
    the entropy's dependence on f through would reward a larger KL.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026, section on EBM training.
    """

    def __init__(self, config: EBMConfig, images: Images, distances: Distances) -> None:
        super().__init__(config, images, distances)
        # Made on the CPU, so that its parameters are the same on every device.
        with seeded(stream_seed(config.seed, 0, START, shared=True)):
            self.energy = energy_of(config, images.shape)
        self.energy.to(self.device)
        lower(self.energy, config.amp)
        self.energy_adam = torch.optim.Adam(self.energy.parameters(), config.energy_lr, betas=(0.0, 0.999), fused=True)
        self.negatives = self._negatives(images.train, self.stream(START))
        self.modules = {"energy": self.energy, **self.negatives.modules}
        self.optimisers = {"energy_adam": self.energy_adam, **self.negatives.optimisers}
        self.graphs = Graphs(self.device, [*self.optimisers.values()], config.captures(), config.graph == "on")

    def _negatives(self, train: Tensor, stream: Stream) -> Negatives:
        if self.config.sampler == "langevin":
            return LangevinNegatives(self.config, train, stream)
        return SVGDNegatives(self.config, self.energy, train, self.device)

    def update(self) -> Quantities:
        self.step += 1
        for group in self.energy_adam.param_groups:
            group["lr"] = self.learning_rate(self.config.energy_lr)
        noise = self.noise()
        kind = self.negatives.kind(self.step) if self.config.loss == "likelihood" else self.config.loss
        kind = None if kind is None else (kind, self.is_read)
        quantities = self.graphs.run(kind, self._update, stream=self.stream(TRAIN), noise=noise)
        return quantities | {"noise": noise}

    def _update(self, stream: Stream, noise: float | Tensor) -> Quantities:
        if self.config.loss != "likelihood":
            return self._update_without_samples(stream, noise)
        self.energy.requires_grad_(False)
        samples, quantities = self.negatives.draw(self.energy, self.step, stream, self.is_read)
        check_finite(self.step, quantities)
        self.energy.requires_grad_(True)
        self._update_energy(samples, stream, noise, quantities)
        return quantities

    def _update_energy(self, samples: Tensor, stream: Stream, noise: float | Tensor, quantities: Quantities) -> None:
        config = self.config
        quantities["noise"] = noise
        real = self.noisy_images(len(samples), stream, noise)
        real.requires_grad_(config.gradient_penalty > 0)
        f_samples, f_data = self.energy(samples), self.energy(real)
        of_samples, of_data = f_samples.mean(), f_data.mean()
        loss = of_samples - of_data
        quantities |= {"energy_samples": of_samples.detach(), "energy_data": of_data.detach()}
        if "entropy" in quantities:
            # L of the class's docstring; the loss leaves the entropy out, which f does not change, and adds penalties.
            quantities["objective"] = loss.detach() + config.temperature * quantities["entropy"]
        loss = loss + config.energy_penalty * (f_samples.square().mean() + f_data.square().mean())
        if config.gradient_penalty > 0:
            (slope,) = torch.autograd.grad(f_data.sum(), real, create_graph=True)
            loss = loss + config.gradient_penalty * slope.square().sum(-1).mean()
        quantities["energy_loss"] = loss.detach()
        check_finite(self.step, quantities)
        quantities |= descend(self.step, self.energy_adam, loss, "energy", config.clip)

    def _update_without_samples(self, stream: Stream, noise: float | Tensor) -> Quantities:
        """A step by a loss of `svgdx.losses`, with as many images as the likelihood has samples."""
        config, energy = self.config, self.energy
        count, adds_noise = config.batch * config.particles, config.loss in ("denoising", "energy-discrepancy")
        real = self.noisy_images(count, stream, 0.0 if adds_noise else noise)
        if config.loss == "score":
            loss = losses.score_matching(energy, real)
        elif config.loss == "sliced":
            loss = losses.sliced_score_matching(energy, real, generator=stream)
        elif config.loss == "denoising":
            loss = losses.denoising_score_matching(energy, real, noise, stream)
        else:
            loss = losses.energy_discrepancy(energy, real, noise, generator=stream)
        quantities: Quantities = {"noise": noise, "energy_loss": loss.detach()}
        check_finite(self.step, quantities)
        return quantities | descend(self.step, self.energy_adam, loss, "energy", config.clip)

    def samples(self, count: int, stream: Stream) -> tuple[Tensor, Tensor | None]:
        return self.negatives.sample(self.energy, count, stream)

    def diagnostics(self, stream: Stream) -> dict[str, float]:
        held_out = self.images.held_out[: self.config.eval_samples].to(self.device)
        quantities = calibration(self.energy, held_out, stream) | norms(self.energy, held_out, stream)
        if isinstance(self.images, Points):
            quantities |= energy_likelihoods(self.energy, self.config, self.images, stream)
            # The exact density of the sampler takes longer than all else; it is measured once.
            if isinstance(self.negatives, SVGDNegatives) and self.step == self.config.steps:
                quantities |= sampler_likelihoods(self.negatives.sampler, self.config, self.images, stream)
        return quantities


def energy_of(config: EBMConfig, shape: tuple[int, int, int]) -> torch.nn.Module:
    """A new energy f: (N, D) -> (N) for images of this shape, (channels, height, width)."""
    if config.energy == "conv":
        return ConvLogDensity(shape, config.width, config.activation, config.confinement)
    dim = shape[0] * shape[1] * shape[2]
    return MLPLogDensity(dim, config.hidden, config.depth, config.activation, config.confinement)
