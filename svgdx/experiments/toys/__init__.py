"""`svgdx sample`: targets whose entropy is known."""

import argparse
from pathlib import Path

from svgdx.experiments.run.settings import Command

_DESCRIPTION = """Run an SVGD sampler on a target whose entropy is known, and compare. With the preset met-svgd the
sampler first learns its initial Gaussian, bandwidths and step sizes.

TARGET and --preset set the defaults of other options, as listed below. Explicit options override them.

  svgdx sample gaussian --out runs/gaussian"""

_EPILOG = """The run folder DIR holds config.yaml, metrics.jsonl (if something is learnt), result.json, evolution.gif
and sample.png: the particles, their density against that of the target, and the entropy along the chain against the
true one.

Exit codes: 0 finished, 1 diverged, 2 the request is invalid, 130 interrupted."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="run folder; must be new or empty")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


SAMPLE = Command(
    name="sample",
    summary="sample from a target with a known answer",
    usage="TARGET --out DIR [OPTION ...]",
    description=_DESCRIPTION,
    epilog=_EPILOG,
    arguments=_arguments,
    settings="svgdx.experiments.toys.config:SampleConfig",
    run="svgdx.experiments.toys.sample:main",
)
