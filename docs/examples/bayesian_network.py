"""A Bayesian neural network.

The particles are 100 small networks. SVGD moves their parameters to the posterior of a regression with a gap in its
data. The spread of their predictions must cover held-out points and be wider in the gap.
"""

import argparse
import functools

import matplotlib.pyplot as plt
import torch
from torch import nn

from svgdx import ModuleParticles

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="fewer epochs: a few seconds")
parser.add_argument("--out", default="bayesian_network.png", help="picture")
options = parser.parse_args()
torch.manual_seed(0)
NOISE = 0.1


def log_likelihood(model, t, y):
    return -0.5 * ((model(3 * t[:, None])[:, 0] - y) / NOISE).square().sum()


def band(t):
    """Mean and standard deviation (N,) of an observation at t (N,), the noise included."""
    mean, deviation = networks.predict(3 * t[:, None])
    return mean[:, 0], (deviation[:, 0] ** 2 + NOISE**2).sqrt()


t = torch.rand(1060) * 1.2 + torch.tensor([-2.0, 0.8]).repeat(530)  # in [-2, -0.8] and [0.8, 2]
y = torch.sin(3 * t) + NOISE * torch.randn(1060)
t_train, y_train, t_test, y_test = t[:60], y[:60], t[60:], y[60:]
network = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1))
networks = ModuleParticles(network, 100, prior=2.0, optimizer=functools.partial(torch.optim.Adam, lr=0.05))
for _ in range(300 if options.quick else 1000):
    for batch in torch.randperm(60).split(30):
        networks.step(log_likelihood, t_train[batch], y_train[batch], scale=60 / 30)

grid = torch.linspace(-2.6, 2.6, 300)
mean, deviation = (values.numpy() for values in band(grid))
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.fill_between(grid, mean - 1.645 * deviation, mean + 1.645 * deviation, alpha=0.25, label="90 % band")
axes.plot(grid.numpy(), networks(3 * grid[:, None])[:15, :, 0].detach().T, color="tab:blue", linewidth=0.6, alpha=0.6)
axes.plot(grid.numpy(), torch.sin(3 * grid).numpy(), "k--", linewidth=1, label="truth")
axes.plot(t_train.numpy(), y_train.numpy(), ".", color="crimson", label="data")
axes.set(ylim=(-2.5, 3), title="predictions of 100 networks, 15 of them drawn")
axes.legend(loc="upper center", ncols=3)
figure.savefig(options.out, dpi=110)
mean, deviation = band(t_test)
covered, ratio = ((y_test - mean).abs() < 1.645 * deviation).float().mean(), band(torch.zeros(1))[1] / deviation.mean()
print(f"the 90 % band covers {covered:.1%} of 1000 held-out points and is {ratio.item():.1f} times as wide in the gap")
