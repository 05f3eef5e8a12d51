"""A Bayesian neural network.

Each particle is the parameter vector of a small network. SVGD moves 100 of them to the posterior of a regression with
a gap in its data. The spread of their predictions must cover held-out points and be wider in the gap.
"""

import argparse
import functools

import matplotlib.pyplot as plt
import torch
from torch.distributions import Independent, Normal

from svgdx import SVGD

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="fewer steps: a few seconds")
parser.add_argument("--out", default="bayesian_network.png", help="picture")
options = parser.parse_args()
torch.manual_seed(0)
HIDDEN, NOISE = 10, 0.1


def network(theta, t):
    """Outputs (..., N) at t (N,) of the networks with parameters theta (..., 3 HIDDEN + 1)."""
    first, shift, last, bias = theta.split([HIDDEN, HIDDEN, HIDDEN, 1], -1)
    units = torch.tanh(3 * (t[:, None] * first[..., None, :] + shift[..., None, :]))
    return torch.einsum("...nh,...h->...n", units, last) + bias


def log_posterior(theta):
    """(..., D) -> (...) in nats up to a constant, under the prior N(0, I)."""
    residual = (network(theta, t_train) - y_train) / NOISE
    return -0.5 * residual.square().sum(-1) - 0.5 * theta.square().sum(-1)


def band(t):
    """Mean and standard deviation (N,) of an observation at t (N,), the noise included."""
    return network(theta, t).mean(0), (network(theta, t).var(0) + NOISE**2).sqrt()


t = torch.rand(1060) * 1.2 + torch.tensor([-2.0, 0.8]).repeat(530)  # in [-2, -0.8] and [0.8, 2]
y = torch.sin(3 * t) + NOISE * torch.randn(1060)
t_train, y_train, t_test, y_test = t[:60], y[:60], t[60:], y[60:]
prior, adam = Independent(Normal(torch.zeros(3 * HIDDEN + 1), 1.0), 1), functools.partial(torch.optim.Adam, lr=0.03)
theta = SVGD(log_posterior, prior, hessian="none", optimizer=adam).sample(100, 300 if options.quick else 2000)

grid = torch.linspace(-2.6, 2.6, 300)
mean, deviation = (values.numpy() for values in band(grid))
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.fill_between(grid.numpy(), mean - 1.645 * deviation, mean + 1.645 * deviation, alpha=0.25, label="90 % band")
axes.plot(grid.numpy(), network(theta[:15], grid).T.numpy(), color="tab:blue", linewidth=0.6, alpha=0.6)
axes.plot(grid.numpy(), torch.sin(3 * grid).numpy(), "k--", linewidth=1, label="truth")
axes.plot(t_train.numpy(), y_train.numpy(), ".", color="crimson", label="data")
axes.set(ylim=(-2.5, 3), title="predictions of 100 networks, 15 of them drawn")
axes.legend(loc="upper center", ncols=3)
figure.savefig(options.out, dpi=110)
mean, deviation = band(t_test)
covered, ratio = ((y_test - mean).abs() < 1.645 * deviation).float().mean(), band(torch.zeros(1))[1] / deviation.mean()
print(f"the 90 % band covers {covered:.1%} of 1000 held-out points and is {ratio.item():.1f} times as wide in the gap")
