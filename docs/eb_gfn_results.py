"""Tables and a picture of runs of `svgdx train eb-gfn`: python docs/eb_gfn_results.py RUN... OUT.md OUT.png."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from svgdx.experiments.data.plane import ENTROPY
from svgdx.experiments.eb_gfn.config import IMAGES, SYNTHETIC, EBGFNConfig

# EB-GFN in Zhang et al., ICML 2022, where found: NLL in nats; -log RMSE for an Ising model's (side, sigma).
PUBLISHED_NLL = {"2spirals": 20.050, "8gaussians": 19.982, "circles": 20.546, "pinwheel": 19.554}
PUBLISHED_RMSE = {(10, 0.1): 6.1, (9, -0.1): 5.7}


class Run:
    """A run folder with its evaluation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = EBGFNConfig.from_yaml(path / "config.yaml")
        self.metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        evaluation = json.loads((path / "evaluation.json").read_text())
        self.figures: dict[str, dict[str, Any]] = {each["name"]: each for each in evaluation["figures"]}
        self.step: int = evaluation["step"]
        self.hours: float = evaluation["seconds"] / 3600

    def value(self, name: str, digits: int = 3) -> str:
        """A figure, with its standard error where it has one."""
        if name not in self.figures:
            return ""
        figure = self.figures[name]
        error = "" if figure["error"] is None else f" ± {figure['error']:.{digits}f}"
        return f"{figure['value']:.{digits}f}{error}"

    def facts(self, name: str) -> str:
        if name not in self.figures:
            return ""
        return ", ".join(f"{key} {value}" for key, value in self.figures[name]["settings"].items())

    def length(self) -> list[str]:
        return [f"{self.step:,}", f"{self.hours:.2f}"]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def synthetic_table(runs: list[Run]) -> str:
    head = [
        "data",
        "sampler",
        "least possible",
        "EB-GFN as published",
        "GFlowNet",
        "energy",
        "MMD²",
        "iterations",
        "hours",
    ]
    rows = []
    for run in runs:
        data = run.config.data
        published = f"{PUBLISHED_NLL[data]:.3f}" if data in PUBLISHED_NLL else ""
        found = [run.value("gflownet_nll"), run.value("energy_nll"), run.value("mmd", 6)]
        rows.append([data, run.config.sampler, f"{ENTROPY[data]:.3f}", published, *found, *run.length()])
    text = "Negative log-likelihood of fresh points, in nats; lower is better."
    return f"## 2-D data\n\n{text}\n\n{table(head, rows)}"


def ising_table(runs: list[Run]) -> str:
    head = ["grid", "σ", "sampler", "-log RMSE", "EB-GFN as published", "iterations", "hours"]
    rows = []
    for run in runs:
        side, sigma = run.config.side, run.config.sigma
        published = PUBLISHED_RMSE.get((side, sigma))
        cells = [f"{side}×{side}", f"{sigma:g}", run.config.sampler, run.value("neg_log_rmse"), str(published or "")]
        rows.append(cells + run.length())
    return f"## Ising models\n\nHigher is better.\n\n{table(head, rows)}"


def images_table(runs: list[Run]) -> str:
    head = [
        "data",
        "sampler",
        "GFlowNet, bits/dim",
        "energy by AIS, bits/dim",
        "energy by AIS, nats",
        "iterations",
        "hours",
    ]
    rows = []
    for run in runs:
        found = [run.value("gflownet_bits_per_dim", 4), run.value("energy_bits_per_dim_ais", 4)]
        cells = [
            f"{run.config.data}, {run.config.binarisation}",
            run.config.sampler,
            *found,
            run.value("energy_nll_ais"),
        ]
        rows.append(cells + run.length())
    return f"## Binary images\n\nOf held-out images; lower is better.\n\n{table(head, rows)}"


def settings_text(runs: list[Run]) -> str:
    lines = [
        "## Commands and settings of the figures",
        "",
        "Hours are wall-clock time of the updates, evaluations not counted, whatever else the machine did meanwhile.",
        "",
    ]
    for run in runs:
        lines += [f"- `{run.config.command()} --out {run.path}`"]
        for name in ("gflownet_nll", "energy_nll", "energy_nll_ais", "mmd"):
            if run.facts(name):
                lines.append(f"  - {run.figures[name]['text']}: {run.facts(name)}")
    return "\n".join(lines) + "\n"


def picture(runs: list[Run], path: Path) -> None:
    """NLL of the GFlowNet during training, above the least possible where that is known."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for run in runs:
        data = run.config.data
        points = [(record["seconds"] / 3600, record["nll"]) for record in run.metrics if "nll" in record]
        if not points:
            continue
        hours, values = zip(*points, strict=True)
        (line,) = axes[0].plot(hours, values, label=run.path.name)
        if data in ENTROPY:
            axes[0].axhline(ENTROPY[data], color=line.get_color(), linestyle=":", linewidth=1)
            axes[1].plot(hours, [value - ENTROPY[data] for value in values], label=run.path.name)
    axes[0].set(xlabel="hours of updates", ylabel="NLL of the GFlowNet, nats")
    axes[0].set_title("dotted: entropy of the data, the least possible", fontsize=10)
    axes[1].set(xlabel="hours of updates", ylabel="nats above the least possible", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=80)


def main(paths: list[str]) -> None:
    *folders, text, image = map(Path, paths)
    runs = [Run(folder) for folder in folders]
    picture([run for run in runs if run.config.data in SYNTHETIC], image)
    parts = [f"# Results of EB-GFN\n\nMade by `python docs/eb_gfn_results.py {' '.join(paths)}`.\n"]
    for kinds, render in ((SYNTHETIC, synthetic_table), (("ising",), ising_table), (IMAGES, images_table)):
        chosen = [run for run in runs if run.config.data in kinds]
        if chosen:
            parts.append(render(chosen))
    parts.append(settings_text(runs))
    text.write_text("\n".join(parts))


if __name__ == "__main__":
    main(sys.argv[1:])
