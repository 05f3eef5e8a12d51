"""Twin critics for all particles of a state, with their derivatives in the action by hand.

A critic is a multilayer perceptron of action and state. The state's part of its first layer is computed once for each
state, not for each particle. Of min(Q1, Q2) only the smaller critic of each particle is differentiated, and a score
carries its Hessian-vector product as its backward pass, so that no graph is differentiated twice.

Sources: Fujimoto et al., TD3, ICML 2018 (twin critics); Messaoud et al., S2AC, ICLR 2024; Pearlmutter, Neural
Computation 1994 (Hessian-vector products).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svgdx import ops
from svgdx.samplers.values import one_of


class Activation(NamedTuple):
    """An activation; its slope as a function of its value; second and third derivative, of value and slope."""

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curves: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _elu_curves(a: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    # The slope where it is under 1, else 0: faster than a mask.
    curve = -nn.functional.threshold(-slope, -1.0, 0.0)
    return curve, curve


def _relu_curves(a: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    none = torch.zeros_like(a)
    return none, none


def _softplus_curves(a: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    curve = slope * (1 - slope)
    return curve, curve * (1 - 2 * slope)


def _tanh_curves(a: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    return -2 * a * slope, -2 * slope * (1 - 3 * a.square())


ACTIVATIONS = {
    "elu": Activation(nn.functional.elu, lambda a: a.clamp_max(0).add_(1), _elu_curves),
    "relu": Activation(nn.functional.relu, lambda a: (a > 0).to(a.dtype), _relu_curves),
    "softplus": Activation(nn.functional.softplus, lambda a: -torch.expm1(-a), _softplus_curves),
    "tanh": Activation(torch.tanh, lambda a: 1 - a.square(), _tanh_curves),
}


class Critic(nn.Module):
    """Q(s, a), a multilayer perceptron whose first layer reads the action, then the state.

    Args:
        state_dim, action_dim: S and D.
        hidden: widths of the hidden layers, at least one.
        activation: one of ACTIVATIONS.

    Raises:
        ValueError: an unknown activation, or no hidden layer.
    """

    def __init__(self, state_dim: int, action_dim: int, hidden: tuple[int, ...], activation: str) -> None:
        super().__init__()
        one_of("Critic", "activation", activation, tuple(ACTIVATIONS))
        if not hidden or min(hidden) < 1:
            raise ValueError(f"Critic: hidden must be one or more positive widths, but is {hidden}")
        widths = [action_dim + state_dim, *hidden, 1]
        self.layers = nn.ModuleList(nn.Linear(one, other) for one, other in itertools.pairwise(widths))
        self.action_dim, self.activation = action_dim, activation

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers, with their type."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def state_part(self, state: Tensor) -> Tensor:
        """What the first layer makes of states (B, S), with its bias: (B, H)."""
        first = self.linear[0]
        return nn.functional.linear(state, first.weight[:, self.action_dim :], first.bias)

    def hidden(self, state_part: Tensor, action: Tensor) -> list[Tensor]:
        """Values of the hidden layers at actions (B, M, D), each (B M, H)."""
        function = ACTIVATIONS[self.activation].function
        of_action = nn.functional.linear(action, self.linear[0].weight[:, : self.action_dim])
        values = [function(of_action.add_(state_part.unsqueeze(-2)).flatten(0, 1))]
        for layer in self.linear[1:-1]:
            values.append(function(layer(values[-1])))
        return values

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Q at states (B, S) and actions (B, M, D): (B, M), differentiable in all."""
        return self.last(self.hidden(self.state_part(state), action)).view(action.shape[:-1])

    def last(self, hidden: list[Tensor]) -> Tensor:
        value: Tensor = self.linear[-1](hidden[-1]).squeeze(-1)
        return value


class TwinCritic(nn.Module):
    """Two critics of the same shape.

    Args:
        state_dim, action_dim, hidden, activation: as for Critic.
    """

    def __init__(
        self, state_dim: int, action_dim: int, hidden: tuple[int, ...] = (256, 256), activation: str = "elu"
    ) -> None:
        super().__init__()
        self.critics = nn.ModuleList(Critic(state_dim, action_dim, hidden, activation) for _ in range(2))
        self.activation = activation

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Q1 and Q2 at states (B, S) and actions (B, M, D): (2, B, M), differentiable in all."""
        return torch.stack([critic(state, action) for critic in self.critics])

    def at(self, state: Tensor) -> MinimumAt:
        """min(Q1, Q2) at states (B, S) as a function of the action; the critics' parameters are constants of it."""
        return MinimumAt(self, state)


class MinimumAt:
    """min(Q1, Q2) at B states, a function of actions (B, M, D) and of nothing else."""

    def __init__(self, twin: TwinCritic, state: Tensor) -> None:
        self.critics = [critic for critic in twin.critics if isinstance(critic, Critic)]
        self.state = state.detach()
        with torch.no_grad():
            self.state_parts = [critic.state_part(self.state) for critic in self.critics]
        self.weights = [[layer.weight.detach() for layer in critic.linear] for critic in self.critics]
        self.biases = [[layer.bias.detach() for layer in critic.linear] for critic in self.critics]
        self.activation = twin.activation

    def value(self, action: Tensor) -> Tensor:
        """(B, M), differentiable in the action any number of times by autograd."""
        function = ACTIVATIONS[self.activation].function
        values = []
        for part, weights, biases in zip(self.state_parts, self.weights, self.biases, strict=True):
            first = nn.functional.linear(action, weights[0][:, : action.shape[-1]])
            z = function(first + part.unsqueeze(-2))
            for weight, bias in zip(weights[1:-1], biases[1:-1], strict=True):
                z = function(nn.functional.linear(z, weight, bias))
            values.append(nn.functional.linear(z, weights[-1], biases[-1]).squeeze(-1))
        return torch.minimum(*values)

    def score(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Value (B, M) and gradient (B, M, D), differentiable in the action once."""
        value, score, _, _ = _Derivatives.apply(action, None, self)
        return value, score

    def score_hvp(self, action: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value (B, M), gradient and Hessian times probe (B, M, D), or (V, B, M, D) for probes (V, B, M, D).

        Detached; by `ops.mlp_score_hvp`.
        """
        lead = probe.shape[: probe.dim() - action.dim()]
        at = action.detach().expand(probe.shape).contiguous()
        state = self.state.to(at.dtype).expand(*lead, *self.state.shape).contiguous()
        found = [
            ops.mlp_score_hvp(at, state, weights, biases, self.activation, probe.contiguous())
            for weights, biases in zip(self.weights, self.biases, strict=True)
        ]
        (q1, score1, hvp1), (q2, score2, hvp2) = found
        first = _is_first(q1, q2).unsqueeze(-1)
        value, score = torch.minimum(q1, q2), torch.where(first, score1, score2)
        hvp = torch.where(first, hvp1, hvp2)
        return (value[(0,) * len(lead)], score[(0,) * len(lead)], hvp) if lead else (value, score, hvp)

    def curvature(self, action: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Value (B, M), gradient (B, M, D), v . H v (B, M) and H v (B, M, D) for the probe v (B, M, D).

        The first three are differentiable in the action once, H v is detached.
        """
        found: tuple[Tensor, Tensor, Tensor, Tensor] = _Derivatives.apply(action, probe, self)
        return found


class _Rows(NamedTuple):
    """The particles whose smaller critic is one of the two, and what its sweeps left there."""

    particles: Tensor  # their indices among all B M, (N,)
    critic: int
    values: list[Tensor]  # of the hidden layers, (N, H)
    slopes: list[Tensor]  # the activation's first derivative there
    back: list[Tensor]  # the gradient of Q in the hidden layers' values, (N, H)


class _Derivatives(torch.autograd.Function):
    """Value, score, v . H v and H v of min(Q1, Q2); the backward pass is H g and the gradient of v . H v."""

    @staticmethod
    def forward(ctx: Any, action: Tensor, probe: Tensor | None, at: MinimumAt) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        groups, value = _smaller(at, action)
        score = torch.empty_like(action).view(-1, action.shape[-1])
        third, hvp, form = torch.zeros_like(score), torch.zeros_like(score), torch.zeros_like(value)
        for rows in groups:
            weight = at.weights[rows.critic][0][:, : action.shape[-1]]
            score[rows.particles] = (rows.back[0] * rows.slopes[0]) @ weight
            if probe is not None:
                v = probe.reshape(-1, probe.shape[-1])[rows.particles]
                first, second = _along(at, rows, v, 2)
                hvp[rows.particles], third[rows.particles] = first, second
                form[rows.particles] = torch.linalg.vecdot(first, v)
        made = value.view(action.shape[:-1]), score.view_as(action), form.view(action.shape[:-1]), hvp.view_as(action)
        ctx.mark_non_differentiable(made[3])
        ctx.groups, ctx.at, ctx.shape = groups, at, action.shape
        ctx.score, ctx.third = made[1].detach(), third.view_as(action)
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_value: Tensor, of_score: Tensor, of_form: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        flat = of_score.reshape(-1, of_score.shape[-1])
        grad = torch.empty_like(flat)
        for rows in ctx.groups:
            (grad[rows.particles],) = _along(ctx.at, rows, flat[rows.particles], 1)
        grad = grad.view(ctx.shape)
        grad = grad + of_value.unsqueeze(-1) * ctx.score + of_form.unsqueeze(-1) * ctx.third
        return grad, None, None


def _is_first(one: Tensor, other: Tensor) -> Tensor:
    """Where Q1 is the minimum; a NaN is, as in torch.minimum."""
    return (one <= other) | one.isnan()


def _smaller(at: MinimumAt, action: Tensor) -> tuple[list[_Rows], Tensor]:
    """Both critics forward, the smaller one of each particle backward to its first hidden layer; min(Q1, Q2), (B M)."""
    activation = ACTIVATIONS[at.activation]
    sweeps = [critic.hidden(part, action) for critic, part in zip(at.critics, at.state_parts, strict=True)]
    values = [critic.last(sweep) for critic, sweep in zip(at.critics, sweeps, strict=True)]
    first = _is_first(*values)
    groups = []
    for k, (sweep, chosen) in enumerate(zip(sweeps, (first, ~first), strict=True)):
        index = chosen.nonzero().squeeze(-1)
        if index.numel() == 0:
            continue
        kept = sweep if index.numel() == len(chosen) else [value.index_select(0, index) for value in sweep]
        slopes = [activation.slope(value) for value in kept]
        back = [at.weights[k][-1].expand_as(kept[-1])]
        for weight, slope in zip(at.weights[k][-2:0:-1], slopes[:0:-1], strict=True):
            back.insert(0, (back[0] * slope) @ weight)
        groups.append(_Rows(index, k, kept, slopes, back))
    return groups, torch.minimum(*values)


def _along(at: MinimumAt, rows: _Rows, direction: Tensor, order: int) -> list[Tensor]:
    """Derivatives of the gradient of Q at x + t v in t at 0, first to `order` (at most second), each (N, D).

    The first is H v, the second the gradient of v . H v in x.
    """
    weights, activation = at.weights[rows.critic], ACTIVATIONS[at.activation]
    curves = [activation.curves(value, slope) for value, slope in zip(rows.values, rows.slopes, strict=True)]
    first = weights[0][:, : direction.shape[-1]]
    inputs: list[tuple[Tensor, Tensor | None]] = []
    z1, z2 = direction, None
    for weight, slope, (curve, _) in zip([first, *weights[1:-1]], rows.slopes, curves, strict=True):
        h1, h2 = z1 @ weight.mT, None if z2 is None else z2 @ weight.mT
        inputs.append((h1, h2))
        z1 = slope * h1
        if order == 2:
            z2 = curve * h1.square() if h2 is None else torch.addcmul(slope * h2, curve, h1.square())
    g1: Tensor | None = None
    g2: Tensor | None = None
    for k in reversed(range(len(inputs))):
        (h1, h2), slope, (curve, third), g = inputs[k], rows.slopes[k], curves[k], rows.back[k]
        bend = curve * h1
        d1 = g * bend if g1 is None else torch.addcmul(g * bend, g1, slope)
        weight = first if k == 0 else weights[k]
        if order == 2:
            d2 = third * h1.square() if h2 is None else torch.addcmul(third * h1.square(), curve, h2)
            d2 = g * d2
            if g1 is not None and g2 is not None:
                d2 = torch.addcmul(torch.addcmul(d2, g2, slope), g1, bend, value=2)
            g2 = d2 @ weight
        g1 = d1 @ weight
    assert g1 is not None
    return [g1] if g2 is None else [g1, g2]


__all__ = ["ACTIVATIONS", "Critic", "MinimumAt", "TwinCritic"]
