"""`svgdx eval eb-gfn`: how good a trained model of binary data is, each figure with the settings it depends on."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svgdx import gflownets
from svgdx.experiments.eb_gfn import tasks
from svgdx.experiments.eb_gfn.base import EnergyTrainer
from svgdx.experiments.eb_gfn.config import IMAGES, EBGFNConfig, EvaluationSettings
from svgdx.experiments.eb_gfn.pcd import PCDTrainer
from svgdx.experiments.eb_gfn.trainer import EBGFNTrainer
from svgdx.experiments.metrics import bits as evaluation
from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.settings import chosen_options

# Purposes of the evaluation's random numbers.
_POINTS, _PATHS, _LOG_Z, _SAMPLES, _AIS = range(1, 6)


@dataclass
class Figure:
    """One result: its value, its standard error where there is one, and the settings it depends on."""

    name: str
    text: str
    value: float
    unit: str
    error: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.2g}"
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return f"{self.text}: {self.value:.4f}{error} {self.unit}".rstrip() + (f" ({settings})" if settings else "")


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx eval eb-gfn` and returns its exit code."""
    return run(options.run, options.checkpoint, chosen_options(options, EvaluationSettings))


def run(path: Path, chosen: Path | None, given: dict[str, Any]) -> int:
    """Evaluates a run's newest checkpoint, or the chosen one. Raises UsageError where there is none."""
    from svgdx.experiments.eb_gfn import train

    folder = RunFolder.reopen(path, "eb-gfn")
    config = EBGFNConfig.from_yaml(folder.config)
    settings = EvaluationSettings.for_data(config.data, given)
    torch.set_num_threads(settings.threads)
    found = folder.load(chosen)
    if found is None:
        raise UsageError(f"{path} holds no checkpoint yet")
    trainer = train.trainer_of(config, tasks.load(config))
    trainer.restore(*found)
    report(trainer, settings, folder)
    return 0


def report(
    trainer: EnergyTrainer,
    settings: EvaluationSettings,
    folder: RunFolder,
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Prints the figures of a trained model and writes them to evaluation.json; check_stop is called between them."""
    config, seconds = trainer.config, trainer.seconds
    print(f"{config.data}, {config.sampler}, {trainer.step} iterations, {seconds:.0f} s of updates")
    figures = []
    for figure in figures_of(trainer, settings):
        check_stop()
        print(figure.line(), flush=True)
        figures.append(dataclasses.asdict(figure))
    content = {
        "data": trainer.config.data,
        "sampler": trainer.config.sampler,
        "step": trainer.step,
        "seconds": trainer.seconds,
        "settings": dataclasses.asdict(settings),
        "figures": figures,
    }
    write_atomically(folder.path / "evaluation.json", (json.dumps(content, indent=1) + "\n").encode())


def figures_of(trainer: EnergyTrainer, settings: EvaluationSettings) -> Iterator[Figure]:
    """All figures that apply to the model and its data, each measured when it is asked for."""
    task = trainer.task
    points = task.held_out(settings.points, settings.seed + _POINTS)
    if isinstance(trainer, EBGFNTrainer):
        yield from _gflownet(trainer, points, settings)
    if settings.ais_temperatures > 0:
        yield from _annealed(trainer, points, settings)
    if settings.mmd_samples > 0:
        yield _mmd(trainer, settings)
    measured = task.measure(trainer.energy)
    if "neg_log_rmse" in measured:
        yield Figure("neg_log_rmse", "-log RMSE of J", measured["neg_log_rmse"], "")
    if task.entropy is not None:
        text = "entropy of the data, the least possible NLL"
        yield Figure("floor", text, task.entropy, "nats", 0.005)


def _gflownet(trainer: EBGFNTrainer, points: Tensor, settings: EvaluationSettings) -> Iterator[Figure]:
    likelihood = gflownets.log_likelihood(trainer.averaged, points, settings.paths, settings.seed + _PATHS)
    facts: dict[str, Any] = {"points": len(points), "J": settings.paths}
    error = float(likelihood.std()) / math.sqrt(len(points))
    nll = evaluation.Estimate(-float(likelihood.mean()), error)
    yield from _nll("gflownet_nll", "NLL of the GFlowNet", nll, trainer, facts)
    with torch.no_grad():
        log_weights = gflownets.log_importance_weights(
            trainer.averaged, lambda x: -trainer.energy(x), settings.z_samples, settings.seed + _LOG_Z
        ).double()
    effective = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
    facts = {
        "points": len(points),
        "log Z": "importance sampling from the GFlowNet",
        "samples": settings.z_samples,
        "effective": round(float(effective)),
    }
    nll = evaluation.energy_nll(trainer.energy, points, evaluation.log_z_estimate(log_weights))
    yield from _nll("energy_nll", "NLL of the energy", nll, trainer, facts)


def _annealed(trainer: EnergyTrainer, points: Tensor, settings: EvaluationSettings) -> list[Figure]:
    generator = torch.Generator().manual_seed(settings.seed + _AIS)
    trainer.energy.requires_grad_(False)
    log_z = evaluation.ais_log_z(
        trainer.energy,
        trainer.task.base(),
        settings.ais_temperatures,
        settings.ais_chains,
        generator,
        settings.ais_transition,
        settings.ais_steps,
    )
    facts: dict[str, Any] = {
        "temperatures": settings.ais_temperatures,
        "chains": settings.ais_chains,
        "moves": f"{settings.ais_steps} {settings.ais_transition}",
    }
    nll = evaluation.energy_nll(trainer.energy, points, log_z)
    found = [Figure("ais_log_z", "log Z of the energy by AIS", log_z.value, "nats", log_z.error, facts)]
    facts = {"points": len(points)} | facts
    return found + _nll("energy_nll_ais", "NLL of the energy by AIS", nll, trainer, facts)


def _nll(name: str, text: str, nll: evaluation.Estimate, trainer: EnergyTrainer, facts: dict[str, Any]) -> list[Figure]:
    found = [Figure(name, text, nll.value, "nats", nll.error, facts)]
    if trainer.config.data in IMAGES:
        bits = [evaluation.bits_per_dim(value, trainer.task.dim) for value in nll]
        found.append(Figure(name.replace("nll", "bits_per_dim"), text, bits[0], "bits/dim", bits[1], facts))
    return found


def _mmd(trainer: EnergyTrainer, settings: EvaluationSettings) -> Figure:
    data = trainer.task.held_out(settings.mmd_samples, settings.seed + _SAMPLES)
    facts: dict[str, Any] = {"kernel": "exp(-0.1 Hamming)", "data": len(data), "samples": settings.mmd_samples}
    if isinstance(trainer, PCDTrainer):
        facts["sweeps from the chains"] = settings.chain_sweeps
        samples = trainer.samples(settings.mmd_samples, settings.chain_sweeps)
    else:
        samples = trainer.samples(settings.mmd_samples)
    return Figure("mmd", "squared MMD, unbiased", evaluation.hamming_mmd(samples, data), "", None, facts)
