"""Peer of a SteinSAC update: S2AC's update in plain PyTorch.

States are repeated for every particle; kernels are computed from pairwise differences, scores by autograd.
"""

from __future__ import annotations

import copy
import importlib
import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from svgdx.rl import SteinPolicy, SteinSAC
from svgdx.streams import stream_of

BATCH, STATES, ACTIONS = 100, 17, 6


class Walker2dSizes(gymnasium.Env[Any, Any]):
    """An environment with only the spaces of Walker2d-v5."""

    observation_space = spaces.Box(-np.inf, np.inf, (STATES,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)


def ours(particles: int, preset: str = "p-svgd") -> SteinSAC:
    settings = {"particles": particles}
    return SteinSAC("MlpPolicy", Walker2dSizes(), preset, settings, buffer_size=10, seed=0, device="cpu")


def batch() -> ReplayBufferSamples:
    generator = torch.Generator().manual_seed(0)
    state, after = torch.randn(2, BATCH, STATES, generator=generator)
    action = 2 * torch.rand(BATCH, ACTIONS, generator=generator) - 1
    done = (torch.rand(BATCH, 1, generator=generator) < 0.01).float()
    return ReplayBufferSamples(state, action, after, done, torch.randn(BATCH, 1, generator=generator))


def products(model: SteinSAC) -> float:
    """Floating-point operations of the critics' matrix products at the particles in one update with preset "p-svgd".

    A value needs both critics forward, a score also the smaller one backward, and the actor's gradient every score's
    Hessian-vector product: forward and backward once more.
    """
    settings = model.policy.settings
    first, second = [layer.weight for layer in model.critic.critics[0].linear[:2]]
    # Critic targets: L scores and a value; actor: L scores with their derivative, and the last value's gradient.
    forward = 2 * (settings.steps + 1) + 2 * (settings.steps + 1) + settings.steps
    back = settings.steps + settings.steps + 1 + settings.steps
    return 2.0 * (forward + back) * BATCH * settings.particles * (ACTIONS * len(first) + second.numel())


def learner(name: str) -> Any:
    """An algorithm on Walker2d-v5 with hidden layers of 256, one update with a batch of 100 after every step."""
    arguments = {"batch_size": BATCH, "learning_rate": 1e-3, "learning_starts": 100, "seed": 0, "buffer_size": 10_000}
    env = gymnasium.make("Walker2d-v5")
    if name.startswith("svgdx "):
        return SteinSAC("MlpPolicy", env, name.removeprefix("svgdx "), device="cpu", **arguments)
    module = importlib.import_module("sbx" if name == "sbx SAC" else "stable_baselines3")
    return module.SAC("MlpPolicy", env, policy_kwargs={"net_arch": [256, 256]}, device="cpu", **arguments)


def _sequential(layers: Any) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in layers:
        modules += [copy.deepcopy(layer), nn.ELU()]
    return nn.Sequential(*modules[:-1])


class Plain:
    """The networks, loss and optimisers of a SteinPolicy with preset "p-svgd"."""

    def __init__(self, policy: SteinPolicy, alpha: float, gamma: float, tau: float) -> None:
        self.net = _sequential([*policy.actor.layers, policy.actor.head])
        self.critics = nn.ModuleList(_sequential(critic.layers) for critic in policy.critic.critics)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.settings, self.alpha, self.gamma, self.tau = policy.settings, alpha, gamma, tau
        self.actor_adam = torch.optim.Adam(self.net.parameters(), 1e-3)
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), 1e-3)

    def smaller(self, critics: nn.ModuleList, repeated: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat([action.flatten(0, 1), repeated], -1)
        return torch.minimum(*[critic(inputs) for critic in critics]).view(action.shape[:2])

    def sample(self, state: Tensor, graph: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Actions (B, M, D), their log density (B, M), weights (B, M) and the repeated states (B M, S)."""
        particles = self.settings.particles
        repeated = state[:, None].expand(-1, particles, -1).reshape(-1, state.shape[-1])
        mean, log_std = self.net(state).chunk(2, -1)
        mean, std = mean[:, None], log_std.clamp(-20, 2).exp().clamp(0.1, 1)[:, None]
        noise = stream_of("peer", None, mean.device).normal((len(state), particles, mean.shape[-1]))
        x = mean + std * noise
        log_q = -(0.5 * noise.square() + std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        low, high = (mean - 3 * std).detach(), (mean + 3 * std).detach()
        mask = ((x >= low) & (x <= high)).all(-1)
        for _ in range(self.settings.steps):
            with torch.enable_grad():
                x = x if graph else x.detach().requires_grad_()
                q = self.smaller(self.critics, repeated, x)
                (score,) = torch.autograd.grad(q.sum(), x, create_graph=graph)
            x = x if graph else x.detach()
            x_next, loss = self.step(x, score)
            mask = mask & ((x_next >= low) & (x_next <= high)).all(-1)
            x, log_q = torch.where(mask[..., None], x_next, x), log_q - torch.where(mask, loss, 0)
        log_prob = log_q - 2 * (math.log(2) - x - nn.functional.softplus(-2 * x)).sum(-1)
        valid = mask | ~mask.any(-1, keepdim=True)
        return x.tanh(), log_prob, valid.float() / valid.sum(-1, keepdim=True), repeated

    def step(self, x: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """x + eps phi, and eps times the kernel part of the trace."""
        particles, eps = x.shape[1], self.settings.step_size
        r = x[:, :, None] - x[:, None]
        squared = r.square().sum(-1)
        sigma2 = squared.detach().flatten(1).median(-1).values / (2 * math.log(particles + 1))
        beta = sigma2.clamp_min(1e-12).reciprocal()[:, None, None]
        kappa = torch.exp(-0.5 * beta * squared)
        phi = (kappa[..., None] * (score[:, None] + beta[..., None] * r)).mean(2)
        inner = x.shape[-1] - beta * squared - (r * score[:, None]).sum(-1)
        others = 1 - torch.eye(particles)
        return x + eps * phi, eps * (beta * kappa * inner * others).sum(2) / (particles - 1)

    def target_values(self, replay: ReplayBufferSamples) -> Tensor:
        with torch.no_grad():
            action, log_prob, weight, repeated = self.sample(replay.next_observations, False)
            value = self.smaller(self.targets, repeated, action) - self.alpha * log_prob
            return replay.rewards + (1 - replay.dones) * self.gamma * (weight * value).sum(-1, keepdim=True)

    def actor_loss(self, state: Tensor) -> Tensor:
        action, log_prob, weight, repeated = self.sample(state, True)
        value = self.alpha * log_prob - self.smaller(self.critics, repeated, action)
        return (weight * value).sum(-1).mean()

    def update(self, replay: ReplayBufferSamples) -> None:
        target = self.target_values(replay)
        inputs = torch.cat([replay.actions, replay.observations], -1)
        loss = sum(0.5 * (critic(inputs) - target).square().mean() for critic in self.critics)
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        self.critics.requires_grad_(False)
        loss = self.actor_loss(replay.observations)
        self.actor_adam.zero_grad()
        loss.backward()
        self.actor_adam.step()
        self.critics.requires_grad_(True)
        with torch.no_grad():
            for slow, fast in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                slow.lerp_(fast, self.tau)
