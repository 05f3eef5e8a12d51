"""`svgdx train eb-gfn` and `svgdx eval eb-gfn`: energies and GFlowNets of binary vectors."""

import argparse
from pathlib import Path

from svgdx.experiments.run.settings import Command, run_folder_arguments, run_folder_text

_TRAIN_DESCRIPTION = """Train an energy-based model p(x) ∝ exp(-E(x)) of binary vectors together with a GFlowNet that
samples from it (EB-GFN), or by persistent contrastive divergence with Gibbs sampling or Gibbs with gradients.

--data sets the defaults of other options, as listed below. Explicit options override them.

  svgdx train eb-gfn --data 2spirals --out runs/2spirals"""

_EVALUATION_DESCRIPTION = """Evaluate the newest checkpoint of a run of `svgdx train eb-gfn`. Each result is printed
with the settings that it depends on and written to evaluation.json in the run folder.

  svgdx eval eb-gfn runs/2spirals"""


def _evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder of `svgdx train eb-gfn`")
    parser.add_argument("--checkpoint", metavar="FILE", type=Path, help="evaluate this checkpoint, not the newest")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


TRAIN = Command(
    name="train eb-gfn",
    summary="an energy and a GFlowNet of binary vectors",
    usage="--out DIR [OPTION ...]",
    description=_TRAIN_DESCRIPTION,
    epilog=run_folder_text("--iterations"),
    arguments=run_folder_arguments,
    settings="svgdx.experiments.eb_gfn.config:EBGFNConfig",
    run="svgdx.experiments.eb_gfn.train:main",
)
EVALUATE = Command(
    name="eval eb-gfn",
    summary="a run of `svgdx train eb-gfn`",
    usage="RUN [OPTION ...]",
    description=_EVALUATION_DESCRIPTION,
    arguments=_evaluation_arguments,
    settings="svgdx.experiments.eb_gfn.config:EvaluationSettings",
    run="svgdx.experiments.eb_gfn.evaluate:main",
)
