"""`svgdx train eb-gfn`: EB-GFN or persistent contrastive divergence on binary data."""

from __future__ import annotations

from pathlib import Path

import torch

from svgdx.experiments import binary_plots, binary_tasks, loop
from svgdx.experiments.binary_tasks import Task
from svgdx.experiments.eb_gfn import EBGFNTrainer
from svgdx.experiments.eb_gfn_config import EBGFNConfig
from svgdx.experiments.energy_trainer import EnergyTrainer
from svgdx.experiments.loop import INTERRUPTED
from svgdx.experiments.run_folder import RunFolder


def load(config: EBGFNConfig) -> Task:
    """The run's data. Raises UsageError where it is missing."""
    return binary_tasks.load(config)


def trainer_of(config: EBGFNConfig, task: Task) -> EnergyTrainer:
    return EBGFNTrainer(config, task)


def run(
    config: EBGFNConfig, task: Task, folder: RunFolder, resume: bool, chosen: Path | None, quiet: bool = False
) -> int:
    """Trains to the last step. Returns 0, or INTERRUPTED after SIGINT or SIGTERM, with a checkpoint of that step."""
    torch.set_num_threads(config.threads)
    finished = loop.run(trainer_of(config, task), folder, resume, chosen, quiet)
    binary_plots.curves(folder.path / "curves.png", folder.read_metrics())
    return 0 if finished else INTERRUPTED
