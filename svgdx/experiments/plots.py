"""Pictures of a run: a grid of samples, and the curves of its metrics."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from torch import Tensor

from svgdx.experiments.checkpoint import write_atomically

matplotlib.use("Agg")

# Panels of curves.png: title, then the metrics drawn in it.
PANELS = {
    "Fréchet distance to held-out images": ["frechet"],
    "energy f, nats": ["energy_data", "energy_samples"],
    "|grad f| at the samples": ["score_norm"],
    "entropy of the sampler, nats": ["entropy"],
    "step size eps": ["eps", "eps_bound"],
    "bandwidth sigma": ["sigma", "sigma_median"],
}


def sample_grid(path: Path, samples: Tensor, side: int, columns: int = 8, scale: int = 6) -> None:
    """Writes the first columns^2 samples (N, side^2), pixel values in [-1, 1], as one grey PNG."""
    import matplotlib.image

    images = samples[: columns * columns].detach().cpu().numpy().reshape(-1, side, side)
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * (side + 1) + 1, columns * (side + 1) + 1), -0.5, dtype=np.float32)
    for index, image in enumerate(images):
        top, left = (index // columns) * (side + 1) + 1, (index % columns) * (side + 1) + 1
        sheet[top : top + side, left : left + side] = image.clip(-1, 1)
    buffer = io.BytesIO()
    enlarged = np.kron(sheet, np.ones((scale, scale)))
    matplotlib.image.imsave(buffer, enlarged, cmap="gray", vmin=-1, vmax=1, format="png")
    write_atomically(path, buffer.getvalue())


def curves(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Writes the curves of metrics.jsonl over updates as PNG."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for axis, (title, names) in zip(axes.flat, PANELS.items(), strict=True):
        for name in names:
            points = [(record["step"], record[name]) for record in metrics if name in record]
            axis.plot([step for step, _ in points], [value for _, value in points], label=name.replace("_", " "))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("energy updates", fontsize=8)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=8)
    for axis in (axes.flat[0], axes.flat[4]):
        axis.set_yscale("log")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())
