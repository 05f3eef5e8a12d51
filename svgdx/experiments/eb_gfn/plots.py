"""Pictures of the experiments on binary vectors: samples, energies, couplings and curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from svgdx.experiments.run.figures import sample_paths, write_figure

# Panels of curves.png: title, the metrics drawn in it, and the metric on the x-axis.
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


def planes(
    folder: Path, step: int, data: np.ndarray, samples: np.ndarray, log_density: np.ndarray, side: np.ndarray
) -> None:
    """Draws data, samples and density side by side into samples-STEP.png and samples.png.

    Args:
        folder: of the pictures.
        step: of the samples.
        data: points (N, 2).
        samples: points (M, 2).
        log_density: in nats up to a constant, on the grid side x side.
        side: coordinates of the grid.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    extent = (side[0], side[-1], side[0], side[-1])
    for axis, title, points in zip(axes, ("data", f"samples, step {step}"), (data, samples), strict=False):
        axis.scatter(*points.T, s=1, linewidths=0)
        axis.set_title(title, fontsize=10)
    density = np.exp(log_density - log_density.max())
    # A few quanta are far denser than the rest, so the colours saturate at the 99th percentile.
    axes[2].imshow(density, extent=extent, origin="lower", vmax=max(np.quantile(density, 0.99), 1e-30))
    axes[2].set_title("exp(-E), up to a constant", fontsize=10)
    for axis in axes:
        axis.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
    write_figure(figure, *sample_paths(folder, step))


def couplings(folder: Path, step: int, learnt: np.ndarray, true: np.ndarray) -> None:
    """Draws the learnt J (D, D) beside the true one, on one scale, into samples-STEP.png and samples.png."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    limit = np.abs(true).max()
    for axis, title, values in zip(axes, (f"learnt J, step {step}", "true J"), (learnt, true), strict=True):
        image = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
        axis.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes)
    write_figure(figure, *sample_paths(folder, step))


def curves(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Draws the curves of metrics.jsonl, in those panels of PANELS that have a quantity in it."""
    logged = {name for record in metrics for name in record}
    panels = [panel for panel in PANELS if any(name in logged for name in panel[1])]
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
    write_figure(figure, path, dpi=90)
