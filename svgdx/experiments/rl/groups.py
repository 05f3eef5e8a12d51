"""Runs of `svgdx train rl` as a report compares them: grouped by environment, algorithm and activation."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svgdx.experiments.rl.config import RLConfig
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.report import Run, check_same
from svgdx.rl import PRESETS

ORDER = ("sac", "sac-nf", *PRESETS)


class RLRun(Run):
    """A run of `svgdx train rl`, finished or not.

    Attributes:
        returns: the mean return of each evaluation, by step.
        evaluation: what `svgdx eval rl` wrote; None if it has not been run.
    """

    def __init__(self, path: Path) -> None:
        folder = RunFolder.reopen(path, "rl")
        super().__init__(folder, RLConfig.from_yaml(folder.config))
        self.returns: dict[int, float] = {step: float(np.mean(returns)) for step, returns in self.values("returns")}
        file = path / "evaluation.json"
        try:
            self.evaluation: dict[str, Any] | None = (
                json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
            )
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{file}: cannot be read: {error}; run `svgdx eval rl` again") from error

    def return_at(self, step: int) -> float:
        """The mean return at `step`, or at the last evaluation if the run diverged earlier."""
        return self.returns[min(step, max(self.returns))]

    @property
    def speed(self) -> float | None:
        """Environment steps per second since the first update, without evaluations and checkpoints."""
        seconds = [(step, value) for step, value in self.values("seconds") if step >= self.config.update_after]
        if len(seconds) < 2:
            return None
        (first, start), (last, end) = seconds[0], seconds[-1]
        return (last - first) / (end - start)


@dataclass
class Group:
    """The seeds of one algorithm with one activation on one environment.

    Attributes:
        name: "sac", "sac-nf" or a preset of SteinSAC, followed by the activation if the algorithm has runs with
            several.
        runs: one per seed.
    """

    name: str
    runs: list[RLRun]

    @property
    def steps(self) -> list[int]:
        """The steps at which every seed that did not diverge was evaluated."""
        complete = [run for run in self.runs if not run.diverged] or self.runs
        return sorted(set.intersection(*(set(run.returns) for run in complete)))

    def scores(self, step: int) -> NDArray[np.float64]:
        """Mean returns of the evaluations at a step, (runs, 1)."""
        return np.array([[run.return_at(step)] for run in self.runs])

    def shares(self) -> NDArray[np.float64] | None:
        """The share of rollouts in `svgdx eval rl` that reached each goal, (runs, goals); None if a run has none."""
        shares = [(run.evaluation or {}).get("goal_shares") for run in self.runs]
        return None if None in shares else np.array(shares)


def grouped(runs: list[RLRun]) -> dict[str, list[Group]]:
    """The groups of each environment, in the order of ORDER, their seeds in ascending order."""
    environments: dict[str, list[Group]] = {environment_of(run.config): [] for run in runs}
    for label in ORDER:
        labelled = [run for run in runs if run.config.label == label]
        activations = sorted({run.config.activation for run in labelled})
        for (name, groups), activation in itertools.product(environments.items(), activations):
            key = (name, activation)
            seeds = [run for run in labelled if (environment_of(run.config), run.config.activation) == key]
            seeds.sort(key=lambda run: run.config.seed)
            for run, next_run in itertools.pairwise(seeds):
                check_same(run, next_run)
            if seeds:
                groups.append(Group(label if len(activations) == 1 else f"{label}, {activation}", seeds))
    return environments


def environment_of(config: RLConfig) -> str:
    """The environment as a report names it, with its goals if it has any."""
    return config.env if config.goals is None else f"{config.env}, {config.goals} goals"


def final_step(groups: list[Group]) -> int:
    """The last step at which every run on an environment was evaluated, except those that diverged."""
    common = set.intersection(*(set(group.steps) for group in groups))
    if not common:
        raise UsageError(f"the runs on {groups[0].runs[0].config.env} have no evaluation at a common step")
    return max(common)
