"""The multigoal environment: a point in the plane and several goals that are equally good.

Source: Haarnoja et al., Reinforcement Learning with Deep Energy-Based Policies, ICML 2017; rewards and goals as in
Messaoud et al., S2AC, ICLR 2024.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

GOALS: dict[str, list[tuple[float, float]]] = {
    "four": [(5.0, 0.0), (-5.0, 0.0), (0.0, 5.0), (0.0, -5.0)],
    "three": [(5.0, 0.0), (-4.0, 3.0), (-4.0, -3.0)],
}
HORIZON = 30

_LIMIT = 7.0
_REACH = 0.5
_ACTION_COST = 30.0
_GOAL_REWARD = 10.0
_PIXELS = 480


class Multigoal(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """From the origin to one of the goals; registered as ``svgdx/Multigoal-v0``, with a limit of HORIZON steps.

    s' = clip(s + clip(a, -1, 1), -7, 7) and r = -30 |a|^2 - min_g |s' - g|^2 + 10 done, done within 0.5 of a goal. The
    observation is s (2,), the action a (2,), both float32. `info["goal"]` is the index of the goal reached, else -1.

    Args:
        goals: "four": (+-5, 0) and (0, +-5); "three": (5, 0) and (-4, +-3).
        render_mode: "rgb_array": an image (480, 480, 3) uint8 of the goals and of the path of the episode; None.

    Raises:
        ValueError: unknown goals or an unknown render mode.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, goals: str = "four", render_mode: str | None = None) -> None:
        if goals not in GOALS:
            raise ValueError(f"Multigoal: goals must be one of {', '.join(GOALS)}, but is {goals!r}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"Multigoal: render_mode must be None or 'rgb_array', but is {render_mode!r}")
        self.goals = np.array(GOALS[goals], np.float32)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-_LIMIT, _LIMIT, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._path = [np.zeros(2, np.float32)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._path = [np.zeros(2, np.float32)]
        return self._path[0].copy(), {"goal": -1}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        move = np.asarray(action, np.float32)
        if move.shape != (2,) or not np.isfinite(move).all():
            raise ValueError(f"Multigoal: action must be two finite numbers, but is {action!r}")
        move = np.clip(move, -1.0, 1.0)
        state = np.clip(self._path[-1] + move, -_LIMIT, _LIMIT)
        self._path.append(state)
        square = np.square(state - self.goals).sum(-1)
        nearest = int(square.argmin())
        done = bool(square[nearest] <= _REACH**2)
        reward = -_ACTION_COST * float(np.square(move).sum()) - float(square[nearest]) + _GOAL_REWARD * done
        return state.copy(), reward, done, False, {"goal": nearest if done else -1}

    def render(self) -> NDArray[np.uint8] | None:
        if self.render_mode is None:
            return None
        image = np.full((_PIXELS, _PIXELS, 3), 255, np.uint8)
        for goal in self.goals:
            _disc(image, goal, _REACH, (214, 39, 40))
        for one, other in zip(self._path, self._path[1:], strict=False):
            for t in np.linspace(0.0, 1.0, 64):
                _disc(image, one + t * (other - one), 0.05, (127, 127, 127))
        _disc(image, self._path[-1], 0.2, (31, 119, 180))
        return image


def _disc(image: NDArray[np.uint8], centre: NDArray[np.float32], radius: float, colour: tuple[int, int, int]) -> None:
    """Paints a disc; centre and radius in the units of the plane, the second coordinate upwards."""
    scale = _PIXELS / (2 * (_LIMIT + 1))
    column, row = (centre[0] + _LIMIT + 1) * scale, (_LIMIT + 1 - centre[1]) * scale
    size = radius * scale
    top, left = max(0, int(row - size) - 1), max(0, int(column - size) - 1)
    window = image[top : int(row + size) + 2, left : int(column + size) + 2]
    rows, columns = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
    window[(rows - row) ** 2 + (columns - column) ** 2 <= size**2] = colour


def register() -> None:
    """Makes ``gymnasium.make("svgdx/Multigoal-v0")`` known; importing svgdx.rl calls it."""
    if "svgdx/Multigoal-v0" not in gymnasium.registry:
        gymnasium.register("svgdx/Multigoal-v0", entry_point="svgdx.rl.multigoal:Multigoal", max_episode_steps=HORIZON)


__all__ = ["GOALS", "HORIZON", "Multigoal", "register"]
