"""The algorithms of `svgdx train rl`, created from its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from svgdx.activations import ACTIVATIONS
from svgdx.experiments.rl.config import STEIN, RLConfig
from svgdx.experiments.run.compute.amp import lower
from svgdx.experiments.run.compute.device import torch_device
from svgdx.experiments.run.compute.graph import Graphs
from svgdx.experiments.run.errors import UsageError
from svgdx.rl import SACNF, SteinSAC, SteinSettings
from svgdx.rl.extension import RandomSteps
from svgdx.rl.policy import TEST_ACTIONS
from svgdx.rl.presets import settings_of
from svgdx.samplers.initial import DiagonalGaussian


class GaussianSAC(RandomSteps, SAC):
    """SAC of Stable-Baselines3, with random_steps independent of learning_starts."""


class FlowSAC(RandomSteps, SACNF):
    """SACNF, with random_steps independent of learning_starts."""


CLASSES: dict[str, type[Any]] = {"sac": GaussianSAC, "sac-nf": FlowSAC, "stein": SteinSAC}


def resolved(config: RLConfig) -> RLConfig:
    """The settings with the preset's values for those that are not set.

    Raises UsageError for an unknown preset and for a value that SteinSettings refuses.
    """
    if config.algo != "stein":
        return config
    assert config.preset is not None
    changes = {_stein_name(name): getattr(config, name) for name in STEIN if getattr(config, name) is not None}
    try:
        settings = settings_of(config.preset, changes)
    except ValueError as error:
        raise UsageError(f"--preset {config.preset}: {error}") from error
    if config.test_action not in TEST_ACTIONS:
        raise UsageError(f"--test-action: must be one of {', '.join(TEST_ACTIONS)}, but is {config.test_action}")
    return dataclasses.replace(config, **{name: getattr(settings, _stein_name(name)) for name in STEIN})


def _stein_name(name: str) -> str:
    """The name in SteinSettings of a setting of RLConfig, whose `steps` are those of the environment."""
    return {"svgd_steps": "steps"}.get(name, name)


assert {_stein_name(name) for name in STEIN} == {field.name for field in dataclasses.fields(SteinSettings)}


def command(config: RLConfig) -> str:
    """The command, without --out, --seeds and --threads, that trains with these settings."""
    return config.command(without=("seed", "threads"), resolve=resolved)


def make(config: RLConfig, env: VecEnv) -> Any:
    """Creates the algorithm with new parameters; seeds torch, NumPy and the environment.

    Raises UsageError if the algorithm does not support the environment's spaces.
    """
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
        "target_entropy": "auto" if config.target_entropy is None else config.target_entropy,
        "seed": config.seed,
        "device": torch_device(config.device),
    }
    try:
        model = CLASSES[config.algo]("MlpPolicy", env, **_policy_arguments(config), **common)
    except (ValueError, AssertionError) as error:
        raise UsageError(f"--env {config.env}, --algo {config.algo}: {error}") from error
    model.random_steps = config.random_steps
    return _prepared(config, model)


def _policy_arguments(config: RLConfig) -> dict[str, Any]:
    """The arguments in which the algorithms differ."""
    actor, critic = [config.hidden] * config.actor_layers, [config.hidden] * config.critic_layers
    policy: dict[str, Any] = {
        "net_arch": {"pi": actor, "qf": critic},
        "activation_fn": ACTIVATIONS[config.activation].module,
    }
    if config.algo == "stein":
        policy |= {"test_action": config.test_action, "test_temperature": config.test_temperature}
        stein = {_stein_name(name): getattr(config, name) for name in STEIN}
        return {"preset": config.preset, "stein_kwargs": stein, "policy_kwargs": policy}
    if config.algo == "sac-nf":
        policy["n_transforms"] = config.flow_transforms
    return {"policy_kwargs": policy}


def load(config: RLConfig, path: Path, env: VecEnv | None, reset: bool = True) -> Any:
    """The algorithm as `save` left it.

    Args:
        path: model.zip of a checkpoint.
        env: the environment to train on; None to act only.
        reset: whether a new episode begins when the training continues.
    """
    arguments: dict[str, Any] = {"env": env, "device": torch_device(config.device), "force_reset": reset}
    model = CLASSES[config.algo].load(path, **arguments)
    if config.algo == "stein" and "start" not in model.policy_kwargs["stein_kwargs"]:
        # A version whose policies had no such setting saved it.
        model = CLASSES[config.algo].load(path, **arguments, stein_kwargs={"start": config.start})
    return _prepared(config, model)


def _prepared(config: RLConfig, model: Any) -> Any:
    """The algorithm; its networks lowered and its updates captured as CUDA graphs if the settings ask for it."""
    for module, method, finish in _networks(model.policy, config.algo):
        lower(module, config.amp, method, finish)
    if config.captures():
        optimizers = [model.policy.actor_optimizer, model.policy.critic_optimizer, model.ent_coef_optimizer]
        present = [optimizer for optimizer in optimizers if optimizer is not None]
        model.run_update = Graphs(model.device, present, captures=True, required=config.graph == "on").run
    return model


def _networks(policy: Any, algo: str) -> list[tuple[nn.Module, str, Callable[[Any], Any] | None]]:
    """The networks of an actor and its critics, with the method that computes them and what converts its result."""
    if algo == "stein":
        # The derivatives of the critics along a chain are svgdx's own, in float32.
        return [(policy.critic, "forward", None), (policy.actor, "initial", _float32_gaussian)]
    actor = policy.actor
    if algo == "sac-nf":
        networks = [transform.hyper for transform in actor.flow.transform.transforms]
    else:
        networks = [actor.latent_pi, actor.mu, actor.log_std]
    return [(module, "forward", None) for module in (*networks, policy.critic, policy.critic_target)]


def _float32_gaussian(gaussian: DiagonalGaussian) -> DiagonalGaussian:
    return DiagonalGaussian(gaussian.mean.float(), gaussian.std.float())
