"""`svgdx train ebm`: trains an energy-based model of images, or a Glow to compare it with."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from svgdx.experiments.data.images import Images, load_images
from svgdx.experiments.data.points import POINT_SETS, load_points
from svgdx.experiments.ebm import glow, plots
from svgdx.experiments.ebm.base import Distances, ImageTrainer
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.ebm.points.evaluation import PointDistances
from svgdx.experiments.ebm.trainer import EBMTrainer
from svgdx.experiments.metrics.images import ImageDistances
from svgdx.experiments.run import loop, parallel
from svgdx.experiments.run.compute.device import torch_device
from svgdx.experiments.run.figures import warn_if_unwritten
from svgdx.experiments.run.folder import RunFolder, open_run
from svgdx.experiments.run.loop import INTERRUPTED


@dataclass
class Task:
    """The images or points of a run, and the distances to them that an evaluation measures."""

    images: Images
    distances: Distances


def load_task(config: EBMConfig) -> Task:
    """Loads the data of a run. Raises UsageError if the data, or a package that the run needs, is missing."""
    torch.set_num_threads(config.threads)
    if config.sampler == "glow":
        glow.require()
    if config.data in POINT_SETS:
        points = load_points(config.data)
        return Task(points, PointDistances(points))
    images = load_images(config.data, config.data_root, labels=True)
    source = config.data, config.data_root, config.inception_weights
    return Task(images, ImageDistances(images, *source, torch_device(config.device)))


def trainer_of(config: EBMConfig, task: Task) -> ImageTrainer:
    """A new trainer of the model that the settings describe."""
    kind = glow.GlowTrainer if config.sampler == "glow" else EBMTrainer
    return kind(config, task.images, task.distances)


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx train ebm` and returns its exit code."""
    with parallel.launched(options.timeout):
        config, task, folder = open_run(options, EBMConfig, "ebm", load_task)
        with folder.at_work():
            return run(config, task, folder, options.resume, options.checkpoint, options.quiet)


def run(
    config: EBMConfig, task: Task, folder: RunFolder, resume: bool, chosen: Path | None, quiet: bool = False
) -> int:
    """Trains up to the last step, draws the curves and prints a summary.

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
    try:
        finished = loop.run(trainer_of(config, task), folder, resume, chosen, quiet)
    finally:
        # The curves of a diverged run show what happened. A run interrupted in its first evaluation has none.
        metrics = folder.read_metrics()
        if parallel.main() and metrics:
            with warn_if_unwritten():
                plots.curves(folder.path / "curves.png", metrics)
    if not finished:
        return INTERRUPTED
    if parallel.main():
        _summary(config, task, folder)
    return 0


def _summary(config: EBMConfig, task: Task, folder: RunFolder) -> None:
    metrics = [record for record in folder.read_metrics() if task.distances.headline in record]
    floor = task.distances(task.images.train[: config.eval_samples])
    print(f"Distances to {len(task.images.held_out)} held-out rows of {config.data}:")
    for name, value in floor.items():
        before, after = metrics[0][name], metrics[-1][name]
        print(f"  {name}: {before:.2f} before training, {after:.2f} after, {value:.2f} for training data")
    if isinstance(task.distances, ImageDistances):
        accuracy = f"{100 * task.distances.features().accuracy:.1f} %"
        print(
            f"feature_distance is not FID: its classifier is trained here and classifies {accuracy} of them correctly."
        )
    for name in ("energy_log_likelihood", "sampler_log_likelihood"):
        if name in metrics[-1]:
            print(f"{name} of held-out points: {metrics[-1][name]:.3f} nats")
    print(f"Pictures: {folder.path / 'samples.png'}, {folder.path / 'curves.png'}")
