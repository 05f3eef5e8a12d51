"""Settings of `svgdx train ebm`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from svgdx.activations import SMOOTH
from svgdx.experiments.data.images import DATASETS, FOLDERS
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.settings import Settings, option
from svgdx.samplers import BOUNDS, DIVISORS, HEURISTICS

STARTS = ("normal", "data")
SAMPLERS = ("svgd", "langevin", "glow")
BANDWIDTHS = ("learnt", *HEURISTICS)
# Truncation, the third of svgdx.samplers.CONTROLS, leaves no particle of an image's many dimensions.
CONTROLS = ("none", "metropolis-hastings", "epsilon-greedy")
CHAINS = ("short-run", "persistent")
ENERGIES = ("mlp", "conv")

# What differs from the defaults of the fields, which are those of met-svgd.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "langevin": {"sampler": "langevin"},
    "p-svgd": {"bandwidth": "median", "step": "fixed", "bound": "none", "hessian": "none", "divisor": "M-1"},
    "met-svgd-sigma": {"step": "fixed"},
    "met-svgd": {},
    "met-svgd-lc": {"stop_threshold": 1e-5},
    "met-svgd-no-trace": {"hessian": "none"},
    "met-svgd-no-bound": {"bound": "none"},
    "met-svgd-mh": {"control": "metropolis-hastings"},
    "glow": {"sampler": "glow"},
}


@dataclass
class EBMConfig(Settings):
    """Settings of `svgdx train ebm`. Lengths are in pixel values, which lie in [-1, 1]; energies in nats."""

    program = "train ebm"
    selectors = ("config",)
    variants = CONFIGURATIONS

    config: str = option("met-svgd", "configuration", "row of the paper's comparison", tuple(CONFIGURATIONS))

    data: str = option(
        "digits",
        "data",
        "data set: 8x8 digits, or 32x32 colour patches of photographs, or mnist or cifar10 from --data-root",
        DATASETS,
    )
    data_root: str | None = option(None, "data", "folder of mnist (MNIST/raw/) or cifar10 (cifar-10-batches-py/)")
    noise: float = option(
        0.3, "data", "Gaussian noise added to the training images: its deviation at the start", positive=True
    )
    noise_end: float = option(
        0.06, "data", "the same for the last fifth of the run; geometric in between", positive=True
    )

    sampler: str = option("svgd", "sampler", "what draws the negatives; glow: no energy, a flow instead", SAMPLERS)
    particles: int = option(64, "sampler", "particles M of one chain", least=2)
    batch: int = option(1, "sampler", "independent chains run side by side", least=1)
    svgd_steps: int = option(16, "sampler", "SVGD steps L of a chain", least=1)
    start: str = option(
        "normal", "sampler", "initial Gaussian before training: N(0, I), or mean and std of the data", STARTS
    )
    bandwidth: str = option("learnt", "sampler", "sigma of each step: learnt, or by a heuristic", BANDWIDTHS)
    bandwidth_start: float = option(
        0.5, "sampler", "learnt: sigma before training, as a multiple of the median heuristic", positive=True
    )
    step: str = option("learnt", "sampler", "eps of each step", ("learnt", "fixed"))
    step_size: float = option(0.1, "sampler", "eps / M before training, or for good", positive=True)
    bound: str = option("leaky", "sampler", "what holds eps under its bound eps_UB", BOUNDS)
    hessian: str = option("hutchinson", "sampler", "the Hessian term of Tr J", ("hutchinson", "none"))
    divisor: str = option("M", "sampler", "of the trace's kernel sum", DIVISORS)
    control: str = option("none", "sampler", "what may refuse steps", CONTROLS)
    mh_iterations: int = option(10, "sampler", "most iterations of the inverse map in Metropolis-Hastings", least=1)
    stop_threshold: float = option(
        0.0, "sampler", "a chain stops once its Stein discrepancy S is less, in nats^2 for a unit of eps; 0: never"
    )
    patience: int = option(0, "sampler", "a chain stops after so many rises of S; 0: never")
    attached_steps: int = option(4, "sampler", "steps, drawn at random, that keep their graph in a sampler update")
    sampler_every: int = option(5, "sampler", "energy updates for each sampler update", least=1)
    sampler_lr: float = option(1e-2, "sampler", "Adam's learning rate for start, sigma and eps", positive=True)

    chains: str = option("short-run", "langevin", "chains from N(0, I) each time, or kept in a buffer", CHAINS)
    langevin_step: float = option(0.1, "langevin", "step size a of x + a grad f + noise sqrt(2 a) z", positive=True)
    langevin_noise: float = option(0.1, "langevin", "its noise; 1 is Langevin dynamics at temperature 1")
    buffer: int = option(2000, "langevin", "persistent: chains kept", least=1)
    restart: float = option(0.05, "langevin", "persistent: share of them that starts anew at each draw", most=1)

    glow_blocks: int = option(4, "glow", "blocks of one level", least=1)
    glow_width: int = option(32, "glow", "channels inside a coupling", least=1)
    glow_lr: float = option(
        1e-3, "glow", "Adam's learning rate, constant for half the run, then falling to zero", positive=True
    )

    energy: str = option("mlp", "energy", "multilayer perceptron or residual convolutional network", ENERGIES)
    hidden: int = option(256, "energy", "mlp: width of a hidden layer", least=1)
    depth: int = option(2, "energy", "mlp: number of hidden layers", least=1)
    width: int = option(32, "energy", "conv: channels of the first convolution", least=1)
    activation: str = option("silu", "energy", "activation between layers", SMOOTH)
    confinement: float = option(0.0, "energy", "precision of the Gaussian factor of p")
    energy_lr: float = option(
        1e-3, "energy", "Adam's learning rate, constant for half the run, then falling to zero", positive=True
    )
    energy_penalty: float = option(0.02, "energy", "weight of the mean of f^2 over data and samples")
    gradient_penalty: float = option(0.0, "energy", "weight of the mean of |grad f|^2 over the data")

    steps: int = option(1000, "run", "updates of the energy, or of the flow", least=1)
    seed: int = option(0, "run", "seed of everything random", least=-math.inf)
    threads: int = option(1, "run", "CPU threads, one being enough for 8x8 digits; 0 takes as many as torch does")
    eval_every: int = option(100, "run", "updates between evaluations: distances and sample grid", least=1)
    eval_samples: int = option(512, "run", "samples drawn for an evaluation", least=2)
    inception_weights: str | None = option(None, "run", "torch-fidelity's Inception weights; with them FID is measured")
    log_every: int = option(10, "run", "updates between lines of metrics.jsonl", least=1)
    checkpoint_every: int = option(100, "run", "updates between checkpoints", least=1)
    keep_checkpoints: int = option(3, "run", "checkpoints kept, the newest", least=1)

    @property
    def adaptive(self) -> bool:
        """Whether a chain may stop before its last step."""
        return self.stop_threshold > 0 or self.patience > 0

    @classmethod
    def defaults_for(cls, options: dict[str, Any]) -> dict[str, Any]:
        return CONFIGURATIONS.get(options.get("config", cls.config), {})

    def validate(self) -> None:
        super().validate()
        if self.data in FOLDERS and self.data_root is None:
            raise UsageError(f"--data {self.data} needs --data-root DIR, the folder that holds {FOLDERS[self.data]}/")
        if self.data not in FOLDERS and self.data_root is not None:
            raise UsageError(f"--data-root: only {', '.join(FOLDERS)} read a folder, not --data {self.data}")
        if self.chains == "persistent" and self.buffer < max(self.batch * self.particles, self.eval_samples):
            raise UsageError(f"--buffer: at least the samples of an update and of an evaluation, but is {self.buffer}")
        if self.attached_steps > self.svgd_steps:
            raise UsageError(
                f"--attached-steps: at most --svgd-steps = {self.svgd_steps}, but is {self.attached_steps}"
            )
