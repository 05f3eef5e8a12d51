"""Random actions for as long as the user says."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm


class RandomSteps(OffPolicyAlgorithm):
    """Acts at random for `random_steps` steps; Stable-Baselines3 does so until the first update."""

    random_steps = 0

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        found: tuple[NDArray[Any], NDArray[Any]] = super()._sample_action(self.random_steps, action_noise, n_envs)
        return found


__all__ = ["RandomSteps"]
