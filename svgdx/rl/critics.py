"""Critics at all particles of a state, with hand-written derivatives of their minimum in the action.

A critic is a multilayer perceptron of action and state. The state's part of its first layer is computed once per state
instead of once per particle. The backward pass of a score is a Hessian-vector product, so no graph is differentiated
twice.

Sources: Fujimoto et al., TD3, ICML 2018 (twin critics); Messaoud et al., S2AC, ICLR 2024.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from svgdx import ops
from svgdx._checks import one_of
from svgdx.activations import FROM_VALUE
from svgdx.densities.linear import Linear, linear
from svgdx.rl.sweeps import Network, PlainSweeps, sweeps_of


class Critic(nn.Module):
    """Q(s, a), a multilayer perceptron whose first layer reads the action, then the state.

    Args:
        state_dim, action_dim: S and D.
        hidden: widths of the hidden layers; without any, Q is linear.
        activation: one of `svgdx.activations.FROM_VALUE`.

    Raises:
        ValueError: an unknown activation, or a width that is not positive.
    """

    def __init__(self, state_dim: int, action_dim: int, hidden: tuple[int, ...], activation: str) -> None:
        super().__init__()
        one_of("Critic", "activation", activation, tuple(FROM_VALUE))
        if min(hidden, default=1) < 1:
            raise ValueError(f"Critic: hidden must be positive widths, but is {hidden}")
        widths = [action_dim + state_dim, *hidden, 1]
        self.layers = nn.ModuleList(Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths))
        self.action_dim, self.activation = action_dim, activation

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def network_at(self, state: Tensor) -> Network:
        """Q at states (B, S) as a function of the action, differentiable in states and parameters."""
        first, *later = self.linear
        of_action, of_state = first.weight[:, : self.action_dim], first.weight[:, self.action_dim :]
        shift = linear(state, of_state, first.bias)
        weights = [of_action, *(layer.weight for layer in later)]
        return Network(shift, weights, [layer.bias for layer in later], self.activation)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Q at states (B, S) and actions (B, M, D): (B, M), differentiable in states, actions and parameters."""
        return self.network_at(state).value(action)


class Critics(nn.Module):
    """Critics of the same shape, two as a rule.

    Args:
        state_dim, action_dim, hidden, activation: as for Critic.
        n_critics: how many.
        features_extractor: of Stable-Baselines3, which turns observations into states; the owner calls it.

    Raises:
        ValueError: n_critics is below 1, or as for Critic.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "elu",
        n_critics: int = 2,
        features_extractor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if n_critics < 1:
            raise ValueError(f"Critics: n_critics must be at least 1, but is {n_critics}")
        self.features_extractor = features_extractor
        self.critics = nn.ModuleList(Critic(state_dim, action_dim, hidden, activation) for _ in range(n_critics))

    @property
    def members(self) -> list[Critic]:
        """All critics, typed."""
        return [critic for critic in self.critics if isinstance(critic, Critic)]

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Every Q at states (B, S) and actions (B, M, D): (N, B, M), differentiable in all arguments.

        Raises ValueError for actions of another shape.
        """
        count, dim = len(state), self.members[0].action_dim
        if action.dim() != 3 or action.shape[0] != count or action.shape[2] != dim:
            raise ValueError(f"Critics: action must have shape ({count}, M, {dim}), but has {tuple(action.shape)}")
        return torch.stack([critic(state, action) for critic in self.critics])

    def minimum_at(self, state: Tensor) -> MinimumQ:
        """The least Q at states (B, S) as a function of the action; states and parameters are constants of it."""
        return MinimumQ(self, state)


class MinimumQ:
    """The least Q at B states, as a function of actions (B, M, D) alone.

    It is a snapshot for one chain of particles: it must not outlive an update of the critics.
    """

    def __init__(self, critics: Critics, state: Tensor) -> None:
        self.critics, self.state = critics, state.detach()
        with torch.no_grad():
            self.networks = [critic.network_at(self.state).detach() for critic in critics.members]
        self.sweeps = sweeps_of(self.networks)

    def value(self, action: Tensor) -> Tensor:
        """The minimum (B, M), differentiable in the action any number of times by autograd."""
        if not (torch.is_grad_enabled() and action.requires_grad):
            return self.sweeps.minimum(action, 0)[0]
        return functools.reduce(torch.minimum, (network.value(action) for network in self.networks))

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
        # A program that is exported is to consist of torch's own operations as far as possible.
        by_op = len(self.networks[0].weights) > 1 and not torch.compiler.is_exporting()
        if by_op and isinstance(self.sweeps, PlainSweeps):
            return self._score_hvp_by_op(action, probe)
        value, score, tape = self.sweeps.minimum(action, 2)
        assert score is not None
        if probe.dim() == action.dim():
            return value, score, self.sweeps.along(tape, probe, 1)[0]  # type: ignore[arg-type]
        products = [self.sweeps.along(tape, direction, 1)[0] for direction in probe]  # type: ignore[arg-type]
        return value, score, torch.stack(products)

    def _score_hvp_by_op(self, action: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same by `svgdx.ops.mlp_score_hvp`, which is fused on devices without compiled sweeps as well."""
        lead = probe.shape[: probe.dim() - action.dim()]
        x = action.detach().expand(probe.shape).contiguous()
        state = self.state.to(x.dtype).expand(*lead, *self.state.shape).contiguous()
        derivatives = [
            ops.mlp_score_hvp(
                x,
                state,
                [layer.weight.detach() for layer in critic.linear],
                [layer.bias.detach() for layer in critic.linear],
                critic.activation,
                probe.contiguous(),
            )
            for critic in self.critics.members
        ]
        value, score, hvp = derivatives[0]
        for q, q_score, q_hvp in derivatives[1:]:
            is_kept = ((value <= q) | value.isnan()).unsqueeze(-1)
            value = torch.minimum(value, q)
            score, hvp = torch.where(is_kept, score, q_score), torch.where(is_kept, hvp, q_hvp)
        # Value and score are the same for every probe.
        one = (0,) * len(lead)
        return value[one], score[one], hvp

    def curvature(self, action: Tensor, probe: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The minimum (B, M), its gradient (B, M, D), v . H v (B, M) and H v (B, M, D) for the probe v (B, M, D).

        The first three are differentiable in the action once, H v is detached.
        """
        derivatives: tuple[Tensor, Tensor, Tensor, Tensor] = _Derivatives.apply(action, probe, self)
        return derivatives


class _Value(torch.autograd.Function):
    """The least Q, with the gradient computed in the same sweep."""

    @staticmethod
    def forward(ctx: Any, action: Tensor, critic: MinimumQ) -> Tensor:
        value, ctx.score, _ = critic.sweeps.minimum(action, 1 if ctx.needs_input_grad[0] else 0)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_value: Tensor) -> tuple[Tensor, None]:
        return of_value.unsqueeze(-1) * ctx.score, None


class _Derivatives(torch.autograd.Function):
    """Value, score, v . H v and H v of the least Q; the backward pass is H g and the gradient of v . H v."""

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


__all__ = ["Critic", "Critics", "MinimumQ"]
