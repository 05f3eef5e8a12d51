"""SAC-NF: the density of its actions, and its use with Stable-Baselines3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

gymnasium = pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("zuko", reason="reinforcement learning needs the packages of svgdx[rl]")

from svgdx.rl import SACNF  # noqa: E402

SMALL = {"net_arch": [16, 16]}


def make_model(env: Any = "Pendulum-v1", **changes: Any) -> SACNF:
    arguments: dict[str, Any] = {"learning_starts": 40, "train_freq": 10, "gradient_steps": 2, "buffer_size": 2000}
    return SACNF("MlpPolicy", env, policy_kwargs=SMALL, seed=0, **(arguments | changes))


@pytest.mark.parametrize("env", ["Pendulum-v1", "svgdx/Multigoal-v0"])
def test_the_density_of_actions_integrates_to_one(env: str) -> None:
    actor = make_model(env).actor
    for parameter in actor.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    observation = torch.randn(1, *actor.observation_space.shape)
    with torch.no_grad():
        # Drawn actions have the flow's density, with the change of volume by tanh.
        action, log_prob = actor.action_log_prob(observation.expand(500, -1))
        u = action.double().atanh()
        flow = actor.double().flow(observation.double())
        expected = flow.log_prob(u) - (1 - action.double().square()).log().sum(-1)
        inside = action.abs().amax(-1) < 0.99
        assert inside.float().mean() > 0.5
        torch.testing.assert_close(log_prob[inside].double(), expected[inside], rtol=1e-4, atol=1e-4)
        dim = action.shape[-1]
        line = torch.linspace(-20, 20, 20001 if dim == 1 else 401, dtype=torch.float64)
        density = flow.log_prob(torch.cartesian_prod(*[line] * dim).view(-1, dim)).exp()
    assert float(density.sum()) * float(line[1] - line[0]) ** dim == pytest.approx(1, abs=1e-3)


def test_it_learns_saves_and_loads(tmp_path: Path) -> None:
    model = make_model()
    before = [value.clone() for value in model.actor.parameters()]
    model.learn(60)
    assert any(not torch.equal(value, other) for value, other in zip(before, model.actor.parameters(), strict=True))
    model.save(tmp_path / "model")
    loaded = SACNF.load(tmp_path / "model")
    observation = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -2.0]], np.float32)
    action, action_of_loaded = (algorithm.predict(observation, deterministic=True)[0] for algorithm in (model, loaded))
    np.testing.assert_array_equal(action, action_of_loaded)
    assert action.shape == (2, 1)
    # Drawn actions differ and stay within the limits.
    drawn, _ = model.predict(np.repeat(observation, 200, 0))
    assert len(np.unique(drawn)) > 300
    assert np.abs(drawn).max() <= 2.0


def test_errors_are_named() -> None:
    with pytest.raises(ValueError, match="FlowActor: transforms must be at least 1, but is 0"):
        SACNF("MlpPolicy", "Pendulum-v1", policy_kwargs={"n_transforms": 0})
    with pytest.raises(ValueError, match="SACNF: use_sde needs a Gaussian policy"):
        make_model(use_sde=True)
    model = make_model()
    model.learn(30)
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(FloatingPointError, match=r"SACNF: step 30: .* is NaN or infinite"):
        model.train(2, 16)
