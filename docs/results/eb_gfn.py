"""Writes a page of results, and its picture, from run folders of `svgdx train eb-gfn` that were evaluated.

python docs/results/eb_gfn.py RUN... OUT.md [OUT.png]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from svgdx.experiments.data import ising
from svgdx.experiments.data.plane import ENTROPY
from svgdx.experiments.eb_gfn.config import IMAGES, SYNTHETIC, EBGFNConfig
from svgdx.experiments.eb_gfn.tasks import Ising, load_task
from svgdx.experiments.metrics.bits import neg_log_rmse
from svgdx.experiments.run.figures import write_figure
from svgdx.experiments.run.report import table

# EB-GFN in Zhang et al., ICML 2022, as far as published: NLL in nats; -log RMSE of an Ising model by (side, sigma).
PUBLISHED_NLL = {"2spirals": 20.050, "8gaussians": 19.982, "circles": 20.546, "pinwheel": 19.554}
PUBLISHED_RMSE = {(10, 0.1): 6.1, (9, -0.1): 5.7}

PLANE_COLUMNS = (
    "data",
    "sampler",
    "entropy of the data",
    "EB-GFN as published",
    "GFlowNet",
    "energy",
    "MMD²",
    "iterations",
    "hours",
)
ISING_COLUMNS = (
    "grid",
    "σ",
    "sampler",
    "-log RMSE",
    "bound",
    "below the bound",
    "EB-GFN as published",
    "seed",
    "iterations",
    "hours",
)
LIMIT_COLUMNS = ("grid", "σ", "edges known", "edges found", "edges missed", "wrong edges")
IMAGE_COLUMNS = (
    "data",
    "sampler",
    "GFlowNet, bits/dim",
    "energy by AIS, bits/dim",
    "energy by AIS, nats",
    "seed",
    "iterations",
    "hours",
)


class Run:
    """A run folder and its evaluation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = EBGFNConfig.from_yaml(path / "config.yaml")
        self.metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        evaluation = json.loads((path / "evaluation.json").read_text())
        self.figures: dict[str, dict[str, Any]] = {figure["name"]: figure for figure in evaluation["figures"]}
        self.step: int = evaluation["step"]
        self.hours: float = evaluation["seconds"] / 3600

    def value(self, name: str, digits: int = 3) -> str:
        """The figure with its standard error, if it has one; empty if it was not evaluated."""
        if name not in self.figures:
            return ""
        figure = self.figures[name]
        error = "" if figure["error"] is None else f" ± {figure['error']:.{digits}f}"
        return f"{figure['value']:.{digits}f}{error}"

    def settings(self, name: str) -> str:
        """The settings of a figure's evaluation; empty if it was not evaluated."""
        if name not in self.figures:
            return ""
        return ", ".join(f"{key} {value}" for key, value in self.figures[name]["settings"].items())

    def length(self) -> list[str]:
        """Iterations and hours."""
        return [f"{self.step:,}", f"{self.hours:.2f}"]


def joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def plane_section(runs: list[Run]) -> str:
    """The section on 2-D data."""
    rows = []
    for run in runs:
        data = run.config.data
        published = f"{PUBLISHED_NLL[data]:.3f}" if data in PUBLISHED_NLL else ""
        values = [run.value("gflownet_nll"), run.value("energy_nll"), run.value("mmd", 6)]
        rows.append([data, run.config.sampler, f"{ENTROPY[data]:.3f}", published, *values, *run.length()])
    text = (
        "Negative log-likelihood of fresh points, in nats; lower is better, and the entropy of the data is the least "
        "possible."
    )
    return f"## 2-D data\n\n{text}\n\n{joined(table(PLANE_COLUMNS, rows))}"


def ising_section(runs: list[Run]) -> str:
    """The section on Ising models."""
    rows = []
    for run in runs:
        side, sigma = run.config.side, run.config.sigma
        cells = [f"{side}×{side}", f"{sigma:g}", run.config.sampler]
        cells += [run.value("neg_log_rmse"), run.value("neg_log_rmse_bound")]
        gap = run.figures["neg_log_rmse_bound"]["value"] - run.figures["neg_log_rmse"]["value"]
        cells += [f"{gap:.3f}", str(PUBLISHED_RMSE.get((side, sigma), "")), str(run.config.seed)]
        rows.append(cells + run.length())
    text = (
        "−log RMSE over all entries of J; higher is better. The bound is the Cramér–Rao bound of an unbiased estimate "
        "that knows which sites are neighbours, from as many samples as the run trains on. It is an expectation; what "
        "these very samples allow is the next table, by pseudo-likelihood, which needs no sampler: with the edges "
        "known, and with the edges to be found by the penalty and threshold of the runs."
    )
    grids = list({(run.config.side, run.config.sigma): run.config for run in runs}.values())
    limits = joined(table(LIMIT_COLUMNS, [limit_row(config) for config in grids]))
    return f"## Ising models\n\n{text}\n\n{joined(table(ISING_COLUMNS, rows))}\n{limits}"


def limit_row(config: EBGFNConfig) -> list[str]:
    """What the samples of a grid allow, by pseudo-likelihood."""
    task = load_task(config)
    assert isinstance(task, Ising)
    edges = task.true != 0
    known = ising.pseudo_likelihood_fit(task.data, edges)
    # Every coupling is in two conditionals, so the pseudo-likelihood has twice the slope of the likelihood.
    penalised = ising.pseudo_likelihood_fit(task.data, torch.ones_like(edges), 2 * config.energy_l1, config.l1_scale)
    chosen = penalised.abs() > config.refit_threshold
    refitted = ising.pseudo_likelihood_fit(task.data, chosen)
    lost, wrong = int((edges & ~chosen).sum()) // 2, int((chosen & ~edges).sum()) // 2
    cells = [f"{config.side}×{config.side}", f"{config.sigma:g}", f"{neg_log_rmse(known, task.true):.3f}"]
    return [*cells, f"{neg_log_rmse(refitted, task.true):.3f}", f"{lost} of {int(edges.sum()) // 2}", str(wrong)]


def images_section(runs: list[Run]) -> str:
    """The section on binary images."""
    rows = []
    for run in runs:
        data = f"{run.config.data}, {run.config.binarisation}"
        bits = [run.value("gflownet_bits_per_dim", 4), run.value("energy_bits_per_dim_ais", 4)]
        seed = str(run.config.seed)
        rows.append([data, run.config.sampler, *bits, run.value("energy_nll_ais"), seed, *run.length()])
    return f"## Binary images\n\nMeasured on held-out images; lower is better.\n\n{joined(table(IMAGE_COLUMNS, rows))}"


def commands_section(runs: list[Run]) -> str:
    """The command of each run, and the settings of its evaluation."""
    lines = [
        "## Commands and settings of the evaluations",
        "",
        "Hours are wall-clock time of the updates, without evaluations, on a machine that did other work as well.",
        "",
    ]
    for run in runs:
        lines += [f"- `{run.config.command()} --out {run.path}`"]
        for name in ("gflownet_nll", "energy_nll", "energy_nll_ais", "mmd"):
            if run.settings(name):
                lines.append(f"  - {run.figures[name]['text']}: {run.settings(name)}")
    return "\n".join(lines) + "\n"


def curves(runs: list[Run], path: Path) -> None:
    """Draws the GFlowNet's NLL over the hours of training, and its excess over the entropy of the data."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for run in runs:
        entropy = ENTROPY[run.config.data]
        points = [(record["seconds"] / 3600, record["nll"]) for record in run.metrics if "nll" in record]
        if not points:
            continue
        hours, values = zip(*points, strict=True)
        (line,) = axes[0].plot(hours, values, label=run.path.name)
        axes[0].axhline(entropy, color=line.get_color(), linestyle=":", linewidth=1)
        axes[1].plot(hours, [value - entropy for value in values], label=run.path.name)
    axes[0].set(xlabel="hours of updates", ylabel="NLL of the GFlowNet, nats")
    axes[0].set_title("dotted: entropy of the data, the least possible", fontsize=10)
    axes[1].set(xlabel="hours of updates", ylabel="nats above the least possible", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    write_figure(figure, path)


def last_pictures(runs: list[Run], path: Path) -> None:
    """Draws the last picture of each run side by side: samples, or couplings beside the true ones."""
    figure, axes = plt.subplots(1, len(runs), figsize=(4 * len(runs), 4.2), layout="constrained", squeeze=False)
    for axis, run in zip(axes[0], runs, strict=True):
        axis.imshow(plt.imread(run.path / "samples.png"), cmap="gray")
        axis.set_title(run.path.name, fontsize=10)
        axis.set_axis_off()
    write_figure(figure, path)


def main(arguments: list[str]) -> None:
    """Writes the page and the picture."""
    image = Path(arguments[-1]) if arguments[-1].endswith(".png") else None
    *folders, page = map(Path, arguments[:-1] if image else arguments)
    runs = [Run(folder) for folder in folders]
    sections = []
    for kinds, section in ((SYNTHETIC, plane_section), (("ising",), ising_section), (IMAGES, images_section)):
        chosen = [run for run in runs if run.config.data in kinds]
        if chosen:
            sections.append(section(chosen))
    title = sections[0].splitlines()[0].replace("## ", ": ") if len(sections) == 1 else ""
    head = [f"# Results of EB-GFN{title}\n", f"Made by `python docs/results/eb_gfn.py {' '.join(arguments)}`.\n"]
    plane = [run for run in runs if run.config.data in SYNTHETIC]
    if image and plane:
        curves(plane, image)
    elif image:
        last_pictures(runs, image)
        head.append(f"![The last picture of each run]({image.name})\n")
    page.write_text("\n".join([*head, *sections, commands_section(runs)]))


if __name__ == "__main__":
    main(sys.argv[1:])
