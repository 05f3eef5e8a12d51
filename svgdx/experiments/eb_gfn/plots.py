"""Pictures of the experiments on binary vectors: samples, energies, couplings and curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from svgdx.experiments.run.figures import Panel, sample_paths, subplots, write_curves, write_figure

PANELS = (
    Panel("loss of the GFlowNet", ("policy_loss",), logarithmic=True),
    Panel("E, nats", ("energy_data", "energy_negatives")),
    Panel("log Z", ("log_z",)),
    Panel("acceptance", ("acceptance",)),
    Panel("NLL, nats", ("nll",)),
    Panel("NLL, nats", ("nll",), "seconds"),
    Panel("-log RMSE of J", ("neg_log_rmse",)),
    Panel("-log RMSE of J", ("neg_log_rmse",), "seconds"),
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
    figure, (axes,) = subplots(1, 3, 4, 4.2)
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
    figure, (axes,) = subplots(1, 2, 4.5, 4.2)
    limit = np.abs(true).max()
    for axis, title, values in zip(axes, (f"learnt J, step {step}", "true J"), (learnt, true), strict=True):
        image = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
        axis.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes)
    write_figure(figure, *sample_paths(folder, step))


def curves(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Draws the curves of metrics.jsonl, in those panels of PANELS that have a quantity in it."""
    write_curves(path, metrics, PANELS, "iterations")
