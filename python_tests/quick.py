"""Short trainings without what takes most of their time: pictures, the sampling of data, the classifier."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from svgdx.experiments.data import ising
from svgdx.experiments.eb_gfn import plots as eb_gfn_plots
from svgdx.experiments.ebm import plots as ebm_plots
from svgdx.experiments.metrics import features, images
from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.figures import Panel

_drawing = Figure.savefig


@contextmanager
def quick() -> Iterator[None]:
    """Shortens trainings in this process and in the programs that it starts.

    Pictures are not drawn, samples of Ising models come from few sweeps and the classifier behind feature_distance from
    few updates. Other tests look at pictures, samples and the classifier.
    """
    with (
        undrawn(),
        mock.patch.object(ebm_plots, "write_curves", _write_curves),
        mock.patch.object(eb_gfn_plots, "write_curves", _write_curves),
        mock.patch.object(ising.sample_ising, "__defaults__", (10,)),
        mock.patch.object(features, "UPDATES", 10),
        mock.patch.dict(images._classifiers, clear=True),
        mock.patch.dict(os.environ, {"SVGDX_TESTS_QUICK": "1"}),
    ):
        yield


@contextmanager
def undrawn() -> Iterator[None]:
    """Saves each figure of matplotlib as one pixel and a digest of what would be drawn.

    The files of two figures are still equal only if their points, images and words are.
    """
    with mock.patch.object(Figure, "savefig", _save):
        yield


@contextmanager
def drawn() -> Iterator[None]:
    """Draws figures again inside `undrawn`."""
    with mock.patch.object(Figure, "savefig", _drawing):
        yield


def _save(self: Figure, file: Any, **options: Any) -> None:
    file.write(_pixel(_digest(self)))


def _write_curves(path: Path, metrics: list[dict[str, Any]], panels: Sequence[Panel], updates: str) -> None:
    """Saves a digest of the points of the curves without making axes, which takes longer than a short training."""
    points = [
        (panel.title, updates, name, [(record[panel.abscissa], record[name]) for record in metrics if name in record])
        for panel in panels
        for name in panel.names
    ]
    write_atomically(path, _pixel(hashlib.sha256(repr(points).encode()).hexdigest()))


def _pixel(digest: str) -> bytes:
    """One pixel as PNG, with a text."""
    info, file = PngInfo(), io.BytesIO()
    info.add_text("digest", digest)
    Image.new("L", (1, 1)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def _digest(figure: Figure) -> str:
    digest = hashlib.sha256()
    for axes in figure.axes:
        digest.update(f"{axes.get_title()}|{axes.get_xlabel()}|{axes.get_ylabel()}|{axes.get_yscale()}".encode())
        for line in axes.lines:
            digest.update(str(line.get_label()).encode() + np.asarray(line.get_xydata(), dtype=np.float64).tobytes())
        for image in axes.images:
            digest.update(np.asarray(image.get_array(), dtype=np.float64).tobytes())
        for collection in axes.collections:
            values = collection.get_array()
            shapes = [path.vertices for path in collection.get_paths()]
            for numbers in (collection.get_offsets(), () if values is None else values, *shapes):
                digest.update(np.asarray(numbers, dtype=np.float64).tobytes())
    return digest.hexdigest()


__all__ = ["drawn", "quick", "undrawn"]
