"""Pictures of the experiments on binary vectors: samples, energies, connectivity, curves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from svgdx.experiments.run.checkpoint import write_atomically

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Panels of curves.png: title, the metrics drawn in it, and what they are drawn against.
PANELS = (
    ("loss of the GFlowNet", ("policy_loss",), "step"),
    ("E, nats", ("energy_data", "energy_negatives"), "step"),
    ("log Z", ("log_z",), "step"),
    ("acceptance", ("acceptance",), "step"),
    ("NLL, nats", ("nll",), "step"),
    ("NLL, nats", ("nll",), "seconds"),
    ("-log RMSE of J", ("neg_log_rmse",), "step"),
    ("-log RMSE of J", ("neg_log_rmse",), "seconds"),
)


def _save(path: Path, figure: Any, dpi: int = 80) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())


def save_twice(folder: Path, step: int, figure: Any) -> None:
    """samples-STEP.png, and samples.png, the newest."""
    _save(folder / f"samples-{step:08d}.png", figure)
    write_atomically(folder / "samples.png", (folder / f"samples-{step:08d}.png").read_bytes())


def planes(
    folder: Path, step: int, data: np.ndarray, samples: np.ndarray, log_density: np.ndarray, side: np.ndarray
) -> None:
    """Data (N, 2) beside samples (M, 2) beside the density exp(log_density) over side x side, up to a constant."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    extent = (side[0], side[-1], side[0], side[-1])
    for axis, title, points in zip(axes, ("data", f"samples, step {step}"), (data, samples), strict=False):
        axis.scatter(*points.T, s=1, linewidths=0)
        axis.set_title(title, fontsize=10)
    density = np.exp(log_density - log_density.max())
    # A few quanta tower over the rest: colours end where all but one in a hundred lie below.
    axes[2].imshow(density, extent=extent, origin="lower", vmax=max(np.quantile(density, 0.99), 1e-30))
    axes[2].set_title("exp(-E), up to a constant", fontsize=10)
    for axis in axes:
        axis.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
    save_twice(folder, step, figure)


def couplings(folder: Path, step: int, learnt: np.ndarray, true: np.ndarray) -> None:
    """The learnt J (D, D) beside the true one, on one scale."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    limit = np.abs(true).max()
    for axis, title, values in zip(axes, (f"learnt J, step {step}", "true J"), (learnt, true), strict=True):
        image = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
        axis.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes)
    save_twice(folder, step, figure)


def curves(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Writes the curves of metrics.jsonl as PNG: those panels of PANELS that have a quantity in it."""
    known = {name for record in metrics for name in record}
    panels = [panel for panel in PANELS if any(name in known for name in panel[1])]
    columns = 3
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3 * rows), layout="constrained", squeeze=False)
    for axis, (title, names, abscissa) in zip(axes.flat, panels, strict=False):
        for name in names:
            points = [(record[abscissa], record[name]) for record in metrics if name in record]
            axis.plot(*zip(*points, strict=True), label=name.replace("_", " "))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("seconds of training" if abscissa == "seconds" else "iterations", fontsize=8)
        axis.grid(alpha=0.3)
        if title.startswith("loss"):
            axis.set_yscale("log")
        if len(names) > 1:
            axis.legend(fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    _save(path, figure, 90)
