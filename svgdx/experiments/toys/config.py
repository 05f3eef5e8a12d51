"""Settings of `svgdx sample`, with the defaults of each target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.settings import MOST_THREADS, Settings, device_option, option
from svgdx.experiments.toys.targets import MIXTURES, TARGETS
from svgdx.samplers import BOUNDS, CONTROLS, DENSITIES, HESSIANS, PRESETS

_MIXTURE: dict[str, Any] = {"sigma": 2.0, "eps": 0.5, "epochs": 150, "lr": 5e-2}
# Defaults that differ from those of the fields.
TARGET_DEFAULTS: dict[str, dict[str, Any]] = {
    "gaussian": {"particles": 200, "steps": 200, "decay_from": 180, "epochs": 100, "attach_every": 1},
    "two-gaussians": {"particles": 50, "steps": 100, "epochs": 300, "lr": 5e-2, "batch": 4},
    "ill-conditioned": {"steps": 25, "control": "metropolis-hastings"},
    "gaussian-10d": {"steps": 100, "epochs": 200, "lr": 5e-2, "sigma_high": math.sqrt(5), "sigma_low": 0.01},
    "breast-cancer": {"steps": 100, "eps": 0.02, "epochs": 100, "lr": 5e-2},
    **dict.fromkeys(MIXTURES, _MIXTURE),
}  # fmt: skip
# Presets that learn nothing use their own heuristic and no bound, and need no training.
_UNTRAINED: dict[str, Any] = {"sigma": 0.0, "bound": "none", "epochs": 0}
_P_SVGD: dict[str, Any] = {"hessian": "none", "control": "truncation"}
_VARIANTS: dict[str, dict[str, Any]] = {
    **{name: changes for name, changes in TARGET_DEFAULTS.items() if name not in MIXTURES},
    "mixtures": _MIXTURE,
    "svgd": _UNTRAINED,
    "p-svgd": _UNTRAINED | _P_SVGD,
}


@dataclass
class SampleConfig(Settings):
    """Settings of `svgdx sample`. Entropies are in nats, lengths in the units of the target."""

    program = "sample"
    selectors = ("target",)
    variants = _VARIANTS

    target: str = option(
        "gaussian", "target", "distribution to sample from", TARGETS, metavar="TARGET", positional=True
    )

    preset: str = option("met-svgd", "sampler", "published sampler to start from", PRESETS)
    particles: int = option(100, "sampler", "number of particles M", least=2)
    steps: int = option(100, "sampler", "number of SVGD steps L", least=1)
    sigma: float = option(
        1.0, "sampler", "bandwidth, or its initial value if it is learnt; 0 uses the heuristic of the preset"
    )
    sigma_low: float = option(0.0, "sampler", "met-svgd: lower bound of sigma, with --sigma-high; 0 disables it")
    sigma_high: float = option(0.0, "sampler", "met-svgd: upper bound of sigma; 0 disables it")
    eps: float = option(0.1, "sampler", "step size, or its initial value if it is learnt", positive=True)
    decay_from: int = option(0, "sampler", "step from which eps decays to a tenth; 0 disables the decay")
    bound: str = option("leaky", "sampler", "how eps is kept below its bound", BOUNDS)
    hessian: str = option("hutchinson", "sampler", "how the Hessian term of the density is computed", HESSIANS)
    density: str = option("first-order", "sampler", "how a step changes the log density", DENSITIES)
    control: str = option("none", "sampler", "which steps or particles may be rejected", CONTROLS)
    stop: float = option(0.0, "sampler", "stop the chain once its Stein discrepancy is below this; 0 disables it")

    epochs: int = option(100, "training", "met-svgd: number of updates of the sampler; 0 trains nothing")
    lr: float = option(1e-2, "training", "initial learning rate of Adam, which follows a cosine to zero", positive=True)
    batch: int = option(1, "training", "independent chains in an update", least=1)
    attach_every: int = option(1, "training", "backpropagate through every k-th step only", least=1)

    chains: int = option(10, "run", "independent chains from which the final entropy is estimated", least=1)
    frames: int = option(40, "run", "frames of evolution.gif; 0 writes no GIF")
    seed: int = option(0, "run", "random seed", least=-math.inf)
    threads: int = option(1, "run", "CPU threads; 0 uses torch's default", most=MOST_THREADS)
    device: str = device_option()

    @classmethod
    def defaults_for(cls, options: dict[str, Any]) -> dict[str, Any]:
        defaults = TARGET_DEFAULTS.get(options.get("target", cls.target), {})
        preset = options.get("preset", cls.preset)
        if preset == "met-svgd":
            return defaults
        defaults = {name: defaults[name] for name in ("particles", "steps", "eps") if name in defaults}
        return defaults | _UNTRAINED | (_P_SVGD if preset == "p-svgd" else {})

    def validate(self) -> None:
        super().validate()
        if self.preset != "met-svgd" and self.epochs:
            raise UsageError(f"--epochs: the preset {self.preset} has nothing to train")
        if self.preset == "met-svgd" and self.sigma == 0:
            raise UsageError("--sigma: must be positive because the preset met-svgd learns it")
        if (self.sigma_low > 0) != (self.sigma_high > 0):
            raise UsageError("--sigma-low and --sigma-high: must be set together")
        if self.sigma_high and not self.sigma_low < self.sigma < self.sigma_high:
            raise UsageError("--sigma: must lie between --sigma-low and --sigma-high")
        if self.decay_from >= self.steps:
            raise UsageError(f"--decay-from: must be below --steps = {self.steps}")
        if self.density == "logdet" and self.hessian == "hutchinson":
            raise UsageError("--density logdet: requires --hessian exact or none")
