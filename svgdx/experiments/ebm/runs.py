"""Runs of `svgdx train ebm` that have ended, grouped for a report."""

from __future__ import annotations

import itertools
from pathlib import Path

from svgdx.experiments.ebm.config import CONFIGURATIONS, EBMConfig
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.report import Run, check_same


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
        newest = folder.load(None)
        self.seconds = newest[1].seconds if newest else 0.0

    def best(self, name: str) -> float | None:
        """The smallest value of a quantity; None if it was not logged."""
        return min((value for _, value in self.values(name)), default=None)


# The runs of each configuration, one for each seed.
Groups = dict[str, list[EBMRun]]


def grouped(runs: list[EBMRun]) -> Groups:
    """Groups runs by configuration, in the order of the published comparison; sorts seeds.

    Raises UsageError if the runs are of several data sets, or two runs of a configuration do not differ only in seed.
    """
    data = {run.config.data for run in runs}
    if len(data) > 1:
        raise UsageError(f"all runs must be of one data set, but these are of {', '.join(sorted(data))}")
    groups: Groups = {}
    for name in CONFIGURATIONS:
        seeds = sorted((run for run in runs if run.config.config == name), key=lambda run: run.config.seed)
        for one, other in itertools.pairwise(seeds):
            check_same(one, other)
        if seeds:
            groups[name] = seeds
    return groups


def distance_of(groups: Groups) -> str:
    """The distance to compare: FID if every run has it, otherwise that in the features of a classifier."""
    runs = [run for seeds in groups.values() for run in seeds]
    return "fid" if all(run.values("fid") for run in runs) else "feature_distance"
