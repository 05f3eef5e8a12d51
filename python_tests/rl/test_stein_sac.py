"""SteinSAC as used with Stable-Baselines3: learning, logging, saving, and clear errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

gymnasium = pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from stable_baselines3.common.callbacks import EvalCallback  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.monitor import Monitor  # noqa: E402
from stable_baselines3.common.type_aliases import ReplayBufferSamples  # noqa: E402
from stable_baselines3.common.utils import set_random_seed  # noqa: E402

from svgdx.rl import PRESETS, SteinPolicy, SteinSAC, SteinSettings  # noqa: E402
from svgdx.streams import Stream  # noqa: E402

SMALL = {"net_arch": [16, 16]}


def make_model(env: Any = "Pendulum-v1", **changes: Any) -> SteinSAC:
    arguments: dict[str, Any] = {"learning_starts": 40, "train_freq": 10, "gradient_steps": 2, "buffer_size": 2000}
    arguments |= {"policy_kwargs": SMALL, "seed": 0, "batch_size": 16} | changes
    return SteinSAC("MlpPolicy", env, **arguments)


def make_batch(count: int, states: int, actions: int) -> ReplayBufferSamples:
    state, after, action = torch.randn(count, states), torch.randn(count, states), torch.rand(count, actions) * 2 - 1
    return ReplayBufferSamples(state, action, after, torch.zeros(count, 1), torch.randn(count, 1))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_and_logs(preset: str) -> None:
    model = make_model(preset=preset)
    before = {name: value.clone() for name, value in model.policy.named_parameters()}
    model.learn(60)
    logged = {
        name.removeprefix("train/"): value
        for name, value in model.logger.name_to_value.items()
        if name.startswith("train/")
    }
    expected = {"critic_loss", "actor_loss", "sigma", "eps", "score_norm", "entropy", "svgd_steps", "ent_coef"}
    expected |= {"eps_bound"} if model.policy.settings.bound != "none" else set()
    expected |= {"truncated"} if preset == "p-svgd" else set()
    expected |= {"mh_rejection"} if preset.endswith("-mh") else set()
    assert expected <= set(logged)
    assert all(math.isfinite(value) for value in logged.values())
    assert model.policy.settings.particles == (64 if "64" in preset else 10)
    for name, value in model.policy.named_parameters():
        if name.startswith(("actor", "critic.")) and value.requires_grad:
            # ELU units may be saturated; the last layers and what SVGD learns always move.
            has_moved = not torch.equal(value, before[name])
            assert has_moved or "layers" in name, name


def test_pendulum_runs_with_callbacks_tensorboard_and_vec_env(tmp_path: Path) -> None:
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
    callback = EvalCallback(
        Monitor(gymnasium.make("Pendulum-v1", max_episode_steps=50)), eval_freq=205, n_eval_episodes=1, verbose=0
    )
    model = make_model(env, tensorboard_log=str(tmp_path), preset="p-svgd")
    model.learn(420, callback=callback, log_interval=1)
    assert callback.last_mean_reward < 0
    assert model.num_timesteps == 420
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    assert model.predict(env.reset())[0].shape == (2, 1)


def test_a_loaded_model_continues_with_the_same_numbers(tmp_path: Path) -> None:
    model = make_model(ent_coef="auto_0.3", stein_kwargs={"particles": 5, "steps": 2})
    model.learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = SteinSAC.load(tmp_path / "model", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.policy.settings == SteinSettings(particles=5, steps=2)
    for (name, value), (_, other) in zip(
        model.policy.state_dict().items(), loaded.policy.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(value, other, msg=name, rtol=0, atol=0)
    observation = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -2.0]], np.float32)
    actions = []
    for algorithm in (model, loaded):
        torch.manual_seed(3)
        actions.append(algorithm.predict(observation, deterministic=True)[0])
    np.testing.assert_array_equal(*actions)
    for algorithm in (model, loaded):
        set_random_seed(0)
        algorithm._logger = model.logger
        algorithm.train(2, 16)
    torch.testing.assert_close(model.log_ent_coef, loaded.log_ent_coef, rtol=0, atol=0)
    for value, other in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=0)


def test_a_policy_is_saved_on_its_own(tmp_path: Path) -> None:
    policy = make_model(stein_kwargs={"particles": 4}).policy
    policy.save(tmp_path / "policy.pt")
    loaded = SteinPolicy.load(tmp_path / "policy.pt")
    observation = np.array([1.0, 0.0, 0.5], np.float32)
    actions = []
    for actor in (policy, loaded):
        torch.manual_seed(3)
        actions.append(actor.predict(observation, deterministic=True)[0])
    np.testing.assert_array_equal(*actions)


def test_which_particle_acts() -> None:
    model = make_model(preset="p-svgd", policy_kwargs=SMALL | {"test_action": "softmax", "test_temperature": 1e-6})
    state = torch.randn(64, 3)
    critic, sample = model.policy.minimum_at(state), model.policy.sample(state, log_prob=False)
    q = model.critic(state, sample.action).amin(0)
    weight = sample.weights()
    assert weight is not None
    best = q.masked_fill(weight == 0, -torch.inf).argmax(-1)
    stream = Stream(0)
    # At so low a temperature, the softmax chooses the best particle.
    assert (model.policy._chosen(critic, sample, True, stream) == best).float().mean() > 0.95
    model.policy.test_action = "best"
    assert torch.equal(model.policy._chosen(critic, sample, True, stream), best)
    drawn = torch.stack([model.policy._chosen(critic, sample, False, stream) for _ in range(60)])
    assert len(drawn.unique()) == 10
    assert bool(weight[torch.arange(64), drawn].all())


def test_actions_lie_within_the_limits_of_the_environment() -> None:
    model = make_model()
    observations = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    actions, _ = model.predict(observations)
    assert actions.shape == (500, 1)
    assert 1.0 < np.abs(actions).max() <= 2.0


def test_targets_of_the_critics() -> None:
    model = make_model(gamma=0.9, ent_coef=0.0001)
    batch = make_batch(6, 3, 1)
    torch.manual_seed(5)
    target = model.target_values(batch)
    torch.manual_seed(5)
    with torch.no_grad():
        sample = model.policy.sample(batch.next_observations)
        assert sample.log_prob is not None
        q = model.critic_target(batch.next_observations, sample.action).amin(0)
        after = (q - 0.0001 * sample.log_prob).mean(-1, keepdim=True)
    torch.testing.assert_close(target, batch.rewards + 0.9 * after)
    ended = batch._replace(dones=torch.ones(6, 1))
    torch.testing.assert_close(model.target_values(ended), batch.rewards)


def test_a_time_limit_is_not_done() -> None:
    env = gymnasium.wrappers.TimeLimit(gymnasium.make("svgdx/Multigoal-v0").unwrapped, 5)
    model = make_model(env, learning_starts=1000)
    model.learn(20)
    assert model.replay_buffer.dones[:20].sum() == 4
    assert model.replay_buffer.timeouts[:20].sum() == 4
    assert float(model.replay_buffer.sample(200).dones.sum()) == 0


@pytest.mark.parametrize("critic", [0, 1])
@pytest.mark.parametrize("preset", ["p-svgd", "met-svgd", "met-svgd-mh"])
def test_a_nan_critic_is_named(preset: str, critic: int) -> None:
    model = make_model(preset=preset)
    model.learn(20)
    actor = [value.clone() for value in model.actor.parameters()]
    with torch.no_grad():
        model.critic.critics[critic].layers[0].weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the critics' score is NaN or infinite at 1 of 1 states"):
        model.predict(np.zeros(3, np.float32))
    with pytest.raises(FloatingPointError, match="the critics' score is NaN or infinite"):
        model.train(1, 16)
    assert all(torch.equal(value, other) for value, other in zip(actor, model.actor.parameters(), strict=True))


def test_a_nan_reward_is_named_before_it_reaches_a_parameter() -> None:
    model = make_model()
    model.learn(30)
    before = [value.clone() for value in model.policy.parameters()]
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(FloatingPointError, match="SteinSAC: update 1, step 30: the critic loss is nan"):
        model.train(1, 16)
    assert all(torch.equal(value, other) for value, other in zip(before, model.policy.parameters(), strict=True))


def test_bad_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"SteinSAC: preset must be one of p-svgd, .*, but is 'sac'"):
        make_model(preset="sac")
    with pytest.raises(ValueError, match=r"SteinSAC: stein_kwargs must be one of particles, .*, but is 'particle'"):
        make_model(stein_kwargs={"particle": 3})
    with pytest.raises(ValueError, match="SteinSettings: target must be one of s2ac, max-entropy, but is 'tanh'"):
        make_model(stein_kwargs={"target": "tanh"})
    with pytest.raises(ValueError, match="SteinSAC: ent_coef must be positive"):
        make_model(ent_coef=0.0)
    with pytest.raises(ValueError, match="SteinPolicy: test_action must be one of best, softmax, fixed, but is 'mean'"):
        make_model(policy_kwargs={"test_action": "mean"})
