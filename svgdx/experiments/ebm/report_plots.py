"""Figures of `svgdx report`: each configuration a line, its seeds a band."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

from svgdx.experiments.run.checkpoint import write_atomically

if TYPE_CHECKING:
    from svgdx.experiments.ebm.report import EBMRun

matplotlib.use("Agg")


def figures(path: Path, groups: dict[str, list[EBMRun]]) -> None:
    """Distance, |grad f|, sigma against the median heuristic, eps against the fixed one, MH rejection; and a legend."""
    import matplotlib.pyplot as plt

    from svgdx.experiments.ebm.report import distance_of

    distance = distance_of(groups)
    panels = {
        distance: f"{distance} to held-out images",
        "score_norm": "norm of grad f at the samples",
        "sigma": "bandwidth; dotted: median heuristic",
        "eps": "step size; dashed: before training, or fixed",
        "mh_rejection": "share of proposals that MH rejects",
    }
    figure, axes = plt.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
    colours = {name: matplotlib.colormaps["tab10"](index) for index, name in enumerate(groups)}
    for axis, (quantity, title) in zip(axes.flat, panels.items(), strict=False):
        for name, runs in groups.items():
            _band(axis, runs, quantity, colours[name])
            if quantity == "sigma":
                _band(axis, runs, "sigma_median", colours[name], ":")
            if quantity == "eps" and runs[0].values("eps") and runs[0].config.sampler == "svgd":
                axis.axhline(runs[0].config.step_size * runs[0].config.particles, color="grey", ls="--", lw=1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("updates", fontsize=8)
        axis.grid(alpha=0.3)
        if quantity != "mh_rejection" and axis.lines:
            axis.set_yscale("log")
    axes.flat[5].axis("off")
    handles = [plt.Line2D([], [], color=colours[name], label=_label(name, runs)) for name, runs in groups.items()]
    axes.flat[5].legend(handles=handles, loc="center", fontsize=10, title="mean over seeds; band: least to most")
    write_figure(path, figure)


def _label(name: str, runs: list[EBMRun]) -> str:
    ended = [str(run.diverged[0]) for run in runs if run.diverged]
    return f"{name} (× diverged at {', '.join(ended)})" if ended else name


def _band(axis: Any, runs: list[EBMRun], quantity: str, colour: Any, style: str = "-") -> None:
    """Mean over the runs that reached a step, between their least and most; a cross where a run ended."""
    curves = [dict(run.values(quantity)) for run in runs]
    steps = sorted({step for curve in curves for step in curve})
    if not steps:
        return
    values = [[curve[step] for curve in curves if step in curve] for step in steps]
    axis.plot(steps, [np.mean(found) for found in values], style, color=colour, lw=1.5)
    axis.fill_between(
        steps, [min(found) for found in values], [max(found) for found in values], color=colour, alpha=0.2
    )
    for run, curve in zip(runs, curves, strict=True):
        if run.diverged and curve:
            axis.plot([max(curve)], [curve[max(curve)]], "x", color=colour, ms=8)


def sample_sheet(path: Path, groups: dict[str, list[EBMRun]]) -> None:
    """The last sample grid of each configuration's first seed, side by side."""
    import matplotlib.pyplot as plt

    columns = min(len(groups), 5)
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 3.2 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, runs) in zip(axes.flat, groups.items(), strict=False):
        picture = runs[0].path / "samples.png"
        if picture.is_file():
            axis.imshow(plt.imread(picture))
        axis.set_title(_label(name, runs[:1]), fontsize=9)
    write_figure(path, figure)


def write_figure(path: Path, figure: Any) -> None:
    """Writes a figure of matplotlib as PNG and closes it."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())
