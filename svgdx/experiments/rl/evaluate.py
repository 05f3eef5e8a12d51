"""`svgdx eval rl`: returns of a trained policy, the shares of the goals it reaches, and a video."""

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
from gymnasium.envs.mujoco import MujocoEnv

from svgdx.experiments.metrics.returns import iqm
from svgdx.experiments.rl import environment, models
from svgdx.experiments.rl.callback import evaluate
from svgdx.experiments.rl.checkpoint import MODEL, RLCheckpoint, RLFolder
from svgdx.experiments.rl.config import RLConfig, RLEvaluationSettings
from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.settings import chosen_options

FORMATS = (".mp4", ".gif")
# Rollouts side by side.
_COPIES = 10


@dataclass
class Evaluation:
    """Returns and lengths of episodes, in units of reward and steps; and the goal of each, -1 for none."""

    returns: list[float]
    lengths: list[int]
    goals: list[int]

    def figures(self, goals: int) -> dict[str, Any]:
        """Mean, standard deviation (of one episode; None for one alone), interquartile mean; with goals, the shares."""
        deviation = float(np.std(self.returns, ddof=1)) if len(self.returns) > 1 else None
        found: dict[str, Any] = {"mean": float(np.mean(self.returns)), "std": deviation, "iqm": iqm(self.returns)}
        found["episode_length"] = float(np.mean(self.lengths))
        if goals:
            found["goal_shares"] = [self.goals.count(goal) / len(self.goals) for goal in range(goals)]
        return found


def main(options: argparse.Namespace) -> int:
    """Runs `svgdx eval rl` and returns its exit code."""
    return run(options.run, options.checkpoint, options.video, chosen_options(options, RLEvaluationSettings))


def run(path: Path, chosen: Path | None, video: Path | None, given: dict[str, Any]) -> int:
    """Evaluates a run's newest checkpoint, or the chosen one, and writes evaluation.json into its folder.

    Raises UsageError for a folder without a run or checkpoint, and for a video that cannot be made.
    """
    if video is not None and video.suffix not in FORMATS:
        raise UsageError(f"--video: must end in {' or '.join(FORMATS)}, but is {video}")
    if not (path / "config.yaml").is_file() and any(path.glob("seed-*")):
        raise UsageError(f"{path}: holds runs; evaluate one of them, such as {min(path.glob('seed-*'))}")
    folder = RLFolder.reopen(path, "rl")
    config = RLConfig.from_yaml(folder.config)
    settings = RLEvaluationSettings.for_environment(config.env, given)
    torch.set_num_threads(settings.threads)
    found = folder.load(chosen)
    if found is None:
        raise UsageError(f"{path} holds no checkpoint yet")
    saved = found[1]
    assert isinstance(saved, RLCheckpoint)
    model = models.load(config, saved.path / MODEL, None)
    # Before the long part: a video that cannot be made is refused at once.
    if video is not None:
        _write_video(model, config, settings, video)
    _report(measured(model, config, settings), config, settings, saved, folder)
    return 0


def measured(model: Any, config: RLConfig, settings: RLEvaluationSettings) -> Evaluation:
    """Rollouts in copies of the run's environment, which the seed alone decides."""
    goals: list[int] = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            goals.append(local["info"].get("goal", -1))

    env = environment.make(config, min(_COPIES, settings.episodes))
    try:
        returns, lengths = evaluate(model, env, settings.episodes, settings.seed, settings.actions == "test", note)
    finally:
        env.close()
    return Evaluation(returns, lengths, goals)


def _report(
    found: Evaluation, config: RLConfig, settings: RLEvaluationSettings, saved: RLCheckpoint, folder: RLFolder
) -> None:
    goals = environment.goal_count(config)
    figures = found.figures(goals)
    print(f"{config.env}, {config.label}, step {saved.step}: {settings.episodes} rollouts, {settings.actions} actions")
    spread = "" if figures["std"] is None else f" ± {figures['std']:.2f} (standard deviation of a rollout)"
    print(f"return: mean {figures['mean']:.2f}{spread}, interquartile mean {figures['iqm']:.2f}")
    if goals:
        print("goals: " + ", ".join(f"{100 * share:.1f} %" for share in figures["goal_shares"]))
    content = {"env": config.env, "algorithm": config.label, "step": saved.step}
    content |= {"settings": dataclasses.asdict(settings)} | figures | {"returns": found.returns}
    if goals:
        content["goals"] = found.goals
    write_atomically(folder.path / "evaluation.json", (json.dumps(content, indent=1) + "\n").encode())


def _write_video(model: Any, config: RLConfig, settings: RLEvaluationSettings, path: Path) -> None:
    """One rollout, in the time of the environment."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        # Without a screen MuJoCo draws by EGL, unless another way is named.
        os.environ.setdefault("MUJOCO_GL", "egl")
    frames: list[Any] = []

    def film(local: dict[str, Any], _: dict[str, Any]) -> None:
        # An environment that has ended is already at the start of the next episode.
        if not local["done"]:
            frames.append(env.envs[0].render())

    env = environment.make(config, render_mode="rgb_array")
    try:
        evaluate(model, env, 1, settings.seed, settings.actions == "test", film)
        rate = env.envs[0].metadata.get("render_fps", 30)
    except Exception as error:
        drawn_by_mujoco = isinstance(env.envs[0].unwrapped, MujocoEnv)
        hint = f"; MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r}" if drawn_by_mujoco else ""
        raise UsageError(f"--video: {config.env} cannot be drawn: {type(error).__name__}: {error}{hint}") from error
    finally:
        env.close()
    if not frames:
        raise UsageError(f"--video: the rollout of {config.env} ended at its first step")
    _encode(path, frames, rate)
    print(f"{path}: one rollout, {len(frames) / rate:.1f} s")


def _encode(path: Path, frames: list[Any], rate: float) -> None:
    from moviepy import ImageSequenceClip

    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
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


__all__ = ["Evaluation", "measured", "run"]
