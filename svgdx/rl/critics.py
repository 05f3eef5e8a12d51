"""Twin critics at all particles of a state, with hand-written derivatives in the action.

A critic is a multilayer perceptron of action and state. The state's part of its first layer is computed once per state
instead of once per particle. Of min(Q1, Q2), only the smaller critic of each particle is differentiated, and the
backward pass of a score is a Hessian-vector product, so no graph is differentiated twice.

Sources: Fujimoto et al., TD3, ICML 2018 (twin critics); Messaoud et al., S2AC, ICLR 2024.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from svgdx import ops
from svgdx._checks import one_of
from svgdx.activations import FROM_VALUE
from svgdx.rl.sweeps import Network, PlainSweeps, first_is_smaller, sweeps_of


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
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths))
        self.action_dim, self.activation = action_dim, activation

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def network_at(self, state: Tensor) -> Network:
        """Q at states (B, S) as a function of the action, differentiable in states and parameters."""
        first, *later = self.linear
        of_action, of_state = first.weight[:, : self.action_dim], first.weight[:, self.action_dim :]
        shift = nn.functional.linear(state, of_state, first.bias)
        weights = [of_action, *(layer.weight for layer in later)]
        return Network(shift, weights, [layer.bias for layer in later], self.activation)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Q at states (B, S) and actions (B, M, D): (B, M), differentiable in states, actions and parameters."""
        return self.network_at(state).value(action)


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

    @property
    def pair(self) -> list[Critic]:
        """Both critics, typed."""
        return [critic for critic in self.critics if isinstance(critic, Critic)]

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Q1 and Q2 at states (B, S) and actions (B, M, D): (2, B, M), differentiable in all arguments."""
        return torch.stack([critic(state, action) for critic in self.critics])

    def minimum_at(self, state: Tensor) -> MinimumQ:
        """min(Q1, Q2) at states (B, S) as a function of the action; states and parameters are constants of it."""
        return MinimumQ(self, state)


class MinimumQ:
    """min(Q1, Q2) at B states, as a function of actions (B, M, D) alone.

    It is a snapshot for one chain of particles: it must not outlive an update of the critics.
    """

    def __init__(self, twin: TwinCritic, state: Tensor) -> None:
        self.twin, self.state = twin, state.detach()
        with torch.no_grad():
            self.networks = [critic.network_at(self.state).detach() for critic in twin.pair]
        self.sweeps = sweeps_of(self.networks)

    def value(self, action: Tensor) -> Tensor:
        """The minimum (B, M), differentiable in the action any number of times by autograd."""
        if not (torch.is_grad_enabled() and action.requires_grad):
            return self.sweeps.minimum(action, 0)[0]
        return torch.minimum(*(network.value(action) for network in self.networks))

    def value_once(self, action: Tensor) -> Tensor:
        """The minimum (B, M), differentiable in the action once, and faster than `value`."""
        value: Tensor = _Value.apply(action, self)
        return value

    def score(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """The minimum (B, M) and its gradient (B, M, D), differentiable in the action once."""
        if not (torch.is_grad_enabled() and action.requires_grad):
            value, score, _ = self.sweeps.minimum(action, 1)
            assert score is not None
            return value, score
        value, score, _, _ = _Derivatives.apply(action, None, self)
        return value, score

    def score_hvp(self, action: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The minimum (B, M), its gradient (B, M, D) and its Hessian times the probe; detached.

        Args:
            action: (B, M, D).
            probe: (B, M, D), or V probes (V, B, M, D); the product has the same shape.
        """
        if isinstance(self.sweeps, PlainSweeps):
            return self._score_hvp_by_op(action, probe)
        value, score, tape = self.sweeps.minimum(action, 2)
        assert score is not None
        if probe.dim() == action.dim():
            return value, score, self.sweeps.along(tape, probe, 1)[0]
        return value, score, torch.stack([self.sweeps.along(tape, direction, 1)[0] for direction in probe])

    def _score_hvp_by_op(self, action: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same by `svgdx.ops.mlp_score_hvp`, which is fused on devices without compiled sweeps as well."""
        lead = probe.shape[: probe.dim() - action.dim()]
        x = action.detach().expand(probe.shape).contiguous()
        state = self.state.to(x.dtype).expand(*lead, *self.state.shape).contiguous()
        (q1, score1, hvp1), (q2, score2, hvp2) = (
            ops.mlp_score_hvp(
                x,
                state,
                [layer.weight.detach() for layer in critic.linear],
                [layer.bias.detach() for layer in critic.linear],
                critic.activation,
                probe.contiguous(),
            )
            for critic in self.twin.pair
        )
        first = first_is_smaller(q1, q2).unsqueeze(-1)
        value, score = torch.minimum(q1, q2), torch.where(first, score1, score2)
        # Value and score are the same for every probe.
        one = (0,) * len(lead)
        return value[one], score[one], torch.where(first, hvp1, hvp2)

    def curvature(self, action: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The minimum (B, M), its gradient (B, M, D), v . H v (B, M) and H v (B, M, D) for the probe v (B, M, D).

        The first three are differentiable in the action once, H v is detached.
        """
        derivatives: tuple[Tensor, Tensor, Tensor, Tensor] = _Derivatives.apply(action, probe, self)
        return derivatives


class _Value(torch.autograd.Function):
    """min(Q1, Q2), with the gradient computed in the same sweep."""

    @staticmethod
    def forward(ctx: Any, action: Tensor, critic: MinimumQ) -> Tensor:
        value, ctx.score, _ = critic.sweeps.minimum(action, 1 if ctx.needs_input_grad[0] else 0)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_value: Tensor) -> tuple[Tensor, None]:
        return of_value.unsqueeze(-1) * ctx.score, None


class _Derivatives(torch.autograd.Function):
    """Value, score, v . H v and H v of min(Q1, Q2); the backward pass is H g and the gradient of v . H v."""

    @staticmethod
    def forward(ctx: Any, action: Tensor, probe: Tensor | None, critic: MinimumQ) -> tuple[Tensor | None, ...]:
        value, score, ctx.tape = critic.sweeps.minimum(action, 2)
        assert score is not None
        form = hvp = ctx.third = None
        if probe is not None:
            hvp, ctx.third = critic.sweeps.along(ctx.tape, probe, 2)
            form = torch.linalg.vecdot(hvp, probe)
            ctx.mark_non_differentiable(hvp)
        ctx.set_materialize_grads(False)
        ctx.sweeps, ctx.score = critic.sweeps, score.detach()
        return value, score, form, hvp

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_value: Tensor | None, of_score: Tensor | None, of_form: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        terms = [] if of_score is None else ctx.sweeps.along(ctx.tape, of_score, 1)
        if of_value is not None:
            terms.append(of_value.unsqueeze(-1) * ctx.score)
        if of_form is not None:
            terms.append(of_form.unsqueeze(-1) * ctx.third)
        return sum(terms[1:], terms[0]) if terms else None, None, None


__all__ = ["Critic", "MinimumQ", "TwinCritic"]
