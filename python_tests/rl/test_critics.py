"""Derivatives of the twin critics, and of the two targets, against autograd in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from svgdx.activations import FROM_VALUE
from svgdx.rl.critics import TwinCritic
from svgdx.rl.targets import TARGETS, log_tanh_slope, make_target
from svgdx.samplers.targets import Target

B, M, S, D = 5, 7, 4, 3


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def twin(activation: str, hidden: tuple[int, ...] = (16, 16)) -> TwinCritic:
    """Critics of which each is the smaller one somewhere."""
    made = TwinCritic(S, D, hidden, activation)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        q1, q2 = made(torch.randn(200, S), torch.randn(200, 1, D))
        made.critics[1].layers[-1].bias -= (q2 - q1).median()
    return made


def plain(made: TwinCritic, state: Tensor, action: Tensor) -> Tensor:
    """min(Q1, Q2) written plainly: states repeated for each particle."""
    inputs = torch.cat([action, state[:, None].expand(*action.shape[:-1], -1)], -1)
    values = []
    for critic in made.critics:
        z = inputs
        for layer in list(critic.layers)[:-1]:
            z = getattr(torch.nn.functional, critic.activation)(layer(z))
        values.append(critic.layers[-1](z).squeeze(-1))
    assert bool((values[0] < values[1]).any())
    assert bool((values[0] > values[1]).any())
    return torch.minimum(*values)


@pytest.mark.parametrize("hidden", [(16,), (16, 16), (8, 16, 12)], ids=str)
@pytest.mark.parametrize("activation", FROM_VALUE)
def test_derivatives_of_the_smaller_critic(activation: str, hidden: tuple[int, ...]) -> None:
    made, state, probe = twin(activation, hidden), torch.randn(B, S), torch.randn(B, M, D)
    action = torch.randn(B, M, D, requires_grad=True)
    value = plain(made, state, action)
    (score,) = torch.autograd.grad(value.sum(), action, create_graph=True)
    second = score.requires_grad and activation != "relu"
    hvp = torch.autograd.grad(score, action, probe, create_graph=True)[0] if second else torch.zeros_like(score)
    form = (hvp * probe).sum(-1)

    at = made.at(state)
    torch.testing.assert_close(at.value(action), value)
    torch.testing.assert_close(at.score(action), (value, score))
    torch.testing.assert_close(at.score_hvp(action, probe), (value, score, hvp))
    found = at.curvature(action, probe)
    torch.testing.assert_close(found, (value, score, form, hvp))

    upstream = [torch.randn_like(each) for each in (value, score, form)]
    expected = [(value * upstream[0]).sum(), (score * upstream[1]).sum(), (form * upstream[2]).sum()]
    sums = [(each * up).sum() for each, up in zip(found, upstream, strict=False)]
    for k, (one, other) in enumerate(zip(sums, expected, strict=True)):
        if other.requires_grad and (k == 0 or second):
            (known,) = torch.autograd.grad(other, action, retain_graph=True)
        else:
            known = torch.zeros_like(action)
        (gradient,) = torch.autograd.grad(one, action, retain_graph=True)
        torch.testing.assert_close(gradient, known)


def test_values_of_both_critics_train_their_parameters() -> None:
    made, state, action = twin("elu"), torch.randn(B, S), torch.randn(B, M, D)
    both = made(state, action)
    assert both.shape == (2, B, M)
    torch.testing.assert_close(both.amin(0), plain(made, state, action))
    both.sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    made.zero_grad()
    at = made.at(state)
    u = action.requires_grad_()
    (at.value(u).sum() + at.score(u)[1].sum() + at.curvature(u, torch.ones_like(u))[2].sum()).backward()
    assert all(parameter.grad is None for parameter in made.parameters())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("hessian", ["none", "hutchinson", "exact"])
@pytest.mark.parametrize("graph", [False, True])
def test_targets_have_the_derivatives_of_their_log_density(name: str, hessian: str, graph: bool) -> None:
    made, state, alpha = twin("softplus"), torch.randn(B, S), torch.tensor(0.3)
    target = make_target(name, made.at(state), alpha)
    u = torch.randn(B, M, D, requires_grad=True)

    def log_prob(u: Tensor) -> Tensor:
        if name == "s2ac":
            return plain(made, state, u)
        return plain(made, state, u.tanh()) / alpha + (1 - u.tanh().square()).log().sum(-1)

    found = target.derivatives(u, hessian, graph)
    reference = Target(log_prob).derivatives(u, "exact" if hessian == "exact" else "none", True)
    if hessian == "hutchinson":
        assert found.probe is not None
        assert bool((found.probe.abs() == 1).all())
        (hvp,) = torch.autograd.grad(reference.score, u, found.probe, create_graph=True)
        reference = reference._replace(trace=(found.probe * hvp).sum(-1), probe=found.probe, hvp=hvp)
    torch.testing.assert_close(target.log_prob(u), log_prob(u))
    for one, other in zip(found, reference, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one.detach(), other.detach())
            assert graph or not one.requires_grad
    if not graph:
        return
    differentiable = [
        (one, other)
        for one, other in zip(found[:3], reference[:3], strict=True)
        if one is not None and other is not None
    ]
    for one, other in differentiable:
        upstream = torch.randn_like(one)
        expected = torch.autograd.grad(other, u, upstream, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(one, u, upstream, retain_graph=True), expected)


def test_the_slope_of_tanh_keeps_its_digits() -> None:
    u = torch.tensor([0.0, 1.0, -1.0, 30.0, -30.0])
    exact = [0.0, math.log(1 - math.tanh(1) ** 2), math.log(1 - math.tanh(1) ** 2), *[math.log(4) - 60] * 2]
    torch.testing.assert_close(log_tanh_slope(u), torch.tensor(exact))


def test_bad_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Critic: activation must be one of tanh, softplus, elu, relu, but is 'gelu'"):
        TwinCritic(S, D, (8,), "gelu")
    with pytest.raises(ValueError, match="Critic: hidden must be one or more positive widths"):
        TwinCritic(S, D, ())
