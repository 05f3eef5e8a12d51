"""Targets whose entropy is known, for `svgdx sample`: Gaussians, mixtures and Bayesian logistic regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from svgdx.densities import LogProb
from svgdx.experiments.run.compute.generators import seeded

MIXTURES = tuple(f"mixture-{k}-{dim}d" for dim in (2, 10, 20, 100) for k in (1, 2, 4, 6))
TARGETS = ("gaussian", "two-gaussians", "ill-conditioned", "gaussian-10d", *MIXTURES, "breast-cancer")
# Number of points from which an entropy is estimated.
TRUTH_SAMPLES = 200_000


class Truth(NamedTuple):
    """Entropy of a target in nats, its standard error, and the method that gives it."""

    entropy: float
    error: float
    method: str


@dataclass
class Toy:
    """A target with the initial Gaussian of its sampler.

    Attributes:
        name: one of TARGETS.
        target: a normalised distribution, or a log density in nats up to a constant.
        mean, std: of the initial Gaussian, (D,).
    """

    name: str
    target: MultivariateNormal | LogProb
    mean: Tensor
    std: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats up to a constant: (..., D) -> (...)."""
        return self.target.log_prob(x) if isinstance(self.target, MultivariateNormal) else self.target(x)

    @property
    def dim(self) -> int:
        """The number of dimensions D."""
        return len(self.mean)


def load_toy(name: str, device: torch.device | str = "cpu") -> Toy:
    """The target of that name, one of TARGETS, on a device.

    "breast-cancer" is the posterior of a Bayesian logistic regression on scikit-learn's data set, with standardised
    features, a bias and the prior N(0, I).

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """
    with torch.device(device):
        return _breast_cancer() if name == "breast-cancer" else _closed_form(name)


def _closed_form(name: str) -> Toy:
    target = distribution(name)
    dim = target.event_shape[0]
    mean, std = torch.zeros(dim), torch.ones(dim)
    if name == "gaussian":
        std = std * math.sqrt(6)
    elif name in ("two-gaussians", "ill-conditioned"):
        std = 2 * std
    elif name == "gaussian-10d":
        mean = mean + 2
    else:
        std[:2] = math.sqrt(9.0)
    # The sampler knows the derivatives of a Gaussian if it gets the distribution itself.
    density = target if isinstance(target, MultivariateNormal) else _mixture_log_prob(target)
    return Toy(name, density, mean, std)


def distribution(name: str) -> MultivariateNormal | MixtureSameFamily:
    """The target of that name as a normalised distribution, on the default device. "breast-cancer" has none."""
    if name == "gaussian":
        covariance = 5 * torch.tensor([[0.2260, 0.1652], [0.1652, 0.6779]])
        return MultivariateNormal(torch.tensor([-0.6871, 0.8010]), covariance)
    if name == "ill-conditioned":
        turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
        return MultivariateNormal(torch.zeros(2), turn @ torch.diag(torch.tensor([1.0, 0.01])) @ turn.T)
    if name == "gaussian-10d":
        return MultivariateNormal(torch.zeros(10), torch.eye(10))
    if name == "two-gaussians":
        return _mixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 1 / 3)
    components, dim = (int(word.removesuffix("d")) for word in name.split("-")[1:])
    angles = 2 * math.pi * torch.arange(components) / components
    means = torch.zeros(components, dim)
    means[:, 0], means[:, 1] = 4 * angles.cos(), 4 * angles.sin()
    return _mixture(means, 1.0)


def _mixture(means: Tensor, std: float) -> MixtureSameFamily:
    components = Independent(Normal(means, torch.full_like(means, std)), 1)
    return MixtureSameFamily(Categorical(torch.ones(len(means))), components)


def _mixture_log_prob(mixture: MixtureSameFamily) -> LogProb:
    """The log density of a `_mixture` in few ops, because a chain differentiates it twice in every step."""
    means, precision = mixture.component_distribution.mean, mixture.component_distribution.variance[0, 0].reciprocal()
    linear, constant = precision * means, -0.5 * precision * means.square().sum(-1)
    constant = constant - 0.5 * means.shape[-1] * (2 * math.pi / precision).log() - math.log(len(means))

    def log_prob(x: Tensor) -> Tensor:
        logits = x @ linear.T.to(x.dtype) + constant
        return torch.logsumexp(logits, -1) - 0.5 * precision * x.square().sum(-1)

    return log_prob


def truth_of(toy: Toy) -> Truth:
    """The entropy of a target on the CPU: in closed form, by quadrature (D = 2), or by sampling, with its error."""
    if toy.name == "breast-cancer":
        return _posterior_truth(toy)
    target = distribution(toy.name)
    if isinstance(target, MultivariateNormal):
        return Truth(target.entropy().item(), 0.0, "closed form")
    if toy.dim == 2:
        return Truth(_quadrature(target), 0.0, "quadrature")
    with seeded(0):
        surprise = -target.log_prob(target.sample((TRUTH_SAMPLES,))).double()
    error = surprise.std().item() / math.sqrt(TRUTH_SAMPLES)
    return Truth(surprise.mean().item(), error, f"{TRUTH_SAMPLES} exact samples")


def _quadrature(target: MixtureSameFamily, side: float = 12.0, count: int = 1201) -> float:
    """-sum p log p over a grid. It is smooth and vanishes at the border, so the error falls faster than any power."""
    axis = torch.linspace(-side, side, count, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis).float()
    log_p = target.log_prob(points).double()
    cell = (2 * side / (count - 1)) ** 2
    return -(log_p.exp() * log_p).sum().item() * cell


def _breast_cancer() -> Toy:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    features = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0)).float()
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    signed = features * (2 * torch.tensor(data.target).float() - 1)[:, None]

    def log_posterior(x: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(x @ signed.T.to(x.dtype)).sum(-1) - 0.5 * x.square().sum(-1)

    dim = features.shape[1]
    return Toy("breast-cancer", log_posterior, torch.zeros(dim), torch.full((dim,), 0.5))


def posterior_mode(toy: Toy) -> tuple[Tensor, Tensor]:
    """The mode (D,) and the inverse of minus the Hessian there (D, D), by Newton's method in float64."""
    x = toy.mean.double()
    for _ in range(50):
        gradient = torch.func.grad(toy.log_prob)(x)
        hessian = torch.func.hessian(toy.log_prob)(x)
        x = x - torch.linalg.solve(hessian, gradient)
    return x, torch.linalg.inv(-hessian)


def _posterior_truth(toy: Toy) -> Truth:
    """log Z - E[log p~] by importance sampling from a widened Laplace approximation, with its error (delta method)."""
    mode, covariance = posterior_mode(toy)
    proposal = MultivariateNormal(mode, 1.2 * covariance)
    with seeded(0):
        x = proposal.sample((TRUTH_SAMPLES,))
    # In chunks that fit into the cache.
    log_p = torch.cat([toy.log_prob(chunk) for chunk in x.split(2_000)])
    log_weight = log_p - proposal.log_prob(x)
    log_z = torch.logsumexp(log_weight, 0) - math.log(TRUTH_SAMPLES)
    weight = (log_weight - log_z).exp()
    energy = (weight * log_p).mean()
    spread = weight - 1 - weight * (log_p - energy)
    error = spread.std().item() / math.sqrt(TRUTH_SAMPLES)
    size = weight.sum().square() / weight.square().sum()
    method = f"importance sampling, {TRUTH_SAMPLES} points, effective {size.item():.0f}"
    return Truth((log_z - energy).item(), error, method)
