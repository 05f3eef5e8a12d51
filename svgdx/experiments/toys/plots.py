"""Pictures of `svgdx sample`: particles over the target, density against density, entropy along the chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svgdx.experiments.run.checkpoint import temporary_beside
from svgdx.experiments.run.figures import write_figure
from svgdx.experiments.toys.targets import Toy, Truth
from svgdx.samplers import Chain


def _frame(toy: Toy, x: Tensor) -> tuple[float, float, float, float]:
    """Limits of the first two coordinates that show the initial Gaussian and nearly all particles."""
    low, high = torch.quantile(x[:, :2].double(), torch.tensor([0.02, 0.98], dtype=torch.float64), dim=0)
    start_low, start_high = (toy.mean - 2.5 * toy.std)[:2].double(), (toy.mean + 2.5 * toy.std)[:2].double()
    low, high = torch.minimum(low - 1, start_low), torch.maximum(high + 1, start_high)
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def _background(axis: Any, toy: Toy, limits: tuple[float, float, float, float]) -> None:
    """Draws the density of a target in two dimensions; leaves the axes empty in more."""
    if toy.dim == 2:
        first, second = np.meshgrid(np.linspace(*limits[:2], 160), np.linspace(*limits[2:], 160))
        points = torch.from_numpy(np.stack([first, second], -1)).float()
        axis.contourf(first, second, toy.log_prob(points).exp().numpy(), levels=12, cmap="Blues")
    axis.set(xlim=limits[:2], ylim=limits[2:], xlabel="x₁", ylabel="x₂")


def picture(path: Path, toy: Toy, chain: Chain, entropies: list[float], truth: Truth) -> None:
    """Writes sample.png.

    Args:
        path: of the picture.
        toy: the target.
        chain: a chain with its log density.
        entropies: in nats, at the start and after every step.
        truth: the true entropy.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.3), layout="constrained")
    x = chain.x.detach().cpu()
    _background(axes[0], toy, _frame(toy, x))
    axes[0].plot(*x[:, :2].T.numpy(), ".", color="crimson", markersize=5)
    title = f"{len(x)} particles over the target" if toy.dim == 2 else "particles, first two coordinates"
    axes[0].set_title(title, fontsize=10)
    _densities(axes[1], toy, chain)
    axes[2].plot(entropies, label="sampler")
    axes[2].axhline(truth.entropy, color="black", linestyle="--", linewidth=1, label=f"truth, {truth.entropy:.3f}")
    axes[2].set(xlabel="SVGD step", ylabel="entropy, nats")
    axes[2].set_title("entropy along the chain", fontsize=10)
    for axis in axes[1:]:
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    write_figure(figure, path, dpi=90)


def _densities(axis: Any, toy: Toy, chain: Chain) -> None:
    """Log density of every particle under the sampler against that under the target."""
    assert chain.log_q is not None
    log_p, log_q = toy.log_prob(chain.x.detach().cpu()).detach(), chain.log_q.detach().cpu()
    axis.plot(log_p.numpy(), log_q.numpy(), ".", markersize=4)
    offset = float((log_q - log_p).median())
    ends = np.array([float(log_p.min()), float(log_p.max())])
    axis.plot(ends, ends + offset, color="black", linewidth=0.8, label="slope 1")
    axis.set(xlabel="log p of the target (up to a constant)", ylabel="log q of the sampler, nats")
    axis.set_title("density of each particle", fontsize=10)


def evolution(path: Path, toy: Toy, positions: list[Tensor], frames: int) -> None:
    """Writes evolution.gif, in which the particles move from the start to the last step.

    Args:
        path: of the GIF.
        toy: the target.
        positions: particles (M, D) at the start and after every step.
        frames: most frames; they are spread evenly over the steps.
    """
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    steps = sorted({round(step) for step in np.linspace(0, len(positions) - 1, min(frames, len(positions)))})
    figure, axis = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    _background(axis, toy, _frame(toy, positions[-1]))
    (dots,) = axis.plot([], [], ".", color="crimson", markersize=5)

    def draw(step: int) -> list[Any]:
        dots.set_data(*positions[step][:, :2].T.numpy())
        axis.set_title(f"step {step}", fontsize=10)
        return [dots]

    temporary = temporary_beside(path)
    try:
        FuncAnimation(figure, draw, frames=steps).save(temporary, writer=PillowWriter(fps=10), dpi=70)
        temporary.replace(path)
    finally:
        plt.close(figure)
        temporary.unlink(missing_ok=True)
