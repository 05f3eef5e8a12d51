"""What a Stein policy samples from: a density given by min(Q1, Q2) of a state, over actions before their tanh."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from svgdx._checks import readable
from svgdx.rl.critics import MinimumQ
from svgdx.rl.sweeps import CompiledSweeps, tanh_target
from svgdx.samplers.targets import Derivatives, Target, rademacher
from svgdx.streams import Source

TARGETS = ("s2ac", "max-entropy")
_LOG_2 = math.log(2)


def log_two_cosh(u: Tensor) -> Tensor:
    """log(2 cosh u) = log 2 - log(1 - tanh(u)^2) / 2 without overflow, in the shape of u."""
    # The softplus is -log(1 + exp(-2 u)) / 2.
    return torch.add(u, torch.nn.functional.softplus(u, beta=-2.0), alpha=-2)


def log_tanh_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) without cancellation, in the shape of u."""
    return 2 * (_LOG_2 - log_two_cosh(u))


class CriticTarget(Target):
    """A target made from min(Q1, Q2) at fixed states, with derivatives from the critics' own sweeps.

    On the CPU it raises FloatingPointError if its score is NaN or infinite; a GPU is not asked.

    Attributes:
        probes: signs (M, D) for each step, in place of random ones; None draws them.
    """

    probes: Iterator[Tensor] | None = None

    def derivatives(
        self, x: Tensor, hessian: str = "none", graph: bool = False, generator: Source = None
    ) -> Derivatives:
        derivatives = self.from_critic(x, hessian, graph, generator)
        if x.device.type != "cpu":
            return derivatives
        score = derivatives.score.detach()
        # One sum is faster than a look at every number, but the sum of finite numbers may overflow.
        if readable(score) and not math.isfinite(float(score.sum())):
            rows = int((~score.isfinite()).any(-1).any(-1).sum())
            if rows > 0:
                raise FloatingPointError(
                    f"SteinActor: the critics' score is NaN or infinite at {rows} of {score.shape[0]} states"
                )
        return derivatives

    def probe(self, x: Tensor, generator: Source) -> Tensor:
        """The signs of a Hutchinson estimate at x (B, M, D)."""
        return rademacher(x, generator) if self.probes is None else next(self.probes).to(x.dtype).expand_as(x)

    def from_critic(self, x: Tensor, hessian: str, graph: bool, generator: Source) -> Derivatives:
        """As `Target.derivatives`, without the check."""
        return super().derivatives(x, hessian, graph, generator)


class S2ACTarget(CriticTarget):
    """The log density min(Q1, Q2)(s, u): no tanh inside Q and no temperature, as the authors of S2AC ran it.

    Source: Messaoud et al., S2AC, ICLR 2024, its code.
    """

    def __init__(self, critic: MinimumQ) -> None:
        super().__init__(critic.value)
        self.critic = critic

    def log_prob_once(self, x: Tensor) -> Tensor:
        return self.critic.value_once(x)

    def from_critic(self, x: Tensor, hessian: str, graph: bool, generator: Source) -> Derivatives:
        with torch.set_grad_enabled(graph):
            if hessian == "none":
                value, score = self.critic.score(x)
                return Derivatives(score, value)
            if hessian == "hutchinson":
                probe = self.probe(x, generator)
                if graph:
                    value, score, trace, hvp = self.critic.curvature(x, probe)
                else:
                    value, score, hvp = self.critic.score_hvp(x, probe)
                    trace = torch.linalg.vecdot(probe, hvp)
                return Derivatives(score, value, trace, probe, hvp)
        if graph:
            return super().from_critic(x, hessian, graph, generator)
        value, score, rows = self.critic.score_hvp(x, _unit_vectors(x))
        matrix = rows.movedim(0, -2)
        return Derivatives(score, value, _trace(matrix), hessian=matrix)


class MaxEntropyTarget(CriticTarget):
    """The log density min(Q1, Q2)(s, tanh u) / alpha + sum log(1 - tanh^2 u), that of the soft-optimal policy.

    Q reads actions scaled to [-1, 1]; the limits of the environment shift this log density only by a constant.

    Args:
        critic: min(Q1, Q2) at the states.
        temperature: alpha > 0, in units of reward.

    Source: Haarnoja et al., SAC, ICML 2018, eq. 4 and appendix C.
    """

    def __init__(self, critic: MinimumQ, temperature: Tensor) -> None:
        super().__init__(lambda u: critic.value(u.tanh()) / temperature + log_tanh_slope(u).sum(-1))
        self.critic, self.temperature = critic, temperature

    def log_prob_once(self, x: Tensor) -> Tensor:
        if x.is_cuda and isinstance(self.critic.sweeps, CompiledSweeps):
            graph = torch.is_grad_enabled() and x.requires_grad
            return tanh_target(self.critic.sweeps, x, None, self.temperature, graph).log_prob
        return self.critic.value_once(x.tanh()) / self.temperature + log_tanh_slope(x).sum(-1)

    def from_critic(self, x: Tensor, hessian: str, graph: bool, generator: Source) -> Derivatives:
        if hessian == "exact" and graph:
            return super().from_critic(x, hessian, graph, generator)
        if hessian != "exact" and x.is_cuda and isinstance(self.critic.sweeps, CompiledSweeps):
            probe = None if hessian == "none" else self.probe(x, generator)
            with torch.set_grad_enabled(graph):
                values = tanh_target(self.critic.sweeps, x, probe, self.temperature, graph)
            return Derivatives(values.score, values.log_prob, values.trace, probe, values.hvp)
        with torch.set_grad_enabled(graph):
            action = x.tanh()
            slope = 1 - action.square()
            if hessian == "none":
                value, q_gradient = self.critic.score(action)
                return Derivatives(*self._pull_back(x, action, slope, value, q_gradient))
            probe = _unit_vectors(x) if hessian == "exact" else self.probe(x, generator)
            direction = slope * probe
            if graph:
                value, q_gradient, form, product = self._curvature(action, direction)
            else:
                value, q_gradient, product = self.critic.score_hvp(action, direction)
                form = torch.linalg.vecdot(direction, product)
            score, log_prob = self._pull_back(x, action, slope, value, q_gradient)
            # The second derivative of tanh is -2 tanh (1 - tanh^2).
            diagonal = -2 * slope * (action * q_gradient / self.temperature + 1)
            hvp = (slope * product / self.temperature + diagonal * probe).detach()
            if hessian == "exact":
                matrix = hvp.movedim(0, -2)
                return Derivatives(score, log_prob, _trace(matrix), hessian=matrix)
            # The square of a random sign is 1.
            return Derivatives(score, log_prob, form / self.temperature + diagonal.sum(-1), probe, hvp)

    def _curvature(self, action: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `MinimumQ.curvature`, with v . H v differentiable in the direction v as well."""
        value, score, form, hvp = self.critic.curvature(action, direction.detach())
        # Adds zero, and with it the gradient 2 H v of the form in v.
        form = form + 2 * (hvp.detach() * (direction - direction.detach())).sum(-1)
        return value, score, form, hvp

    def _pull_back(
        self, u: Tensor, action: Tensor, slope: Tensor, value: Tensor, q_gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score and log density at u from Q and its gradient at the action tanh u."""
        score = slope * q_gradient / self.temperature - 2 * action
        return score, value / self.temperature + log_tanh_slope(u).sum(-1)


def make_target(name: str, critic: MinimumQ, temperature: Tensor, probes: Tensor | None = None) -> CriticTarget:
    """The target of this name, one of TARGETS; its probes are drawn, or those of L steps (L, M, D)."""
    target = S2ACTarget(critic) if name == "s2ac" else MaxEntropyTarget(critic, temperature)
    target.probes = None if probes is None else iter(probes)
    return target


def _unit_vectors(x: Tensor) -> Tensor:
    """The D unit vectors at each particle, (D, B, M, D)."""
    dim = x.shape[-1]
    units = torch.eye(dim, dtype=x.dtype, device=x.device)
    return units.reshape(dim, *(1,) * (x.dim() - 1), dim).expand(dim, *x.shape)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


__all__ = ["TARGETS", "MaxEntropyTarget", "S2ACTarget", "log_tanh_slope", "log_two_cosh", "make_target"]
