"""`svgdx train eb-gfn`: EB-GFN or persistent contrastive divergence on binary data."""

from __future__ import annotations

from pathlib import Path

import torch

from svgdx.experiments import binary_plots, binary_tasks, eval_eb_gfn, loop, parallel
from svgdx.experiments.binary_tasks import Task
from svgdx.experiments.eb_gfn import EBGFNTrainer
from svgdx.experiments.eb_gfn_config import EBGFNConfig, EvaluationSettings
from svgdx.experiments.energy_trainer import EnergyTrainer
from svgdx.experiments.loop import INTERRUPTED
from svgdx.experiments.pcd import PCDTrainer
from svgdx.experiments.run_folder import RunFolder


def load(config: EBGFNConfig) -> Task:
    """The run's data. Raises UsageError where it is missing."""
    return binary_tasks.load(config)


def trainer_of(config: EBGFNConfig, task: Task) -> EnergyTrainer:
    return EBGFNTrainer(config, task) if config.sampler == "eb-gfn" else PCDTrainer(config, task)


def run(
    config: EBGFNConfig, task: Task, folder: RunFolder, resume: bool, chosen: Path | None, quiet: bool = False
) -> int:
    """Trains to the last step. Returns 0, or INTERRUPTED after SIGINT or SIGTERM, with a checkpoint of that step."""
    torch.set_num_threads(config.threads)
    trainer = trainer_of(config, task)
    finished = loop.run(trainer, folder, resume, chosen, quiet)
    if parallel.main():
        binary_plots.curves(folder.path / "curves.png", folder.read_metrics())
    if not finished:
        return INTERRUPTED
    if not parallel.main():
        return 0
    if config.final_points > 0:
        given = {"points": config.final_points, "paths": config.eval_paths, "ais_temperatures": 0}
        settings = EvaluationSettings.for_data(config.data, given)
        with parallel.alone():
            eval_eb_gfn.report(trainer, settings, folder)
    print(f"Pictures: {folder.path / 'samples.png'}, {folder.path / 'curves.png'}")
    return 0
