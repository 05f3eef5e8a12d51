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
from svgdx.experiments.rl.callback import EPISODE, RunCallback
from svgdx.experiments.rl.checkpoint import RLCheckpoint, RLFolder
from svgdx.experiments.rl.config import RLConfig
from svgdx.experiments.run import parallel
from svgdx.experiments.run.errors import DivergedError, StoppedError, UsageError
from svgdx.experiments.run.loop import INTERRUPTED, signals, stream_seed
from svgdx.experiments.run.settings import chosen_options, resumed

EXPERIMENT = "rl"


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx train rl` and returns its exit code."""
    if parallel.ranks_launched() > 1:
        raise UsageError("it is not data-parallel: start it without torchrun")
    chosen = chosen_options(options, RLConfig)
    return run(chosen, options.out, options.seeds, options.resume, options.checkpoint, options.quiet)


def run(
    given: dict[str, Any], out: Path, seeds: list[int] | None, resume: bool, chosen: Path | None, quiet: bool
) -> int:
    """Trains the seeds one after another, each in the folder out/seed-N.

    Returns 0; INTERRUPTED after SIGINT or SIGTERM, with a checkpoint of the seed in hand; 1 when a seed diverged, the
    others being trained nevertheless. given: the settings from the command line.

    Raises:
        UsageError: before anything is written. StoppedError: a failed environment, or a checkpoint that cannot be
            written; the seeds behind it are not begun.
    """
    opened = _reopen(given, out, seeds, chosen) if resume else _create(given, out, seeds or [0], chosen)
    code = 0
    with signals() as stop:
        for config, folder in opened:
            try:
                if not _train(config, folder, stop, resume, chosen, quiet):
                    return INTERRUPTED
            except DivergedError as error:
                print(f"{folder.path}: stopped: {error}; the last checkpoint is kept", file=sys.stderr)
                code = 1
    return code


def _create(given: dict[str, Any], out: Path, seeds: list[int], chosen: Path | None) -> list[tuple[RLConfig, RLFolder]]:
    if chosen:
        raise UsageError("--checkpoint: only with --resume")
    config = RLConfig.from_options(given)
    config = models.resolved(dataclasses.replace(config, threads=config.threads or torch.get_num_threads()))
    # Before a folder is made: a refused run leaves nothing behind.
    small = dataclasses.replace(config, buffer=1)
    env = rl_environment.make(config)
    rl_environment.check_limit(config, env)
    models.make(small, env).env.close()
    configs = {seed: dataclasses.replace(config, seed=seed) for seed in seeds}
    for seed in configs:
        RLFolder.check_free(_path(out, seed))
    return [(each, RLFolder.create(_path(out, seed), each.to_yaml(), EXPERIMENT)) for seed, each in configs.items()]


def _reopen(
    given: dict[str, Any], out: Path, seeds: list[int] | None, chosen: Path | None
) -> list[tuple[RLConfig, RLFolder]]:
    found = sorted(int(path.name[5:]) for path in out.glob("seed-*") if re.fullmatch(r"seed-\d+", path.name))
    if not found:
        raise UsageError(f"{out} holds no folder seed-N, so there is no run to go on with")
    wanted = found if seeds is None else seeds
    if chosen and len(wanted) != 1:
        raise UsageError("--checkpoint: of one seed, which --seeds names")
    folders = []
    for seed in wanted:
        folder = RLFolder.reopen(_path(out, seed), EXPERIMENT)
        # All runs are checked before the first one is changed.
        resumed(RLConfig.from_yaml(folder.config), given)
        folder.load(chosen)
        folders.append(folder)
    return [(folder.resumed_settings(RLConfig, given, chosen), folder) for folder in folders]


def _path(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def _train(config: RLConfig, folder: RLFolder, stop: list[int], resume: bool, chosen: Path | None, quiet: bool) -> bool:
    """Trains one seed to its last step: True; or False once a signal came."""
    torch.set_num_threads(config.threads)
    saved = _rewound(folder, resume, chosen)
    if saved and saved.step >= config.steps:
        print(f"{folder.path}: has all its {config.steps} steps", file=sys.stderr)
        return True
    env, evaluation = rl_environment.make(config), rl_environment.make(config, config.eval_episodes)
    model = models.make(config, env) if saved is None else _restored(config, saved, env)
    seconds = saved.seconds if saved else 0.0
    callback = RunCallback(config, folder, env, evaluation, stop, seconds, saved is None, quiet)
    try:
        _learn(model, config, callback)
    except DivergedError as error:
        # How the run ended is one of its results: `svgdx report` reads it.
        folder.append_metrics({"step": model.num_timesteps, "diverged": str(error)})
        raise
    finally:
        callback.close()
        env.close()
        evaluation.close()
    if callback.stopped:
        print(f"interrupted: checkpoint of step {callback.at} in {folder.path}; --resume goes on", file=sys.stderr)
    return not callback.stopped


def _learn(model: Any, config: RLConfig, callback: RunCallback) -> None:
    try:
        model.learn(
            config.steps - model.num_timesteps,
            callback,
            log_interval=None,
            reset_num_timesteps=model.num_timesteps == 0,
        )
    except FloatingPointError as error:
        raise DivergedError(f"step {model.num_timesteps}: {error}") from error
    except StoppedError as error:
        # An environment does not know the step.
        if str(error).startswith("step "):
            raise
        raise StoppedError(f"step {model.num_timesteps}: {error}") from error
    except OSError as error:
        raise StoppedError(f"step {model.num_timesteps}: {error}") from error


def _rewound(folder: RLFolder, resume: bool, chosen: Path | None) -> RLCheckpoint | None:
    """The checkpoint to go on from, the folder being as it was then; None for a run that begins."""
    if not resume:
        return None
    found = folder.load(chosen)
    if found is None:
        print(f"{folder.path}: ended before its first checkpoint: starting at step 0", file=sys.stderr)
        folder.rewind(-1, 0)
        return None
    path, saved = found
    print(f"{folder.path}: resuming at step {saved.step} from {path}", file=sys.stderr)
    folder.rewind(saved.step, saved.metrics_bytes)
    assert isinstance(saved, RLCheckpoint)
    return saved


def _restored(config: RLConfig, saved: RLCheckpoint, env: Any) -> Any:
    model = models.load(config, saved.path / "model.zip", env, reset=saved.environment is None)
    saved.restore_buffer(model.replay_buffer)
    if saved.environment is None:
        # Loading seeds the environment as at the start of the run: other episodes must follow.
        env.seed(stream_seed(config.seed, saved.step, EPISODE) % 2**31)
    else:
        rl_environment.restore(env, saved.environment)
    saved.restore_generators(model)
    return model
