"""SteinSAC: maximum-entropy reinforcement learning with a Stein policy, an algorithm of Stable-Baselines3."""

from __future__ import annotations

import math
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn

from svgdx.rl.actor import SteinSample
from svgdx.rl.policy import SteinPolicy
from svgdx.rl.random_steps import RandomSteps

Self = TypeVar("Self", bound="SteinSAC")


class SteinSAC(RandomSteps):
    """Soft actor-critic whose actions are SVGD particles of exp(Q(s, .) / alpha) and know their log density.

    The critics learn r + gamma (1 - done) (mean_p min Q' - alpha log pi), a time-out not being done; the actor
    minimises alpha log pi - mean_p min Q through all SVGD steps, the critics being constants.

    Args:
        policy: "MlpPolicy" or a sub-class of SteinPolicy.
        env: an environment, its name, or a VecEnv; its actions must lie in a bounded Box.
        preset: the row of the published comparison, see `svgdx.rl.presets.settings_of`.
        stein_kwargs: settings in place of the preset's, fields of `svgdx.rl.presets.SteinSettings`.
        learning_starts: steps before the first update.
        random_steps: steps with uniformly random actions; None: as many as learning_starts.
        ent_coef: alpha, a number in units of reward, or "auto" or "auto_0.1" to tune it to target_entropy.
        target_entropy: nats of the environment's action, "auto" for -D + sum log(limit), SAC's choice.
        policy_kwargs: further arguments of SteinPolicy.

    The others are those of Stable-Baselines3's SAC, with the defaults of the published runs.

    Raises:
        FloatingPointError: a loss, a gradient or a score of the critics is not finite; no step is made with it.

    Sources: Haarnoja et al., SAC, ICML 2018; Messaoud et al., S2AC, ICLR 2024, and Particles Don't Care About Z,
    ICML 2026.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": SteinPolicy}
    policy: SteinPolicy

    def __init__(
        self,
        policy: str | type[SteinPolicy],
        env: GymEnv | str | None,
        preset: str = "met-svgd",
        stein_kwargs: dict[str, Any] | None = None,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 1_000,
        random_steps: int | None = None,
        batch_size: int = 100,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 50,
        gradient_steps: int = 50,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float = 0.2,
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
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
        )
        self.random_steps = learning_starts if random_steps is None else random_steps
        self.ent_coef, self.target_entropy = ent_coef, target_entropy
        self.log_ent_coef = torch.zeros(())
        self.ent_coef_optimizer: torch.optim.Adam | None = None
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self.actor, self.critic = self.policy.actor, self.policy.critic
        self.critic_target = self.policy.critic_target
        if self.target_entropy == "auto":
            self.target_entropy = float((self.actor.limit.log() - 1).sum())
        tuned = isinstance(self.ent_coef, str) and self.ent_coef.startswith("auto")
        start = str(self.ent_coef).removeprefix("auto").removeprefix("_") or "1"
        alpha = float(start)
        if not (alpha > 0 and math.isfinite(alpha)):
            raise ValueError(f"SteinSAC: ent_coef must be positive, or 'auto' or 'auto_X', but is {self.ent_coef!r}")
        self.log_ent_coef = torch.tensor(math.log(alpha), device=self.device, requires_grad=tuned)
        if tuned:
            self.ent_coef_optimizer = torch.optim.Adam([self.log_ent_coef], lr=self.lr_schedule(1))
        self.policy.temperature.copy_(self.log_ent_coef.detach().exp())

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """So many updates of critics and actor, from batches of the replay buffer."""
        self.policy.set_training_mode(True)
        optimizers = [self.policy.actor_optimizer, self.policy.critic_optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        self.actor.progress.fill_(1 - self._current_progress_remaining)
        losses: dict[str, list[float]] = {"critic_loss": [], "actor_loss": []}
        for step in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            sample, found = self.update(batch, recorded=step == gradient_steps - 1)
            for name, value in found.items():
                losses[name].append(value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/ent_coef", float(self.policy.temperature))
        for name, values in losses.items():
            self.logger.record(f"train/{name}", float(np.mean(values)))
        if gradient_steps > 0:
            self._record_sample(sample)

    def update(self, batch: ReplayBufferSamples, recorded: bool = False) -> tuple[SteinSample, dict[str, float]]:
        """One update of critics, actor and alpha; what the actor sampled, recorded or not, and both losses."""
        critic_loss = self._update_critic(batch)
        sample, actor_loss = self._update_actor(self.policy.states(batch.observations), recorded)
        polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
        self._n_updates += 1
        return sample, {"critic_loss": critic_loss, "actor_loss": actor_loss}

    def target_values(self, batch: ReplayBufferSamples) -> Tensor:
        """r + gamma (1 - done) (mean_p min Q' - alpha log pi) of a batch, (B, 1)."""
        discounts = self.gamma if batch.discounts is None else batch.discounts
        with torch.no_grad():
            state = self.policy.states(batch.next_observations)
            sample = self.policy.sample(state)
            assert sample.log_prob is not None
            q = self.critic_target.at(state).value(sample.action)
            value = sample.mean(q - self.policy.temperature * sample.log_prob).unsqueeze(-1)
            return batch.rewards + (1 - batch.dones) * discounts * value

    def _update_critic(self, batch: ReplayBufferSamples) -> float:
        target = self.target_values(batch)
        found = self.critic(self.policy.states(batch.observations), batch.actions.flatten(1).unsqueeze(1))
        loss = 0.5 * (found - target).square().mean((1, 2)).sum()
        self._descend("critic", loss, self.policy.critic_optimizer)
        return loss.item()

    def _update_actor(self, state: Tensor, recorded: bool) -> tuple[SteinSample, float]:
        critic = self.critic.at(state)
        sample = self.policy.sample(state, recorded=recorded, critic=critic)
        assert sample.log_prob is not None
        q = critic.value_once(sample.action)
        loss = sample.mean(self.policy.temperature * sample.log_prob - q).mean()
        self._descend("actor", loss, self.policy.actor_optimizer)
        if self.ent_coef_optimizer is not None:
            surplus = float(sample.mean(sample.log_prob.detach()).mean()) + float(self.target_entropy)
            self.ent_coef_optimizer.zero_grad()
            (-self.log_ent_coef * surplus).backward()
            self.ent_coef_optimizer.step()
            self.policy.temperature.copy_(self.log_ent_coef.detach().exp())
        return sample, loss.item()

    def _descend(self, name: str, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        if not (bool(loss.isfinite()) and bool(norm.isfinite())):
            raise FloatingPointError(
                f"SteinSAC: update {self._n_updates + 1}, step {self.num_timesteps}: {name} loss is {loss.item()}, "
                f"the norm of its gradient {norm.item()}"
            )
        optimizer.step()

    def _record_sample(self, sample: SteinSample) -> None:
        """Logs what the last actor update sampled, means over states, particles and SVGD steps."""
        assert sample.log_prob is not None
        history = sample.chain.history()
        found = {name: history[name].nanmean() for name in ("sigma", "eps", "eps_bound", "score_norm")}
        found["mh_rejection"] = 1 - history["acceptance"].nanmean()
        found["entropy"] = -sample.mean(sample.log_prob.detach()).mean()
        found["svgd_steps"] = sample.chain.length.float().mean()
        if sample.chain.mask is not None:
            found["truncated"] = 1 - sample.chain.mask.float().mean()
        for name, value in found.items():
            # NaN: not asked for by the settings.
            if not math.isnan(float(value)):
                self.logger.record(f"train/{name}", float(value))

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "SteinSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        learnt: Self = super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )
        return learnt

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor", "critic", "critic_target"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names = ["policy", "policy.actor_optimizer", "policy.critic_optimizer"]
        return names if self.ent_coef_optimizer is None else [*names, "ent_coef_optimizer"], ["log_ent_coef"]


__all__ = ["SteinSAC"]
