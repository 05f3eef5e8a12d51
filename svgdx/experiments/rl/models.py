"""The algorithms of `svgdx train rl`, made from its settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnv

from svgdx.activations import ACTIVATIONS
from svgdx.experiments.rl.config import STEIN, RLConfig
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.settings import flag
from svgdx.rl import SACNF, SteinSAC, SteinSettings
from svgdx.rl.policy import TEST_ACTIONS
from svgdx.rl.presets import settings_of
from svgdx.rl.random_steps import RandomSteps


class GaussianSAC(RandomSteps, SAC):
    """SAC of Stable-Baselines3, random_steps apart from learning_starts."""


class FlowSAC(RandomSteps, SACNF):
    """SACNF, random_steps apart from learning_starts."""


CLASSES: dict[str, type[Any]] = {"sac": GaussianSAC, "sac-nf": FlowSAC, "stein": SteinSAC}


def resolved(config: RLConfig) -> RLConfig:
    """With the preset's settings where none were given. Raises UsageError for an unknown preset or setting."""
    if config.algo != "stein":
        return config
    assert config.preset is not None
    given = {name: getattr(config, name) for name in STEIN if getattr(config, name) is not None}
    try:
        settings = settings_of(config.preset, {_theirs(name): value for name, value in given.items()})
    except ValueError as error:
        raise UsageError(f"--preset {config.preset}: {error}") from error
    if config.test_action not in TEST_ACTIONS:
        raise UsageError(
            f"{flag('test_action')}: must be one of {', '.join(TEST_ACTIONS)}, but is {config.test_action}"
        )
    found = dataclasses.asdict(settings)
    return dataclasses.replace(config, **{name: found[_theirs(name)] for name in STEIN})


def _theirs(name: str) -> str:
    """The name in SteinSettings of a setting of RLConfig: `steps` there are SVGD's, here the environment's."""
    return {"svgd_steps": "steps"}.get(name, name)


assert {_theirs(name) for name in STEIN} == {each.name for each in dataclasses.fields(SteinSettings)}


def command(config: RLConfig) -> str:
    """The command, without --out, --seeds and --threads, that trains with these settings."""
    return config.command(without=("seed", "threads"), resolve=resolved)


def make(config: RLConfig, env: VecEnv) -> Any:
    """The algorithm with new parameters; seeds torch, NumPy and the environment."""
    target = "auto" if config.target_entropy is None else config.target_entropy
    common: dict[str, Any] = {
        "learning_rate": config.lr,
        "buffer_size": config.buffer,
        "learning_starts": config.update_after,
        "batch_size": config.batch,
        "tau": 1 - config.polyak,
        "gamma": config.gamma,
        "train_freq": config.update_every,
        "gradient_steps": config.updates,
        "ent_coef": config.alpha if config.alpha_rule == "fixed" else f"auto_{config.alpha!r}",
        "target_entropy": target,
        "seed": config.seed,
        "device": "cpu",
    }
    actor, critic = [config.hidden] * config.actor_layers, [config.hidden] * config.critic_layers
    try:
        if config.algo == "stein":
            policy: dict[str, Any] = {"net_arch": tuple(actor), "critic_arch": tuple(critic)}
            policy |= {"activation": config.activation, "test_action": config.test_action}
            policy |= {"test_temperature": config.test_temperature}
            stein = {_theirs(name): getattr(config, name) for name in STEIN}
            kwargs: dict[str, Any] = {
                "preset": config.preset,
                "stein_kwargs": stein,
                "random_steps": config.random_steps,
            }
            return SteinSAC("MlpPolicy", env, policy_kwargs=policy, **kwargs, **common)
        policy = {"net_arch": {"pi": actor, "qf": critic}, "activation_fn": ACTIVATIONS[config.activation].module}
        if config.algo == "sac-nf":
            policy["n_transforms"] = config.flow_transforms
        model = CLASSES[config.algo]("MlpPolicy", env, policy_kwargs=policy, **common)
    except (ValueError, AssertionError) as error:
        # Spaces that the algorithm does not take.
        raise UsageError(f"--env {config.env}, --algo {config.algo}: {error}") from error
    model.random_steps = config.random_steps
    return model


def load(config: RLConfig, path: Path, env: VecEnv | None, reset: bool = True) -> Any:
    """The algorithm as `save` left it; where `reset`, an episode begins when it goes on."""
    return CLASSES[config.algo].load(path, env=env, device="cpu", force_reset=reset)
