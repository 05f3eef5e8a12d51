"""`svgdx train eb-gfn`: EB-GFN or persistent contrastive divergence on binary data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from svgdx.experiments.eb_gfn import evaluate, plots, tasks
from svgdx.experiments.eb_gfn.base import EnergyTrainer
from svgdx.experiments.eb_gfn.config import EBGFNConfig, EvaluationSettings
from svgdx.experiments.eb_gfn.pcd import PCDTrainer
from svgdx.experiments.eb_gfn.tasks import Task
from svgdx.experiments.eb_gfn.trainer import EBGFNTrainer
from svgdx.experiments.run import loop, parallel
from svgdx.experiments.run.errors import StopRequested
from svgdx.experiments.run.figures import warn_if_unwritten
from svgdx.experiments.run.folder import RunFolder, open_run
from svgdx.experiments.run.loop import INTERRUPTED
from svgdx.experiments.run.recorder import signals


def load(config: EBGFNConfig) -> Task:
    """The run's data. Raises UsageError where it is missing."""
    return tasks.load(config)


def trainer_of(config: EBGFNConfig, task: Task) -> EnergyTrainer:
    return EBGFNTrainer(config, task) if config.sampler == "eb-gfn" else PCDTrainer(config, task)


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx train eb-gfn` and returns its exit code."""
    with parallel.launched(options.timeout):
        config, task, folder = open_run(options, EBGFNConfig, "eb-gfn", tasks.load)
        return run(config, task, folder, options.resume, options.checkpoint, options.quiet)


def run(
    config: EBGFNConfig, task: Task, folder: RunFolder, resume: bool, chosen: Path | None, quiet: bool = False
) -> int:
    """Trains to the last step and evaluates the model; INTERRUPTED after SIGINT or SIGTERM, with a checkpoint."""
    torch.set_num_threads(config.threads)
    trainer = trainer_of(config, task)
    finished = loop.run(trainer, folder, resume, chosen, quiet)
    metrics = folder.read_metrics()
    # An interrupted first evaluation leaves none.
    if parallel.main() and metrics:
        with warn_if_unwritten():
            plots.curves(folder.path / "curves.png", metrics)
    if not finished:
        return INTERRUPTED
    if not parallel.main():
        return 0
    if config.final_points > 0:
        given = {"points": config.final_points, "paths": config.eval_paths, "ais_temperatures": 0}
        settings = EvaluationSettings.for_data(config.data, given)
        try:
            with signals() as stop:
                evaluate.report(trainer, settings, folder, stop.check)
        except StopRequested:
            print(f"{folder.path}: interrupted in the last evaluation; continue with --resume", file=sys.stderr)
            return INTERRUPTED
    print(f"Pictures: {folder.path / 'samples.png'}, {folder.path / 'curves.png'}")
    return 0
