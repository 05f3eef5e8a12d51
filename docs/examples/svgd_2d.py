"""SVGD in two dimensions.

200 particles move onto a bent density whose mean and standard deviations are known. The bandwidth is the median
distance of the particles, and Adam takes the steps along φ.
"""

import argparse
import functools

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from torch.distributions import MultivariateNormal

from svgdx import SVGD

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="fewer and larger steps: a few seconds")
parser.add_argument("--out", default="svgd_2d.gif", help="animated picture, GIF or PNG")
options = parser.parse_args()
torch.manual_seed(0)
STEPS, RATE, PICTURES = (200, 0.1, 5) if options.quick else (600, 0.05, 40)
WIDTH, HEIGHT, BEND = 1.5, 0.5, 0.5


def log_prob(x):
    """x is N(0, WIDTH²) and y is N(BEND x², HEIGHT²): (..., 2) -> (...) in nats, up to a constant."""
    across, along = x[..., 0], x[..., 1] - BEND * x[..., 0].square()
    return -0.5 * (across / WIDTH).square() - 0.5 * (along / HEIGHT).square()


frames = []
sampler = SVGD(
    log_prob,
    MultivariateNormal(torch.tensor([0.0, 4.5]), 0.3 * torch.eye(2)),
    hessian="none",
    optimizer=functools.partial(torch.optim.Adam, lr=RATE),
    callbacks=[lambda state: frames.append(state.x)],
)
x = sampler.sample(200, STEPS)

figure, axes = plt.subplots(figsize=(4.8, 4.8), layout="constrained")
grid = np.meshgrid(np.linspace(-4.5, 4.5, 200), np.linspace(-2, 7, 200))
axes.contourf(*grid, log_prob(torch.from_numpy(np.stack(grid, -1))).exp().numpy(), levels=12, cmap="Blues")
dots = axes.scatter([], [], s=9, color="crimson", linewidths=0)


def draw(step):
    axes.set_title(f"step {step + 1}")
    dots.set_offsets(frames[step].numpy())


# Fewer pictures towards the end, when the particles hardly move; the last one stays for a second.
shown = [int((STEPS - 1) * (i / PICTURES) ** 2) for i in range(PICTURES)] + [STEPS - 1] * (PICTURES // 4)
FuncAnimation(figure, draw, frames=shown).save(options.out, PillowWriter(fps=12), dpi=80)
(x_mean, y_mean), (x_deviation, y_deviation) = x.mean(0).tolist(), x.std(0).tolist()
print(f"mean ({x_mean:.2f}, {y_mean:.2f}), truth (0, {BEND * WIDTH**2:.2f}); standard deviations ({x_deviation:.2f},"
      f" {y_deviation:.2f}), truth ({WIDTH:.2f}, {(HEIGHT**2 + 2 * BEND**2 * WIDTH**4) ** 0.5:.2f})")  # fmt: skip
