"""`svgdx train rl` and `svgdx eval rl`: maximum-entropy reinforcement learning."""

import argparse
from pathlib import Path

from svgdx.experiments.run.settings import Command

TRUST = "load a checkpoint that the run's manifest does not list; this executes code in it, see SECURITY.md"

_TRAIN_DESCRIPTION = """Train SAC, SAC with a normalising flow, or SteinSAC on an environment of Gymnasium. The actions
of SteinSAC are SVGD particles that approach exp(Q / alpha) and whose density is known.

The seeds are trained one after another, each in its own run folder DIR/seed-N (even for a single seed); if one seed
diverges, the others are still trained. The defaults are the settings of the published runs on MuJoCo, including their
full length of 1,000,000 steps. Explicit options override the defaults of --env, --algo and --preset.

  svgdx train rl --env Pendulum-v1 --out runs/pendulum"""

_TRAIN_EPILOG = """A run folder holds config.yaml, TensorBoard events, metrics.jsonl and checkpoints. metrics.jsonl has
losses, entropy, the returns of every evaluation and steps per second without evaluations; with --algo stein also sigma,
eps, the norm of the score and the rejection rate of Metropolis-Hastings. A checkpoint holds model.zip, which
Stable-Baselines3 loads, the replay buffer, the random generators and the state of the environment.

Ctrl-C, SIGTERM or SIGHUP stops the run after the current updates and saves a checkpoint; an evaluation is left at once
and repeated on resuming. A second signal ends it at once, without a checkpoint. One process at a time may train in a
run folder. --resume continues every unfinished seed in --out and ends with exactly the numbers of an
uninterrupted run; only if the state of an environment cannot be saved does a new episode begin. A larger --steps
lengthens runs, finished or not.

Exit codes: 0 finished; 1 a seed diverged, the environment failed, or a checkpoint could not be written (the last
checkpoint is kept); 2 the request is invalid; 130 interrupted."""

_EVALUATION_DESCRIPTION = """Evaluate the newest checkpoint of a run of `svgdx train rl`: mean, standard deviation and
interquartile mean of the returns; for svgdx/Multigoal-v0 also the share of rollouts that reach each goal. The results
are printed and written to evaluation.json in the run folder.

--video renders MuJoCo with EGL if there is no display, unless MUJOCO_GL names another backend.

  svgdx eval rl runs/pendulum/seed-0"""


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run folders")
    group.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder for the run folders seed-N")
    group.add_argument("--seeds", metavar="N,N,...", type=seeds, help="seeds to train (default: 0; with --resume: all)")
    resume = "continue the runs in --out with their own settings; a larger --steps lengthens them"
    group.add_argument("--resume", action="store_true", help=resume)
    group.add_argument("--checkpoint", metavar="DIR", type=Path, help="with --resume: continue from this checkpoint")
    group.add_argument("--trust", action="store_true", help=f"with --resume: {TRUST}")
    group.add_argument("--quiet", action="store_true", help="show no progress bar")


def _evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder of `svgdx train rl`: DIR/seed-N")
    parser.add_argument("--checkpoint", metavar="DIR", type=Path, help="evaluate this checkpoint, not the newest")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    parser.add_argument("--video", metavar="FILE", type=Path, help="film one rollout: FILE.mp4 or FILE.gif")


def seeds(text: str) -> list[int]:
    """The numbers of a list "0,1,2". Raises ArgumentTypeError if one is no number, out of range or there twice."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be numbers such as 0,1,2, but are {text!r}") from error
    if not 0 <= min(numbers) <= max(numbers) < 2**32 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"seeds must be distinct and from 0 to 2^32 - 1, but are {text}")
    return numbers


TRAIN = Command(
    name="train rl",
    summary="a policy, by maximum-entropy reinforcement learning",
    usage="--out DIR [OPTION ...]",
    description=_TRAIN_DESCRIPTION,
    epilog=_TRAIN_EPILOG,
    arguments=_train_arguments,
    settings="svgdx.experiments.rl.config:RLConfig",
    without=("seed",),
    run="svgdx.experiments.rl.train:main",
)
EVALUATE = Command(
    name="eval rl",
    summary="a run of `svgdx train rl`",
    usage="RUN [OPTION ...]",
    description=_EVALUATION_DESCRIPTION,
    arguments=_evaluation_arguments,
    settings="svgdx.experiments.rl.config:RLEvaluationSettings",
    run="svgdx.experiments.rl.evaluate:main",
)
