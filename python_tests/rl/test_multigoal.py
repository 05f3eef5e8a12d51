"""The multigoal environment against its formulas and by Gymnasium's checker."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from svgdx.rl import Multigoal  # noqa: E402
from svgdx.rl.multigoal import GOALS, HORIZON  # noqa: E402


@pytest.mark.parametrize("goals", GOALS)
def test_gymnasium_accepts_it(goals: str) -> None:
    env = gymnasium.make("svgdx/Multigoal-v0", goals=goals, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_states_and_rewards_follow_the_formula() -> None:
    env = Multigoal()
    generator = np.random.default_rng(0)
    state, _ = env.reset(seed=0)
    assert state.tolist() == [0.0, 0.0]
    for _ in range(100):
        action = generator.uniform(-1, 1, 2).astype(np.float32)
        expected = [min(7.0, max(-7.0, s + a)) for s, a in zip(state.tolist(), action.tolist(), strict=True)]
        nearest = min(math.dist(expected, goal) for goal in GOALS["four"])
        reached = nearest <= 0.5
        state, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_allclose(state, expected, rtol=1e-6, atol=1e-6)
        cost = 30 * sum(a * a for a in action.tolist())
        assert reward == pytest.approx(-cost - nearest**2 + 10 * reached, rel=1e-5)
        assert (terminated, truncated) == (reached, False)
        assert (info["goal"] >= 0) == reached


@pytest.mark.parametrize(("goals", "index"), [(name, i) for name in GOALS for i in range(len(GOALS[name]))])
def test_each_goal_is_reached_and_named(goals: str, index: int) -> None:
    env = Multigoal(goals)
    env.reset()
    path = np.array(GOALS[goals][index], np.float32)
    info: dict[str, Any] = {}
    terminated = False
    for _ in range(5):
        _, _, terminated, _, info = env.step(path / 5)
    assert terminated
    assert info["goal"] == index


def test_states_stay_inside_the_square_and_episodes_end() -> None:
    env = gymnasium.make("svgdx/Multigoal-v0")
    env.reset(seed=0)
    steps, truncated, state = 0, False, None
    while not truncated:
        state, _, terminated, truncated, _ = env.step(np.ones(2, np.float32))
        assert not terminated
        steps += 1
    assert steps == HORIZON
    assert state is not None
    assert state.tolist() == [7.0, 7.0]


def test_an_image_shows_goals_and_path() -> None:
    env = Multigoal("three", render_mode="rgb_array")
    env.reset()
    before = env.render()
    env.step(np.array([1.0, 0.0], np.float32))
    after = env.render()
    assert before is not None
    assert after is not None
    assert (before.shape, before.dtype) == ((480, 480, 3), np.uint8)
    red = (before == (214, 39, 40)).all(-1)
    # Three discs of radius 0.5 in an image of 16 x 16 units.
    assert red.mean() == pytest.approx(3 * math.pi * 0.25 / 256, rel=0.05)
    # One unit to the right is 30 pixels.
    assert (after[240, 270] == (31, 119, 180)).all()
    assert (after[240, 250] == (127, 127, 127)).all()


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="goals must be one of four, three, but is 'five'"):
        Multigoal("five")
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array', but is 'human'"):
        Multigoal(render_mode="human")
    env = Multigoal()
    env.reset()
    with pytest.raises(ValueError, match="action must be two finite numbers"):
        env.step(np.array([np.nan, 0.0], np.float32))
