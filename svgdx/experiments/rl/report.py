"""`svgdx report` of runs of `svgdx train rl`: a table and figures for each environment."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svgdx.experiments.metrics.returns import RESAMPLES, interval, iqm
from svgdx.experiments.rl import plots
from svgdx.experiments.rl.config import RLConfig
from svgdx.experiments.rl.models import command
from svgdx.experiments.run.checkpoint import write_atomically
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.report import Run, check_same, make_folder, spread
from svgdx.rl import PRESETS

ORDER = ("sac", "sac-nf", *PRESETS)


class RLRun(Run):
    """A run of `svgdx train rl`, ended or not.

    Attributes:
        returns: step -> mean return of the evaluation there.
        evaluation: what `svgdx eval rl` wrote; None where it did not.

    """

    def __init__(self, path: Path) -> None:
        folder = RunFolder.reopen(path, "rl")
        super().__init__(folder, RLConfig.from_yaml(folder.config))
        self.returns: dict[int, float] = {step: float(np.mean(found)) for step, found in self.values("returns")}
        file = path / "evaluation.json"
        self.evaluation: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None

    def return_at(self, step: int) -> float:
        """Of the evaluation at the step; of a diverged run that did not come so far, the last one."""
        return self.returns[min(step, max(self.returns))]

    @property
    def speed(self) -> float | None:
        """Steps of the environment per second since the first update, without evaluations and checkpoints."""
        found = [(step, value) for step, value in self.values("seconds") if step >= self.config.update_after]
        if len(found) < 2:
            return None
        (first, begin), (last, end) = found[0], found[-1]
        return (last - first) / (end - begin)


@dataclass
class Group:
    """The seeds of one algorithm with one activation on one environment.

    Attributes:
        name: the algorithm, or the preset of SteinSAC, and the activation where the runs have several. steps: those
            at which every seed was evaluated.
    """

    name: str
    runs: list[RLRun]

    @property
    def steps(self) -> list[int]:
        going = [run for run in self.runs if not run.diverged] or self.runs
        common = set.intersection(*(set(run.returns) for run in going))
        return sorted(common)

    def scores(self, step: int) -> NDArray[np.float64]:
        """(runs, 1): returns of the evaluation at a step."""
        return np.array([[run.return_at(step)] for run in self.runs])

    def shares(self) -> NDArray[np.float64] | None:
        """(runs, goals): of the rollouts of `svgdx eval rl`; None where a run has none."""
        found = [(run.evaluation or {}).get("goal_shares") for run in self.runs]
        return None if any(each is None for each in found) else np.array(found)


def run(paths: list[Path], out: Path) -> int:
    """Writes report.md and figures.png into a folder, which is made where there is none.

    Runs that have not begun are left out, which is told. Raises UsageError where all have not, and for seeds of one
    algorithm whose other settings differ.
    """
    runs = [RLRun(path) for path in paths]
    begun = [run for run in runs if run.returns]
    for run in runs:
        if run not in begun:
            print(f"{run.path}: holds no evaluation yet and is left out", file=sys.stderr)
    if not begun:
        raise UsageError("no run holds an evaluation yet")
    environments = grouped(begun)
    make_folder(out)
    plots.figures(out / "figures.png", environments)
    write_atomically(out / "report.md", text(environments).encode())
    print(f"{out / 'report.md'}, {out / 'figures.png'}")
    return 0


def grouped(runs: list[RLRun]) -> dict[str, list[Group]]:
    """Runs by environment, algorithm and activation, in the order of SAC, SAC-NF and the presets, seeds in order."""
    environments: dict[str, list[Group]] = {}
    for run in runs:
        environments.setdefault(environment_of(run.config), [])
    for label in ORDER:
        found = [run for run in runs if run.config.label == label]
        activations = sorted({run.config.activation for run in found})
        for (name, groups), activation in itertools.product(environments.items(), activations):
            seeds = [run for run in found if (environment_of(run.config), run.config.activation) == (name, activation)]
            seeds.sort(key=lambda run: run.config.seed)
            for one, other in itertools.pairwise(seeds):
                check_same(one, other)
            if seeds:
                groups.append(Group(label if len(activations) == 1 else f"{label}, {activation}", seeds))
    return environments


def environment_of(config: RLConfig) -> str:
    return config.env if config.goals is None else f"{config.env}, {config.goals} goals"


def final_step(groups: list[Group]) -> int:
    """The last step at which every run of an environment was evaluated, those that diverged left out."""
    common = set.intersection(*(set(group.steps) for group in groups))
    if not common:
        raise UsageError(f"runs on {groups[0].runs[0].config.env}: evaluated at no step in common")
    return max(common)


def text(environments: dict[str, list[Group]]) -> str:
    """The report as Markdown."""
    lines = ["# Maximum-entropy reinforcement learning", ""]
    lines += [
        "The score of a run is the mean return of an evaluation, by the actions of testing (`--eval-episodes`). IQM: "
        "interquartile mean of the scores over seeds, which of fewer than four is their mean; in brackets its 95 % "
        f"percentile interval from {RESAMPLES:,} stratified bootstrap resamples of the seeds (Agarwal et al., NeurIPS "
        "2021). A run that diverged keeps the score of its last evaluation. Other columns: mean ± standard deviation "
        "over seeds, of what was logged last; steps per second are those of the environment since the first update, "
        "without evaluations. Target: the density that the particles go to, whose score's norm stands in the table; "
        "`max-entropy` is exp(Q/α) of the action, `s2ac` has the gradient of Q alone, without α and tanh.",
        "",
        "![Returns, final IQM, norm of the score, steps per second](figures.png)",
    ]
    for name, groups in environments.items():
        lines += ["", f"## {name}", "", *_section(groups)]
    lines += ["", "## Commands", ""]
    for groups in environments.values():
        lines += [f"    {command(group.runs[0].config)} --seeds {_seeds(group)} --out DIR" for group in groups]
    if any(group.shares() is not None for groups in environments.values() for group in groups):
        lines.append("    svgdx eval rl DIR/seed-N")
    return "\n".join([*lines, "    svgdx report DIR... --out FOLDER"]) + "\n"


def _section(groups: list[Group]) -> list[str]:
    last = final_step(groups)
    head = ["algorithm", "target", "seeds", "diverged at step", f"IQM at step {last:,}", "mean"]
    head += ["norm of the score", "entropy", "MH rejection", "steps/s"]
    rows = []
    for group in groups:
        scores = group.scores(last)
        found = [spread([run.last(name) for run in group.runs]) for name in ("score_norm", "entropy", "mh_rejection")]
        ended = ", ".join(str(run.diverged[0]) for run in group.runs if run.diverged) or "none"
        target = group.runs[0].config.target or "–"
        cells = [group.name, target, str(len(group.runs)), ended, with_interval(scores), spread(list(scores[:, 0]), 1)]
        rows.append([*cells, *found, spread([run.speed for run in group.runs], 1)])
    return [*_table(head, rows), *_goals(groups)]


def with_interval(scores: NDArray[np.float64]) -> str:
    """IQM of (runs, tasks) and its interval."""
    found = interval(scores)
    return f"{iqm(scores):.1f} " + ("(one seed)" if found is None else f"[{found[0]:.1f}, {found[1]:.1f}]")


def _goals(groups: list[Group]) -> list[str]:
    """The table of the shares, where every run has been evaluated."""
    if groups[0].runs[0].config.goals is None:
        return []
    missing = [str(run.path) for group in groups for run in group.runs if (run.evaluation or {}).get("goals") is None]
    if missing:
        return ["", f"No shares of goals: `svgdx eval rl` has not been run on {', '.join(missing)}."]
    rows, count = [], 0
    for group in groups:
        shares = group.shares()
        assert shares is not None
        count = shares.shape[1]
        cells = [spread(list(100 * shares[:, goal]), 1) for goal in range(count)]
        rows.append([group.name, *cells, spread(list(100 - 100 * shares.sum(1)), 1), f"{100 * shares.min():.1f}"])
    rollouts = sorted({_rollouts(run) for group in groups for run in group.runs})
    head = ["algorithm", *(f"goal {goal + 1}" for goal in range(count)), "none", "least of all seeds"]
    title = f"Share of rollouts that reach each goal, in percent, over seeds; {'; '.join(rollouts)}:"
    return ["", title, "", *_table(head, rows)]


def _rollouts(run: RLRun) -> str:
    assert run.evaluation is not None
    settings = run.evaluation["settings"]
    return f"{settings['episodes']} rollouts by {settings['actions']} actions after {run.evaluation['step']:,} steps"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]


def _seeds(group: Group) -> str:
    return ",".join(str(run.config.seed) for run in group.runs)
