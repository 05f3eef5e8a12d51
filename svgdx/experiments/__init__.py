"""Experiments: each trains into a run folder that can be resumed, evaluated and reported."""

import argparse
from pathlib import Path

from svgdx.experiments.run.settings import Command

# The setting that only this experiment's config.yaml has -> what writes its report.
_REPORTS = {"config": "svgdx.experiments.ebm.report:run", "algo": "svgdx.experiments.rl.report:run"}

_DESCRIPTION = """Compare runs of `svgdx train ebm`, or of `svgdx train rl`, in a table and figures.

For ebm, all runs must use the same data set and must have finished or diverged. Each configuration is a row of the
table and a line in the figures; its seeds give the mean, the standard deviation and the band. Runs of points may be of
several data sets; their report has log-likelihoods and a verdict on each published claim.

For rl, runs may have any length. Each environment gets the interquartile mean of the returns over seeds with its 95 %
interval from a stratified bootstrap, the norm of the score, steps per second, and the shares of goals that
`svgdx eval rl` measured.

  svgdx report runs/langevin-0 runs/met-svgd-0 --out report"""


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folder, or a folder of folders seed-N")
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder for report.md and the figures")
    parser.set_defaults(reports=_REPORTS)


REPORT = Command(
    name="report",
    summary="compare runs in a table and figures",
    usage="RUN [RUN ...] --out DIR",
    description=_DESCRIPTION,
    arguments=_report_arguments,
    run="svgdx.experiments.run.report:run",
)
