"""Twin critics for all particles of a state, with their derivatives in the action by hand.

A critic is a multilayer perceptron of action and state. The state's part of its first layer is computed once for each
state, not for each particle. Of min(Q1, Q2) only the smaller critic of each particle is differentiated, and a score
carries its Hessian-vector product as its backward pass, so that no graph is differentiated twice.

Sources: Fujimoto et al., TD3, ICML 2018 (twin critics); Messaoud et al., S2AC, ICLR 2024; Pearlmutter, Neural
Computation 1994 (Hessian-vector products).
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from svgdx import ops
from svgdx.activations import ACTIVATIONS, FROM_VALUE
from svgdx.rl import _engine, _sweeps
from svgdx.rl._sweeps import Networks, is_first
from svgdx.samplers.values import one_of


class Critic(nn.Module):
    """Q(s, a), a multilayer perceptron whose first layer reads the action, then the state.

    Args:
        state_dim, action_dim: S and D.
        hidden: widths of the hidden layers, at least one.
        activation: one of `svgdx.activations.FROM_VALUE`.

    Raises:
        ValueError: an unknown activation, or no hidden layer.
    """

    def __init__(self, state_dim: int, action_dim: int, hidden: tuple[int, ...], activation: str) -> None:
        super().__init__()
        one_of("Critic", "activation", activation, tuple(FROM_VALUE))
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
        self.action_dim, self.activation = action_dim, activation

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Q1 and Q2 at states (B, S) and actions (B, M, D): (2, B, M), differentiable in all."""
        return torch.stack([critic(state, action) for critic in self.critics])

    def at(self, state: Tensor) -> MinimumAt:
        """min(Q1, Q2) at states (B, S) as a function of the action; the critics' parameters are constants of it."""
        return MinimumAt(self, state)


class MinimumAt:
    """min(Q1, Q2) at B states, a function of actions (B, M, D) and of nothing else."""

    def __init__(self, twin: TwinCritic, state: Tensor) -> None:
        critics = [critic for critic in twin.critics if isinstance(critic, Critic)]
        self.state = state.detach()
        with torch.no_grad():
            shift = torch.stack([critic.state_part(self.state) for critic in critics])
        self.weights = [[layer.weight.detach() for layer in critic.linear] for critic in critics]
        self.biases = [[layer.bias.detach() for layer in critic.linear] for critic in critics]
        of_action = [[each[0][:, : twin.action_dim], *each[1:]] for each in self.weights]
        self.networks = Networks(shift, of_action, [each[1:] for each in self.biases], twin.activation)
        self.packed = _engine.pack(self.networks) if _engine.usable(self.networks) else None

    def value(self, action: Tensor) -> Tensor:
        """(B, M), differentiable in the action any number of times by autograd."""
        if not (torch.is_grad_enabled() and action.requires_grad):
            return self.sweep(action, 0)[0]
        networks, function = self.networks, ACTIVATIONS[self.networks.activation].function
        values = []
        for shift, weights, biases in zip(networks.shift, networks.weights, networks.biases, strict=True):
            z = function(nn.functional.linear(action, weights[0]) + shift.unsqueeze(-2))
            for weight, bias in zip(weights[1:-1], biases[:-1], strict=True):
                z = function(nn.functional.linear(z, weight, bias))
            values.append(nn.functional.linear(z, weights[-1], biases[-1]).squeeze(-1))
        return torch.minimum(*values)

    def value_once(self, action: Tensor) -> Tensor:
        """(B, M), differentiable in the action once, and faster than `value`."""
        value: Tensor = _Value.apply(action, self)
        return value

    def score(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Value (B, M) and gradient (B, M, D), differentiable in the action once."""
        if not (torch.is_grad_enabled() and action.requires_grad):
            value, score, _ = self.sweep(action, 1)
            assert score is not None
            return value, score
        value, score, _, _ = _Derivatives.apply(action, None, self)
        return value, score

    def score_hvp(self, action: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value (B, M), gradient and Hessian times probe (B, M, D), or (V, B, M, D) for probes (V, B, M, D).

        Detached. Without compiled sweeps by `ops.mlp_score_hvp`.
        """
        if self.packed is None:
            return self._score_hvp_by_op(action, probe)
        value, score, kept = self.sweep(action, 2)
        assert score is not None
        if probe.dim() == action.dim():
            return value, score, self.along(kept, probe, 1)[0]
        return value, score, torch.stack([self.along(kept, each, 1)[0] for each in probe])

    def _score_hvp_by_op(self, action: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lead = probe.shape[: probe.dim() - action.dim()]
        at = action.detach().expand(probe.shape).contiguous()
        state = self.state.to(at.dtype).expand(*lead, *self.state.shape).contiguous()
        found = [
            ops.mlp_score_hvp(at, state, weights, biases, self.networks.activation, probe.contiguous())
            for weights, biases in zip(self.weights, self.biases, strict=True)
        ]
        (q1, score1, hvp1), (q2, score2, hvp2) = found
        first = is_first(q1, q2).unsqueeze(-1)
        value, score = torch.minimum(q1, q2), torch.where(first, score1, score2)
        hvp = torch.where(first, hvp1, hvp2)
        return (value[(0,) * len(lead)], score[(0,) * len(lead)], hvp) if lead else (value, score, hvp)

    def curvature(self, action: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Value (B, M), gradient (B, M, D), v . H v (B, M) and H v (B, M, D) for the probe v (B, M, D).

        The first three are differentiable in the action once, H v is detached.
        """
        found: tuple[Tensor, Tensor, Tensor, Tensor] = _Derivatives.apply(action, probe, self)
        return found

    def sweep(self, action: Tensor, depth: int) -> tuple[Tensor, Tensor | None, Any]:
        """Value, for a depth of 1 or more its gradient, and for one of 2 what `along` needs; detached."""
        if self.packed is not None:
            return _engine.minimum(self.packed, action, depth)
        return _sweeps.minimum(self.networks, action.detach(), depth)

    def along(self, kept: Any, direction: Tensor, order: int) -> list[Tensor]:
        """H v, and for an order of 2 the gradient of v . H v in the action; (B, M, D) each, detached."""
        if self.packed is not None:
            return _engine.along(self.packed, kept, direction, order)
        return _sweeps.along(self.networks, kept, direction, order)


class _Value(torch.autograd.Function):
    """min(Q1, Q2), and the gradient that was computed beside it."""

    @staticmethod
    def forward(ctx: Any, action: Tensor, at: MinimumAt) -> Tensor:
        value, ctx.score, _ = at.sweep(action, 1 if ctx.needs_input_grad[0] else 0)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_value: Tensor) -> tuple[Tensor, None]:
        return of_value.unsqueeze(-1) * ctx.score, None


class _Derivatives(torch.autograd.Function):
    """Value, score, v . H v and H v of min(Q1, Q2); the backward pass is H g and the gradient of v . H v."""

    @staticmethod
    def forward(ctx: Any, action: Tensor, probe: Tensor | None, at: MinimumAt) -> tuple[Tensor | None, ...]:
        value, score, kept = at.sweep(action, 2)
        assert score is not None
        form = hvp = ctx.third = None
        if probe is not None:
            hvp, ctx.third = at.along(kept, probe, 2)
            form = torch.linalg.vecdot(hvp, probe)
            ctx.mark_non_differentiable(hvp)
        ctx.set_materialize_grads(False)
        ctx.kept, ctx.at, ctx.score = kept, at, score.detach()
        return value, score, form, hvp

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_value: Tensor | None, of_score: Tensor | None, of_form: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        parts = [] if of_score is None else ctx.at.along(ctx.kept, of_score, 1)
        if of_value is not None:
            parts.append(of_value.unsqueeze(-1) * ctx.score)
        if of_form is not None:
            parts.append(of_form.unsqueeze(-1) * ctx.third)
        return sum(parts[1:], parts[0]) if parts else None, None, None


__all__ = ["Critic", "MinimumAt", "TwinCritic"]
