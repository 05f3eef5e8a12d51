"""One SteinSAC update of critics and actor against S2AC's update in plain PyTorch, in one run: 2 threads, float32,
sizes of Walker2d, 100 states, 3 SVGD steps, hidden layers of 256. The entry `products` is the time of only the critics'
matrix products at all particles; its share shows how much is left.

pytest bench/bench_rl.py --benchmark-json bench/results/rl.json
python bench/render.py bench/results/rl.json bench/results/rl
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

import rl_peers
from bench_field import time_calls, two_threads

__all__ = ["two_threads"]


def updates(particles: int) -> dict[str, Callable[[], object]]:
    """The update of each peer on one batch."""
    samples, model = rl_peers.batch(), rl_peers.ours(particles)
    plain = rl_peers.Plain(model.policy, 0.2, model.gamma, model.tau)
    return {
        "svgdx": lambda: model.update(samples),
        "eager": lambda: plain.update(samples),
        "products": rl_peers.products(model),
    }


@pytest.mark.parametrize("peer", ["svgdx", "eager", "products"])
@pytest.mark.parametrize("shape", [(10, 3, 6), (64, 3, 6)], ids=str)
def test_update(benchmark: Any, shape: tuple[int, int, int], peer: str) -> None:
    benchmark.extra_info["sizes"] = "M, L, D"
    time_calls(benchmark, "cpu", updates(shape[0])[peer])


def test_the_peer_computes_the_same() -> None:
    """Critic targets, the actor's loss and its gradient agree for the same networks and noise."""
    samples, model = rl_peers.batch(), rl_peers.ours(10)
    with torch.no_grad():
        for parameter in model.critic.parameters():
            parameter.mul_(1.5)
    plain = rl_peers.Plain(model.policy, 0.2, model.gamma, model.tau)
    plain.targets.load_state_dict(rl_peers.Plain(model.policy, 0.2, 0.99, 0.005).critics.state_dict())
    model.critic_target.load_state_dict(model.critic.state_dict())
    torch.manual_seed(1)
    target = plain.target_values(samples)
    torch.manual_seed(1)
    torch.testing.assert_close(model.target_values(samples), target, rtol=1e-4, atol=1e-4)
    torch.manual_seed(2)
    plain.critics.requires_grad_(False)
    loss = plain.actor_loss(samples.observations)
    loss.backward()
    torch.manual_seed(2)
    sample = model.policy.sample(samples.observations)
    assert sample.log_prob is not None
    value, _ = model.critic.minimum_at(samples.observations).score(sample.action)
    actual = sample.mean(0.2 * sample.log_prob - value).mean()
    torch.testing.assert_close(actual, loss, rtol=1e-4, atol=1e-4)
    actual.backward()
    theirs = [parameter.grad for parameter in plain.net.parameters()]
    layers = [*model.actor.layers, model.actor.head]
    ours = [parameter.grad for layer in layers for parameter in layer.parameters()]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
