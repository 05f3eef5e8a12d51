"""Settings of `svgdx train eb-gfn` and `svgdx eval eb-gfn`, with the defaults of each data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from svgdx.activations import ACTIVATIONS
from svgdx.experiments.run.compute.amp import amp_option
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.settings import MOST_THREADS, Settings, device_option, flag, graph_option, option

SYNTHETIC = ("2spirals", "8gaussians", "circles", "moons", "pinwheel", "swissroll", "checkerboard")
IMAGES = ("digits", "mnist", "mnist14", "omniglot", "silhouettes")
DATASETS = (*SYNTHETIC, "ising", *IMAGES)
SAMPLERS = ("eb-gfn", "pcd-gibbs", "pcd-gwg")

GIBBS_OR_GWG = ("gibbs", "gwg")

_IMAGES_28 = {
    "batch": 100, "energy_lr": 1e-4, "energy_activation": "silu", "iterations": 50_000, "warmup": 50_000,
    "eval_points": 100, "eval_paths": 10, "final_points": 1000, "checkpoint_every": 500, "clip": 1.0,
}  # fmt: skip

# Defaults that differ from those of the fields, which are those of 2-D data.
DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "pinwheel": {"batch": 125},
    # Many short moves from data, erased by a uniform P_B: a learnt P_B erases neighbours together, which tells less
    # about their coupling. The L1 penalty balances a gradient that only the moved entries have.
    "ising": {
        "iterations": 1200, "batch": 256, "hidden": 128, "depth": 2, "loss": "vargrad", "backward_policy": "uniform",
        "policy_lr": 2e-3, "sweeps": 10, "k_schedule": "fixed", "k": 5, "energy_lr": 5e-3, "energy_l1": 8e-3,
        "lr_decay": "linear", "decay_share": 0.8, "eval_every": 100, "eval_points": 200, "final_points": 2000,
        "checkpoint_every": 200,
    },
    "digits": {
        "batch": 64, "loss": "vargrad", "policy_lr": 3e-3, "energy_lr": 5e-4, "energy_activation": "silu",
        "iterations": 5000, "warmup": 1000, "lr_decay": "cosine", "decay_share": 0.8, "eval_points": 360,
        "eval_every": 500, "clip": 10.0,
    },
    "mnist": _IMAGES_28,
    "mnist14": {
        "batch": 100, "loss": "vargrad", "policy_lr": 2e-3, "energy_lr": 5e-4, "energy_activation": "silu",
        "iterations": 5000, "warmup": 5000, "lr_decay": "cosine", "decay_share": 0.8, "eval_points": 100,
        "eval_paths": 10, "eval_every": 500, "final_points": 1000, "checkpoint_every": 250, "clip": 10.0,
    },
    "omniglot": _IMAGES_28,
    "silhouettes": _IMAGES_28,
}  # fmt: skip


@dataclass
class EBGFNConfig(Settings):
    """Settings of `svgdx train eb-gfn`. Energies and likelihoods are in nats."""

    program = "train eb-gfn"
    selectors = ("data",)
    variants = DATA_DEFAULTS
    length = "iterations"
    added: ClassVar[dict[str, Any]] = {"l1_scale": 0.0, "refit": 0.0, "refit_threshold": 0.05}

    data: str = option("2spirals", "data", "data set", DATASETS)
    data_root: str | None = option(
        None,
        "data",
        "folder that holds MNIST/raw/ for mnist and mnist14, or the .mat file of omniglot or silhouettes",
        metavar="DIR",
    )
    binarisation: str = option(
        "static", "data", "images: draw the pixels once, or anew in every batch", ("static", "dynamic")
    )
    side: int = option(10, "data", "ising: side of the periodic grid", least=3)
    sigma: float = option(0.1, "data", "ising: coupling of neighbours", least=-math.inf)
    samples: int = option(2000, "data", "ising: number of training samples", least=2)

    sampler: str = option(
        "eb-gfn", "sampler", "EB-GFN, or persistent chains of Gibbs or Gibbs with gradients", SAMPLERS
    )
    chains: int = option(0, "sampler", "number of persistent chains (pcd-*, --negatives persistent); 0 uses --batch")
    sweeps: int = option(1, "sampler", "pcd-gibbs: sweeps over all bits per update; eb-gfn: moves per update", least=1)
    flips: int = option(40, "sampler", "pcd-gwg: proposed flips per update", least=1)

    loss: str = option("tb", "gflownet", "loss of the GFlowNet", ("tb", "db", "subtb", "vargrad"))
    sub_lambda: float = option(0.9, "gflownet", "subtb: lambda", most=1, positive=True)
    backward_policy: str = option("learnt", "gflownet", "backward policy P_B, which erases bits", ("learnt", "uniform"))
    back_ratio: float = option(0.5, "gflownet", "weight of the trajectories that start at data, in [0, 1]", most=1)
    temperature: float = option(1.0, "gflownet", "temperature of the policy in training trajectories", positive=True)
    epsilon: float = option(0.0, "gflownet", "fraction of uniformly random actions in training trajectories", most=1)
    hidden: int = option(256, "gflownet", "width of the policy's hidden layers", least=1)
    depth: int = option(3, "gflownet", "number of hidden layers of the policy", least=1)
    policy_lr: float = option(1e-3, "gflownet", "learning rate of Adam for the policy", positive=True)
    log_z_lr: float = option(1.0, "gflownet", "learning rate of Adam for log Z", positive=True)
    clip: float = option(0.0, "gflownet", "clip the policy's gradient to this norm; 0 disables clipping")
    ema: float = option(
        0.0, "gflownet", "decay of the averaged policy that is evaluated and sampled; 0 disables averaging", most=1
    )
    matmul: str = option("fp32", "gflownet", "number format of the policy's matrix products", ("fp32", "bf16"))

    negatives: str = option(
        "data",
        "proposal",
        "where K-step moves start: at data or at persistent chains; scratch draws whole samples instead",
        ("data", "persistent", "scratch"),
    )
    k_schedule: str = option(
        "anneal", "proposal", "K rises to D, is fixed, or is drawn uniformly", ("anneal", "fixed", "random")
    )
    warmup: int = option(
        100_000, "proposal", "anneal: iterations until K reaches D; all of them if only --iterations is set", least=1
    )
    k: int = option(0, "proposal", "fixed: K; random: largest K; 0 uses D")
    mh: str = option("metropolis", "proposal", "rule that accepts moves", ("metropolis", "barker", "none"))

    energy_hidden: int = option(256, "energy", "width of the energy's hidden layers", least=1)
    energy_depth: int = option(3, "energy", "number of hidden layers of the energy", least=1)
    energy_activation: str = option("elu", "energy", "activation between its layers", tuple(ACTIVATIONS))
    energy_lr: float = option(1e-3, "energy", "learning rate of Adam for the energy", positive=True)
    energy_penalty: float = option(0.0, "energy", "weight of the mean of E^2 over data and negatives")
    energy_l1: float = option(0.0, "energy", "ising: weight of the penalty of the couplings, the sum of |J_ij|")
    l1_scale: float = option(
        0.0, "energy", "ising: s of the penalty's concave form, the sum of s log(1 + |J_ij| / s); 0 is |J_ij|"
    )
    refit: float = option(
        0.0, "energy", "ising: last part of the run, with no penalty and only the couplings above --refit-threshold",
        most=1,
    )  # fmt: skip
    refit_threshold: float = option(0.05, "energy", "ising: least |J_ij| of a coupling that is refitted", positive=True)

    batch: int = option(128, "run", "data points, and GFlowNet samples, per iteration", least=2)
    iterations: int = option(100_000, "run", "number of iterations", least=1)
    lr_decay: str = option(
        "none", "run", "how the learning rates fall to zero at the end of the run", ("none", "cosine", "linear")
    )
    decay_share: float = option(0.2, "run", "fraction of the run in which they fall", most=1, positive=True)
    seed: int = option(0, "run", "random seed", least=-math.inf)
    threads: int = option(1, "run", "CPU threads; 0 uses torch's default", most=MOST_THREADS)
    device: str = device_option()
    graph: str = graph_option()
    amp: str = amp_option("the energy and of a learnt flow; see --matmul for the policy")
    eval_every: int = option(1000, "run", "iterations between evaluations, which also draw pictures", least=1)
    eval_points: int = option(2000, "run", "data points of an evaluation during training", least=2)
    eval_paths: int = option(20, "run", "trajectories J per data point", least=1)
    final_points: int = option(
        10_000, "run", "data points of the final evaluation, see `svgdx eval eb-gfn`; 0 disables it"
    )
    log_every: int = option(50, "run", "iterations between lines of metrics.jsonl", least=1)
    checkpoint_every: int = option(1000, "run", "iterations between checkpoints", least=1)
    keep_checkpoints: int = option(3, "run", "newest checkpoints that are kept", least=1)

    @property
    def uncapturable(self) -> str | None:
        moves = self.sampler == "eb-gfn" and self.negatives != "scratch"
        if moves and self.k_schedule == "random":
            return "--k-schedule random gives every update another K, and with it other work"
        return None

    @classmethod
    def defaults_for(cls, options: dict[str, Any]) -> dict[str, Any]:
        defaults = dict(DATA_DEFAULTS.get(options.get("data", cls.data), {}))
        if "iterations" in options:
            # K is annealed over the whole run if only the length of the run is set.
            defaults["warmup"] = options["iterations"]
        return defaults

    def validate(self) -> None:
        super().validate()
        if self.data in IMAGES[1:] and self.data_root is None:
            raise UsageError(f"--data {self.data} needs --data-root DIR, the folder that holds it")
        if self.data not in IMAGES[1:] and self.data_root is not None:
            raise UsageError(f"--data-root: only {', '.join(IMAGES[1:])} read a folder, not --data {self.data}")
        if self.k and self.k_schedule == "anneal":
            raise UsageError("--k: only with --k-schedule fixed or random")
        for name in ("l1_scale", "refit"):
            if self.data != "ising" and getattr(self, name) > 0:
                raise UsageError(f"{flag(name)}: is only valid with --data ising, not --data {self.data}")
        if self.ema == 1:
            raise UsageError("--ema: must be below 1")


EVALUATION_DEFAULTS: dict[str, dict[str, Any]] = {
    "ising": {"ais_temperatures": 1000, "points": 2000, "mmd_samples": 2000},
    "digits": {"ais_temperatures": 3000, "mmd_samples": 0},
    "mnist14": {"ais_temperatures": 3000, "mmd_samples": 0, "points": 1000, "z_samples": 2000, "ais_chains": 128},
    "28x28 images": {
        "ais_temperatures": 10_000,
        "mmd_samples": 0,
        "points": 1000,
        "z_samples": 500,
        "ais_chains": 64,
    },
}


@dataclass
class EvaluationSettings(Settings):
    """Settings of `svgdx eval eb-gfn`."""

    program = "eval eb-gfn"
    variants = EVALUATION_DEFAULTS

    points: int = option(10_000, "evaluation", "data points for the NLL, at most as many as the data set has", least=2)
    paths: int = option(20, "evaluation", "trajectories J per data point", least=1)
    z_samples: int = option(20_000, "evaluation", "GFlowNet samples from which log Z is estimated", least=2)
    mmd_samples: int = option(4000, "evaluation", "samples of model and data for the MMD; 0 disables it")
    chain_sweeps: int = option(100, "evaluation", "pcd: sweeps from the chains to the samples of the MMD", least=1)
    ais_temperatures: int = option(0, "evaluation", "temperatures of annealed importance sampling (AIS); 0 disables it")
    ais_chains: int = option(256, "evaluation", "chains of AIS", least=2)
    ais_transition: str = option("gwg", "evaluation", "moves of AIS", GIBBS_OR_GWG)
    ais_steps: int = option(10, "evaluation", "sweeps or flips of AIS at each temperature", least=1)
    seed: int = option(0, "evaluation", "random seed", least=-math.inf)
    threads: int = option(1, "evaluation", "CPU threads", least=1, most=MOST_THREADS)
    device: str = device_option("evaluation")

    @classmethod
    def for_data(cls, data: str, options: dict[str, Any]) -> EvaluationSettings:
        """The options of the command line, and the defaults of the data set for the rest.

        Raises UsageError that names the first option whose value is not allowed.
        """
        kind = data if data in EVALUATION_DEFAULTS else "2-D data" if data in SYNTHETIC else "28x28 images"
        return cls.from_options(EVALUATION_DEFAULTS.get(kind, {}) | options)
