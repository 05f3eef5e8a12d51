"""Pictures of `svgdx train ebm`: the curves of a run, and the figures of a report on several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from svgdx.experiments.ebm.runs import EBMRun, Groups, distance_of
from svgdx.experiments.metrics.calibration import SCALES
from svgdx.experiments.run.figures import Panel, write_curves, write_figure

PANELS = (
    Panel("Fréchet distance to held-out images", ("feature_distance", "pixel_distance", "fid"), logarithmic=True),
    Panel("energy f, nats", ("energy_data", "energy_samples")),
    Panel("|grad f| at the samples", ("score_norm",), logarithmic=True),
    Panel("entropy of the sampler, nats", ("entropy", "entropy_bound")),
    Panel("step size eps", ("eps", "eps_bound"), logarithmic=True),
    Panel("bandwidth sigma", ("sigma", "sigma_median")),
    Panel("steps of a chain", ("steps",)),
    Panel("factor by which grad f fits best", tuple(f"fit_{scale}" for scale in SCALES)),
    Panel("fraction of rejected proposals", ("mh_rejection",)),
    Panel("-log p of the data, nats", ("nll",)),
)
# Panels of a report beside that of the distance: quantity and title.
REPORT_PANELS = {
    "score_norm": "norm of grad f at the samples",
    "sigma": "bandwidth; dotted: median heuristic",
    "eps": "step size; dashed: initial or fixed value",
    "mh_rejection": "fraction of proposals that MH rejects",
}


def curves(path: Path, metrics: list[dict[str, Any]]) -> None:
    """Draws the curves of metrics.jsonl over the updates, in those panels of PANELS that have a quantity in it."""
    write_curves(path, metrics, PANELS, "updates")


def figures(path: Path, groups: Groups) -> None:
    """Draws the distance and the quantities of REPORT_PANELS over the updates, and a legend."""
    distance = distance_of(groups)
    figure, axes = plt.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
    palette = matplotlib.colormaps["tab10" if len(groups) <= 10 else "tab20"]
    colours = {name: palette(index % palette.N) for index, name in enumerate(groups)}
    panels = {distance: f"{distance} to held-out images"} | REPORT_PANELS
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
    axes.flat[5].legend(handles=handles, loc="center", fontsize=10, title="mean over seeds; band: minimum to maximum")
    write_figure(figure, path)


def _label(name: str, runs: list[EBMRun]) -> str:
    ended = [str(run.diverged[0]) for run in runs if run.diverged]
    return f"{name} (× diverged at {', '.join(ended)})" if ended else name


def _band(axis: Any, runs: list[EBMRun], quantity: str, colour: Any, style: str = "-") -> None:
    """Draws the mean over the runs that reached a step, between minimum and maximum; a cross if a run diverged."""
    curves = [dict(run.values(quantity)) for run in runs]
    steps = sorted({step for curve in curves for step in curve})
    if not steps:
        return
    values = [[curve[step] for curve in curves if step in curve] for step in steps]
    axis.plot(steps, [np.mean(column) for column in values], style, color=colour, lw=1.5)
    axis.fill_between(steps, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.2)
    for run, curve in zip(runs, curves, strict=True):
        if run.diverged and curve:
            axis.plot([max(curve)], [curve[max(curve)]], "x", color=colour, ms=8)


def sample_sheet(path: Path, groups: Groups) -> None:
    """Draws the last samples of the first seed of every configuration side by side."""
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
    write_figure(figure, path)
