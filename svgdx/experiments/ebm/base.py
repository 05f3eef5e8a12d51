"""What trainers of generative models of images share: noisy data, a guarded Adam step, evaluation and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svgdx.experiments.data import images as data
from svgdx.experiments.ebm import plots
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.metrics.images import ImageDistances
from svgdx.experiments.run import checkpoint, parallel
from svgdx.experiments.run.errors import DivergedError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.loop import check_finite, stream

TRAIN, EVALUATE, START = 0, 1, 2
# Each rank's own: checkpoints hold those of all ranks.
_CHAINS = "buffer/chains"


class ImageTrainer:
    """Base of the trainers that `loop.run` drives; a subclass has `update` and `samples`."""

    def __init__(self, config: EBMConfig, images: data.Images, distances: ImageDistances) -> None:
        self.config = self.options = config
        self.images, self.distances = images, distances
        self.last_step = config.steps
        self.step, self.seconds = 0, 0.0
        self.modules: dict[str, torch.nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    def update(self) -> dict[str, float]:
        """One update; returns its quantities. Raises DivergedError, before any parameter took in what is not finite."""
        raise NotImplementedError

    def samples(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples of the model as it is, (count, D)."""
        raise NotImplementedError

    def noise(self) -> float:
        """Smooth data first: its density has less curvature, so that few steps under the bound go far."""
        config = self.config
        share = min(1.0, self.step / (0.8 * config.steps))
        return float(config.noise * (config.noise_end / config.noise) ** share)

    def noisy_images(self, count: int, generator: torch.Generator) -> Tensor:
        """Training images drawn with replacement, with the noise of this step: (count, D)."""
        train = self.images.train
        rows = torch.randint(len(train), (count,), generator=generator)
        return train[rows] + self.noise() * torch.randn(count, train.shape[1], generator=generator)

    def learning_rate(self, rate: float) -> float:
        """The rate for the first half of the run, then falling to a hundredth of it."""
        return rate * min(1.0, 2 * (1 - self.step / self.config.steps) + 0.01)

    def evaluate(self) -> tuple[Tensor, dict[str, float]]:
        """Samples (eval_samples, D) and their distances. Raises DivergedError where one is not finite."""
        samples = self.samples(self.config.eval_samples, stream(self.config.seed, self.step, EVALUATE))
        if not bool(samples.isfinite().all()):
            raise DivergedError(f"step {self.step}: evaluation samples are not finite")
        distances = self.distances(samples)
        check_finite(self.step, distances)
        return samples, distances

    def record(self, quantities: dict[str, float], folder: RunFolder, evaluate: bool) -> tuple[dict[str, Any], str]:
        if not evaluate:
            return quantities, ""
        samples, distances = self.evaluate()
        for name in (f"samples-{self.step:08d}.png", "samples.png"):
            plots.sample_grid(folder.path / name, samples, self.images.shape)
        return quantities | distances, f"feature_distance={distances['feature_distance']:.2f}"

    def tensors(self) -> dict[str, Tensor]:
        tensors = checkpoint.flatten(self.modules, self.optimisers)
        if _CHAINS in tensors:
            tensors[_CHAINS] = parallel.gathered_rows(tensors[_CHAINS])
        return tensors

    def restore(self, path: Path, saved: checkpoint.Checkpoint) -> None:
        tensors = dict(saved.tensors)
        if _CHAINS in tensors and "buffer" in self.modules:
            count = len(self.modules["buffer"].get_buffer("chains"))
            tensors[_CHAINS] = parallel.rows_of_rank(tensors[_CHAINS], count)
        checkpoint.restore(path, tensors, self.modules, self.optimisers)
        self.step, self.seconds = saved.step, saved.seconds


def descend(
    step: int, adam: torch.optim.Optimizer, loss: Tensor, module: torch.nn.Module, name: str
) -> dict[str, float]:
    """One step of Adam on a gradient, the mean over the ranks, clipped to norm 10; returns its norm before that.

    Raises DivergedError where it is not finite, and leaves the parameters as they were.
    """
    loss = parallel.averaged(loss, adam)
    adam.zero_grad()
    loss.backward()
    quantities = {f"{name}_gradient": torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0).item()}
    check_finite(step, quantities)
    adam.step()
    return quantities
