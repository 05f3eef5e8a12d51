"""`svgdx train ebm`: energy-based models of images."""

from svgdx.experiments.run.settings import Command, run_folder_arguments, run_folder_text

_DESCRIPTION = """Train an energy-based model p(x) ∝ exp(f(x)) on images or points. f is a multilayer perceptron
or a residual convolutional network, trained to minimise E_q[f] - E_data[f], where --config chooses the
sampler q: MET-SVGD, whose initial Gaussian, bandwidths and step sizes are trained to maximise E_q[f] + H(q); one of its
variants; or Langevin dynamics. --config glow trains a normalising flow on the same data instead.

--config sets the defaults of other options, as listed below. Explicit options override the configuration.

  svgdx train ebm --out runs/digits"""

TRAIN = Command(
    name="train ebm",
    summary="an energy-based model of images",
    usage="--out DIR [OPTION ...]",
    description=_DESCRIPTION,
    epilog=run_folder_text("--steps"),
    arguments=run_folder_arguments,
    settings="svgdx.experiments.ebm.config:EBMConfig",
    run="svgdx.experiments.ebm.train:main",
)
