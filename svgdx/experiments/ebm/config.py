"""Settings of `svgdx train ebm`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from svgdx.activations import SMOOTH
from svgdx.experiments.data.images import DATASETS, FOLDERS
from svgdx.experiments.data.points import POINT_SETS
from svgdx.experiments.run.compute.amp import amp_option
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.settings import MOST_THREADS, Settings, device_option, graph_option, option
from svgdx.samplers import BOUNDS, DENSITIES, DIVISORS, HESSIANS, HEURISTICS

STARTS = ("learnt", "fixed", "learnt-data", "fixed-data", "covariance")
STOPS = ("none", "signed", "squared")
SAMPLERS = ("svgd", "langevin", "glow")
BANDWIDTHS = ("learnt", *HEURISTICS)
# Truncation, the third of svgdx.samplers.CONTROLS, would reject every particle in the many dimensions of an image.
CONTROLS = ("none", "metropolis-hastings", "epsilon-greedy")
CHAINS = ("short-run", "persistent")
ENERGIES = ("mlp", "conv")
LOSSES = ("likelihood", "score", "sliced", "denoising", "energy-discrepancy")

# Defaults that differ from those of the fields, which are those of met-svgd.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "langevin": {"sampler": "langevin", "temperature": 0.01},
    "p-svgd": {"bandwidth": "median", "step": "fixed", "bound": "none", "hessian": "none", "divisor": "M-1"},
    "met-svgd-sigma": {"step": "fixed"},
    "met-svgd": {},
    "met-svgd-lc": {"stop": "signed"},
    "met-svgd-no-trace": {"density": "kernel"},
    "met-svgd-no-bound": {"bound": "none"},
    "met-svgd-mh": {"control": "metropolis-hastings"},
    "glow": {"sampler": "glow"},
}
# Further ones for points in few dimensions, whose densities are proper, sharp, and at one temperature.
POINTS: dict[str, Any] = {
    "temperature": 1.0,
    "start": "learnt-data",
    "noise": 0.1,
    "noise_end": 0.02,
    "hidden": 64,
    "confinement": 0.1,
    "energy_penalty": 0.001,
    "energy_lr": 5e-3,
    "svgd_steps": 8,
    "attached_steps": 8,
    "sampler_every": 2,
    "step_size": 0.02,
    "chains": "persistent",
    "langevin_step": 0.05,
    "glow_blocks": 2,
}


@dataclass
class EBMConfig(Settings):
    """Settings of `svgdx train ebm`. Lengths are in pixel values, which lie in [-1, 1]; energies are in nats."""

    program = "train ebm"
    selectors = ("config",)
    variants = CONFIGURATIONS | {"points": POINTS}

    config: str = option("met-svgd", "configuration", "row of the published comparison", tuple(CONFIGURATIONS))

    data: str = option(
        "digits",
        "data",
        "8x8 digits, 32x32 colour patches of photographs, or a data set in --data-root; or points in the plane, or "
        "digits in 8 principal components",
        (*DATASETS, *POINT_SETS),
    )
    data_root: str | None = option(
        None, "data", "folder that holds MNIST/raw/ for mnist, cifar-10-batches-py/ for cifar10", metavar="DIR"
    )
    noise: float = option(
        0.3, "data", "initial standard deviation of the Gaussian noise added to training images", positive=True
    )
    noise_end: float = option(
        0.06, "data", "its final value, reached geometrically after 80 % of the run", positive=True
    )

    sampler: str = option("svgd", "sampler", "what draws the negatives; glow trains a flow, not an energy", SAMPLERS)
    particles: int = option(64, "sampler", "particles M of a chain", least=2)
    batch: int = option(1, "sampler", "independent chains that run side by side", least=1)
    svgd_steps: int = option(16, "sampler", "SVGD or Langevin steps L of a chain", least=1)
    temperature: float = option(
        1.0,
        "sampler",
        "T of the distribution p^(1/T) that chains sample; distances compare rows of one T",
        positive=True,
    )
    start: str = option(
        "learnt",
        "sampler",
        "initial Gaussian: N(0, I), or mean and deviations of the data, learnt from there or fixed; or covariance, the "
        "fixed Gaussian with mean and covariance of the data",
        STARTS,
    )
    bandwidth: str = option("learnt", "sampler", "sigma of every step: learnt, or set by a heuristic", BANDWIDTHS)
    bandwidth_start: float = option(
        0.5, "sampler", "initial value of a learnt sigma, as a multiple of the median heuristic", positive=True
    )
    step: str = option("learnt", "sampler", "whether the step sizes eps are learnt", ("learnt", "fixed"))
    step_size: float = option(0.1, "sampler", "eps / M, or its initial value if eps is learnt", positive=True)
    bound: str = option("leaky", "sampler", "how eps is kept below its bound eps_UB", BOUNDS)
    hessian: str = option("hutchinson", "sampler", "how the Hessian term of Tr J is estimated", HESSIANS)
    density: str = option(
        "first-order",
        "sampler",
        "log q of a step: eps Tr J; its kernel's part without Tr H; or the exact log det(I + eps J), for points",
        DENSITIES,
    )
    divisor: str = option("M", "sampler", "divisor of the kernel sum in Tr J", DIVISORS)
    control: str = option("none", "sampler", "which steps may be rejected", CONTROLS)
    mh_iterations: int = option(10, "sampler", "most iterations for the inverse map in Metropolis-Hastings", least=1)
    stop: str = option(
        "none",
        "sampler",
        "when a chain stops early: once r, the fall of KL per unit of eps, or its square S is small",
        STOPS,
    )
    stop_threshold: float = option(
        0.0, "sampler", "r in nats per unit of eps, or S in their square, that counts as small"
    )
    stop_least: float = option(0.5, "sampler", "part of --svgd-steps that a chain makes in any case", most=1)
    patience: int = option(0, "sampler", "also stop a chain once S has risen this many times; 0 disables it")
    attached_steps: int = option(
        4, "sampler", "randomly chosen steps that an update of the sampler backpropagates through"
    )
    sampler_every: int = option(5, "sampler", "updates of the energy per update of the sampler", least=1)
    sampler_lr: float = option(
        1e-2, "sampler", "learning rate of Adam for the initial Gaussian, sigma and eps", positive=True
    )

    chains: str = option("short-run", "langevin", "whether chains start from N(0, I) or continue from a buffer", CHAINS)
    langevin_step: float = option(0.1, "langevin", "step size a in x + a grad f + sqrt(2 a T) z", positive=True)
    buffer: int = option(2000, "langevin", "persistent: number of chains in the buffer", least=1)
    restart: float = option(0.05, "langevin", "persistent: fraction of the drawn chains that restart", most=1)

    glow_blocks: int = option(4, "glow", "blocks per level", least=1)
    glow_width: int = option(32, "glow", "channels inside a coupling", least=1)
    glow_lr: float = option(
        1e-3,
        "glow",
        "learning rate of Adam, constant for half of the run, then falling linearly by --lr-decay",
        positive=True,
    )

    energy: str = option("mlp", "energy", "multilayer perceptron or residual convolutional network", ENERGIES)
    hidden: int = option(256, "energy", "mlp: width of the hidden layers", least=1)
    depth: int = option(2, "energy", "mlp: number of hidden layers", least=1)
    width: int = option(32, "energy", "conv: channels of the first convolution", least=1)
    activation: str = option("silu", "energy", "activation between layers", SMOOTH)
    confinement: float = option(0.0, "energy", "precision of the Gaussian factor of p; 0 disables it")
    energy_lr: float = option(1e-3, "energy", "learning rate of Adam, with the schedule of --glow-lr", positive=True)
    loss: str = option(
        "likelihood",
        "energy",
        "what the energy is trained by: its likelihood, by samples of --sampler, or a loss of svgdx.losses that needs "
        "none; the noise of denoising and energy-discrepancy is --noise",
        LOSSES,
    )
    energy_penalty: float = option(0.02, "energy", "likelihood: weight of the mean of f^2 over data and samples")
    gradient_penalty: float = option(0.0, "energy", "likelihood: weight of the mean of |grad f|^2 over the data")

    steps: int = option(1000, "run", "updates of the energy, or of the flow", least=1)
    clip: float = option(10.0, "run", "norm to which gradients are scaled down; 0 leaves them as they are")
    lr_decay: float = option(
        0.01, "run", "part of the learning rates of energy and flow that is left at the end", positive=True, most=1
    )
    seed: int = option(0, "run", "random seed", least=-math.inf)
    threads: int = option(
        1, "run", "CPU threads; 0 uses torch's default; 1 is enough for 8x8 digits", most=MOST_THREADS
    )
    device: str = device_option()
    graph: str = graph_option()
    amp: str = amp_option("the energy")
    eval_every: int = option(
        100, "run", "updates between evaluations, which measure distances and draw samples", least=1
    )
    eval_samples: int = option(512, "run", "samples drawn in an evaluation", least=2)
    inception_weights: str | None = option(
        None, "run", "torch-fidelity's Inception weights; an evaluation then also measures FID", metavar="FILE"
    )
    log_every: int = option(10, "run", "updates between lines of metrics.jsonl", least=1)
    checkpoint_every: int = option(100, "run", "updates between checkpoints", least=1)
    keep_checkpoints: int = option(3, "run", "newest checkpoints that are kept", least=1)

    @property
    def adaptive(self) -> bool:
        """Whether a chain may stop before its last step."""
        return self.stop != "none"

    @property
    def uncapturable(self) -> str | None:
        if self.sampler == "glow":
            return "normflows inverts matrices, for which the host waits"
        if self.sampler == "svgd" and self.control == "epsilon-greedy":
            return "epsilon-greedy control decides on the host which steps it corrects"
        return None

    @classmethod
    def defaults_for(cls, options: dict[str, Any]) -> dict[str, Any]:
        points = POINTS if options.get("data") in POINT_SETS else {}
        return CONFIGURATIONS.get(options.get("config", cls.config), {}) | points

    def validate(self) -> None:
        super().validate()
        if self.data in FOLDERS and self.data_root is None:
            raise UsageError(f"--data {self.data} needs --data-root DIR, the folder that holds {FOLDERS[self.data]}/")
        if self.data not in FOLDERS and self.data_root is not None:
            raise UsageError(f"--data-root: only {', '.join(FOLDERS)} read a folder, not --data {self.data}")
        if self.data in POINT_SETS and (self.energy == "conv" or self.inception_weights is not None):
            name = "--energy conv" if self.energy == "conv" else "--inception-weights"
            raise UsageError(f"{name}: needs images, but --data {self.data} are points")
        if self.loss != "likelihood" and self.sampler != "langevin":
            raise UsageError(
                f"--loss {self.loss}: trains no sampler, so that evaluations need one that learns nothing; pass "
                "--config langevin"
            )
        if self.data not in POINT_SETS and self.density == "logdet":
            raise UsageError(f"--density logdet: needs at most 16 dimensions, but --data {self.data} are images")
        if self.density == "logdet" and self.hessian == "hutchinson":
            raise UsageError("--density logdet: needs the Hessian in full; pass --hessian exact")
        samples = max(self.batch * self.particles, self.eval_samples)
        if self.chains == "persistent" and self.buffer < samples:
            raise UsageError(
                f"--buffer: must be at least the samples of an update and of an evaluation, {samples}, "
                f"but is {self.buffer}"
            )
        if self.amp != "none" and self.sampler == "glow":
            raise UsageError(f"--amp {self.amp}: only for an energy, but --config glow trains a flow")
        if self.amp != "none" and self.sampler == "svgd" and self.energy == "mlp" and self.control != "none":
            raise UsageError(
                f"--amp {self.amp}: --control {self.control} compares log densities, which for --energy mlp would be "
                "rounded in two ways; pass --amp none"
            )
        if self.stop == "none" and (self.stop_threshold > 0 or self.patience > 0):
            name = "--stop-threshold" if self.stop_threshold > 0 else "--patience"
            raise UsageError(f"{name}: needs --stop signed or --stop squared, but --stop is none")
        if self.attached_steps > self.svgd_steps:
            raise UsageError(
                f"--attached-steps: must be at most --svgd-steps = {self.svgd_steps}, but is {self.attached_steps}"
            )
