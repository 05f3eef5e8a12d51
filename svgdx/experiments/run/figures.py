"""The one way to write a picture as PNG: whole or not at all, and without ending a training if it fails.

`write_figure` takes a figure of matplotlib, `write_curves` the metrics of a run, `write_image` an array of pixels; the
first and the last write several files with the same content. Reports call them directly and let an OSError through. A
training calls them inside `warn_if_unwritten`.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from svgdx.experiments.run.checkpoint import write_atomically

# Draws without a screen.
matplotlib.use("Agg")


def write_figure(figure: Figure, *paths: Path, dpi: int = 80) -> None:
    """Writes a figure as PNG to each path and closes it.

    Args:
        figure: of matplotlib, from pyplot or not.
        dpi: pixels per inch of the figure's size.

    Raises:
        OSError: a file cannot be written. Pictures that were at the paths are kept.
    """
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format="png", dpi=dpi)
    finally:
        plt.close(figure)
    _write(buffer, paths)


def subplots(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of plots, each width x height inches with its margins, and its axes, an array (rows, columns).

    The margins are fixed: a layout that matplotlib solves for costs more than the rest of the drawing.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(columns * width, rows * height), squeeze=False)
    left, right, bottom, top = 0.8, 0.15, 0.5, 0.35
    figure.subplots_adjust(
        left / (columns * width), bottom / (rows * height), 1 - right / (columns * width), 1 - top / (rows * height),
        wspace=1.1 / (width - 1.1), hspace=1 / (height - 1),
    )  # fmt: skip
    return figure, axes


class Panel(NamedTuple):
    """One of the plots that `write_curves` draws."""

    title: str
    names: tuple[str, ...]
    """Metrics on the y-axis; those that were not logged are left out."""
    abscissa: str = "step"
    """The metric on the x-axis: "step" or "seconds"."""
    logarithmic: bool = False


def write_curves(path: Path, metrics: list[dict[str, Any]], panels: Sequence[Panel], updates: str) -> None:
    """Draws metrics.jsonl as PNG, three plots in a row, without those panels of which nothing was logged.

    Args:
        path: of the picture.
        metrics: the lines of metrics.jsonl.
        panels: the plots.
        updates: label of an x-axis of steps, such as "updates".

    Raises:
        OSError: the file cannot be written. A picture that was there is kept.
    """
    logged = {name for record in metrics for name in record}
    panels = [panel for panel in panels if logged.intersection(panel.names)]
    figure, axes = subplots(max(1, math.ceil(len(panels) / 3)), 3, 4, 3)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        names = [name for name in panel.names if name in logged]
        for name in names:
            points = [(record[panel.abscissa], record[name]) for record in metrics if name in record]
            axis.plot(*zip(*points, strict=True), label=name.replace("_", " "))
        axis.set_title(panel.title, fontsize=10)
        axis.set_xlabel("seconds of training" if panel.abscissa == "seconds" else updates, fontsize=8)
        axis.grid(alpha=0.3)
        if panel.logarithmic:
            axis.set_yscale("log")
        if len(names) > 1:
            axis.legend(fontsize=8)
    write_figure(figure, path, dpi=90)


def write_image(pixels: np.ndarray, *paths: Path) -> None:
    """Writes pixels in [0, 1], (height, width, 3), as PNG to each path.

    Raises:
        OSError: a file cannot be written. Pictures that were at the paths are kept.
    """
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format="png")
    _write(buffer, paths)


def write_sample_grid(
    samples: Tensor, shape: tuple[int, int, int], *paths: Path, columns: int = 8, scale: int = 0
) -> None:
    """Writes the first columns^2 samples as one PNG to each path, grey or in colour.

    Args:
        samples: rows of pixels in [-1, 1], (N, D); values outside are clipped.
        shape: (channels, height, width) of one of them; channels are 1 or 3.
        paths: of the pictures.
        columns: images in a row.
        scale: enlarges every pixel to scale x scale; 0 makes an image about 48 pixels wide and enlarges it at least
            three times.

    Raises:
        OSError: a file cannot be written. Pictures that were at the paths are kept.
    """
    channels, height, width = shape
    scale = scale or max(3, 48 // width)
    images = samples[: columns * columns].detach().cpu().numpy().reshape(-1, *shape)
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), -0.5, dtype=np.float32)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image.clip(-1, 1).transpose(1, 2, 0)
    enlarged = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    write_image(np.broadcast_to(enlarged / 2 + 0.5, (*enlarged.shape[:2], 3)), *paths)


def _write(buffer: io.BytesIO, paths: tuple[Path, ...]) -> None:
    for path in paths:
        write_atomically(path, buffer.getvalue())


def sample_paths(folder: Path, step: int) -> tuple[Path, Path]:
    """The pictures of the samples at one evaluation: samples-STEP.png, and samples.png, which is always the newest."""
    return folder / f"samples-{step:08d}.png", folder / "samples.png"


@contextmanager
def warn_if_unwritten() -> Iterator[None]:
    """Turns an OSError of the pictures written inside into a warning on stderr.

    For trainings: a disk that is full when a picture is due may have room again when the next checkpoint is.
    """
    try:
        yield
    except OSError as error:
        print(f"warning: a picture could not be written, the training continues: {error}", file=sys.stderr)


__all__ = [
    "Panel", "sample_paths", "subplots", "warn_if_unwritten", "write_curves", "write_figure", "write_image",
    "write_sample_grid",
]  # fmt: skip
