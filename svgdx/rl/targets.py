"""What a Stein policy samples from: min(Q1, Q2) of a state, over actions before their tanh."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svgdx.rl.critics import MinimumAt
from svgdx.samplers.targets import Derivatives, Target, rademacher

TARGETS = ("s2ac", "max-entropy")
_LOG_2 = math.log(2)


def log_tanh_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) without cancellation, the shape of u."""
    return 2 * (_LOG_2 - u - torch.nn.functional.softplus(-2 * u))


class CriticTarget(Target):
    """A target made of min(Q1, Q2) at some states; derivatives by the critics' own sweeps.

    Raises FloatingPointError where its score is NaN or infinite.
    """

    def derivatives(
        self, x: Tensor, hessian: str = "none", graph: bool = False, generator: torch.Generator | None = None
    ) -> Derivatives:
        found = self.of_critic(x, hessian, graph, generator)
        score = found.score.detach()
        # One sum is faster than a look at each number; that of finite numbers may overflow.
        if not math.isfinite(float(score.sum())):
            rows = int((~score.isfinite()).any(-1).any(-1).sum())
            if rows > 0:
                raise FloatingPointError(
                    f"SteinActor: the critics' score is NaN or infinite at {rows} of {score.shape[0]} states"
                )
        return found

    def of_critic(self, x: Tensor, hessian: str, graph: bool, generator: torch.Generator | None) -> Derivatives:
        """As `Target.derivatives`."""
        return super().derivatives(x, hessian, graph, generator)


class S2ACTarget(CriticTarget):
    """min(Q1, Q2)(s, u): no tanh inside Q and no temperature, as the authors of S2AC ran it.

    Source: Messaoud et al., S2AC, ICLR 2024, its code.
    """

    def __init__(self, critic: MinimumAt) -> None:
        super().__init__(critic.value)
        self.critic = critic

    def of_critic(self, x: Tensor, hessian: str, graph: bool, generator: torch.Generator | None) -> Derivatives:
        with torch.set_grad_enabled(graph):
            if hessian == "none":
                value, score = self.critic.score(x)
                return Derivatives(score, value)
            if hessian == "hutchinson":
                probe = rademacher(x, generator)
                if graph:
                    value, score, trace, hvp = self.critic.curvature(x, probe)
                else:
                    value, score, hvp = self.critic.score_hvp(x, probe)
                    trace = torch.linalg.vecdot(probe, hvp)
                return Derivatives(score, value, trace, probe, hvp)
        if graph:
            return super().of_critic(x, hessian, graph, generator)
        value, score, rows = self.critic.score_hvp(x, _units(x))
        matrix = rows.movedim(0, -2)
        return Derivatives(score, value, _trace(matrix), hessian=matrix)


class MaxEntropyTarget(CriticTarget):
    """min(Q1, Q2)(s, tanh u) / alpha + sum log(1 - tanh^2 u): what the policy would be without approximation.

    Q reads actions scaled to [-1, 1]; the limits of the environment only shift this log density by a constant.

    Args:
        critic: min(Q1, Q2) at the states.
        temperature: alpha > 0, in units of reward.

    Source: Haarnoja et al., SAC, ICML 2018, eq. 4 and appendix C.
    """

    def __init__(self, critic: MinimumAt, temperature: Tensor) -> None:
        super().__init__(lambda u: critic.value(u.tanh()) / temperature + log_tanh_slope(u).sum(-1))
        self.critic, self.temperature = critic, temperature

    def of_critic(self, x: Tensor, hessian: str, graph: bool, generator: torch.Generator | None) -> Derivatives:
        if hessian == "exact" and graph:
            return super().of_critic(x, hessian, graph, generator)
        with torch.set_grad_enabled(graph):
            action = x.tanh()
            slope = 1 - action.square()
            if hessian == "none":
                value, of_action = self.critic.score(action)
                return Derivatives(*self._pulled_back(x, action, slope, value, of_action))
            probe = _units(x) if hessian == "exact" else rademacher(x, generator)
            through = slope * probe
            if graph:
                value, of_action, form, product = self._curvature(action, through)
            else:
                value, of_action, product = self.critic.score_hvp(action, through)
                form = torch.linalg.vecdot(through, product)
            score, log_prob = self._pulled_back(x, action, slope, value, of_action)
            # The second derivative of tanh is -2 tanh (1 - tanh^2).
            bend = -2 * slope * (action * of_action / self.temperature + 1)
            hvp = (slope * product / self.temperature + bend * probe).detach()
            if hessian == "exact":
                matrix = hvp.movedim(0, -2)
                return Derivatives(score, log_prob, _trace(matrix), hessian=matrix)
            # Squares of random signs are 1.
            return Derivatives(score, log_prob, form / self.temperature + bend.sum(-1), probe, hvp)

    def _curvature(self, action: Tensor, through: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As MinimumAt.curvature, with v . H v differentiable in v as well."""
        value, score, form, hvp = self.critic.curvature(action, through.detach())
        # Adds zero, and with it the gradient 2 H v of the form in v.
        form = form + 2 * (hvp.detach() * (through - through.detach())).sum(-1)
        return value, score, form, hvp

    def _pulled_back(
        self, u: Tensor, action: Tensor, slope: Tensor, value: Tensor, of_action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score and log density at u."""
        score = slope * of_action / self.temperature - 2 * action
        return score, value / self.temperature + log_tanh_slope(u).sum(-1)


def make_target(name: str, critic: MinimumAt, temperature: Tensor) -> Target:
    """The target of that name, one of TARGETS."""
    return S2ACTarget(critic) if name == "s2ac" else MaxEntropyTarget(critic, temperature)


def _units(x: Tensor) -> Tensor:
    """The D unit vectors at each particle, (D, B, M, D)."""
    dim = x.shape[-1]
    units = torch.eye(dim, dtype=x.dtype, device=x.device)
    return units.reshape(dim, *(1,) * (x.dim() - 1), dim).expand(dim, *x.shape)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


__all__ = ["TARGETS", "MaxEntropyTarget", "S2ACTarget", "log_tanh_slope", "make_target"]
