"""Pictures of a run: a grid of samples, and the curves of its metrics."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from torch import Tensor

from svgdx.experiments.run.checkpoint import write_atomically

matplotlib.use("Agg")

# Panels of curves.png: title, then the metrics drawn in it.
PANELS = {
    "Fréchet distance to held-out images": ["feature_distance", "pixel_distance", "fid"],
    "energy f, nats": ["energy_data", "energy_samples"],
    "|grad f| at the samples": ["score_norm"],
    "entropy of the sampler, nats": ["entropy"],
    "step size eps": ["eps", "eps_bound"],
    "bandwidth sigma": ["sigma", "sigma_median"],
    "steps of a chain": ["steps"],
    "share of rejected proposals": ["mh_rejection"],
    "-log p of the data, nats": ["nll"],
}
LOGARITHMIC = ("Fréchet distance to held-out images", "|grad f| at the samples", "step size eps")


def sample_grid(path: Path, samples: Tensor, shape: tuple[int, int, int], columns: int = 8, scale: int = 0) -> None:
    """Writes the first columns^2 samples as one PNG, in grey or, where they have three channels, in colour.

    Args:
        samples: rows of pixels in [-1, 1], (N, D); what lies outside is clipped.
        shape: (channels, height, width) of one of them, channels 1 or 3.
        scale: pixels of the picture for each pixel; 0 makes an image about 48 wide and at least three times as large.
    """
    import matplotlib.image

    channels, height, width = shape
    scale = scale or max(3, 48 // width)
    images = samples[: columns * columns].detach().cpu().numpy().reshape(-1, *shape)
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), -0.5, dtype=np.float32)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image.clip(-1, 1).transpose(1, 2, 0)
    enlarged = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    # 0 to 1 is what imsave takes as colours; grey is the same number three times.
    matplotlib.image.imsave(buffer, np.broadcast_to(enlarged / 2 + 0.5, (*enlarged.shape[:2], 3)), format="png")
    write_atomically(path, buffer.getvalue())


def curves(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Writes the curves of metrics.jsonl over updates as PNG: the panels that a quantity of the run is in."""
    import matplotlib.pyplot as plt

    known = {name for record in metrics for name in record}
    panels = {title: [n for n in names if n in known] for title, names in PANELS.items() if known & set(names)}
    rows = max(1, math.ceil(len(panels) / 3))
    figure, axes = plt.subplots(rows, 3, figsize=(12, 3 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=False):
        for name in names:
            points = [(record["step"], record[name]) for record in metrics if name in record]
            axis.plot([step for step, _ in points], [value for _, value in points], label=name.replace("_", " "))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("updates", fontsize=8)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=8)
        if title in LOGARITHMIC:
            axis.set_yscale("log")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())
