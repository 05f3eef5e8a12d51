"""Writes a table of how often moves of K entries are accepted, at every checkpoint of runs of `svgdx train eb-gfn`.

python docs/results/acceptance.py RUN... OUT.md
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from svgdx import gflownets
from svgdx.experiments.eb_gfn.config import EBGFNConfig
from svgdx.experiments.eb_gfn.tasks import load_task
from svgdx.experiments.eb_gfn.train import trainer_of
from svgdx.experiments.eb_gfn.trainer import EBGFNTrainer
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.report import table

POINTS = 256


def lengths(dim: int) -> list[int]:
    """1, 2, 4, ... and D."""
    return [1 << power for power in range(dim.bit_length()) if 1 << power < dim] + [dim]


@torch.no_grad()
def acceptance(trainer: EBGFNTrainer, x: torch.Tensor, k: int) -> float:
    """The mean probability that a move of K entries from x is accepted."""
    proposal = gflownets.back_and_forth(trainer.policy, x, k, seed=k)
    log_p_x, log_p_new = (-trainer.energy(states.float()) for states in (x, proposal.x_new))
    return float(gflownets.accept(proposal, log_p_x, log_p_new, 0, "metropolis")[2].mean())


def acceptances(path: Path) -> list[str]:
    """A table of the checkpoints of a run: iteration, K of the schedule at it, and the acceptance of each K."""
    folder = RunFolder.reopen(path, "eb-gfn")
    config = EBGFNConfig.from_yaml(folder.config)
    trainer = trainer_of(config, load_task(config))
    assert isinstance(trainer, EBGFNTrainer)
    x = trainer.task.held_out(POINTS, 0)
    rows = []
    for file in folder.saved():
        loaded = folder.load(file)
        assert loaded is not None
        trainer.restore(*loaded)
        probabilities = [f"{acceptance(trainer, x, k):.3f}" for k in lengths(trainer.task.dim)]
        rows.append([f"{trainer.step:,}", str(trainer._k()), *probabilities])
    return table([f"{path.name}: iteration", "K", *(f"K = {k}" for k in lengths(trainer.task.dim))], rows)


def main(arguments: list[str]) -> None:
    """Writes the page."""
    *folders, page = map(Path, arguments)
    lines = [
        "# How long a move may be",
        "",
        f"Made by `python docs/results/acceptance.py {' '.join(arguments)}`.",
        "",
        f"Mean probability of accepting a move that erases and refills K entries, from {POINTS} held-out points. The "
        "column K is that of the schedule.",
    ]
    for folder in folders:
        config = EBGFNConfig.from_yaml(folder / "config.yaml")
        lines += ["", f"- `{config.command()} --out {folder}`", "", *acceptances(folder)]
    page.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
