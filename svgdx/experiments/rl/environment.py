"""The environments of a run: made by name, watched for errors, and saved and restored between two steps."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from svgdx.experiments.rl.config import RLConfig
from svgdx.experiments.run.errors import StoppedError, UsageError
from svgdx.rl.multigoal import GOALS

# Of a wrapper or an environment: what is no part of its state, or is saved by other means.
_NO_STATE = ("env", "spec", "_cached_spec", "model", "data", "mujoco_renderer", "results_writer")


class Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Names the environment in whatever it raises, and refuses observations and rewards that are not finite."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            found = self.env.step(action)
        except Exception as error:
            raise StoppedError(f"environment {_name(self)}, step: {type(error).__name__}: {error}") from error
        self._check("step", found[0], found[1])
        return found

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        try:
            found = self.env.reset(**kwargs)
        except Exception as error:
            raise StoppedError(f"environment {_name(self)}, reset: {type(error).__name__}: {error}") from error
        self._check("reset", found[0], 0.0)
        return found

    def _check(self, what: str, observation: Any, reward: Any) -> None:
        for name, value in (("reward", reward), ("observation", observation)):
            if not bool(np.isfinite(value).all()):
                raise StoppedError(f"environment {_name(self)}, {what}: its {name} is not finite: {value}")


def _name(env: gymnasium.Env[Any, Any]) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def make(config: RLConfig, count: int = 1, **kwargs: Any) -> DummyVecEnv:
    """So many copies of the run's environment. Raises UsageError where Gymnasium cannot make it."""

    def one() -> Monitor:
        return Monitor(Watched(gymnasium.make(config.env, **config.env_kwargs, **kwargs)))

    try:
        return DummyVecEnv([one] * count)
    except (gymnasium.error.Error, ValueError, TypeError) as error:
        raise UsageError(f"--env {config.env}: {error}") from error


def goal_count(config: RLConfig) -> int:
    """How many goals the run's environment has; 0 where it is none of goals."""
    return 0 if config.goals is None else len(GOALS[config.goals])


def snapshot(env: DummyVecEnv) -> bytes | None:
    """All state of the environment, generators too; None where it holds something that cannot be pickled."""
    layers: list[dict[str, Any]] = []
    layer: Any = env.envs[0]
    while True:
        layers.append({name: value for name, value in vars(layer).items() if name not in _NO_STATE})
        if not isinstance(layer, gymnasium.Wrapper):
            break
        layer = layer.env
    data = layer.data if isinstance(layer, MujocoEnv) else None
    try:
        return pickle.dumps((layers, data))
    except (pickle.PicklingError, TypeError, AttributeError):
        return None


def restore(env: DummyVecEnv, saved: bytes) -> None:
    """Puts a snapshot back into an environment made from the same settings."""
    layers, data = pickle.loads(saved)
    layer: Any = env.envs[0]
    for state in layers:
        vars(layer).update(state)
        layer = getattr(layer, "env", layer)
    if data is not None:
        mujoco.mj_copyData(layer.data, layer.model, data)
