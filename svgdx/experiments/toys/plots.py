"""Pictures of `svgdx sample`: particles over the target, density against density, entropy along the chain."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.toys.targets import Toy, Truth
from svgdx.samplers import Chain

matplotlib.use("Agg")


def _frame(toy: Toy, x: Tensor) -> tuple[float, float, float, float]:
    """Limits of the first two coordinates: the initial Gaussian's three deviations, and most of the particles."""
    low, high = torch.quantile(x[:, :2].double(), torch.tensor([0.02, 0.98], dtype=torch.float64), dim=0)
    start_low, start_high = (toy.mean - 2.5 * toy.std)[:2].double(), (toy.mean + 2.5 * toy.std)[:2].double()
    low, high = torch.minimum(low - 1, start_low), torch.maximum(high + 1, start_high)
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def _background(axis: Any, toy: Toy, limits: tuple[float, float, float, float]) -> None:
    """The target's density over the first two coordinates: of the target where D = 2, else nothing."""
    if toy.dim == 2:
        first, second = np.meshgrid(np.linspace(*limits[:2], 160), np.linspace(*limits[2:], 160))
        points = torch.from_numpy(np.stack([first, second], -1)).float()
        axis.contourf(first, second, toy.log_prob(points).exp().numpy(), levels=12, cmap="Blues")
    axis.set(xlim=limits[:2], ylim=limits[2:], xlabel="x₁", ylabel="x₂")


def picture(path: Path, toy: Toy, chain: Chain, entropies: list[float], truth: Truth) -> None:
    """Writes sample.png."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.3), layout="constrained")
    x = chain.x.detach()
    _background(axes[0], toy, _frame(toy, x))
    axes[0].plot(*x[:, :2].T.numpy(), ".", color="crimson", markersize=5)
    axes[0].set_title(
        f"{len(x)} particles over the target" if toy.dim == 2 else "particles, first two of D", fontsize=10
    )
    assert chain.log_q is not None
    log_p = toy.log_prob(x).detach()
    axes[1].plot(log_p.numpy(), chain.log_q.detach().numpy(), ".", markersize=4)
    middle = float((chain.log_q - log_p).median())
    ends = np.array([float(log_p.min()), float(log_p.max())])
    axes[1].plot(ends, ends + middle, color="black", linewidth=0.8, label="slope 1")
    axes[1].set(xlabel="log p of the target (up to a constant)", ylabel="log q of the sampler, nats")
    axes[1].set_title("density of each particle", fontsize=10)
    axes[1].legend(fontsize=8)
    axes[2].plot(entropies, label="sampler")
    axes[2].axhline(truth.entropy, color="black", linestyle="--", linewidth=1, label=f"truth, {truth.entropy:.3f}")
    axes[2].set(xlabel="SVGD step", ylabel="entropy, nats")
    axes[2].set_title("entropy along the chain", fontsize=10)
    axes[2].legend(fontsize=8)
    for axis in axes[1:]:
        axis.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())


def evolution(path: Path, toy: Toy, positions: list[Tensor], frames: int) -> None:
    """Writes evolution.gif: the particles from the start to the last step."""
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    chosen = sorted({round(step) for step in np.linspace(0, len(positions) - 1, min(frames, len(positions)))})
    figure, axis = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    _background(axis, toy, _frame(toy, positions[-1]))
    (dots,) = axis.plot([], [], ".", color="crimson", markersize=5)

    def draw(step: int) -> list[Any]:
        dots.set_data(*positions[step][:, :2].T.numpy())
        axis.set_title(f"step {step}", fontsize=10)
        return [dots]

    temporary = path.with_suffix(".tmp.gif")
    FuncAnimation(figure, draw, frames=chosen).save(temporary, writer=PillowWriter(fps=10), dpi=70)
    plt.close(figure)
    temporary.replace(path)
