"""What draws the samples that an energy is trained against."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from svgdx import ops
from svgdx.experiments.config import EBMConfig
from svgdx.experiments.image_trainer import descend
from svgdx.experiments.loop import check_finite
from svgdx.samplers import Chain, LearntSVGD, ReplayBuffer, langevin


class Negatives(Protocol):
    """A sampler of the energy's distribution, with what of it is learnt or kept between updates."""

    modules: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]

    def draw(self, energy: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Samples (batch * particles, D) of one update, detached, and the quantities of their drawing."""

    def sample(self, energy: nn.Module, count: int, generator: torch.Generator) -> Tensor:
        """Samples (count, D) for an evaluation, drawn as in training; nothing is learnt or kept."""


class LangevinNegatives:
    """Short runs of Langevin dynamics, from N(0, I) or from a buffer of chains."""

    def __init__(self, config: EBMConfig, train: Tensor, generator: torch.Generator) -> None:
        self.config, self.dim = config, train.shape[1]
        self.buffer = ReplayBuffer(config.buffer, self.dim, generator) if config.chains == "persistent" else None
        self.modules: dict[str, nn.Module] = {} if self.buffer is None else {"buffer": self.buffer}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    def draw(self, energy: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        config, count = self.config, self.config.batch * self.config.particles
        if self.buffer is None:
            start = torch.randn(count, self.dim, generator=generator)
        else:
            rows, start = self.buffer.draw(count, config.restart, generator)
        run = langevin(energy, start, config.svgd_steps, config.langevin_step, config.langevin_noise, generator)
        quantities = {"score_norm": run.score_norm, "steps": float(config.svgd_steps)}
        check_finite(step, quantities | {"samples": float(run.x.square().mean())})
        if self.buffer is not None:
            self.buffer.keep(rows, run.x)
        return run.x, quantities

    def sample(self, energy: nn.Module, count: int, generator: torch.Generator) -> Tensor:
        config = self.config
        if self.buffer is None:
            start = torch.randn(count, self.dim, generator=generator)
        else:
            start = self.buffer.draw(count, 0.0, generator)[1]
        return langevin(energy, start, config.svgd_steps, config.langevin_step, config.langevin_noise, generator).x


class SVGDNegatives:
    """SVGD chains with a learnt start, and what else of them is learnt, by the reverse KL divergence."""

    def __init__(self, config: EBMConfig, train: Tensor, generator: torch.Generator) -> None:
        self.config, dim = config, train.shape[1]
        mean, std = torch.zeros(dim), torch.ones(dim)
        if config.start == "data":
            mean, std = train.mean(0), (train.var(0) + config.noise**2 + 1e-4).sqrt()
        sigma = config.bandwidth * median_bandwidth(train[:1000], config.particles)
        eps = config.step_size * config.particles
        self.sampler = LearntSVGD(mean, std, config.svgd_steps, sigma, eps, config.bound)
        self.adam = torch.optim.Adam(self.sampler.parameters(), config.sampler_lr, betas=(0.5, 0.9))
        self.modules: dict[str, nn.Module] = {"sampler": self.sampler}
        self.optimisers: dict[str, torch.optim.Optimizer] = {"sampler_adam": self.adam}

    def draw(self, energy: nn.Module, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        config = self.config
        learns = config.attached_steps > 0 and step % config.sampler_every == 0
        attached: frozenset[int] = frozenset()
        if learns:
            order = torch.randperm(config.svgd_steps, generator=generator)
            attached = frozenset(order[: config.attached_steps].tolist())
        with torch.set_grad_enabled(learns):
            chain = self.sampler(energy, config.batch, config.particles, generator, attached)
        quantities = chain_quantities(chain)
        # Kernel against score: what the learnt bandwidth is measured against.
        quantities["sigma_median"] = median_bandwidth(chain.x.detach()[0], config.particles)
        loss = (chain.log_q - energy(chain.x)).mean()
        quantities["sampler_loss"] = loss.item()
        check_finite(step, quantities)
        if learns:
            quantities |= descend(step, self.adam, loss, self.sampler, "sampler")
        return chain.x.detach().flatten(0, 1), quantities

    @torch.no_grad()
    def sample(self, energy: nn.Module, count: int, generator: torch.Generator) -> Tensor:
        chains = math.ceil(count / self.config.particles)
        chain: Chain = self.sampler(energy, chains, self.config.particles, generator)
        return chain.x.flatten(0, 1)[:count]


def median_bandwidth(x: Tensor, particles: int) -> float:
    """The site's heuristic, median_ij |x_i - x_j| / sqrt(2 ln M), of the rows of x (N, D)."""
    return float(ops.median_distance(x)) / math.sqrt(2 * math.log(particles))


def chain_quantities(chain: Chain) -> dict[str, float]:
    """Entropy -E[log q] in nats, and each quantity of the steps: mean over steps, eps_bound the least."""
    steps = chain.steps
    mean = {name: float(np.mean([getattr(s, name) for s in steps])) for name in ("score_norm", "sigma", "eps", "trace")}
    entropy = -chain.log_q.detach().mean().item()
    return mean | {"eps_bound": float(np.min([s.eps_bound for s in steps])), "entropy": entropy}
