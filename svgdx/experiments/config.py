"""Settings of `svgdx train ebm`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from svgdx.energies.mlp import ACTIVATIONS
from svgdx.experiments.data import DATASETS
from svgdx.experiments.errors import UsageError
from svgdx.experiments.settings import Settings, option
from svgdx.samplers.step_sizes import BOUNDS

STARTS = ("normal", "data")


@dataclass
class EBMConfig(Settings):
    """Settings of `svgdx train ebm`. Lengths are in pixel values, which lie in [-1, 1]; energies in nats."""

    data: str = option("digits", "data", "data set: scikit-learn's 8x8 digits or MNIST", DATASETS)
    data_root: str | None = option(None, "data", "folder that holds MNIST/raw/ in torchvision's layout")
    noise: float = option(
        0.3, "data", "Gaussian noise added to the training images: its deviation at the start", positive=True
    )
    noise_end: float = option(
        0.06, "data", "the same for the last fifth of the run; geometric in between", positive=True
    )

    particles: int = option(64, "sampler", "particles M of one chain", least=2)
    batch: int = option(1, "sampler", "independent chains run side by side", least=1)
    svgd_steps: int = option(16, "sampler", "SVGD steps L of a chain", least=1)
    start: str = option(
        "normal", "sampler", "initial Gaussian before training: N(0, I), or mean and std of the data", STARTS
    )
    bandwidth: float = option(
        0.5, "sampler", "sigma before training, as a multiple of the median heuristic", positive=True
    )
    step_size: float = option(0.1, "sampler", "eps / M of each step before training", positive=True)
    bound: str = option("leaky", "sampler", "what holds eps under its bound eps_UB", BOUNDS)
    attached_steps: int = option(4, "sampler", "steps, drawn at random, that keep their graph in a sampler update")
    sampler_every: int = option(5, "sampler", "energy updates for each sampler update", least=1)
    sampler_lr: float = option(1e-2, "sampler", "Adam's learning rate for start, sigma and eps", positive=True)

    hidden: int = option(256, "energy", "width of a hidden layer", least=1)
    depth: int = option(2, "energy", "number of hidden layers", least=1)
    activation: str = option("silu", "energy", "activation between layers", tuple(ACTIVATIONS))
    confinement: float = option(0.0, "energy", "precision of the Gaussian factor of p")
    energy_lr: float = option(
        1e-3, "energy", "Adam's learning rate, constant for half the run, then falling to zero", positive=True
    )
    energy_penalty: float = option(0.02, "energy", "weight of the mean of f^2 over data and samples")
    gradient_penalty: float = option(0.0, "energy", "weight of the mean of |grad f|^2 over the data")

    steps: int = option(1000, "run", "energy updates", least=1)
    seed: int = option(0, "run", "seed of everything random", least=-math.inf)
    threads: int = option(1, "run", "CPU threads, one being enough for 8x8 digits; 0 takes as many as torch does")
    eval_every: int = option(100, "run", "updates between evaluations: Fréchet distance and sample grid", least=1)
    eval_samples: int = option(512, "run", "samples drawn for an evaluation", least=2)
    log_every: int = option(10, "run", "updates between lines of metrics.jsonl", least=1)
    checkpoint_every: int = option(100, "run", "updates between checkpoints", least=1)
    keep_checkpoints: int = option(3, "run", "checkpoints kept, the newest", least=1)

    def validate(self) -> None:
        super().validate()
        if self.data == "mnist" and self.data_root is None:
            raise UsageError("--data mnist needs --data-root DIR, the folder that holds MNIST/raw/")
        if self.data != "mnist" and self.data_root is not None:
            raise UsageError(f"--data-root: only --data mnist reads a folder, not --data {self.data}")
        if self.attached_steps > self.svgd_steps:
            raise UsageError(
                f"--attached-steps: at most --svgd-steps = {self.svgd_steps}, but is {self.attached_steps}"
            )
