"""What Stable-Baselines3 promises of its algorithms, for SteinSAC and SACNF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

gymnasium = pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("zuko", reason="reinforcement learning needs the packages of svgdx[rl]")

from gymnasium import spaces  # noqa: E402
from stable_baselines3 import HerReplayBuffer  # noqa: E402
from stable_baselines3.common.envs import BitFlippingEnv  # noqa: E402
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor  # noqa: E402

from svgdx.rl import SACNF, SteinSAC  # noqa: E402

BOX = spaces.Box(-1, 1, (2,), np.float32)
ALGORITHMS = (SteinSAC, SACNF)


class Spaces(gymnasium.Env[Any, Any]):
    """Draws observations from a space, and pays nothing."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Box = BOX) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def make_model(
    algorithm: type[Any] = SteinSAC, policy: str = "MlpPolicy", env: Any = "Pendulum-v1", **changes: Any
) -> Any:
    arguments: dict[str, Any] = {"learning_starts": 4, "buffer_size": 100, "batch_size": 4, "seed": 0}
    network = {"net_arch": [8]} | changes.pop("policy_kwargs", {})
    return algorithm(policy, env, policy_kwargs=network, **(arguments | changes))


@pytest.fixture(scope="module")
def trained() -> SteinSAC:
    """A SteinSAC after a few updates, with a Hutchinson term and a bound."""
    model = make_model(ent_coef=0.3)
    model.learn(12)
    return model


@pytest.fixture(scope="module")
def saved(trained: SteinSAC, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.zip"
    trained.save(path)
    return path


STATES = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -2.0], [-0.6, 0.8, 3.0]], np.float32)

OBSERVATIONS = {
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([4, 3]),
    "MultiBinary": spaces.MultiBinary((3, 2)),
    "matrix, float64": spaces.Box(-1, 1, (3, 2), np.float64),
    "image": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    "Dict": spaces.Dict(
        {"image": spaces.Box(0, 255, (3, 36, 36), np.uint8), "vector": BOX, "code": spaces.Discrete(3)}
    ),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations(algorithm: type[Any], name: str) -> None:
    policy = {"image": "CnnPolicy", "Dict": "MultiInputPolicy"}.get(name, "MlpPolicy")
    extractor = {"image": {"features_dim": 8}, "Dict": {"cnn_output_dim": 8}}.get(name, {})
    env = Spaces(OBSERVATIONS[name], spaces.Box(-2, 3, (2, 2), np.float64))
    model = make_model(algorithm, policy, env, policy_kwargs={"features_extractor_kwargs": extractor})
    assert model._n_updates == 0
    model.learn(7)
    assert model._n_updates == 3
    action, _ = model.predict(env.reset()[0])
    assert env.action_space.contains(action)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hindsight_replay(algorithm: type[Any]) -> None:
    env = BitFlippingEnv(n_bits=3, continuous=True, max_steps=3)
    model = make_model(algorithm, "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer)
    model.learn(8)
    assert model._n_updates == 4


@pytest.mark.parametrize(
    ("net_arch", "actor", "critic"),
    [([8], [8], [8]), ({"pi": [5], "qf": [6, 7]}, [5], [6, 7]), ([], [], []), (None, [256] * 3, [256] * 2)],
)
@pytest.mark.parametrize("n_critics", [1, 3])
def test_networks(net_arch: Any, actor: list[int], critic: list[int], n_critics: int) -> None:
    model = make_model(
        policy_kwargs={"net_arch": net_arch, "n_critics": n_critics, "activation_fn": nn.Softplus},
        stein_kwargs={"hessian": "exact"},
    )
    assert [layer.out_features for layer in model.actor.layers] == actor
    assert [[layer.out_features for layer in one.linear[:-1]] for one in model.critic.critics] == [critic] * n_critics
    assert {one.activation for one in model.critic.critics} == {"softplus"}
    model.learn(6)
    assert model._n_updates == 2
    with pytest.raises(ValueError, match=r"SteinPolicy: activation_fn must be one of .*ELU.*, but is .*SiLU"):
        make_model(policy_kwargs={"activation_fn": nn.SiLU})


class Normalised(BaseFeaturesExtractor):
    """Batch normalisation in front of the networks."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 3)
        self.batch_norm = nn.BatchNorm1d(3)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.batch_norm(observations)


@pytest.mark.parametrize("is_shared", [False, True])
def test_features_extractors(is_shared: bool) -> None:
    network = {"features_extractor_class": Normalised, "share_features_extractor": is_shared}
    model = make_model(policy_kwargs=network, tau=0.0)
    extractors = [net.features_extractor.batch_norm for net in (model.actor, model.critic, model.critic_target)]
    assert (extractors[0] is extractors[1]) == is_shared
    before = [extractor.weight.clone() for extractor in extractors]
    model.learn(8)
    has_moved = [not torch.equal(old, extractor.weight) for old, extractor in zip(before, extractors, strict=True)]
    # A shared one learns from the actor's loss.
    assert has_moved == [True, True, False]
    assert not model.critic_target.training
    # Running statistics are copied, whatever tau is.
    assert torch.equal(extractors[1].running_mean, extractors[2].running_mean)
    assert float(extractors[1].running_mean.abs().max()) > 0


def test_updates_per_step_and_of_the_target_critics() -> None:
    model = make_model(target_update_interval=3, tau=1.0)
    distances = []
    for _ in range(6):
        model.learn(5 if not distances else 1, reset_num_timesteps=False)
        pairs = zip(model.critic.parameters(), model.critic_target.parameters(), strict=True)
        distances.append(max(float((value - target).detach().abs().max()) for value, target in pairs))
    assert model._n_updates == 6
    assert [distance == 0 for distance in distances] == [True, False, False, True, False, False]
    with pytest.raises(ValueError, match="SteinSAC: target_update_interval must be at least 1, but is 0"):
        make_model(target_update_interval=0)


@pytest.mark.parametrize("preset", ["met-svgd", "p-svgd", "met-svgd-mh", "met-svgd-lc"])
def test_a_state_has_one_deterministic_action(preset: str) -> None:
    model = make_model(preset=preset)
    together, _ = model.predict(STATES, deterministic=True)
    torch.manual_seed(5)
    alone = [model.predict(state, deterministic=True)[0] for state in STATES[::-1]][::-1]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    again = make_model(preset=preset)
    np.testing.assert_array_equal(again.predict(STATES, deterministic=True)[0], together)
    # It is the best of many: drawn actions have a smaller Q.
    observation = torch.as_tensor(STATES)
    drawn = torch.as_tensor(model.predict(np.repeat(STATES, 50, 0))[0]).view(3, 50, 1) / 2
    best = torch.as_tensor(together).view(3, 1, 1) / 2
    with torch.no_grad():
        q, q_best = (model.policy.values(observation, action).amin(0) for action in (drawn, best))
    assert bool((q.median(-1).values < q_best[:, 0]).all())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_generator_decides_drawn_actions(algorithm: type[Any]) -> None:
    model = make_model(algorithm)
    actions = []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        actions.append(model.predict(STATES, generator=torch.Generator().manual_seed(seed))[0])
        assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])
    assert not np.array_equal(*(model.predict(STATES)[0] for _ in range(2)))


@pytest.mark.parametrize(("ent_coef", "alpha"), [(0.01, 0.01), ("auto_0.05", 0.05), ("auto", 1.0)])
def test_load_changes_the_temperature(saved: Path, ent_coef: Any, alpha: float, tmp_path: Path) -> None:
    model = SteinSAC.load(saved, env=gymnasium.make("Pendulum-v1"), ent_coef=ent_coef)
    assert float(model.policy.temperature) == pytest.approx(alpha)
    model.learn(6, reset_num_timesteps=False)
    assert (float(model.policy.temperature) == pytest.approx(alpha)) == (ent_coef == 0.01)
    # And back: from tuned to fixed and from fixed to tuned.
    model.save(tmp_path / "again")
    again = SteinSAC.load(tmp_path / "again", ent_coef=0.7)
    assert float(again.policy.temperature) == pytest.approx(0.7)
    assert again.log_ent_coef is None


def test_load_changes_the_temperature_of_sac_nf(tmp_path: Path) -> None:
    make_model(SACNF, ent_coef="auto").save(tmp_path / "model")
    model = SACNF.load(tmp_path / "model", env=gymnasium.make("Pendulum-v1"), ent_coef=0.01)
    model.learn(6)
    assert float(model.ent_coef_tensor) == pytest.approx(0.01)
    assert model.log_ent_coef is None


def test_load_changes_the_chains_or_names_what_does_not_fit(saved: Path) -> None:
    model = SteinSAC.load(saved, stein_kwargs={"particles": 4}, gamma=0.5)
    assert (model.policy.settings.particles, model.gamma) == (4, 0.5)
    assert SteinSAC.load(saved, preset="met-svgd-mh").policy.settings.control == "metropolis-hastings"
    with pytest.raises(ValueError, match=r"SteinSAC.load: preset: the saved policy learnt other parameters"):
        SteinSAC.load(saved, preset="p-svgd")
    with pytest.raises(ValueError, match="SteinSAC: stein_kwargs must be one of"):
        SteinSAC.load(saved, stein_kwargs={"particle": 4})
    with pytest.raises(ValueError, match="SteinSAC: ent_coef must be positive, or 'auto' or 'auto_X', but is 'much'"):
        SteinSAC.load(saved, ent_coef="much")
    for name in ("particles", "policy"):
        with pytest.raises(TypeError, match=f"SteinSAC.load: {name} is not a setting of SteinSAC"):
            SteinSAC.load(saved, **{name: 4})


def test_settings_that_do_not_fit_are_named_when_the_model_is_made() -> None:
    assert make_model(stein_kwargs={"particles": np.int64(4)}).policy.settings.particles == 4
    refused: dict[str, dict[str, Any]] = {
        "particles must be an integer, at least 1, but is True": {"stein_kwargs": {"particles": True}},
        "0 <= low <= high <= 1 must hold": {"preset": "met-svgd-mh-greedy", "stein_kwargs": {"mh_low": 2.0}},
        "threshold must not be negative, but is nan": {"stein_kwargs": {"stop_threshold": float("nan")}},
        "ent_coef must be positive, or 'auto' or 'auto_X', but is None": {"ent_coef": None},
    }
    for message, arguments in refused.items():
        with pytest.raises(ValueError, match=message):
            make_model(**arguments)
    model = make_model()
    with pytest.raises(ValueError, match=r"Critics: action must have shape \(3, M, 1\), but has \(3, 1\)"):
        model.policy.values(torch.as_tensor(STATES), torch.zeros(3, 1))
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"SteinSAC.train: gradients are off"):
        model.learn(5)


def test_learning_under_autocast() -> None:
    parameters = []
    for is_autocast in (False, True):
        model = make_model()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
            model.learn(6)
        parameters.append(torch.cat([value.detach().flatten() for value in model.critic.parameters()]))
    assert torch.equal(*parameters)


def test_the_policy_is_exported() -> None:
    policy = make_model().policy
    policy.set_training_mode(False)
    states = torch.as_tensor(STATES)
    with torch.no_grad():
        shapes = {"observation": {0: torch.export.Dim("B")}, "deterministic": None}
        program = torch.export.export(policy, (states,), {"deterministic": True}, dynamic_shapes=shapes).module()
        for batch in (states, states[:2]):
            torch.testing.assert_close(program(batch, deterministic=True), policy(batch, True), rtol=1e-4, atol=1e-5)
