"""The figures of `svgdx report` for reinforcement learning: one row per environment, one colour per algorithm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from svgdx.experiments.metrics.returns import interval, iqm
from svgdx.experiments.rl.groups import ORDER, Group, final_step
from svgdx.experiments.run.figures import write_figure

# Enough for a band in a figure; the intervals of the table have more.
_BAND_RESAMPLES = 2000


def figures(path: Path, environments: dict[str, list[Group]]) -> None:
    """Draws return curves, final IQM, norm of the score and steps per second, and the shares of goals if there are."""
    panels: list[Callable[[Any, list[Group], dict[str, Any]], None]] = [_returns, _final, _score_norm, _speed]
    if any(groups[0].shares() is not None for groups in environments.values()):
        panels.append(_shares)
    rows, columns = len(environments), len(panels)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.8 * rows), layout="constrained", squeeze=False)
    present = {group.name for groups in environments.values() for group in groups}
    names = sorted(present, key=lambda name: (ORDER.index(name.partition(",")[0]), name))
    colours = {name: matplotlib.colormaps["tab20" if len(names) > 10 else "tab10"](i) for i, name in enumerate(names)}
    for row, (name, groups) in zip(axes, environments.items(), strict=True):
        for axis, panel in zip(row, panels, strict=True):
            panel(axis, groups, colours)
        row[0].set_ylabel(name, fontsize=10)
    handles = [plt.Line2D([], [], color=colours[name], lw=3, label=name) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 6), fontsize=9)
    write_figure(figure, path)


def _returns(axis: Any, groups: list[Group], colours: dict[str, Any]) -> None:
    for group in groups:
        steps, colour = group.steps, colours[group.name]
        scores = [group.scores(step) for step in steps]
        axis.plot(steps, [iqm(score) for score in scores], color=colour, lw=1.5)
        bounds = [interval(score, _BAND_RESAMPLES) for score in scores]
        if bounds[0] is not None:
            low, high = np.array(bounds).T
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
        for run in group.runs:
            if run.diverged:
                axis.plot(run.diverged[0], run.return_at(run.diverged[0]), "x", color=colour, ms=8)
    _finish(axis, "return: IQM over seeds, 95 % interval", "steps")


def _final(axis: Any, groups: list[Group], colours: dict[str, Any]) -> None:
    last = final_step(groups)
    for place, group in enumerate(reversed(groups)):
        scores = group.scores(last)
        value, bounds = iqm(scores), interval(scores)
        reach = None if bounds is None else [[max(0.0, value - bounds[0])], [max(0.0, bounds[1] - value)]]
        axis.barh(place, value, xerr=reach, color=colours[group.name], ecolor="black", capsize=3)
        axis.plot(scores[:, 0], np.full(len(scores), place), ".", color="black", ms=5)
    axis.set_yticks([])
    _finish(axis, f"IQM at step {last:,}; dots: seeds", "return")


def _score_norm(axis: Any, groups: list[Group], colours: dict[str, Any]) -> None:
    for group in groups:
        curves = [dict(run.values("score_norm")) for run in group.runs]
        steps = sorted(set.union(*(set(curve) for curve in curves)))
        values = [[curve[step] for curve in curves if step in curve] for step in steps]
        if steps:
            colour, lowest, highest = colours[group.name], list(map(min, values)), list(map(max, values))
            axis.plot(steps, [np.mean(norms) for norms in values], color=colour, lw=1.5)
            axis.fill_between(steps, lowest, highest, color=colour, alpha=0.2, lw=0)
    if axis.lines:
        axis.set_yscale("log")
    _finish(axis, "norm of grad log p at the particles; band: range over seeds", "steps")


def _speed(axis: Any, groups: list[Group], colours: dict[str, Any]) -> None:
    for place, group in enumerate(reversed(groups)):
        speeds = [run.speed for run in group.runs if run.speed is not None]
        if speeds:
            axis.barh(place, np.mean(speeds), color=colours[group.name])
            axis.plot(speeds, np.full(len(speeds), place), ".", color="black", ms=5)
    axis.set_yticks([])
    _finish(axis, "environment steps per second; dots: seeds", "steps/s")


def _shares(axis: Any, groups: list[Group], colours: dict[str, Any]) -> None:
    """Draws a bar per algorithm for each goal and for no goal; dots are seeds."""
    named = [(group.name, shares) for group in groups if (shares := group.shares()) is not None]
    if not named:
        axis.axis("off")
        return
    width = 0.8 / len(named)
    for index, (name, shares) in enumerate(named):
        heights = np.column_stack([shares, 1 - shares.sum(1)])
        places = np.arange(heights.shape[1]) + (index - (len(named) - 1) / 2) * width
        axis.bar(places, heights.mean(0), width, color=colours[name])
        for row in heights:
            axis.plot(places, row, ".", color="black", ms=4)
    goals = named[0][1].shape[1]
    axis.set_xticks(range(goals + 1), [*(f"goal {goal + 1}" for goal in range(goals)), "none"], fontsize=8)
    axis.axhline(0.1, color="grey", ls=":", lw=1)
    _finish(axis, "share of rollouts; dots: seeds, dotted: 10 %", "")


def _finish(axis: Any, title: str, label: str) -> None:
    """Adds title and label, and a remark if there is nothing to draw."""
    if not axis.has_data():
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axis.transAxes, color="grey")
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(label, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
