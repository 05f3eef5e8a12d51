"""`svgdx train ebm`: an energy-based model of images, or the Glow beside it, resumable to the bit."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from svgdx.experiments.data import images as data
from svgdx.experiments.ebm import glow, plots
from svgdx.experiments.ebm.base import ImageTrainer
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.ebm.trainer import EBMTrainer
from svgdx.experiments.metrics.images import ImageDistances
from svgdx.experiments.run import loop, parallel
from svgdx.experiments.run.figures import warn_if_unwritten
from svgdx.experiments.run.folder import RunFolder, open_run
from svgdx.experiments.run.loop import INTERRUPTED


@dataclass
class Task:
    """The images of a run and what measures distances to them."""

    images: data.Images
    distances: ImageDistances


def load(config: EBMConfig) -> Task:
    """The run's data. Raises UsageError where it, or a package that the run needs, is missing."""
    torch.set_num_threads(config.threads)
    if config.sampler == "glow":
        glow.require()
    images = data.load(config.data, config.data_root, labels=True)
    return Task(images, ImageDistances(images, config.data, config.data_root, config.inception_weights))


def trainer_of(config: EBMConfig, task: Task) -> ImageTrainer:
    kind = glow.GlowTrainer if config.sampler == "glow" else EBMTrainer
    return kind(config, task.images, task.distances)


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx train ebm` and returns its exit code."""
    with parallel.launched(options.timeout):
        config, task, folder = open_run(options, EBMConfig, "ebm", load)
        return run(config, task, folder, options.resume, options.checkpoint, options.quiet)


def run(
    config: EBMConfig, task: Task, folder: RunFolder, resume: bool, chosen: Path | None, quiet: bool = False
) -> int:
    """Trains to the last step. Returns 0, or INTERRUPTED after SIGINT or SIGTERM, with a checkpoint of that step."""
    torch.set_num_threads(config.threads)
    try:
        finished = loop.run(trainer_of(config, task), folder, resume, chosen, quiet)
    finally:
        # Of a diverged run too: they show how it went.
        metrics = folder.read_metrics()
        # An interrupted first evaluation leaves none.
        if parallel.main() and metrics:
            with warn_if_unwritten():
                plots.curves(folder.path / "curves.png", metrics)
    if not finished:
        return INTERRUPTED
    if parallel.main():
        _summary(config, task, folder)
    return 0


def _summary(config: EBMConfig, task: Task, folder: RunFolder) -> None:
    metrics = [record for record in folder.read_metrics() if "feature_distance" in record]
    floor = task.distances(task.images.train[: config.eval_samples])
    print(f"Fréchet distances to {len(task.images.held_out)} held-out images, step 0, the last, and training images:")
    for name, value in floor.items():
        print(f"  {name}: {metrics[0][name]:.2f}, {metrics[-1][name]:.2f}, {value:.2f}")
    accuracy = f"{100 * task.distances.features.accuracy:.1f} %"
    print(f"feature_distance is no FID: its classifier was trained here and is right on {accuracy} of held-out images.")
    print(f"Pictures: {folder.path / 'samples.png'}, {folder.path / 'curves.png'}")
