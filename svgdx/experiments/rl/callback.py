"""What happens between the updates of a run: log, evaluation, checkpoint, stop; a callback of Stable-Baselines3."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from svgdx.experiments.rl.checkpoint import RLFolder
from svgdx.experiments.rl.config import RLConfig
from svgdx.experiments.run.errors import DivergedError
from svgdx.experiments.run.loop import stream_seed

# Purpose of a stream of random numbers, see loop.stream_seed.
EVALUATION, EPISODE, ENTROPY = range(3)


class RunLog(KVWriter):
    """Writes what Stable-Baselines3 logs to TensorBoard, and as one line to metrics.jsonl."""

    def __init__(self, folder: RLFolder, step: int) -> None:
        self.folder = folder
        self.writer = SummaryWriter(str(folder.events), purge_step=step + 1)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        record: dict[str, Any] = {"step": step}
        for key, value in sorted(key_values.items()):
            name = key.rpartition("/")[2]
            record[name] = value if isinstance(value, (list, int)) else float(value)
            if not isinstance(value, list):
                self.writer.add_scalar(key, record[name], step)
        self.folder.append_metrics(record)

    def close(self) -> None:
        self.writer.close()


class RunCallback(BaseCallback):
    """Acts where an update is done and the next rollout begins: what is saved there is whole.

    Args:
        config, folder: of the run. env, evaluation: its environment, and copies for evaluations, one for each rollout.
        stop: signals received; the run ends at the next chance once there is one.
        seconds: duration of the steps so far. fresh: whether the run begins at step 0. quiet: no progress bar.

    Attributes:
        stopped: whether a signal ended the run before its last step.
    """

    def __init__(
        self,
        config: RLConfig,
        folder: RLFolder,
        env: DummyVecEnv,
        evaluation: DummyVecEnv,
        stop: list[int],
        seconds: float,
        fresh: bool,
        quiet: bool,
    ) -> None:
        super().__init__()
        self.config, self.folder, self.env, self.evaluation = config, folder, env, evaluation
        self.stop, self.seconds, self.fresh, self.quiet = stop, seconds, fresh, quiet
        self.stopped = False

    def _on_training_start(self) -> None:
        step = self.model.num_timesteps
        self.model.set_logger(Logger(None, [RunLog(self.folder, step)]))
        self.bar = tqdm(
            total=self.config.steps,
            initial=step,
            unit="step",
            disable=self.quiet,
            mininterval=0.5,
            desc=f"seed {self.config.seed}",
        )
        self.at = self.logged_at = step
        self.logged_seconds = self.seconds
        if self.fresh:
            self._evaluate(step)
            self.model.logger.dump(step)
        self.since = time.perf_counter()

    def _on_step(self) -> bool:
        return not self.stopped

    def _on_rollout_start(self) -> None:
        self._between_updates()

    def _on_training_end(self) -> None:
        if not self.stopped:
            self._between_updates()

    def close(self) -> None:
        """Closes what the run has open; the run may have ended with an error."""
        if hasattr(self, "bar"):
            self.bar.close()
            self.model.logger.close()

    def _between_updates(self) -> None:
        step, config = self.model.num_timesteps, self.config
        if step == self.at:
            return
        self.seconds += time.perf_counter() - self.since
        self.bar.update(step - self.at)
        self.at = step
        self._check_finite(step)
        last = step >= config.steps
        evaluates = last or step % config.eval_every == 0
        if evaluates:
            self._evaluate(step)
        if evaluates or step % config.log_every == 0:
            self._log(step)
        if last or self.stop or step % config.checkpoint_every == 0:
            self.folder.write(step, self.model, self.env, config.keep_checkpoints, self.seconds)
        self.stopped = bool(self.stop) and not last
        self.since = time.perf_counter()

    def _check_finite(self, step: int) -> None:
        for name, value in self.model.logger.name_to_value.items():
            if not math.isfinite(value):
                raise DivergedError(f"step {step}: {name} is {value}")
        for name, tensor in self.model.policy.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise DivergedError(f"step {step}: {name} is not finite")

    def _log(self, step: int) -> None:
        logger = self.model.logger
        if self.model._n_updates > 0 and "train/entropy" not in logger.name_to_value:
            logger.record("train/entropy", self._entropy(step))
        episodes = [each["r"] for each in self.model.ep_info_buffer or ()]
        if episodes:
            logger.record("rollout/episode_return", float(np.mean(episodes)))
        logger.record("time/seconds", self.seconds)
        if self.seconds > self.logged_seconds:
            speed = (step - self.logged_at) / (self.seconds - self.logged_seconds)
            logger.record("time/steps_per_second", speed)
        self.logged_at, self.logged_seconds = step, self.seconds
        logger.dump(step)

    def _entropy(self, step: int) -> float:
        """Of the policy, nats of an action in [-1, 1], over the newest states; SteinSAC logs its own."""
        buffer = self.model.replay_buffer
        newest = (buffer.pos - 1 - np.arange(min(buffer.size(), self.config.batch))) % buffer.buffer_size
        states = torch.as_tensor(buffer.observations[newest, 0], dtype=torch.float32)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(stream_seed(self.config.seed, step, ENTROPY))
            return -float(self.model.actor.action_log_prob(states)[1].mean())

    def _evaluate(self, step: int) -> None:
        """Rollouts with the policy's test actions; no generator of the training is touched."""
        seed = stream_seed(self.config.seed, step, EVALUATION)
        returns, lengths = evaluate(self.model, self.evaluation, self.config.eval_episodes, seed)
        logger = self.model.logger
        logger.record("eval/returns", returns)
        logger.record("eval/return_mean", float(np.mean(returns)))
        logger.record("eval/episode_length", float(np.mean(lengths)))
        self.bar.set_postfix_str(f"return {np.mean(returns):.1f}")


def evaluate(
    model: Any, env: DummyVecEnv, episodes: int, seed: int, deterministic: bool = True, callback: Any = None
) -> tuple[list[float], list[int]]:
    """Returns and lengths of so many episodes, which depend on the model and the seed alone."""
    env.seed(seed % 2**31)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        returns, lengths = evaluate_policy(
            model, env, episodes, deterministic=deterministic, callback=callback, return_episode_rewards=True
        )
    return [float(value) for value in returns], [int(value) for value in lengths]
