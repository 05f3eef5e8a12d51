"""The Stein policy in the form that Stable-Baselines3 expects of policies."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from svgdx._checks import one_of, without_autocast
from svgdx.activations import ACTIVATIONS, FROM_VALUE
from svgdx.rl.actor import SteinActor, SteinSample
from svgdx.rl.critics import Critics, MinimumQ
from svgdx.rl.extension import GeneratorPolicy, Prediction
from svgdx.rl.presets import settings_of
from svgdx.rl.targets import make_target
from svgdx.streams import Source, Stream, stream_of

TEST_ACTIONS = ("best", "softmax", "fixed")
_MODULES = {ACTIVATIONS[name].module: name for name in FROM_VALUE}


class SteinPolicy(GeneratorPolicy):
    """Actor, critics and target critics, with their optimizers.

    During training, and with deterministic=False, the policy acts with a random particle. With deterministic=True it
    acts as `test_action` says.

    Args:
        observation_space: any that Stable-Baselines3 supports; images need a features extractor for images, and
            dictionaries one for dictionaries, see SteinCnnPolicy and SteinMultiInputPolicy.
        action_space: a Box with finite limits.
        lr_schedule: learning rate as a function of the remaining training, from 1 to 0.
        preset, stein_kwargs: see `svgdx.rl.presets.settings_of`.
        net_arch: widths of the hidden layers, {"pi": those of the network that sets the initial distribution, "qf":
            those of each critic}, or one list for both; None is {"pi": [256, 256, 256], "qf": [256, 256]}.
        activation_fn: between layers: nn.Tanh, nn.Softplus, nn.ELU or nn.ReLU. The published ELU gives the actor a
            biased gradient wherever log pi contains a Hessian term, because its second derivative jumps
            (python_tests/rl/test_actor_gradient.py); Softplus and Tanh are smooth. With any activation, the gradient of
            the minimum jumps where critics cross among the particles.
        test_action: "fixed" chooses among `test_particles` particles, from the same random numbers at every state, the
            one with the largest Q, without Metropolis-Hastings, so that a state has one action. The published "best"
            draws new particles each time and takes the one with the largest Q; "softmax" draws one of them with
            probability proportional to exp(Q / test_temperature).
        test_temperature: in units of return.
        test_particles: at least this many particles at a state with "fixed".
        features_extractor_class, features_extractor_kwargs, normalize_images: as for the policy of SAC.
        share_features_extractor, n_critics: as for the policy of SAC.
        optimizer_class, optimizer_kwargs: as for the policy of SAC; for the actor and for the critics.

    Raises:
        ValueError: a space of another kind, or an unknown setting.
    """

    actor: SteinActor
    temperature: Tensor
    noise: Tensor
    probes: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        preset: str = "met-svgd",
        stein_kwargs: dict[str, Any] | None = None,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] | None = None,
        test_action: str = "fixed",
        test_temperature: float = 1.0,
        test_particles: int = 32,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        share_features_extractor: bool = False,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        _check_action_space(action_space)
        if activation_fn is None:
            activation_fn = nn.ELU if preset == "p-svgd" else nn.Softplus
        one_of("SteinPolicy", "activation_fn", activation_fn, tuple(_MODULES))
        if not test_temperature > 0:
            raise ValueError(f"SteinPolicy: test_temperature must be positive, but is {test_temperature}")
        self.arguments = {
            "preset": preset,
            "stein_kwargs": stein_kwargs,
            "net_arch": net_arch,
            "activation_fn": activation_fn,
            "test_action": one_of("SteinPolicy", "test_action", test_action, TEST_ACTIONS),
            "test_temperature": test_temperature,
            "test_particles": test_particles,
            "n_critics": n_critics,
            "share_features_extractor": share_features_extractor,
        }
        self.test_action, self.test_temperature = test_action, test_temperature
        self.share_features_extractor = share_features_extractor
        self.settings = settings_of(preset, stein_kwargs)
        # alpha, in units of reward; SteinSAC sets it.
        self.register_buffer("temperature", torch.ones(()))
        self._make_networks(_widths(net_arch), _MODULES[activation_fn], n_critics)
        self._draw_test_noise(test_particles)
        self._make_optimizers(lr_schedule(1.0))

    def _make_networks(self, widths: tuple[tuple[int, ...], tuple[int, ...]], activation: str, n_critics: int) -> None:
        space = self.action_space
        assert isinstance(space, spaces.Box)
        limit = torch.as_tensor((space.high - space.low) / 2, dtype=torch.float32).flatten()
        extractor = self.make_features_extractor()
        self.actor = SteinActor(extractor.features_dim, limit, self.settings, widths[0], activation, extractor)
        if not self.share_features_extractor:
            extractor = self.make_features_extractor()
        self.critic = Critics(extractor.features_dim, limit.numel(), widths[1], activation, n_critics, extractor)
        # Its features extractor is a copy even if actor and critics share theirs.
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_target.train(False)

    def _draw_test_noise(self, particles: int) -> None:
        """Draws start and probes of the action "fixed", the same in every process."""
        generator, count = torch.Generator().manual_seed(0), max(particles, self.settings.particles)
        dim = self.actor.limit.numel()
        signs = torch.randint(2, (self.settings.steps, count, dim), generator=generator, dtype=torch.float32)
        self.register_buffer("noise", torch.randn(count, dim, generator=generator), persistent=False)
        self.register_buffer("probes", 2 * signs - 1, persistent=False)

    def _make_optimizers(self, learning_rate: float) -> None:
        kwargs = {"lr": learning_rate, **self.optimizer_kwargs}
        if self.optimizer_class is torch.optim.Adam:
            # One pass over all parameters: a loop over them would take longer than a critic's gradient.
            kwargs = {"fused": True, **kwargs}
        parameters = self.critic.critics.parameters() if self.share_features_extractor else self.critic.parameters()
        self.actor_optimizer = self.optimizer_class(self.actor.parameters(), **kwargs)
        self.critic_optimizer = self.optimizer_class(parameters, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        optimizer = {"optimizer_class": self.optimizer_class, "optimizer_kwargs": self.optimizer_kwargs}
        extractor = {
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
        }
        parameters: dict[str, Any] = super()._get_constructor_parameters()
        # A policy that is loaded on its own is not trained, so it has no schedule.
        return parameters | self.arguments | optimizer | extractor | {"lr_schedule": self._dummy_schedule}

    def set_training_mode(self, mode: bool) -> None:
        """Puts actor and critics into training or evaluation mode; the target critics stay in evaluation mode."""
        self.actor.train(mode)
        self.critic.train(mode)
        self.training = mode

    def values(self, observation: PyTorchObs, action: Tensor) -> Tensor:
        """Every critic's Q of actions (B, M, D) at B observations: (N, B, M).

        It is differentiable in the critics' parameters; a shared features extractor learns from the actor's loss only.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.share_features_extractor):
            state = self.extract_features(observation, self.critic.features_extractor)
        return self.critic(state, action)

    @torch.no_grad()
    def minimum_at(self, observation: PyTorchObs, critics: Critics | None = None) -> MinimumQ:
        """The least Q at B observations as a function of the action, of `critics` or else of the policy's critics."""
        critics = self.critic if critics is None else critics
        return critics.minimum_at(self.extract_features(observation, critics.features_extractor))

    def sample(
        self,
        observation: PyTorchObs,
        log_prob: bool = True,
        recorded: bool = False,
        critic: MinimumQ | None = None,
        generator: Source = None,
    ) -> SteinSample:
        """Draws M particles for each of B observations.

        Args:
            observation: tensors as in a batch of the replay buffer.
            log_prob: whether to compute the density of the actions.
            recorded: whether the chain records its steps.
            critic: the least Q at the observations, for callers that have it already.
            generator: source of all random numbers; None uses torch's default generator.
        """
        critic = self.minimum_at(observation) if critic is None else critic
        target = make_target(self.settings.target, critic, self.temperature)
        return self.actor.sample(self._initial(observation), target, log_prob, recorded, generator)

    def _initial(self, observation: PyTorchObs) -> Any:
        return self.actor.initial(self.extract_features(observation, self.actor.features_extractor))

    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        """The actions at observations, see `GeneratorPolicy.predict`.

        Raises:
            FloatingPointError: an action is NaN or infinite.
        """
        prediction = super().predict(*args, **kwargs)
        # On the CPU the critics' score was checked at every step; a GPU is not asked before the actions are here.
        if not np.isfinite(prediction[0]).all():
            raise FloatingPointError("SteinPolicy: an action is NaN or infinite")
        return prediction

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """One action for each observation, scaled to [-1, 1], as `_predict`; torch.export takes it."""
        return self._predict(observation, deterministic)

    @torch.no_grad()
    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """One action for each observation, scaled to [-1, 1], in the shape of the action space; without autocast."""
        with without_autocast(self.temperature.device.type):
            return self._action(observation, deterministic)

    def _action(self, observation: PyTorchObs, deterministic: bool) -> Tensor:
        critic = self.minimum_at(observation)
        if deterministic and self.test_action == "fixed":
            target = make_target(self.settings.target, critic, self.temperature, self.probes)
            sample = self.actor.candidates(self._initial(observation), target, self.noise)
            chosen = self._best(critic, sample)
        else:
            stream = stream_of("SteinPolicy", self.generator, self.temperature.device)
            sample = self.sample(observation, log_prob=False, critic=critic, generator=stream)
            chosen = self._chosen(critic, sample, deterministic, stream)
        action = sample.action.gather(1, chosen[:, None, None].expand(-1, 1, sample.action.shape[-1]))
        return action.view(-1, *self.action_space.shape)

    def _chosen(self, critic: MinimumQ, sample: SteinSample, deterministic: bool, stream: Stream) -> Tensor:
        """The index of the particle that acts, (B,)."""
        if not deterministic:
            weight = sample.weights()
            if weight is None:
                return stream.integers(sample.action.shape[1], sample.action.shape[:1])
            return stream.categorical(weight.log())
        if self.test_action == "softmax":
            return stream.categorical(self._values_of_counted(critic, sample) / self.test_temperature)
        return self._best(critic, sample)

    def _best(self, critic: MinimumQ, sample: SteinSample) -> Tensor:
        """The index of the particle of largest Q, (B,)."""
        return self._values_of_counted(critic, sample).argmax(-1)

    def _values_of_counted(self, critic: MinimumQ, sample: SteinSample) -> Tensor:
        """Q of the particles, (B, M), -inf for those that truncation left out."""
        q, weight = critic.value(sample.action), sample.weights()
        if not torch.compiler.is_compiling() and not bool(q.isfinite().all()):
            raise FloatingPointError("SteinPolicy: a critic's value of an action is NaN or infinite")
        return q if weight is None else q.masked_fill(weight == 0, -torch.inf)


class SteinCnnPolicy(SteinPolicy):
    """A SteinPolicy for images, with the convolutions of NatureCNN; arguments as for SteinPolicy."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs, features_extractor_class=features_extractor_class)  # type: ignore[misc]


class SteinMultiInputPolicy(SteinPolicy):
    """A SteinPolicy for dictionaries of observations, with CombinedExtractor; arguments as for SteinPolicy."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs, features_extractor_class=features_extractor_class)  # type: ignore[misc]


def _widths(net_arch: list[int] | dict[str, list[int]] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The hidden layers of the actor and of each critic."""
    if net_arch is None:
        return (256, 256, 256), (256, 256)
    actor, critic = get_actor_critic_arch(net_arch if isinstance(net_arch, dict) else list(net_arch))
    return tuple(actor), tuple(critic)


def _check_action_space(action_space: spaces.Space[Any]) -> None:
    is_bounded = isinstance(action_space, spaces.Box) and action_space.is_bounded()
    if not is_bounded or not bool((action_space.high > action_space.low).all()):
        raise ValueError(f"SteinPolicy: action_space must be a Box with finite limits, but is {action_space}")


__all__ = ["TEST_ACTIONS", "SteinCnnPolicy", "SteinMultiInputPolicy", "SteinPolicy"]
