"""One SteinSAC update of critics and actor against S2AC's update in plain PyTorch, and a step in Walker2d-v5 with one
update against SAC of Stable-Baselines3 and of SBX, in one run: float32, batches of 100 states, 3 SVGD steps, hidden
layers of 256. The products are the critics' at all particles.

pytest bench/systems/bench_rl.py --benchmark-json RUN.json
python bench/report/render.py RUN.json bench/results/rl
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

import rl_peers
from timing import one_thread, time_calls

__all__ = ["one_thread"]

STEPS = 40  # of the environment in one timed call


def updates(particles: int) -> dict[str, Callable[[], object]]:
    """The update of each peer on one batch."""
    samples, model = rl_peers.batch(), rl_peers.ours(particles)
    plain = rl_peers.Plain(model.policy, 0.2, model.gamma, model.tau)
    return {"svgdx": lambda: model.update(samples), "eager": lambda: plain.update(samples)}


@pytest.mark.parametrize("peer", ["svgdx", "eager"])
@pytest.mark.parametrize("shape", [(10, 3, 6), (64, 3, 6)], ids=str)
def test_update(benchmark: Any, shape: tuple[int, int, int], peer: str) -> None:
    benchmark.extra_info["sizes"] = "M, L, D"
    time_calls(benchmark, "cpu", updates(shape[0])[peer], rl_peers.products(rl_peers.ours(shape[0])))


@pytest.mark.parametrize("peer", ["svgdx", "stable-baselines3 SAC", "sbx SAC"])
@pytest.mark.parametrize("shape", [("met-svgd",), ("p-svgd",)], ids=str)
def test_environment_step(benchmark: Any, shape: tuple[str], peer: str) -> None:
    if peer == "sbx SAC" and importlib.util.find_spec("sbx") is None:
        pytest.skip("SBX is not installed")
    benchmark.extra_info |= {"sizes": "preset of SteinSAC", "calls": STEPS}
    model = rl_peers.learner(f"svgdx {shape[0]}" if peer == "svgdx" else peer)
    model.learn(100 + STEPS)  # fills the buffer, and compiles
    time_calls(benchmark, "cpu", lambda: model.learn(STEPS, reset_num_timesteps=False))


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
