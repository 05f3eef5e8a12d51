"""SAC-NF: the SAC of Stable-Baselines3 with a normalising flow as its policy."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import zuko
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from svgdx.rl.extension import Extension, GeneratorPolicy, updating
from svgdx.rl.targets import log_tanh_slope


class FlowActor(BasePolicy):
    """pi(a | s): a = tanh(u) in [-1, 1], with u from a masked autoregressive flow conditioned on the state.

    Args:
        observation_space, action_space, features_extractor, features_dim, normalize_images: as for the actor of SAC.
        net_arch: widths of the hidden layers of each transform's network.
        activation_fn: between these layers.
        transforms: number of autoregressive transforms; every second one reads the dimensions in reverse order.

    Raises:
        ValueError: fewer than one transform.

    Sources: Papamakarios et al., Masked Autoregressive Flow, NeurIPS 2017; Mazoure et al., SAC-NF, CoRL 2019.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: nn.Module,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        transforms: int = 3,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        if transforms < 1:
            raise ValueError(f"FlowActor: transforms must be at least 1, but is {transforms}")
        self.flow = zuko.flows.MAF(
            get_action_dim(action_space),
            features_dim,
            transforms=transforms,
            hidden_features=net_arch,
            activation=activation_fn,
        )
        # Masks and orders follow from the arguments, so they are not part of what is saved.
        for module in self.flow.modules():
            module._non_persistent_buffers_set.update(module._buffers)
        self.arguments = {
            "net_arch": net_arch,
            "features_dim": features_dim,
            "activation_fn": activation_fn,
            "transforms": transforms,
            "features_extractor": features_extractor,
        }

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()
        return parameters | self.arguments

    def distribution(self, obs: PyTorchObs) -> zuko.distributions.NormalizingFlow:
        """The distribution of u at each observation."""
        return self.flow(self.extract_features(obs, self.features_extractor))

    def forward(self, obs: PyTorchObs, deterministic: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Actions in [-1, 1], (B, D); if deterministic, the image of the base distribution's mode."""
        flow = self.distribution(obs)
        z = flow.base.mean
        if not deterministic:
            z = z + flow.base.stddev * torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        u: Tensor = flow.transform.inv(z)
        return u.tanh()

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        """Actions in [-1, 1], (B, D), and their log density in nats, (B,)."""
        u, log_prob = self.distribution(obs).rsample_and_log_prob()
        return u.tanh(), log_prob - log_tanh_slope(u).sum(-1)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self(observation, deterministic)


class FlowPolicy(GeneratorPolicy, SACPolicy):
    """The policy of SAC with a FlowActor instead of the Gaussian.

    Args:
        observation_space, action_space, lr_schedule: as for the policy of SAC.
        n_transforms: number of autoregressive transforms in the flow.
        kwargs: further arguments of the policy of SAC.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        n_transforms: int = 3,
        **kwargs: Any,
    ) -> None:
        self.n_transforms = n_transforms
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> FlowActor:
        """The actor, called by the constructor of the policy of SAC."""
        kwargs = self._update_features_extractor(self.net_args, features_extractor)
        return FlowActor(transforms=self.n_transforms, **kwargs).to(self.device)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        action: Tensor = self.actor(observation, deterministic, self.generator)
        return action

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()
        return parameters | {"n_transforms": self.n_transforms}


class FlowCnnPolicy(FlowPolicy):
    """A FlowPolicy for images, with the convolutions of NatureCNN; arguments as for FlowPolicy."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class FlowMultiInputPolicy(FlowPolicy):
    """A FlowPolicy for dictionaries of observations, with CombinedExtractor; arguments as for FlowPolicy."""

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class SACNF(Extension, SAC):
    """Soft actor-critic with a masked autoregressive flow as its policy; arguments and use are those of SAC.

    Raises:
        ValueError: use_sde, which only a Gaussian policy supports.
        FloatingPointError: a parameter is NaN or infinite after an update.

    Source: Mazoure et al., Leveraging Exploration in Off-Policy Algorithms via Normalizing Flows, CoRL 2019.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": FlowPolicy,
        "CnnPolicy": FlowCnnPolicy,
        "MultiInputPolicy": FlowMultiInputPolicy,
    }

    def __init__(self, policy: str | type[FlowPolicy], env: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("use_sde"):
            raise ValueError("SACNF: use_sde needs a Gaussian policy")
        super().__init__(policy, env, *args, **kwargs)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Makes `gradient_steps` updates, as in SAC, and checks that all parameters are finite."""
        with updating("SACNF", self.device):
            super().train(gradient_steps, batch_size)
        # One read by the host for all of them; the sum of finite numbers may overflow.
        if bool(nn.utils.get_total_norm(self.policy.parameters()).isfinite()):
            return
        for name, value in self.policy.named_parameters():
            if not bool(torch.isfinite(value).all()):
                raise FloatingPointError(f"SACNF: step {self.num_timesteps}: {name} is NaN or infinite")


__all__ = ["SACNF", "FlowActor", "FlowCnnPolicy", "FlowMultiInputPolicy", "FlowPolicy"]
