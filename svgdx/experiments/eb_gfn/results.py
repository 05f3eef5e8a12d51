"""How good a trained model of binary vectors is: every result with the settings that it depends on."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from svgdx import gflownets
from svgdx.experiments.eb_gfn.base import EnergyTrainer
from svgdx.experiments.eb_gfn.config import IMAGES, EvaluationSettings
from svgdx.experiments.eb_gfn.pcd import PCDTrainer
from svgdx.experiments.eb_gfn.tasks import Ising
from svgdx.experiments.eb_gfn.trainer import EBGFNTrainer
from svgdx.experiments.metrics import bits
from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.recorder import progress_bar
from svgdx.streams import Stream

# Purposes of the evaluation's random numbers.
_POINTS, _PATHS, _LOG_Z, _SAMPLES, _AIS = range(1, 6)


@dataclass
class Result:
    """One result of an evaluation.

    Attributes:
        name: its name in evaluation.json.
        text: its name for readers.
        value: in `unit`.
        unit: nats, bits/dim, or empty.
        error: standard error; None if it is not known.
        settings: what the value depends on, by name.
    """

    name: str
    text: str
    value: float
    unit: str
    error: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """The result as it is printed."""
        error = "" if self.error is None else f" ± {self.error:.2g}"
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return f"{self.text}: {self.value:.4f}{error} {self.unit}".rstrip() + (f" ({settings})" if settings else "")


def write_results(
    trainer: EnergyTrainer,
    settings: EvaluationSettings,
    folder: RunFolder,
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Measures a trained model, prints its results one by one, and writes them to evaluation.json.

    Args:
        trainer: holds the model.
        settings: of the evaluation.
        folder: the run folder.
        check_stop: called after every result; may raise.
    """
    config = trainer.config
    print(f"{config.data}, {config.sampler}, {trainer.step} iterations, {trainer.seconds:.0f} s of updates")
    results = []
    for result in measured(trainer, settings):
        check_stop()
        print(result.line(), flush=True)
        results.append(dataclasses.asdict(result))
    content = {
        "data": config.data,
        "sampler": config.sampler,
        "step": trainer.step,
        "seconds": trainer.seconds,
        "settings": dataclasses.asdict(settings),
        "figures": results,
    }
    write_atomically(folder.path / "evaluation.json", (json.dumps(content, indent=1) + "\n").encode())


def measured(trainer: EnergyTrainer, settings: EvaluationSettings) -> Iterator[Result]:
    """Measures the results that apply to the model and its data, one by one."""
    task = trainer.task
    points = task.held_out(settings.points, settings.seed + _POINTS)
    if isinstance(trainer, EBGFNTrainer):
        yield from _gflownet(trainer, points, settings)
    if settings.ais_temperatures > 0:
        yield from _annealed(trainer, points, settings)
    if settings.mmd_samples > 0:
        yield _mmd(trainer, settings)
    quantities = task.measure(trainer.energy)
    if "neg_log_rmse" in quantities:
        yield Result("neg_log_rmse", "-log RMSE of J", quantities["neg_log_rmse"], "")
    if isinstance(task, Ising):
        text = "-log RMSE of J at the Cramér-Rao bound with known edges"
        yield Result("neg_log_rmse_bound", text, task.bound(), "", None, {"samples": len(task.data)})
    if task.entropy is not None:
        yield Result("floor", "entropy of the data, the least possible NLL", task.entropy, "nats", 0.005)


def _gflownet(trainer: EBGFNTrainer, points: Tensor, settings: EvaluationSettings) -> Iterator[Result]:
    """NLL of the GFlowNet, and NLL of the energy with log Z by importance sampling from the GFlowNet."""
    with progress_bar("NLL of the GFlowNet", len(points) * settings.paths, "path", trainer.quiet) as progress:
        likelihood = gflownets.log_likelihood(
            trainer.averaged, points, settings.paths, settings.seed + _PATHS, progress=progress
        )
    facts: dict[str, Any] = {"points": len(points), "J": settings.paths}
    error = float(likelihood.std()) / math.sqrt(len(points))
    nll = bits.Estimate(-float(likelihood.mean()), error)
    yield from _nll("gflownet_nll", "NLL of the GFlowNet", nll, trainer, facts)
    bar = progress_bar("log Z", settings.z_samples, "path", trainer.quiet)
    with torch.no_grad(), bar as progress:
        log_weights = gflownets.log_importance_weights(
            trainer.averaged,
            lambda x: -trainer.energy(x),
            settings.z_samples,
            settings.seed + _LOG_Z,
            progress=progress,
        ).double()
    effective = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
    facts = {
        "points": len(points),
        "log Z": "importance sampling from the GFlowNet",
        "samples": settings.z_samples,
        "effective": round(float(effective)),
    }
    nll = bits.energy_nll(trainer.energy, points, bits.log_z_estimate(log_weights))
    yield from _nll("energy_nll", "NLL of the energy", nll, trainer, facts)


def _annealed(trainer: EnergyTrainer, points: Tensor, settings: EvaluationSettings) -> Iterator[Result]:
    """log Z of the energy by annealed importance sampling, and the NLL that follows from it."""
    trainer.energy.requires_grad_(False)
    with progress_bar("AIS", settings.ais_temperatures, "temperature", trainer.quiet) as progress:
        log_z = bits.ais_log_z(
            trainer.energy,
            trainer.task.base(),
            settings.ais_temperatures,
            settings.ais_chains,
            Stream(settings.seed + _AIS, device=trainer.device),
            settings.ais_transition,
            settings.ais_steps,
            progress,
        )
    facts: dict[str, Any] = {
        "temperatures": settings.ais_temperatures,
        "chains": settings.ais_chains,
        "moves": f"{settings.ais_steps} {settings.ais_transition}",
    }
    nll = bits.energy_nll(trainer.energy, points, log_z)
    yield Result("ais_log_z", "log Z of the energy by AIS", log_z.value, "nats", log_z.error, facts)
    yield from _nll("energy_nll_ais", "NLL of the energy by AIS", nll, trainer, {"points": len(points)} | facts)


def _nll(name: str, text: str, nll: bits.Estimate, trainer: EnergyTrainer, facts: dict[str, Any]) -> Iterator[Result]:
    """An NLL in nats; for images also in bits per dimension."""
    yield Result(name, text, nll.value, "nats", nll.error, facts)
    if trainer.config.data in IMAGES:
        value, error = (bits.bits_per_dim(nats, trainer.task.dim) for nats in nll)
        yield Result(name.replace("nll", "bits_per_dim"), text, value, "bits/dim", error, facts)


def _mmd(trainer: EnergyTrainer, settings: EvaluationSettings) -> Result:
    data = trainer.task.held_out(settings.mmd_samples, settings.seed + _SAMPLES)
    facts: dict[str, Any] = {"kernel": "exp(-0.1 Hamming)", "data": len(data), "samples": settings.mmd_samples}
    if isinstance(trainer, PCDTrainer):
        facts["sweeps from the chains"] = settings.chain_sweeps
        samples = trainer.samples(settings.mmd_samples, settings.chain_sweeps)
    else:
        samples = trainer.samples(settings.mmd_samples)
    return Result("mmd", "squared MMD, unbiased", bits.hamming_mmd(samples, data), "", None, facts)
