"""`svgdx eval eb-gfn`: evaluates a checkpoint of a run."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from svgdx.experiments.eb_gfn.config import EBGFNConfig, EvaluationSettings
from svgdx.experiments.eb_gfn.results import write_results
from svgdx.experiments.eb_gfn.tasks import load_task
from svgdx.experiments.eb_gfn.train import trainer_of
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder, localised
from svgdx.experiments.run.settings import chosen_options


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx eval eb-gfn` and returns its exit code."""
    return run(options.run, options.checkpoint, chosen_options(options, EvaluationSettings), options.quiet)


def run(path: Path, chosen: Path | None, options: dict[str, Any], quiet: bool = False) -> int:
    """Evaluates the newest checkpoint of a run, or the chosen one, and writes evaluation.json. Returns 0.

    Args:
        path: the run folder.
        chosen: a checkpoint; None takes the newest.
        options: settings of the evaluation from the command line.
        quiet: shows no progress bar, which only a terminal has.

    Raises:
        UsageError: the folder holds no run or no checkpoint, or a file cannot be read.
    """
    folder = RunFolder.reopen(path, "eb-gfn")
    config = EBGFNConfig.from_yaml(folder.config)
    settings = localised(EvaluationSettings.for_data(config.data, options))
    # The model computes where the evaluation does, not where it was trained, and is not updated.
    config = dataclasses.replace(config, device=settings.device, graph="off")
    torch.set_num_threads(settings.threads)
    checkpoint = folder.load(chosen)
    if checkpoint is None:
        raise UsageError(f"{path} holds no checkpoint yet")
    trainer = trainer_of(config, load_task(config))
    trainer.restore(*checkpoint)
    trainer.quiet |= quiet
    write_results(trainer, settings, folder)
    return 0
