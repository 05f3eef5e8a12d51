"""What trainers of generative models share: noisy data, learning rates and evaluations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from torch import Tensor

from svgdx.experiments.data.images import Images
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.ebm.points.evaluation import PointDistances
from svgdx.experiments.metrics.calibration import entropy_bound
from svgdx.experiments.metrics.images import ImageDistances
from svgdx.experiments.run.errors import DivergedError, require_finite
from svgdx.experiments.run.figures import sample_paths, warn_if_unwritten
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.loop import Trainer, stream
from svgdx.experiments.run.recorder import Record
from svgdx.streams import Stream

# Purposes of random numbers, see `svgdx.experiments.run.loop.stream_seed`.
TRAIN, EVALUATE, START, DIAGNOSE = 0, 1, 2, 3
Distances = ImageDistances | PointDistances


class ImageTrainer(Trainer):
    """Base of the trainers of images; a subclass defines `update` and `samples`.

    Args:
        config: settings of the run.
        images: the data set, images or points, on the CPU; training images move to the device of the settings once.
        distances: what an evaluation measures.
    """

    # The chains of each rank are its own; checkpoints hold those of all ranks.
    chains_name = "buffer/chains"

    def __init__(self, config: EBMConfig, images: Images, distances: Distances) -> None:
        super().__init__(config, config.steps, config.device)
        self.config, self.distances = config, distances
        self.images = dataclasses.replace(images, train=images.train.to(self.device))

    def samples(self, count: int, stream: Stream) -> tuple[Tensor, Tensor | None]:
        """Samples of the model in its present state, (count, D), and the log density (count,) that they claim."""
        raise NotImplementedError

    def diagnostics(self, stream: Stream) -> dict[str, float]:
        """Quantities of an evaluation that need no samples."""
        return {}

    def noise(self) -> float:
        """Standard deviation of the noise at this step, which falls geometrically over the first 80 % of the run.

        The density of smooth data has less curvature, so that few steps under the bound go far.
        """
        config = self.config
        progress = min(1.0, self.step / (0.8 * config.steps))
        return float(config.noise * (config.noise_end / config.noise) ** progress)

    def noisy_images(self, count: int, stream: Stream, noise: float | Tensor) -> Tensor:
        """Training images drawn with replacement, with noise of this standard deviation: (count, D)."""
        train = self.images.train
        rows = stream.integers(len(train), (count,))
        return train[rows] + noise * stream.normal((count, train.shape[1]))

    def stream(self, purpose: int) -> Stream:
        """The random numbers of this step for a purpose, on the device of the run."""
        return stream(self.config.seed, self.step, purpose, device=self.device)

    def learning_rate(self, rate: float) -> float:
        """The rate of this step: `rate` for the first half of the run, then falling linearly to `lr_decay` of it."""
        return rate * min(1.0, 2 * (1 - self.step / self.config.steps) + self.config.lr_decay)

    def evaluate(self, record: Record, folder: RunFolder, check_stop: Callable[[], None]) -> tuple[Record, str]:
        samples, log_q = self.samples(self.config.eval_samples, self.stream(EVALUATE))
        if not bool(samples.isfinite().all()):
            raise DivergedError(f"step {self.step}: evaluation samples are not finite")
        check_stop()
        distances = self.distances(samples, check_stop)
        require_finite(self.step, distances)
        quantities = self.diagnostics(self.stream(DIAGNOSE))
        if log_q is not None:
            claimed, bound = -float(log_q.mean()), entropy_bound(samples)
            quantities |= {"claimed_entropy": claimed, "entropy_bound": bound}
            quantities["entropy_excess"] = (claimed - bound) / samples.shape[1]
        # Left out if samples collapsed or f is flat, which are results and no failure.
        quantities = {name: value for name, value in quantities.items() if math.isfinite(value)}
        with warn_if_unwritten():
            self.distances.draw(samples, *sample_paths(folder.path, self.step))
        return record | distances | quantities, f"{self.distances.headline}={distances[self.distances.headline]:.2f}"
