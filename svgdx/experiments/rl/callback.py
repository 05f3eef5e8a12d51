"""The learning of Stable-Baselines3, as the recorder of all experiments sees it, and rollouts for evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from svgdx.experiments.rl.checkpoint import RLCheckpoint
from svgdx.experiments.rl.config import RLConfig
from svgdx.experiments.run.checkpoint import Checkpoint
from svgdx.experiments.run.compute.generators import seeded
from svgdx.experiments.run.errors import StopRequested, require_finite, require_finite_tensors
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.loop import stream_seed
from svgdx.experiments.run.recorder import Record, Recorder

# Purposes of random numbers, see `svgdx.experiments.run.loop.stream_seed`.
EVALUATION, EPISODE, ENTROPY = range(3)


class Learner:
    """An algorithm of Stable-Baselines3 with its environments, as a `svgdx.experiments.run.recorder.Experiment`.

    Args:
        config: settings of the run.
        model: the algorithm.
        env: the environment that it learns in.
        evaluation: copies of the environment for evaluations, one for each rollout.
        seconds: duration of the steps so far.
    """

    def __init__(self, config: RLConfig, model: Any, env: VecEnv, evaluation: VecEnv, seconds: float) -> None:
        self.config = self.options = config
        self.model, self.env, self.evaluation, self.seconds = model, env, evaluation, seconds
        self.last_step = config.steps
        self._logged_step, self._logged_seconds = self.step, seconds

    @property
    def step(self) -> int:
        """Steps of the environment so far."""
        return int(self.model.num_timesteps)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The parameters of the policy and the critics."""
        parameters: dict[str, torch.Tensor] = self.model.policy.state_dict()
        return parameters

    def quantities(self) -> dict[str, Any]:
        """What Stable-Baselines3 has logged since the last record.

        Raises DivergedError if a quantity or a parameter is not finite: not every update guards itself.
        """
        quantities: dict[str, Any] = dict(self.model.logger.name_to_value)
        require_finite(self.step, quantities)
        require_finite_tensors(self.step, self.tensors())
        return quantities

    def record(self, quantities: dict[str, Any]) -> Record:
        if self.step == 0:
            return {}
        # Empties the log, which has no outputs.
        self.model.logger.dump(self.step)
        record = dict(quantities)
        if self.model._n_updates > 0 and "train/entropy" not in record:
            record["train/entropy"] = self._entropy()
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if returns:
            record["rollout/episode_return"] = float(np.mean(returns))
        record["time/seconds"] = self.seconds
        if self.seconds > self._logged_seconds:
            steps = self.step - self._logged_step
            record["time/steps_per_second"] = steps / (self.seconds - self._logged_seconds)
        self._logged_step, self._logged_seconds = self.step, self.seconds
        return {name: value if isinstance(value, int) else float(value) for name, value in sorted(record.items())}

    def evaluate(self, record: Record, folder: RunFolder, check_stop: Callable[[], None]) -> tuple[Record, str]:
        """Adds the returns of rollouts with the policy's test actions; `check_stop` is called at every step."""
        seed = stream_seed(self.config.seed, self.step, EVALUATION)
        episodes = self.config.eval_episodes
        returns, lengths = evaluate(self.model, self.evaluation, episodes, seed, callback=lambda *_: check_stop())
        mean = float(np.mean(returns))
        quantities = {"returns": returns, "return_mean": mean, "episode_length": float(np.mean(lengths))}
        record = record | {f"eval/{name}": value for name, value in quantities.items()}
        return dict(sorted(record.items())), f"return {mean:.1f}"

    def checkpoint(self) -> Checkpoint | None:
        """The state of this step; None before the first, where Stable-Baselines3 begins anew on resuming."""
        if self.step == 0:
            return None
        return RLCheckpoint.of(self.model, self.env, self.seconds)

    def _entropy(self) -> float:
        """Entropy of the policy over the newest states, in nats of an action in [-1, 1]; SteinSAC logs its own."""
        buffer = self.model.replay_buffer
        newest = (buffer.pos - 1 - np.arange(min(buffer.size(), self.config.batch))) % buffer.buffer_size
        observations, scaling = buffer.observations[newest, 0], self.model.get_vec_normalize_env()
        if scaling is not None:
            observations = scaling.normalize_obs(observations)
        device = self.model.device
        states = torch.as_tensor(observations, dtype=torch.float32, device=device)
        with seeded(stream_seed(self.config.seed, self.step, ENTROPY), device), torch.no_grad():
            return -float(self.model.actor.action_log_prob(states)[1].mean())


class RecorderCallback(BaseCallback):
    """Calls a recorder between an update and the next rollout, where the state that it saves is complete.

    Leaves the learning with StopRequested once the recorder has stopped.

    Args:
        recorder, learner: of the run.
        saved: the checkpoint from which the run continues; None for a new run.
    """

    def __init__(self, recorder: Recorder, learner: Learner, saved: Checkpoint | None) -> None:
        super().__init__()
        self.recorder, self.learner, self.saved = recorder, learner, saved

    def _on_training_start(self) -> None:
        self.model.set_logger(Logger(None, []))
        self._recorded_step = self.learner.step
        self.recorder.begin(self.saved)
        self._leave_if_stopped()

    def _on_rollout_start(self) -> None:
        self._record()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._record()

    def _record(self) -> None:
        # The first rollout follows no update.
        if self.learner.step > self._recorded_step:
            self._recorded_step = self.learner.step
            self.recorder.after_update(self.learner.quantities())
            self._leave_if_stopped()

    def _leave_if_stopped(self) -> None:
        if self.recorder.stopped:
            raise StopRequested


def evaluate(
    model: Any, env: VecEnv, episodes: int, seed: int, deterministic: bool = True, callback: Any = None
) -> tuple[list[float], list[int]]:
    """Rollouts that depend on the model and the seed alone; no generator of a training is changed.

    Args:
        model: the algorithm or policy.
        env: one or more copies of the environment, among which the episodes are divided.
        episodes: the number of rollouts.
        seed: seed of the environments and of torch.
        deterministic: whether to use the policy's test actions instead of samples.
        callback: called after each step of each copy with the local and global variables of the rollout.

    Returns:
        The return of each episode, in units of reward, and its length in steps.
    """
    env.seed(seed % 2**31)
    with seeded(seed, model.device):
        returns, lengths = evaluate_policy(
            model, env, episodes, deterministic=deterministic, callback=callback, return_episode_rewards=True
        )
    return [float(value) for value in returns], [int(value) for value in lengths]
