"""Runs of `svgdx train ebm` that have ended, grouped for a report."""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from pathlib import Path
from typing import Any

from svgdx.experiments.ebm.config import CONFIGURATIONS, EBMConfig
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.report import FREE, Run, check_same
from svgdx.experiments.run.settings import flag

# A run counts as diverged if a gradient is this many times its running median, or a distance this many times its best.
GRADIENT_FACTOR = 100.0
DISTANCE_FACTOR = 5.0
# Gradients of which the running median is taken before the rule applies.
_LEAST_GRADIENTS = 10


class EBMRun(Run):
    """A run of `svgdx train ebm` that has ended.

    Attributes:
        seconds: duration of all updates, without evaluations, according to the newest checkpoint.

    Raises:
        UsageError: the folder holds no run of `svgdx train ebm`, or the run has not ended.
    """

    config: EBMConfig

    def __init__(self, path: Path) -> None:
        folder = RunFolder.reopen(path)
        super().__init__(folder, EBMConfig.from_yaml(folder.config))
        if not self.diverged and self.step < self.config.steps:
            raise UsageError(f"{path}: the run has not ended: it is at step {self.step} of {self.config.steps}")
        newest = folder.load_with_metrics(None)
        self.seconds = newest[1].seconds if newest else 0.0

    def best(self, name: str) -> float | None:
        """The smallest value of a quantity; None if it was not logged."""
        return min((value for _, value in self.values(name)), default=None)

    def largest(self, name: str) -> float | None:
        """The largest value of a quantity; None if it was not logged."""
        return max((value for _, value in self.values(name)), default=None)

    def average(self, name: str) -> float | None:
        """The mean of the values of a quantity; None if it was not logged."""
        values = [value for _, value in self.values(name)]
        return statistics.fmean(values) if values else None

    def divergence(self, distance: str) -> tuple[int, str] | None:
        """The first step at which the run diverged, and by which rule; None if it did not.

        The rules: a quantity that is not finite; the sampler's gradient before clipping above GRADIENT_FACTOR times its
        running median; the named distance above DISTANCE_FACTOR times its best so far; a claimed entropy more than one
        nat per dimension above the largest that the covariance of the samples allows.
        """
        signs = [] if self.diverged is None else [(self.diverged[0], "not finite")]
        gradients = self.values("sampler_gradient")
        for index in range(_LEAST_GRADIENTS, len(gradients)):
            if gradients[index][1] > GRADIENT_FACTOR * statistics.median(value for _, value in gradients[:index]):
                signs.append((gradients[index][0], "gradient"))
                break
        distances = self.values(distance)
        for index in range(1, len(distances)):
            if distances[index][1] > DISTANCE_FACTOR * min(value for _, value in distances[:index]):
                signs.append((distances[index][0], "distance"))
                break
        signs += [(step, "entropy") for step, excess in self.values("entropy_excess") if step > 0 and excess > 1][:1]
        return min(signs, default=None)


# The runs of each row of a report, one for each seed, by the row's name.
Groups = dict[str, list[EBMRun]]


def grouped(runs: list[EBMRun]) -> Groups:
    """Groups runs by their settings, in the order of the published comparison; sorts seeds.

    A row is named after its configuration, and the options that set it apart from other rows of that configuration.

    Raises UsageError if the runs are of several data sets, or two runs have the same settings and seed.
    """
    data = {run.config.data for run in runs}
    if len(data) > 1:
        raise UsageError(f"all runs must be of one data set, but these are of {', '.join(sorted(data))}")
    groups: Groups = {}
    for configuration in CONFIGURATIONS:
        changes = [(run, _changes(run.config)) for run in runs if run.config.config == configuration]
        for run, change in changes:
            special = [pair for pair in change.items() if not all(pair in other.items() for _, other in changes)]
            name = " ".join([configuration, *(f"{flag(option)} {value}" for option, value in special)])
            groups.setdefault(name, []).append(run)
    for row in groups.values():
        row.sort(key=lambda run: run.config.seed)
        for one, other in itertools.pairwise(row):
            check_same(one, other)
    return groups


def _changes(config: EBMConfig) -> dict[str, Any]:
    """The settings that differ from the configuration's defaults, without those that name no row."""
    chosen = {"config": config.config, "data": config.data}
    default = EBMConfig(**chosen | EBMConfig.defaults_for(chosen))
    pairs = (
        (item.name, getattr(config, item.name), getattr(default, item.name)) for item in dataclasses.fields(config)
    )
    return {
        name: value
        for name, value, usual in pairs
        if value != usual and name not in (*FREE, "data", "data_root", "steps")
    }


def folder_name(row: str) -> str:
    """The name of a row as part of a folder's name."""
    return re.sub(r"[^\w.]+", "-", row)


def distance_of(groups: Groups) -> str:
    """The distance to compare: FID if every run has it, otherwise that in the features of a classifier."""
    runs = [run for seeds in groups.values() for run in seeds]
    return "fid" if all(run.values("fid") for run in runs) else "feature_distance"
