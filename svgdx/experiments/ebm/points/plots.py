"""Pictures of the report on runs of points."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch

from svgdx.experiments.data.points import load_points
from svgdx.experiments.ebm.glow import GlowTrainer
from svgdx.experiments.ebm.runs import EBMRun, Groups
from svgdx.experiments.ebm.train import load_task, trainer_of
from svgdx.experiments.ebm.trainer import EBMTrainer
from svgdx.experiments.run.figures import write_figure
from svgdx.experiments.run.folder import RunFolder

# Pixels of one density.
_SIDE = 100


def figures(path: Path, groups: dict[str, Groups]) -> None:
    """Draws by how much the log-likelihoods of energy and sampler are below those of the best row of the data set."""
    names = list(dict.fromkeys(name for rows in groups.values() for name in rows))
    figure, axes = plt.subplots(1, 2, figsize=(13, 0.45 * len(names) + 1.6), layout="constrained", sharey=True)
    palette = matplotlib.colormaps["tab10"]
    titles = {"energy_log_likelihood": "energy", "sampler_log_likelihood": "sampler, exact density"}
    for axis, (quantity, title) in zip(axes, titles.items(), strict=True):
        for index, (data, rows) in enumerate(groups.items()):
            values = {name: [run.last(quantity) for run in rows.get(name, [])] for name in names}
            present = {name: [v for v in row if v is not None] for name, row in values.items()}
            best = max((float(np.mean(row)) for row in present.values() if row), default=0.0)
            shift = 0.6 * (index / max(1, len(groups) - 1) - 0.5)
            for place, row in enumerate(present.values()):
                below = [max(best - value, 1e-3) for value in row]
                axis.plot(below, [place + shift] * len(below), ".", color=palette(index), ms=6)
            axis.plot([], [], ".", color=palette(index), label=data)
        axis.set(xscale="log", xlabel="nats below the best row's mean; left is better", yticks=range(len(names)))
        axis.set_yticklabels(names, fontsize=9)
        axis.set_title(f"log-likelihood of held-out points: {title}", fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=8)
    write_figure(figure, path)


def densities(path: Path, groups: dict[str, Groups]) -> None:
    """Draws the density of the first seed of every row on every data set of the plane, below the held-out points."""
    sets = [data for data in groups if load_points(data).train.shape[1] == 2]
    names = list(dict.fromkeys(name for data in sets for name in groups[data]))
    if not sets:
        return
    figure, axes = plt.subplots(
        len(names) + 1, len(sets), figsize=(1.35 * len(sets) + 1.6, 1.35 * (len(names) + 1)), squeeze=False
    )
    figure.subplots_adjust(
        left=1.6 / (1.35 * len(sets) + 1.6), right=0.995, bottom=0.005, top=0.975, wspace=0.03, hspace=0.03
    )
    for column, data in enumerate(sets):
        points = load_points(data)
        width = points.half_width()
        axes[0, column].set_title(data, fontsize=9)
        axes[0, column].plot(*points.held_out.T.numpy(), ".", ms=1, color="black")
        axes[0, column].set(xlim=(-width, width), ylim=(-width, width))
        for row, name in enumerate(names, 1):
            runs = groups[data].get(name, [])
            if runs:
                axes[row, column].imshow(_density(runs[0], width), origin="lower", cmap="magma", aspect="auto")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for row, name in enumerate(["held-out points", *names]):
        axes[row, 0].set_ylabel(name.replace(" --", "\n--"), fontsize=7, rotation=0, ha="right", va="center")
    write_figure(figure, path)


def _density(run: EBMRun, width: float) -> np.ndarray:
    """The density over the square of this half width, relative to its largest value, (_SIDE, _SIDE)."""
    ticks = (torch.arange(_SIDE) + 0.5) * 2 * width / _SIDE - width
    points = torch.cartesian_prod(ticks, ticks)
    trainer = trainer_of(run.config, load_task(run.config))
    saved = RunFolder.reopen(run.path).load(None)
    if saved is not None:
        trainer.restore(*saved)
    with torch.no_grad():
        if isinstance(trainer, GlowTrainer):
            log_density = trainer.glow.log_prob(points)
        else:
            assert isinstance(trainer, EBMTrainer)
            log_density = trainer.energy(points) / run.config.temperature
    # Far from all data a flow may overflow.
    values: np.ndarray = log_density.nan_to_num(nan=-math.inf).view(_SIDE, _SIDE).T.double().numpy()
    return np.exp(np.maximum(values - values.max(), -math.log(1e6)))
