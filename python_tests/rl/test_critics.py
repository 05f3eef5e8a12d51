"""Derivatives of the twin critics and of both targets, against autograd in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from svgdx.activations import FROM_VALUE
from svgdx.rl.critics import Critics
from svgdx.rl.targets import TARGETS, log_tanh_slope, make_target
from svgdx.samplers.targets import Target

B, M, S, D = 5, 7, 4, 3

pytestmark = pytest.mark.usefixtures("double")


def make_twin(activation: str, hidden: tuple[int, ...] = (16, 16)) -> Critics:
    """Two critics, each the smaller one somewhere."""
    twin = Critics(S, D, hidden, activation)
    for parameter in twin.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        q1, q2 = twin(torch.randn(200, S), torch.randn(200, 1, D))
        twin.critics[1].layers[-1].bias -= (q2 - q1).median()
    return twin


def plain(twin: Critics, state: Tensor, action: Tensor) -> Tensor:
    """min(Q1, Q2) written plainly, with the state repeated for each particle."""
    inputs = torch.cat([action, state[:, None].expand(*action.shape[:-1], -1)], -1)
    values = []
    for critic in twin.critics:
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
    twin, state, probe = make_twin(activation, hidden), torch.randn(B, S), torch.randn(B, M, D)
    action = torch.randn(B, M, D, requires_grad=True)
    value = plain(twin, state, action)
    (score,) = torch.autograd.grad(value.sum(), action, create_graph=True)
    is_curved = score.requires_grad and activation != "relu"
    hvp = torch.autograd.grad(score, action, probe, create_graph=True)[0] if is_curved else torch.zeros_like(score)
    form = (hvp * probe).sum(-1)

    minimum = twin.minimum_at(state)
    torch.testing.assert_close(minimum.value(action), value)
    torch.testing.assert_close(minimum.score(action), (value, score))
    torch.testing.assert_close(minimum.score_hvp(action, probe), (value, score, hvp))
    outputs = minimum.curvature(action, probe)
    torch.testing.assert_close(outputs, (value, score, form, hvp))

    for order, (output, reference) in enumerate(zip(outputs[:3], (value, score, form), strict=True)):
        upstream = torch.randn_like(reference)
        expected = torch.zeros_like(action)
        if reference.requires_grad and (order == 0 or is_curved):
            (expected,) = torch.autograd.grad(reference, action, upstream, retain_graph=True)
        (gradient,) = torch.autograd.grad(output, action, upstream, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


def test_values_of_both_critics_train_their_parameters() -> None:
    twin, state, action = make_twin("elu"), torch.randn(B, S), torch.randn(B, M, D)
    q = twin(state, action)
    assert q.shape == (2, B, M)
    torch.testing.assert_close(q.amin(0), plain(twin, state, action))
    q.sum().backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())


def test_the_minimum_at_states_leaves_the_parameters_alone() -> None:
    twin, u = make_twin("elu"), torch.randn(B, M, D, requires_grad=True)
    minimum = twin.minimum_at(torch.randn(B, S))
    (minimum.value(u).sum() + minimum.score(u)[1].sum() + minimum.curvature(u, torch.ones_like(u))[2].sum()).backward()
    assert u.grad is not None
    assert all(parameter.grad is None for parameter in twin.parameters())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("hessian", ["none", "hutchinson", "exact"])
@pytest.mark.parametrize("graph", [False, True])
def test_targets_have_the_derivatives_of_their_log_density(name: str, hessian: str, graph: bool) -> None:
    twin, state, alpha = make_twin("softplus"), torch.randn(B, S), torch.tensor(0.3)
    target = make_target(name, twin.minimum_at(state), alpha)
    u = torch.randn(B, M, D, requires_grad=True)

    def log_prob(u: Tensor) -> Tensor:
        if name == "s2ac":
            return plain(twin, state, u)
        return plain(twin, state, u.tanh()) / alpha + (1 - u.tanh().square()).log().sum(-1)

    derivatives = target.derivatives(u, hessian, graph)
    reference = Target(log_prob).derivatives(u, "exact" if hessian == "exact" else "none", True)
    if hessian == "hutchinson":
        probe = derivatives.probe
        assert probe is not None
        assert bool((probe.abs() == 1).all())
        (hvp,) = torch.autograd.grad(reference.score, u, probe, create_graph=True)
        reference = reference._replace(trace=(probe * hvp).sum(-1), probe=probe, hvp=hvp)
    torch.testing.assert_close(target.log_prob(u), log_prob(u))
    for index, (actual, expected) in enumerate(zip(derivatives, reference, strict=True)):
        assert (actual is None) == (expected is None)
        if actual is None or expected is None:
            continue
        torch.testing.assert_close(actual.detach(), expected.detach())
        if not graph:
            assert not actual.requires_grad
        elif index < 3:
            # Score, log density and trace are differentiable.
            upstream = torch.randn_like(actual)
            expected_gradient = torch.autograd.grad(expected, u, upstream, retain_graph=True)
            gradient = torch.autograd.grad(actual, u, upstream, retain_graph=True)
            torch.testing.assert_close(gradient, expected_gradient)


def test_the_slope_of_tanh_keeps_its_digits() -> None:
    u = torch.tensor([0.0, 1.0, -1.0, 30.0, -30.0])
    exact = [0.0, math.log(1 - math.tanh(1) ** 2), math.log(1 - math.tanh(1) ** 2), *[math.log(4) - 60] * 2]
    torch.testing.assert_close(log_tanh_slope(u), torch.tensor(exact))


def test_bad_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Critic: activation must be one of tanh, softplus, elu, relu, but is 'gelu'"):
        Critics(S, D, (8,), "gelu")
    with pytest.raises(ValueError, match="Critic: hidden must be positive widths"):
        Critics(S, D, (8, 0))
