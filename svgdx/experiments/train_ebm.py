"""Alternating MET-SVGD training of an energy-based model, resumable to the bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svgdx.energies import MLPEnergy
from svgdx.experiments import checkpoint, data, loop, plots
from svgdx.experiments.config import EBMConfig
from svgdx.experiments.errors import DivergedError
from svgdx.experiments.frechet import frechet_distance
from svgdx.experiments.loop import INTERRUPTED, check_finite, stream
from svgdx.experiments.run_folder import RunFolder
from svgdx.samplers import RBF, SVGD, Chain, Learnt, LearntGaussian, median_bandwidth

_TRAIN, _EVALUATE, _START = 0, 1, 2


class Trainer:
    """p(x) ∝ exp(f(x)) trained by L = E_q[f] - E_data[f] + H(q), maximised by the sampler, minimised by the energy.

    Each update draws one set of chains; every `sampler_every`-th of them updates the sampler first, through the steps
    drawn for it (the entropy is -E[log q], known through the chain); then the energy is updated on the same samples.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026, section on EBM training.
    """

    def __init__(self, config: EBMConfig, images: data.Images) -> None:
        self.config = self.options = config
        self.last_step = config.steps
        self.seconds = 0.0
        self.images = images
        dim = images.train.shape[1]
        start = stream(config.seed, 0, _START)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.initial_seed())
            self.energy = MLPEnergy(dim, config.hidden, config.depth, config.activation, config.confinement)
        mean, std = torch.zeros(dim), torch.ones(dim)
        if config.start == "data":
            mean, std = images.train.mean(0), (images.train.var(0) + config.noise**2 + 1e-4).sqrt()
        sigma = config.bandwidth * median_bandwidth(images.train[:1000], config.particles)
        eps = config.step_size * config.particles
        self.sampler = SVGD(
            self.energy,
            LearntGaussian(mean, std),
            RBF(Learnt(sigma, config.svgd_steps)),
            Learnt(eps, config.svgd_steps),
            bound=config.bound,
        )
        self.sampler_adam = torch.optim.Adam(self.sampler.parameters(), config.sampler_lr, betas=(0.5, 0.9))
        self.energy_adam = torch.optim.Adam(self.energy.parameters(), config.energy_lr, betas=(0.0, 0.999))
        self.step = 0
        self.modules: dict[str, torch.nn.Module] = {"energy": self.energy, "sampler": self.sampler}
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "energy_adam": self.energy_adam,
            "sampler_adam": self.sampler_adam,
        }

    def update(self) -> dict[str, float]:
        """One update; returns its quantities. Raises DivergedError, before any parameter took in what is not finite."""
        config = self.config
        self.step += 1
        generator = stream(config.seed, self.step, _TRAIN)
        train_sampler = config.attached_steps > 0 and self.step % config.sampler_every == 0
        attached: frozenset[int] = frozenset()
        if train_sampler:
            order = torch.randperm(config.svgd_steps, generator=generator)
            attached = frozenset(order[: config.attached_steps].tolist())
        self.energy.requires_grad_(False)
        with torch.set_grad_enabled(train_sampler):
            chain = self._chain(config.batch, generator, attached)
        quantities = chain_quantities(chain)
        # Kernel against score: what the learnt bandwidth is measured against.
        quantities["sigma_median"] = median_bandwidth(chain.x.detach()[0], config.particles)
        assert chain.log_q is not None
        sampler_loss = (chain.log_q - self.energy(chain.x)).mean()
        quantities["sampler_loss"] = sampler_loss.item()
        check_finite(self.step, quantities)
        if train_sampler:
            self._descend(self.sampler_adam, sampler_loss, self.sampler, "sampler", quantities)
        self.energy.requires_grad_(True)
        self._update_energy(chain.x.detach().flatten(0, 1), generator, quantities)
        return quantities

    def _chain(self, batch: int, generator: torch.Generator, attached: frozenset[int] = frozenset()) -> Chain:
        config = self.config
        return self.sampler.run(
            config.particles, config.svgd_steps, batch=(batch,), generator=generator, attached=attached
        )

    def _update_energy(self, samples: Tensor, generator: torch.Generator, quantities: dict[str, float]) -> None:
        config, train = self.config, self.images.train
        rows = torch.randint(len(train), (len(samples),), generator=generator)
        quantities["noise"] = self._noise()
        real = train[rows] + quantities["noise"] * torch.randn(samples.shape, generator=generator)
        real.requires_grad_(config.gradient_penalty > 0)
        of_samples, of_data = self.energy(samples), self.energy(real)
        loss = of_samples.mean() - of_data.mean()
        quantities |= {"energy_samples": of_samples.mean().item(), "energy_data": of_data.mean().item()}
        # L of the spec, entropy included; what is minimised leaves the entropy out and adds the penalties.
        quantities["objective"] = loss.item() + quantities["entropy"]
        loss = loss + config.energy_penalty * (of_samples.square().mean() + of_data.square().mean())
        if config.gradient_penalty > 0:
            (slope,) = torch.autograd.grad(of_data.sum(), real, create_graph=True)
            loss = loss + config.gradient_penalty * slope.square().sum(-1).mean()
        quantities["energy_loss"] = loss.item()
        check_finite(self.step, quantities)
        for group in self.energy_adam.param_groups:
            group["lr"] = config.energy_lr * min(1.0, 2 * (1 - self.step / config.steps) + 0.01)
        self._descend(self.energy_adam, loss, self.energy, "energy", quantities)

    def _noise(self) -> float:
        """Smooth data first: its density has less curvature, so that few steps under the bound go far."""
        config = self.config
        share = min(1.0, self.step / (0.8 * config.steps))
        return float(config.noise * (config.noise_end / config.noise) ** share)

    def _descend(
        self, adam: torch.optim.Adam, loss: Tensor, module: torch.nn.Module, name: str, quantities: dict[str, float]
    ) -> None:
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        quantities[f"{name}_gradient"] = norm.item()
        check_finite(self.step, {f"{name}_gradient": norm.item()})
        adam.step()

    def evaluate(self) -> tuple[Tensor, float]:
        """Samples (eval_samples, D), chains of the training's length, and their distance to the held-out images."""
        config = self.config
        chains = math.ceil(config.eval_samples / config.particles)
        generator = stream(config.seed, self.step, _EVALUATE)
        with torch.no_grad():
            chain = self._chain(chains, generator)
        samples = chain.x.flatten(0, 1)[: config.eval_samples]
        if not bool(samples.isfinite().all()):
            raise DivergedError(f"step {self.step}: evaluation samples are not finite")
        return samples, frechet_distance(samples, self.images.held_out)

    def record(self, quantities: dict[str, float], folder: RunFolder, evaluate: bool) -> tuple[dict[str, Any], str]:
        if not evaluate:
            return quantities, ""
        samples, distance = self.evaluate()
        plots.sample_grid(folder.path / f"samples-{self.step:08d}.png", samples, self.images.side)
        plots.sample_grid(folder.path / "samples.png", samples, self.images.side)
        return quantities | {"frechet": distance}, f"frechet={distance:.2f}"

    def tensors(self) -> dict[str, Tensor]:
        return checkpoint.flatten(self.modules, self.optimisers)

    def restore(self, path: Path, saved: checkpoint.Checkpoint) -> None:
        checkpoint.restore(path, saved.tensors, self.modules, self.optimisers)
        self.step, self.seconds = saved.step, saved.seconds


def chain_quantities(chain: Chain) -> dict[str, float]:
    """Entropy -E[log q] in nats, and each quantity of the steps: mean over steps, eps_bound the least."""
    history = chain.history()
    mean = {name: history[name].mean().item() for name in ("score_norm", "sigma", "eps", "trace")}
    return mean | {"eps_bound": history["eps_bound"].min().item(), "entropy": chain.entropy().mean().item()}


def load(config: EBMConfig) -> data.Images:
    """The run's data. Raises UsageError where it is missing."""
    return data.load(config.data, config.data_root)


def run(
    config: EBMConfig, images: data.Images, folder: RunFolder, resume: bool, chosen: Path | None, quiet: bool = False
) -> int:
    """Trains to the last step. Returns 0, or INTERRUPTED after SIGINT or SIGTERM, with a checkpoint of that step."""
    torch.set_num_threads(config.threads)
    finished = loop.run(Trainer(config, images), folder, resume, chosen, quiet)
    plots.curves(folder.path / "curves.png", folder.read_metrics())
    if not finished:
        return INTERRUPTED
    _summary(folder, images)
    return 0


def _summary(folder: RunFolder, images: data.Images) -> None:
    distances = [record["frechet"] for record in folder.read_metrics() if "frechet" in record]
    floor = frechet_distance(images.train, images.held_out)
    print(
        f"Fréchet distance to held-out images (pixels): {distances[0]:.3f} at step 0, {distances[-1]:.3f} at the end,"
    )
    print(f"{distances[0] / distances[-1]:.1f} times less; the training images themselves are at {floor:.3f}.")
    print(f"Pictures: {folder.path / 'samples.png'}, {folder.path / 'curves.png'}")
