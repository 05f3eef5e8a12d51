"""Random actions at the start of training, for a number of steps of their own."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm


class RandomSteps(OffPolicyAlgorithm):
    """Acts at random for the first `random_steps` steps, whereas Stable-Baselines3 does so for `learning_starts`."""

    random_steps = 0

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        actions: tuple[NDArray[Any], NDArray[Any]] = super()._sample_action(self.random_steps, action_noise, n_envs)
        return actions


__all__ = ["RandomSteps"]
