"""The derivative of E[log pi] in the mean of the start: correct only if the critics' second derivative is continuous.

The published critics have ELU layers (Messaoud et al., S2AC, ICLR 2024). ELU'' jumps at 0, and a mean of ELU'' depends
on where the jumps lie, which no derivative along a particle's path sees. The gradient of the smaller of two critics
jumps where they cross, with the same effect.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from svgdx.rl.actor import SteinActor
from svgdx.rl.critics import Critics
from svgdx.rl.presets import SteinSettings
from svgdx.rl.targets import make_target
from svgdx.samplers.initial import DiagonalGaussian

B, M, S, D = 400, 10, 2, 2


def error(activation: str, hessian: str, difference: float = 0.0) -> float:
    """Distance of autograd from central differences with the same noise, relative to the latter.

    difference: how far the second critic's parameters are from the first's, in (0, 1]; with 0 they are the same.
    """
    torch.manual_seed(0)
    critic = Critics(S, D, (32, 32), activation).double()
    for parameter in critic.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    first, second = (network.state_dict() for network in critic.critics)
    share = (1 - difference**2) ** 0.5
    critic.critics[1].load_state_dict({name: share * first[name] + difference * second[name] for name in first})
    settings = SteinSettings(M, hessian=hessian, bound="none", step_size=0.3)
    actor = SteinActor(S, torch.ones(D), settings, (8,), "tanh").double()
    minimum = critic.minimum_at(torch.randn(1, S).double().expand(B, S))
    target = make_target("max-entropy", minimum, torch.tensor(0.5).double())

    def entropy_term(mean: Tensor) -> Tensor:
        torch.manual_seed(1)
        sample = actor.sample(DiagonalGaussian(mean.expand(B, D), torch.full((B, D), 0.6).double()), target)
        assert sample.log_prob is not None
        return sample.log_prob.mean()

    mean, h = torch.tensor([0.2, -0.1]).double().requires_grad_(), 0.02
    (derivative,) = torch.autograd.grad(entropy_term(mean), mean)
    with torch.no_grad():
        steps = h * torch.eye(D).double()
        differences = torch.stack([entropy_term(mean + e) - entropy_term(mean - e) for e in steps]) / (2 * h)
    return float((derivative - differences).norm() / differences.norm())


@pytest.mark.parametrize("hessian", ["hutchinson", "exact"])
def test_smooth_critics_have_the_right_derivative_and_elu_does_not(hessian: str) -> None:
    assert error("tanh", hessian) < 0.01
    assert error("softplus", hessian) < 0.01
    assert error("elu", hessian) > 0.1


def test_elu_has_the_right_derivative_without_the_hessian_term() -> None:
    assert error("elu", "none") < 0.02


@pytest.mark.parametrize("hessian", ["none", "hutchinson"])
def test_critics_that_cross_among_the_particles_have_the_wrong_derivative(hessian: str) -> None:
    assert error("tanh", hessian) < 0.01
    assert error("tanh", hessian, difference=0.1) > 0.05
