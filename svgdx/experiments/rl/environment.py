"""The environments of a run: created by name, checked at every step, and saved and restored in mid-episode."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from svgdx.experiments.rl.config import RLConfig
from svgdx.experiments.run.errors import StoppedError, UsageError, is_out_of_memory
from svgdx.rl.multigoal import GOALS

# Attributes of wrappers and environments that are not part of their state, or that are saved in another way.
_NO_STATE = ("env", "spec", "_cached_spec", "model", "data", "mujoco_renderer", "results_writer")


class Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Names the environment in any error it raises, and refuses observations and rewards that are not finite.

    A reward of shape (1,) is its number.
    """

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            transition = self.env.step(action)
        except Exception as error:
            raise StoppedError(f"environment {_name(self)}, step: {type(error).__name__}: {error}") from error
        observation, reward, *rest = transition
        if reward is None or np.size(reward) != 1:
            raise StoppedError(f"environment {_name(self)}, step: its reward must be one number, but is {reward}")
        self._check("step", observation, reward)
        return observation, float(np.reshape(reward, ())), *rest

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        try:
            observation, info = self.env.reset(**kwargs)
        except Exception as error:
            raise StoppedError(f"environment {_name(self)}, reset: {type(error).__name__}: {error}") from error
        self._check("reset", observation, 0.0)
        return observation, info

    def _check(self, method: str, observation: Any, reward: Any) -> None:
        for name, value in (("reward", reward), ("observation", observation)):
            if not bool(np.isfinite(value).all()):
                raise StoppedError(f"environment {_name(self)}, {method}: its {name} is not finite: {value}")


def _name(env: gymnasium.Env[Any, Any]) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def make(config: RLConfig, count: int = 1, **kwargs: Any) -> VecEnv:
    """Creates `count` copies of the run's environment, with the run's limit on episodes and its normalisation.

    Args:
        kwargs: further arguments of the environment, such as render_mode.

    Raises:
        UsageError: Gymnasium cannot create it, its module, or one that this imports, is missing, or its own code fails.
    """

    def copy() -> Monitor:
        # Gymnasium wraps the environment in a TimeLimit, which replaces that of its own registration.
        limit = config.max_episode_steps or None
        env = gymnasium.make(config.env, max_episode_steps=limit, **config.env_kwargs, **kwargs)
        return Monitor(Watched(env))

    try:
        env = DummyVecEnv([copy] * count)
        if config.normalize == "none":
            return env
        observations, rewards = (config.normalize in (name, "both") for name in ("observations", "rewards"))
        return VecNormalize(env, norm_obs=observations, norm_reward=rewards, gamma=config.gamma)
    except (gymnasium.error.Error, ImportError) as error:
        raise UsageError(f"--env {config.env}: {error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(f"--env {config.env}: {type(error).__name__}: {error}") from error


def statistics(env: VecEnv) -> dict[str, torch.Tensor]:
    """What a VecNormalize has estimated so far, by name; nothing of another environment."""
    if not isinstance(env, VecNormalize):
        return {}
    values = {"returns": env.returns}
    for name in ("obs_rms", "ret_rms"):
        running = getattr(env, name, None)
        if running is not None:
            values |= {f"{name}/{key}": getattr(running, key) for key in ("mean", "var", "count")}
    return {f"normalize/{name}": torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}


def restore_statistics(env: VecEnv, tensors: dict[str, torch.Tensor], training: bool) -> None:
    """Puts `statistics` back; without `training` they stay as they are, and rewards are not scaled."""
    if not isinstance(env, VecNormalize):
        return
    for name in ("obs_rms", "ret_rms"):
        running = getattr(env, name, None)
        if running is not None:
            mean, var, count = (tensors[f"normalize/{name}/{key}"].numpy() for key in ("mean", "var", "count"))
            running.mean, running.var, running.count = mean.copy(), var.copy(), float(count)
    if training:
        env.returns = tensors["normalize/returns"].numpy().copy()
    else:
        env.training = env.norm_reward = False


def follow(evaluation: VecEnv, env: VecEnv) -> None:
    """Lets copies for evaluations scale observations as the environment of a training does at any time."""
    if isinstance(evaluation, VecNormalize) and isinstance(env, VecNormalize):
        evaluation.training = evaluation.norm_reward = False
        if env.norm_obs:
            evaluation.obs_rms = env.obs_rms


def check_limit(config: RLConfig, env: VecEnv) -> None:
    """Raises UsageError if nothing limits an episode: its first evaluation might never end."""
    spec = env.envs[0].spec
    if spec is not None and spec.max_episode_steps is None:
        raise UsageError(
            f"--env {config.env}: it has no limit on the steps of an episode, so an episode might never end; pass "
            f"--max-episode-steps N"
        )


def is_mujoco(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment is one of MuJoCo. Nothing is imported: other environments do not need the package."""
    module = sys.modules.get("gymnasium.envs.mujoco.mujoco_env")
    return module is not None and isinstance(env, module.MujocoEnv)


def goal_count(config: RLConfig) -> int:
    """The number of goals of the run's environment; 0 if it has none."""
    return 0 if config.goals is None else len(GOALS[config.goals])


def snapshot(env: VecEnv) -> bytes | None:
    """The whole state of the environment, including its random generators; None if part of it cannot be pickled."""
    layers: list[dict[str, Any]] = []
    layer: Any = env.envs[0]
    while True:
        layers.append({name: value for name, value in vars(layer).items() if name not in _NO_STATE})
        if not isinstance(layer, gymnasium.Wrapper):
            break
        layer = layer.env
    data = layer.data if is_mujoco(layer) else None
    try:
        return pickle.dumps((layers, data))
    except (pickle.PicklingError, TypeError, AttributeError):
        return None


def restore(env: VecEnv, saved: bytes) -> None:
    """Puts a snapshot back into an environment that was created from the same settings."""
    layers, data = pickle.loads(saved)
    layer: Any = env.envs[0]
    for state in layers:
        vars(layer).update(state)
        layer = getattr(layer, "env", layer)
    if data is not None:
        import mujoco

        mujoco.mj_copyData(layer.data, layer.model, data)
