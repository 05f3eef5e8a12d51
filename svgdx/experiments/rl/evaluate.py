"""`svgdx eval rl`: the returns of a trained policy, the share of episodes that reach each goal, and a video."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from svgdx.experiments.metrics.returns import iqm
from svgdx.experiments.rl import environment, models
from svgdx.experiments.rl.callback import evaluate
from svgdx.experiments.rl.checkpoint import MODEL, RLCheckpoint, RLFolder
from svgdx.experiments.rl.config import RLConfig, RLEvaluationSettings
from svgdx.experiments.run.checkpoint import temporary_beside, write_atomically
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import localised
from svgdx.experiments.run.settings import chosen_options

FORMATS = (".mp4", ".gif")
# Episodes that run side by side.
_COPIES = 10


@dataclass
class Evaluation:
    """The episodes of an evaluation.

    Attributes:
        returns: in units of reward.
        lengths: in steps.
        goals: index of the goal that each episode reached; -1 for none.
    """

    returns: list[float]
    lengths: list[int]
    goals: list[int]

    def metrics(self, goals: int) -> dict[str, Any]:
        """Mean, standard deviation and interquartile mean of the returns, mean length, and the share of each goal.

        The standard deviation is that of an episode, or None for a single one.

        Args:
            goals: how many goals the environment has; 0 leaves the shares out.
        """
        deviation = float(np.std(self.returns, ddof=1)) if len(self.returns) > 1 else None
        metrics: dict[str, Any] = {"mean": float(np.mean(self.returns)), "std": deviation, "iqm": iqm(self.returns)}
        metrics["episode_length"] = float(np.mean(self.lengths))
        if goals:
            metrics["goal_shares"] = [self.goals.count(goal) / len(self.goals) for goal in range(goals)]
        return metrics


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx eval rl` and returns its exit code."""
    settings = chosen_options(options, RLEvaluationSettings)
    return run(options.run, options.checkpoint, options.video, settings, options.trust)


def run(path: Path, checkpoint: Path | None, video: Path | None, options: dict[str, Any], trust: bool = False) -> int:
    """Evaluates a checkpoint of a run and writes evaluation.json into the run folder.

    Args:
        path: the run folder.
        checkpoint: None takes the newest.
        video: file for a video of one episode.
        options: settings from the command line.
        trust: whether to load a checkpoint that the run's manifest does not list.

    Raises:
        UsageError: the folder has no run or no checkpoint, the checkpoint is refused, or the video cannot be made.
    """
    if video is not None and video.suffix not in FORMATS:
        raise UsageError(f"--video: must end in {' or '.join(FORMATS)}, but is {video}")
    if not (path / "config.yaml").is_file() and any(path.glob("seed-*")):
        raise UsageError(f"{path} is a folder of runs; evaluate one of them, such as {min(path.glob('seed-*'))}")
    folder = RLFolder.reopen(path, "rl")
    folder.trusted = trust
    config = RLConfig.from_yaml(folder.config)
    folder.check_environment(config.env)
    settings = localised(RLEvaluationSettings.for_environment(config.env, options))
    # The model computes where the evaluation does, not where it was trained, and is not updated.
    config = dataclasses.replace(config, device=settings.device, graph="off")
    torch.set_num_threads(settings.threads)
    loaded = folder.load(checkpoint)
    if loaded is None:
        raise UsageError(f"{path} has no checkpoint yet")
    saved = loaded[1]
    assert isinstance(saved, RLCheckpoint)
    model = models.load(config, saved.path / MODEL, None)
    # First, so that a video that cannot be made is refused before the long part.
    if video is not None:
        _write_video(model, config, settings, video, saved.tensors)
    _report(measured(model, config, settings, saved.tensors), config, settings, saved, folder)
    return 0


def measured(
    model: Any, config: RLConfig, settings: RLEvaluationSettings, tensors: dict[str, torch.Tensor]
) -> Evaluation:
    """Evaluates a model in copies of the run's environment; the result depends on its arguments alone.

    tensors: of the checkpoint, with the statistics of a normalised environment.
    """
    goals: list[int] = []

    def record_goal(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            goals.append(local["info"].get("goal", -1))

    env = environment.make(config, min(_COPIES, settings.episodes))
    environment.restore_statistics(env, tensors, training=False)
    try:
        is_test = settings.actions == "test"
        returns, lengths = evaluate(model, env, settings.episodes, settings.seed, is_test, record_goal)
    finally:
        env.close()
    return Evaluation(returns, lengths, goals)


def _report(
    evaluation: Evaluation, config: RLConfig, settings: RLEvaluationSettings, saved: RLCheckpoint, folder: RLFolder
) -> None:
    """Prints the evaluation and writes it to evaluation.json."""
    goals = environment.goal_count(config)
    metrics = evaluation.metrics(goals)
    print(f"{config.env}, {config.label}, step {saved.step}: {settings.episodes} episodes, {settings.actions} actions")
    spread = "" if metrics["std"] is None else f" ± {metrics['std']:.2f} (standard deviation of an episode)"
    print(f"return: mean {metrics['mean']:.2f}{spread}, interquartile mean {metrics['iqm']:.2f}")
    if goals:
        print("goals: " + ", ".join(f"{100 * share:.1f} %" for share in metrics["goal_shares"]))
    content = {"env": config.env, "algorithm": config.label, "step": saved.step}
    content |= {"settings": dataclasses.asdict(settings)} | metrics | {"returns": evaluation.returns}
    if goals:
        content["goals"] = evaluation.goals
    write_atomically(folder.path / "evaluation.json", (json.dumps(content, indent=1) + "\n").encode())


def _write_video(
    model: Any, config: RLConfig, settings: RLEvaluationSettings, path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    """Films one episode, in the time of the environment."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        # MuJoCo needs EGL to render without a display, unless another backend is named.
        os.environ.setdefault("MUJOCO_GL", "egl")
    frames: list[Any] = []

    def film(local: dict[str, Any], _: dict[str, Any]) -> None:
        # An environment whose episode has ended is already at the start of the next one.
        if not local["done"]:
            frames.append(env.envs[0].render())

    env = environment.make(config, render_mode="rgb_array")
    environment.restore_statistics(env, tensors, training=False)
    try:
        evaluate(model, env, 1, settings.seed, settings.actions == "test", film)
        rate = env.envs[0].metadata.get("render_fps", 30)
    except Exception as error:
        hint = f"; MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r}" if environment.is_mujoco(env.envs[0].unwrapped) else ""
        message = f"--video: {config.env} cannot be rendered: {type(error).__name__}: {error}{hint}"
        raise UsageError(message) from error
    finally:
        env.close()
    if not frames:
        raise UsageError(f"--video: the episode of {config.env} ended at its first step")
    _encode(path, frames, rate)
    print(f"{path}: one episode, {len(frames) / rate:.1f} s")


def _encode(path: Path, frames: list[Any], rate: float) -> None:
    """Writes frames as a video that is complete or not there."""
    from moviepy import ImageSequenceClip

    temporary = temporary_beside(path)
    clip = ImageSequenceClip(frames, fps=rate)
    try:
        if path.suffix == ".gif":
            clip.write_gif(str(temporary), logger=None)
        else:
            clip.write_videofile(str(temporary), codec="libx264", audio=False, logger=None)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"--video: {path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


__all__ = ["Evaluation", "main", "measured", "run"]
