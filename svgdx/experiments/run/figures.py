"""The one way to write a picture as PNG: whole or not at all, and without ending a training if it fails.

`write_figure` takes a figure of matplotlib, `write_image` an array of pixels; either writes several files with the same
content. Reports call them directly and let an OSError through. A training calls them inside `warn_if_unwritten`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

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


def write_image(pixels: np.ndarray, *paths: Path) -> None:
    """Writes pixels in [0, 1], (height, width, 3), as PNG to each path.

    Raises:
        OSError: a file cannot be written. Pictures that were at the paths are kept.
    """
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format="png")
    _write(buffer, paths)


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


__all__ = ["sample_paths", "warn_if_unwritten", "write_figure", "write_image"]
