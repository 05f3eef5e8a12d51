"""The Stein policy in the form that Stable-Baselines3 expects of policies."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from svgdx._checks import one_of
from svgdx.rl.actor import SteinActor, SteinSample
from svgdx.rl.critics import MinimumQ, TwinCritic
from svgdx.rl.presets import settings_of
from svgdx.rl.targets import make_target

TEST_ACTIONS = ("best", "softmax")


class SteinPolicy(BasePolicy):
    """Actor, twin critics and target critics, with their optimizers.

    During training, and with deterministic=False, the policy acts with a random particle. With deterministic=True, as
    in evaluations by Stable-Baselines3, it chooses among the final particles by min(Q1, Q2); the particles themselves
    are random all the same.

    Args:
        observation_space: a Box; observations of more than one dimension are flattened.
        action_space: a Box with finite limits.
        lr_schedule: learning rate as a function of the remaining training, from 1 to 0.
        preset, stein_kwargs: see `svgdx.rl.presets.settings_of`.
        net_arch: widths of the hidden layers of the network that sets the initial distribution.
        critic_arch: widths of the hidden layers of each critic.
        activation: between layers, one of `svgdx.activations.FROM_VALUE`. The published "elu" gives the actor a biased
            gradient wherever log pi contains a Hessian term, because its second derivative jumps
            (python_tests/rl/test_actor_gradient.py); "softplus" and "tanh" are smooth. With any activation, the
            gradient of the minimum jumps where the two critics cross among the particles.
        test_action: "best", the particle with the largest Q, or "softmax", a particle drawn with probability
            proportional to exp(Q / test_temperature).
        test_temperature: in units of return.
        optimizer_class, optimizer_kwargs: for both the actor and the critics.

    Raises:
        ValueError: a space of another kind, or an unknown setting.
    """

    temperature: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        preset: str = "met-svgd",
        stein_kwargs: dict[str, Any] | None = None,
        net_arch: tuple[int, ...] = (256, 256, 256),
        critic_arch: tuple[int, ...] = (256, 256),
        activation: str = "elu",
        test_action: str = "best",
        test_temperature: float = 1.0,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            FlattenExtractor,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        _check_spaces(observation_space, action_space)
        if not test_temperature > 0:
            raise ValueError(f"SteinPolicy: test_temperature must be positive, but is {test_temperature}")
        self.arguments = {
            "preset": preset,
            "stein_kwargs": stein_kwargs,
            "net_arch": net_arch,
            "critic_arch": critic_arch,
            "activation": activation,
            "test_action": one_of("SteinPolicy", "test_action", test_action, TEST_ACTIONS),
            "test_temperature": test_temperature,
        }
        self.test_action, self.test_temperature = test_action, test_temperature
        self.features_extractor = self.make_features_extractor()
        self.settings = settings_of(preset, stein_kwargs)
        state_dim, action_dim = self.features_extractor.features_dim, int(np.prod(action_space.shape))
        # alpha, in units of reward; SteinSAC sets it.
        self.register_buffer("temperature", torch.ones(()))
        limit = torch.as_tensor((action_space.high - action_space.low) / 2, dtype=torch.float32).flatten()
        self.actor = SteinActor(state_dim, limit, self.settings, tuple(net_arch), activation)
        self.critic = TwinCritic(state_dim, action_dim, tuple(critic_arch), activation)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        kwargs = {"lr": lr_schedule(1.0), **self.optimizer_kwargs}
        if self.optimizer_class is torch.optim.Adam:
            # One pass over all parameters: a loop over them would take longer than a critic's gradient.
            kwargs = {"fused": True, **kwargs}
        self.actor_optimizer = self.optimizer_class(self.actor.parameters(), **kwargs)
        self.critic_optimizer = self.optimizer_class(self.critic.parameters(), **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces_ = {"observation_space": self.observation_space, "action_space": self.action_space}
        optimizer = {"optimizer_class": self.optimizer_class, "optimizer_kwargs": self.optimizer_kwargs}
        # A policy that is loaded on its own is not trained, so it has no schedule.
        return spaces_ | self.arguments | optimizer | {"lr_schedule": self._dummy_schedule}

    def states(self, observation: PyTorchObs) -> Tensor:
        """Observations as the networks read them, (B, S)."""
        features: Tensor = self.extract_features(observation, self.features_extractor)
        return features

    def sample(
        self, state: Tensor, log_prob: bool = True, recorded: bool = False, critic: MinimumQ | None = None
    ) -> SteinSample:
        """Draws M particles for each of the states.

        Args:
            state: (B, S).
            log_prob: whether to compute the density of the actions.
            recorded: whether the chain records its steps.
            critic: min(Q1, Q2) at the states, for callers that have it already.
        """
        critic = self.critic.minimum_at(state) if critic is None else critic
        target = make_target(self.settings.target, critic, self.temperature)
        return self.actor.sample(self.actor.initial(state), target, log_prob, recorded)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """One action for each observation, scaled to [-1, 1], in the shape of the action space."""
        state = self.states(observation)
        with torch.no_grad():
            sample = self.sample(state, log_prob=False)
            chosen = self._chosen(state, sample, deterministic)
            action = sample.action[torch.arange(len(state), device=state.device), chosen]
            # On the CPU the critics' score was checked at every step.
            if action.device.type != "cpu" and not bool(action.isfinite().all()):
                raise FloatingPointError("SteinPolicy: an action is NaN or infinite")
        return action.view(-1, *self.action_space.shape)

    def _chosen(self, state: Tensor, sample: SteinSample, deterministic: bool) -> Tensor:
        """The index of the particle that acts, (B,)."""
        weight = sample.weights()
        weight = torch.ones_like(sample.action[..., 0]) if weight is None else weight
        if not deterministic:
            return weight.multinomial(1).squeeze(-1)
        q = self.critic(state, sample.action).amin(0)
        if not bool(q.isfinite().all()):
            raise FloatingPointError("SteinPolicy: a critic's value of an action is NaN or infinite")
        q = q.masked_fill(weight == 0, -torch.inf)
        if self.test_action == "best":
            return q.argmax(-1)
        return (q / self.test_temperature).softmax(-1).multinomial(1).squeeze(-1)


def _check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    if not isinstance(observation_space, spaces.Box):
        raise ValueError(f"SteinPolicy: observation_space must be a Box, but is {observation_space}")
    is_bounded = isinstance(action_space, spaces.Box) and action_space.is_bounded()
    if not is_bounded or not bool((action_space.high > action_space.low).all()):
        raise ValueError(f"SteinPolicy: action_space must be a Box with finite limits, but is {action_space}")


__all__ = ["TEST_ACTIONS", "SteinPolicy"]
