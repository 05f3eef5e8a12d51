"""Settings of an experiment: a dataclass whose fields are its command-line options and its config.yaml."""

from __future__ import annotations

import argparse
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from svgdx.energies.mlp import ACTIVATIONS
from svgdx.experiments.data import DATASETS
from svgdx.experiments.errors import UsageError
from svgdx.samplers.met_svgd import BOUNDS

STARTS = ("normal", "data")


def _option(default: Any, group: str, text: str, choices: tuple[str, ...] | None = None, least: float = 0.0) -> Any:
    """A field with its help text; numbers must be at least `least`."""
    return field(default=default, metadata={"group": group, "help": text, "choices": choices, "least": least})


@dataclass
class EBMConfig:
    """Settings of `svgdx train ebm`. Lengths are in pixel values, which lie in [-1, 1]; energies in nats."""

    data: str = _option("digits", "data", "data set: scikit-learn's 8x8 digits or MNIST", DATASETS)
    data_root: str | None = _option(None, "data", "folder that holds MNIST/raw/ in torchvision's layout")
    noise: float = _option(0.3, "data", "Gaussian noise added to the training images: its deviation at the start")
    noise_end: float = _option(0.06, "data", "the same for the last fifth of the run; geometric in between")

    particles: int = _option(64, "sampler", "particles M of one chain", least=2)
    batch: int = _option(1, "sampler", "independent chains run side by side", least=1)
    svgd_steps: int = _option(16, "sampler", "SVGD steps L of a chain", least=1)
    start: str = _option(
        "normal", "sampler", "initial Gaussian before training: N(0, I), or mean and std of the data", STARTS
    )
    bandwidth: float = _option(0.5, "sampler", "sigma before training, as a multiple of the median heuristic")
    step_size: float = _option(0.1, "sampler", "eps / M of each step before training")
    bound: str = _option("leaky", "sampler", "what holds eps under its bound eps_UB", BOUNDS)
    attached_steps: int = _option(4, "sampler", "steps, drawn at random, that keep their graph in a sampler update")
    sampler_every: int = _option(5, "sampler", "energy updates for each sampler update", least=1)
    sampler_lr: float = _option(1e-2, "sampler", "Adam's learning rate for start, sigma and eps")

    hidden: int = _option(256, "energy", "width of a hidden layer", least=1)
    depth: int = _option(2, "energy", "number of hidden layers", least=1)
    activation: str = _option("silu", "energy", "activation between layers", tuple(ACTIVATIONS))
    confinement: float = _option(0.0, "energy", "precision of the Gaussian factor of p")
    energy_lr: float = _option(1e-3, "energy", "Adam's learning rate, constant for half the run, then falling to zero")
    energy_penalty: float = _option(0.02, "energy", "weight of the mean of f^2 over data and samples")
    gradient_penalty: float = _option(0.0, "energy", "weight of the mean of |grad f|^2 over the data")

    steps: int = _option(1000, "run", "energy updates", least=1)
    seed: int = _option(0, "run", "seed of everything random", least=-math.inf)
    threads: int = _option(1, "run", "CPU threads, one being enough for 8x8 digits; 0 takes as many as torch does")
    eval_every: int = _option(100, "run", "updates between evaluations: Fréchet distance and sample grid", least=1)
    eval_samples: int = _option(512, "run", "samples drawn for an evaluation", least=2)
    log_every: int = _option(10, "run", "updates between lines of metrics.jsonl", least=1)
    checkpoint_every: int = _option(100, "run", "updates between checkpoints", least=1)
    keep_checkpoints: int = _option(3, "run", "checkpoints kept, the newest", least=1)

    def validate(self) -> None:
        """Raises UsageError that names the first option whose value does not fit."""
        for option in dataclasses.fields(self):
            self._validate_field(option)
        if self.data == "mnist" and self.data_root is None:
            raise UsageError("--data mnist needs --data-root DIR, the folder that holds MNIST/raw/")
        if self.data != "mnist" and self.data_root is not None:
            raise UsageError(f"--data-root: only --data mnist reads a folder, not --data {self.data}")
        if self.attached_steps > self.svgd_steps:
            raise UsageError(
                f"--attached-steps: at most --svgd-steps = {self.svgd_steps}, but is {self.attached_steps}"
            )

    def _validate_field(self, option: dataclasses.Field[Any]) -> None:
        value, name = getattr(self, option.name), flag(option.name)
        choices, least = option.metadata["choices"], option.metadata["least"]
        if choices and value not in choices:
            raise UsageError(f"{name}: must be one of {', '.join(choices)}, but is {value!r}")
        expected = _type_of(option)
        if expected is str:
            if not (isinstance(value, str) or (value is None and option.default is None)):
                raise UsageError(f"{name}: must be text, but is {value!r}")
            return
        if isinstance(value, bool) or not isinstance(value, expected if expected is int else (int, float)):
            raise UsageError(f"{name}: must be a number of type {expected.__name__}, but is {value!r}")
        if not (math.isfinite(value) and value >= least):
            raise UsageError(f"{name}: must be finite and at least {least:g}, but is {value}")
        if option.name in ("noise", "noise_end", "step_size", "bandwidth", "sampler_lr", "energy_lr") and value == 0:
            raise UsageError(f"{name}: must be positive")

    def to_yaml(self) -> str:
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, path: Path) -> EBMConfig:
        """Reads a config.yaml. Raises UsageError, naming the file, when it is not one of this experiment."""
        try:
            values = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
        names = {option.name for option in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            odd = sorted(map(str, set(values) ^ names)) if isinstance(values, dict) else ["all of it"]
            raise UsageError(f"{path}: does not fit this version's settings: {', '.join(odd)}")
        config = cls(**values)
        try:
            config.validate()
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        return config


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _type_of(option: dataclasses.Field[Any]) -> type:
    return str if option.default is None else type(option.default)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds one option for each field, in its group. Options not given leave no attribute behind."""
    groups: dict[str, Any] = {}
    for option in dataclasses.fields(EBMConfig):
        title = option.metadata["group"]
        group = groups.setdefault(title, None) or parser.add_argument_group(title)
        groups[title] = group
        choices = option.metadata["choices"]
        default = "" if option.default is None else f" (default: {option.default})"
        group.add_argument(
            flag(option.name),
            type=_type_of(option),
            choices=choices,
            metavar=None if choices else {int: "N", float: "X", str: "DIR"}[_type_of(option)],
            default=argparse.SUPPRESS,
            help=option.metadata["help"].replace("%", "%%") + default,
        )


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line."""
    names = [option.name for option in dataclasses.fields(EBMConfig)]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}
