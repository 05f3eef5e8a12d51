"""`svgdx train rl`: maximum-entropy reinforcement learning, a run folder for each seed, resumable."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import torch

from svgdx.experiments.rl import environment as rl_environment
from svgdx.experiments.rl import models
from svgdx.experiments.rl.callback import EPISODE, Learner, RecorderCallback
from svgdx.experiments.rl.checkpoint import MODEL, RLCheckpoint, RLFolder
from svgdx.experiments.rl.config import RLConfig
from svgdx.experiments.run.compute.device import ranks_launched
from svgdx.experiments.run.errors import DivergedError, StoppedError, StopRequested, UsageError
from svgdx.experiments.run.folder import localised
from svgdx.experiments.run.loop import INTERRUPTED, stream_seed
from svgdx.experiments.run.recorder import Recorder, Stop, signals
from svgdx.experiments.run.settings import chosen_options

EXPERIMENT = "rl"


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx train rl` and returns its exit code."""
    if ranks_launched() > 1:
        raise UsageError("it is not data-parallel: start it without torchrun")
    settings = chosen_options(options, RLConfig)
    return run(settings, options.out, options.seeds, options.resume, options.checkpoint, options.quiet, options.trust)


def run(
    settings: dict[str, Any],
    out: Path,
    seeds: list[int] | None,
    resume: bool,
    chosen: Path | None,
    quiet: bool,
    trust: bool = False,
) -> int:
    """Trains the seeds one after another, each in the folder out/seed-N.

    Args:
        settings: those from the command line; when resuming, a larger number of steps lengthens the runs.
        out: folder of the run folders.
        seeds: the seeds; None takes seed 0, or when resuming all that are in the folder.
        resume, chosen: whether to continue the runs, and the checkpoint of the only one; None takes the newest.
        quiet: whether to hide the progress bars.
        trust: when resuming, whether to load checkpoints that the run's manifest does not list.

    Returns:
        0; INTERRUPTED after SIGINT, SIGTERM or SIGHUP, with a checkpoint of the seed at work; 1 if a seed diverged, in
        which case the others are still trained.

    Raises:
        UsageError: the request is invalid; nothing was written. StoppedError: the environment failed, or a file could
            not be written; later seeds were not started.
    """
    if trust and not resume:
        raise UsageError("--trust: only with --resume")
    runs = _reopen(settings, out, seeds, chosen, trust) if resume else _create(settings, out, seeds or [0], chosen)
    code = 0
    with signals() as stop:
        for config, folder in runs:
            try:
                with folder.at_work():
                    if not _train(config, folder, stop, resume, chosen, quiet):
                        return INTERRUPTED
            except UsageError:
                # Out of memory: the folders of the later seeds are new and empty, too.
                for _, later in [] if resume else runs:
                    if later.path.is_dir():
                        later.discard_unused()
                raise
            except DivergedError as error:
                print(f"{folder.path}: stopped: {error}; the last checkpoint is kept", file=sys.stderr)
                code = 1
    return code


def _create(
    settings: dict[str, Any], out: Path, seeds: list[int], chosen: Path | None
) -> list[tuple[RLConfig, RLFolder]]:
    if chosen:
        raise UsageError("--checkpoint: only with --resume")
    config = RLConfig.from_options(settings)
    config = models.resolved(localised(config))
    # Made before the folders, so that a refused run leaves nothing behind.
    small = dataclasses.replace(config, buffer=1)
    env = rl_environment.make(config)
    rl_environment.check_limit(config, env)
    models.make(small, env).env.close()
    configs = {seed: dataclasses.replace(config, seed=seed) for seed in seeds}
    for seed in configs:
        RLFolder.check_free(_path(out, seed))
    runs = []
    for seed, config in configs.items():
        folder = RLFolder.create(_path(out, seed), config.to_yaml(), EXPERIMENT)
        folder.start(config.env)
        runs.append((config, folder))
    return runs


def _reopen(
    settings: dict[str, Any], out: Path, seeds: list[int] | None, chosen: Path | None, trust: bool
) -> list[tuple[RLConfig, RLFolder]]:
    present = sorted(int(path.name[5:]) for path in out.glob("seed-*") if re.fullmatch(r"seed-\d+", path.name))
    if not present:
        raise UsageError(f"{out} holds no folder seed-N, so there is no run to continue")
    wanted = present if seeds is None else seeds
    if chosen and len(wanted) != 1:
        raise UsageError("--checkpoint: needs --seeds with the one seed that it belongs to")
    runs = []
    for seed in wanted:
        folder = RLFolder.reopen(_path(out, seed), EXPERIMENT)
        folder.trusted = trust
        config = folder.resumed_settings(RLConfig, settings, chosen)
        folder.check_environment(config.env)
        runs.append((config, folder))
    # All runs were read, so that a refused one leaves the others as they are.
    for _, folder in runs:
        folder.lock()
    for config, folder in runs:
        folder.write_settings(config)
    return runs


def _path(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def _train(config: RLConfig, folder: RLFolder, stop: Stop, resume: bool, chosen: Path | None, quiet: bool) -> bool:
    """Trains one seed. Returns whether the run is finished, so False if a signal ended it."""
    torch.set_num_threads(config.threads)
    loaded = folder.load_with_metrics(chosen) if resume else None
    if resume:
        folder.rewind(loaded)
    saved = loaded[1] if loaded else None
    assert saved is None or isinstance(saved, RLCheckpoint)
    if saved and saved.step >= config.steps and saved.pending is None:
        print(f"{folder.path}: has all its {config.steps} steps", file=sys.stderr)
        return True
    env, evaluation = rl_environment.make(config), rl_environment.make(config, config.eval_episodes)
    rl_environment.follow(evaluation, env)
    try:
        model = models.make(config, env) if saved is None else _restored(config, saved, env)
        learner = Learner(config, model, env, evaluation, saved.seconds if saved else 0.0)
        with Recorder(learner, folder, stop, quiet, f"seed {config.seed}") as recorder:
            _learn(learner, RecorderCallback(recorder, learner, saved))
        return not recorder.stopped
    finally:
        env.close()
        evaluation.close()


def _learn(learner: Learner, callback: RecorderCallback) -> None:
    """Learns until the last step, or until the recorder stops."""
    try:
        remaining = learner.last_step - learner.step
        learner.model.learn(remaining, callback, log_interval=None, reset_num_timesteps=learner.step == 0)
    except StopRequested:
        return
    except FloatingPointError as error:
        raise DivergedError(f"step {learner.step}: {error}") from error
    except StoppedError as error:
        # An environment does not know the step.
        if str(error).startswith("step "):
            raise
        raise StoppedError(f"step {learner.step}: {error}") from error
    except OSError as error:
        raise StoppedError(f"step {learner.step}: {error}") from error


def _restored(config: RLConfig, saved: RLCheckpoint, env: Any) -> Any:
    """The algorithm of a checkpoint; its environment and all generators are put back as well."""
    model = models.load(config, saved.path / MODEL, env, reset=saved.environment is None)
    saved.restore_buffer(model.replay_buffer)
    rl_environment.restore_statistics(env, saved.tensors, training=True)
    if saved.environment is None:
        # Loading seeds the environment as at the start of the run, but other episodes must follow.
        env.seed(stream_seed(config.seed, saved.step, EPISODE) % 2**31)
    else:
        rl_environment.restore(env, saved.environment)
    saved.restore_generators(model)
    return model
