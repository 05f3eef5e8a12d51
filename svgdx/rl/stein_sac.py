"""SteinSAC: soft actor-critic with a Stein policy, an algorithm for Stable-Baselines3."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor, nn

from svgdx.rl.actor import SteinSample
from svgdx.rl.extension import Extension, RandomSteps, updating
from svgdx.rl.policy import SteinCnnPolicy, SteinMultiInputPolicy, SteinPolicy
from svgdx.streams import Source, Stream, stream_of

Self = TypeVar("Self", bound="SteinSAC")

# For each network that an update trained, its loss and the norm of its gradient, ().
Descents = dict[str, tuple[Tensor, Tensor]]


def _called(kind: Hashable, update: Callable[..., Any], **inputs: Any) -> Any:
    """Calls an update with its inputs; `svgdx.experiments.run.compute.graph.Graphs.run` replays it as a CUDA graph."""
    return update(**inputs)


_SUPPORT: dict[str, Any] = {
    "sde_support": False,
    "supported_action_spaces": (spaces.Box,),
    "support_multi_env": True,
}


class SteinSAC(Extension, RandomSteps):
    """Soft actor-critic whose policy is a set of SVGD particles instead of a squashed Gaussian.

    At each state, SVGD moves M particles from a learnt Gaussian towards exp(Q(s, .) / alpha). The particles are the
    candidate actions, and their log density log pi is known from the steps, so both losses of SAC keep their form:

    - the critics minimise the squared distance to r + gamma (1 - done) mean_p (min Q' - alpha log pi);
    - the actor minimises mean_p (alpha log pi - min Q), differentiated through all SVGD steps, the critics fixed.

    mean_p is the mean over the particles. An episode that is cut off by a time limit does not count as done.

    It is used like any off-policy algorithm of Stable-Baselines3::

        model = SteinSAC("MlpPolicy", "Pendulum-v1")
        model.learn(10_000)
        action, _ = model.predict(observation, deterministic=True)

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a subclass of SteinPolicy.
        env: an environment, its name, or a VecEnv; its actions must lie in a bounded Box.
        preset: how SVGD runs, a row of the published comparison, see `svgdx.rl.presets.settings_of`.
        stein_kwargs: fields of `svgdx.rl.presets.SteinSettings` that replace those of the preset.
        learning_starts: steps before the first update.
        random_steps: steps with uniformly random actions; None takes learning_starts.
        train_freq, gradient_steps: one update after every step; the published runs, and `svgdx train rl`, make 50 after
            every 50.
        ent_coef: alpha in units of reward, or "auto" or "auto_0.1" to tune it from 1 or 0.1 to target_entropy.
        target_update_interval: updates between those of the target critics.
        target_entropy: in nats, for the environment's action; "auto" is -D + sum log(limit), the choice of SAC.
        policy_kwargs: further arguments of SteinPolicy, such as net_arch and activation_fn.

    The other arguments are those of `stable_baselines3.SAC`, with the defaults of the published runs.

    Raises:
        FloatingPointError: a loss, a gradient or the critics' score is not finite. No parameter takes it in.

    Sources: Haarnoja et al., SAC, ICML 2018; Messaoud et al., S2AC, ICLR 2024, and Particles Don't Care About Z,
    ICML 2026.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": SteinPolicy,
        "CnnPolicy": SteinCnnPolicy,
        "MultiInputPolicy": SteinMultiInputPolicy,
    }
    policy: SteinPolicy
    policy_kwargs: dict[str, Any]
    run_update: Callable[..., Any] = staticmethod(_called)
    # One entry per update since `train` began: its number, its networks, and loss and gradient norm of each in turn.
    _descents: list[tuple[int, tuple[str, ...], Tensor]]

    def __init__(
        self,
        policy: str | type[SteinPolicy],
        env: GymEnv | str | None,
        preset: str = "met-svgd",
        stein_kwargs: dict[str, Any] | None = None,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        random_steps: int | None = None,
        batch_size: int = 100,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float = 0.2,
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs={"preset": preset, "stein_kwargs": stein_kwargs, **(policy_kwargs or {})},
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            **_SUPPORT,
        )
        self.random_steps = learning_starts if random_steps is None else random_steps
        self.ent_coef, self.target_entropy = ent_coef, target_entropy
        self.target_update_interval = target_update_interval
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self._descents = []
        self._name_networks()
        if self.target_update_interval < 1:
            interval = self.target_update_interval
            raise ValueError(f"SteinSAC: target_update_interval must be at least 1, but is {interval}")
        if self.target_entropy == "auto":
            self.target_entropy = float((self.actor.limit.log() - 1).sum())
        self._set_temperature()

    def _name_networks(self) -> None:
        self.actor, self.critic = self.policy.actor, self.policy.critic
        self.critic_target = self.policy.critic_target
        networks = (self.critic, self.critic_target)
        self.batch_norm_stats, self.batch_norm_stats_target = (
            get_parameters_by_name(net, ["running_"]) for net in networks
        )

    def _set_temperature(self) -> None:
        super()._set_temperature()
        alpha = self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()
        self.policy.temperature.copy_(alpha)

    @classmethod
    def _settings_after_loading(cls) -> tuple[str, ...]:
        return (*super()._settings_after_loading(), "preset", "stein_kwargs")

    def _apply(self, settings: dict[str, Any]) -> None:
        """Applies ent_coef, and exchanges the policy for one of another preset with the same networks.

        Without a preset, stein_kwargs replace single settings of the saved ones.

        Raises:
            ValueError: a preset or setting that is unknown, or whose policy has other parameters than the saved one.
        """
        changes: dict[str, Any] = {name: settings[name] for name in ("preset", "stein_kwargs") if name in settings}
        if changes:
            networks, saved = (
                self.policy,
                {"activation_fn": self.policy.arguments["activation_fn"]} | self.policy_kwargs,
            )
            stein = changes.get("stein_kwargs") or {}
            base = {} if "preset" in changes else saved.get("stein_kwargs") or {}
            self.policy_kwargs = {**saved, **changes, "stein_kwargs": base | stein}
            spaces_ = (self.observation_space, self.action_space)
            policy = self.policy_class(*spaces_, self.lr_schedule, **self.policy_kwargs).to(self.device)
            try:
                policy.load_state_dict(networks.state_dict())
                policy.actor_optimizer.load_state_dict(networks.actor_optimizer.state_dict())
                policy.critic_optimizer.load_state_dict(networks.critic_optimizer.state_dict())
            except (RuntimeError, ValueError) as error:
                names = " and ".join(changes)
                raise ValueError(
                    f"SteinSAC.load: {names}: the saved policy learnt other parameters: {error}"
                ) from error
            self.policy = policy
            self._name_networks()
        super()._apply(settings)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Makes `gradient_steps` updates, each from a batch of the replay buffer, and logs their mean losses."""
        self.policy.set_training_mode(True)
        optimizers = [self.policy.actor_optimizer, self.policy.critic_optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        self.actor.progress.fill_(1 - self._current_progress_remaining)
        self._descents.clear()
        for step in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            with updating("SteinSAC", self.device):
                sample, _, _ = self.update(batch, recorded=step == gradient_steps - 1)
        # The only place where the host waits for a GPU.
        losses = self._finite_losses()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/ent_coef", float(self.policy.temperature))
        for name in ("critic", "actor"):
            self.logger.record(f"train/{name}_loss", float(np.mean(losses[name])))
        if gradient_steps > 0:
            self._log_sample(sample)

    def update(self, batch: ReplayBufferSamples, recorded: bool = False) -> tuple[SteinSample, Tensor, Tensor]:
        """Updates critics, actor, alpha and target critics once, without waiting for a GPU.

        Args:
            batch: B transitions.
            recorded: whether the SVGD chain of the actor's sample records its steps.

        Returns:
            The actor's sample, the critics' loss () and the actor's loss (), detached.
        """
        streams = [stream_of("SteinSAC", None, self.device) for _ in range(2)]
        sample, descents = self.run_update(
            "SteinSAC",
            self._update,
            batch=batch,
            streams=streams,
            recorded=recorded,
            moves_targets=self._n_updates % self.target_update_interval == 0,
        )
        self._n_updates += 1
        # A copy, because the next replay of a graph overwrites the numbers.
        numbers = torch.stack([number for pair in descents.values() for number in pair])
        self._descents.append((self._n_updates, tuple(descents), numbers))
        return sample, descents["critic"][0], descents["actor"][0]

    def _update(
        self, batch: ReplayBufferSamples, streams: list[Stream], recorded: bool, moves_targets: bool
    ) -> tuple[SteinSample, Descents]:
        """The part of `update` that changes nothing on the host; the streams are those of target and actor."""
        # Critics: both towards one target.
        target = self.target_values(batch, streams[0])
        q = self.policy.values(batch.observations, batch.actions.flatten(1).unsqueeze(1))
        critic_loss = 0.5 * (q - target).square().mean((1, 2)).sum()
        descents = {"critic": self._descend("critic", critic_loss, self.policy.critic_optimizer)}

        # Actor: through the SVGD steps, for which the updated critics are constants.
        critic = self.policy.minimum_at(batch.observations)
        sample = self.policy.sample(batch.observations, recorded=recorded, critic=critic, generator=streams[1])
        assert sample.log_prob is not None
        min_q = critic.value_once(sample.action)
        actor_loss = sample.mean(self.policy.temperature * sample.log_prob - min_q).mean()
        descents["actor"] = self._descend("actor", actor_loss, self.policy.actor_optimizer)

        # Alpha: up if the policy's entropy is below its target.
        if self.ent_coef_optimizer is not None and self.log_ent_coef is not None:
            surplus = sample.mean(sample.log_prob.detach()).mean() + float(self.target_entropy)
            alpha_loss = -self.log_ent_coef * surplus
            descents["alpha"] = self._descend("alpha", alpha_loss, self.ent_coef_optimizer)
            self.policy.temperature.copy_(self.log_ent_coef.detach().exp())

        if moves_targets:
            self._move_targets()
        return sample, descents

    @torch.no_grad()
    def _move_targets(self) -> None:
        """Moves the target critics towards the critics, and copies running statistics."""
        targets: list[Tensor] = [*self.critic_target.parameters()]
        critics: list[Tensor] = [*self.critic.parameters()]
        torch._foreach_mul_(targets, 1 - self.tau)
        torch._foreach_add_(targets, critics, alpha=self.tau)
        for statistic, target in zip(self.batch_norm_stats, self.batch_norm_stats_target, strict=True):
            target.copy_(statistic)

    def target_values(self, batch: ReplayBufferSamples, generator: Source = None) -> Tensor:
        """What the critics learn, r + gamma (1 - done) mean_p (min Q' - alpha log pi), (B, 1); draws the actions."""
        discounts = self.gamma if batch.discounts is None else batch.discounts
        with torch.no_grad():
            sample = self.policy.sample(batch.next_observations, generator=generator)
            assert sample.log_prob is not None
            min_q = self.policy.minimum_at(batch.next_observations, self.critic_target).value(sample.action)
            value = sample.mean(min_q - self.policy.temperature * sample.log_prob).unsqueeze(-1)
            return batch.rewards + (1 - batch.dones) * discounts * value

    def _descend(self, name: str, loss: Tensor, optimizer: torch.optim.Optimizer) -> tuple[Tensor, Tensor]:
        """Makes one step of the optimizer, unless the loss or its gradient is not finite.

        A fused optimizer on a GPU decides that itself, and `_finite_losses` reports it; others are checked at once.

        Returns:
            The loss and the norm of its gradient, (), detached.
        """
        optimizer.zero_grad()
        loss.backward()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if loss.device.type != "cpu" and optimizer.defaults.get("fused"):
            # Zero times a number that is not finite is NaN. The fused step neither moves nor counts if this is 1.
            optimizer.found_inf = ((loss.detach() + norm) * 0 != 0).float()  # type: ignore[attr-defined]
        else:
            self._check_finite(self._n_updates + 1, name, *torch.stack([loss.detach(), norm]).tolist())
        optimizer.step()
        return loss.detach(), norm

    def _finite_losses(self) -> dict[str, list[float]]:
        """The losses by name, of all updates since `train` began.

        Raises FloatingPointError that names the first update whose loss or gradient is not finite.
        """
        losses: dict[str, list[float]] = {"critic": [], "actor": [], "alpha": []}
        numbers = iter(torch.cat([numbers for _, _, numbers in self._descents]).tolist() if self._descents else [])
        for update, names, _ in self._descents:
            for name, loss, norm in zip(names, numbers, numbers, strict=False):
                self._check_finite(update, name, loss, norm)
                losses[name].append(loss)
        return losses

    def _check_finite(self, update: int, name: str, loss: float, norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"SteinSAC: update {update}, step {self.num_timesteps}: the {name} loss is {loss} "
                f"and the norm of its gradient is {norm}"
            )

    def _log_sample(self, sample: SteinSample) -> None:
        """Logs means over states, particles and SVGD steps of the last sample of the actor."""
        history = sample.chain.history()
        quantities = {name: history[name].nanmean() for name in ("sigma", "eps", "eps_bound", "score_norm")}
        quantities["mh_rejection"] = 1 - history["acceptance"].nanmean()
        quantities |= sample.quantities()
        numbers = torch.stack([value.detach().float() for value in quantities.values()]).tolist()
        for name, number in zip(quantities, numbers, strict=True):
            # NaN marks what these settings do not compute.
            if not math.isnan(number):
                self.logger.record(f"train/{name}", number)

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "SteinSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As in Stable-Baselines3."""
        model: Self = super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )
        return model

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            *(
                "actor",
                "critic",
                "critic_target",
                "batch_norm_stats",
                "batch_norm_stats_target",
                "_descents",
                "run_update",
            ),
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names = ["policy", "policy.actor_optimizer", "policy.critic_optimizer"]
        if self.ent_coef_optimizer is None:
            return names, ["ent_coef_tensor"]
        return [*names, "ent_coef_optimizer"], ["log_ent_coef"]


__all__ = ["SteinSAC"]
