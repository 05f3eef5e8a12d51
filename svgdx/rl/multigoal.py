"""The multigoal environment: a point in the plane, and several equally good goals.

Source: Haarnoja et al., Reinforcement Learning with Deep Energy-Based Policies, ICML 2017; rewards and goals as in
Messaoud et al., S2AC, ICLR 2024.
"""

from __future__ import annotations

import itertools
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
    """A point that starts at the origin and should reach one of the goals.

    Registered as ``svgdx/Multigoal-v0``, with a limit of HORIZON steps. The observation is the point s (2,), the action
    a move a (2,), both float32::

        s' = clip(s + clip(a, -1, 1), -7, 7)
        r = -30 |a|^2 - min_g |s' - g|^2 + 10 done

    An episode is done within 0.5 of a goal. `info["goal"]` is then the index of this goal, otherwise -1.

    Args:
        goals: "four" for (+-5, 0) and (0, +-5), or "three" for (5, 0) and (-4, +-3).
        render_mode: "rgb_array" renders the goals and the path of the episode as (480, 480, 3) uint8; None renders
            nothing.

    Raises:
        ValueError: unknown goals, an unknown render mode, or an action that is not two finite numbers.
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
        """Puts the point back to the origin."""
        super().reset(seed=seed, options=options)
        self._path = [np.zeros(2, np.float32)]
        return self._path[0].copy(), {"goal": -1}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Moves the point. Returns observation, reward, whether a goal is reached, False, and `info`."""
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
        """An image of the episode so far, or None without a render mode."""
        if self.render_mode is None:
            return None
        image = np.full((_PIXELS, _PIXELS, 3), 255, np.uint8)
        for goal in self.goals:
            _disc(image, goal, _REACH, (214, 39, 40))
        for start, end in itertools.pairwise(self._path):
            for t in np.linspace(0.0, 1.0, 64):
                _disc(image, start + t * (end - start), 0.05, (127, 127, 127))
        _disc(image, self._path[-1], 0.2, (31, 119, 180))
        return image


def _disc(image: NDArray[np.uint8], centre: NDArray[np.float32], radius: float, colour: tuple[int, int, int]) -> None:
    """Paints a disc, with centre and radius in units of the plane, whose second coordinate points up."""
    scale = _PIXELS / (2 * (_LIMIT + 1))
    column, row = (centre[0] + _LIMIT + 1) * scale, (_LIMIT + 1 - centre[1]) * scale
    size = radius * scale
    top, left = max(0, int(row - size) - 1), max(0, int(column - size) - 1)
    window = image[top : int(row + size) + 2, left : int(column + size) + 2]
    rows, columns = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
    window[(rows - row) ** 2 + (columns - column) ** 2 <= size**2] = colour


def register() -> None:
    """Registers ``svgdx/Multigoal-v0`` with Gymnasium, once; importing svgdx.rl calls this."""
    if "svgdx/Multigoal-v0" not in gymnasium.registry:
        gymnasium.register("svgdx/Multigoal-v0", entry_point="svgdx.rl.multigoal:Multigoal", max_episode_steps=HORIZON)


__all__ = ["GOALS", "HORIZON", "Multigoal", "register"]
