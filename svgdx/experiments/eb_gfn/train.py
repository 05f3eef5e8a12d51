"""`svgdx train eb-gfn`: trains EB-GFN, or an energy by persistent contrastive divergence, on binary data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from svgdx.experiments.eb_gfn import plots
from svgdx.experiments.eb_gfn.base import EnergyTrainer
from svgdx.experiments.eb_gfn.config import EBGFNConfig, EvaluationSettings
from svgdx.experiments.eb_gfn.pcd import PCDTrainer
from svgdx.experiments.eb_gfn.results import write_results
from svgdx.experiments.eb_gfn.tasks import Task, load_task
from svgdx.experiments.eb_gfn.trainer import EBGFNTrainer
from svgdx.experiments.run import loop, parallel
from svgdx.experiments.run.errors import StopRequested
from svgdx.experiments.run.figures import warn_if_unwritten
from svgdx.experiments.run.folder import RunFolder, open_run
from svgdx.experiments.run.loop import INTERRUPTED
from svgdx.experiments.run.recorder import signals


def trainer_of(config: EBGFNConfig, task: Task) -> EnergyTrainer:
    """A new trainer of the model that the settings describe."""
    return EBGFNTrainer(config, task) if config.sampler == "eb-gfn" else PCDTrainer(config, task)


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx train eb-gfn` and returns its exit code."""
    with parallel.launched(options.timeout):
        config, task, folder = open_run(options, EBGFNConfig, "eb-gfn", load_task)
        with folder.at_work():
            return run(config, task, folder, options.resume, options.checkpoint, options.quiet)


def run(
    config: EBGFNConfig, task: Task, folder: RunFolder, resume: bool, chosen: Path | None, quiet: bool = False
) -> int:
    """Trains up to the last step, draws the curves, and evaluates the model unless `final_points` is 0.

    Args:
        config: settings of the run.
        task: data of the run.
        folder: the run folder.
        resume: whether to continue from a checkpoint.
        chosen: the checkpoint; None takes the newest.
        quiet: shows no progress bar.

    Returns:
        0, or INTERRUPTED after SIGINT, SIGTERM or SIGHUP, with a checkpoint of the step reached.

    Raises:
        DivergedError: a quantity became NaN or infinite; the last good checkpoint is kept.
    """
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
        options: dict[str, Any] = {"points": config.final_points, "paths": config.eval_paths, "ais_temperatures": 0}
        options["device"] = config.device
        settings = EvaluationSettings.for_data(config.data, options)
        try:
            with signals() as stop:
                write_results(trainer, settings, folder, stop.check)
        except StopRequested:
            print(f"{folder.path}: interrupted in the final evaluation; continue with --resume", file=sys.stderr)
            return INTERRUPTED
    print(f"Pictures: {folder.path / 'samples.png'}, {folder.path / 'curves.png'}")
    return 0
