"""The console script `svgdx`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svgdx.experiments.run.folder import RunFolder
    from svgdx.experiments.run.settings import Settings

EBM_TEXT = """Trains an energy-based model p(x) ∝ exp(f(x)) on images, f a multilayer perceptron or a residual
convolutional network. The energy is trained to minimise E_q[f] - E_data[f], where q is what --config names: MET-SVGD
with learnt initial Gaussian, bandwidths and step sizes, which is trained to maximise E_q[f] + H(q), one of its
variants, or Langevin dynamics. --config glow trains a normalising flow on the same data. Settings that are given count
before those of the configuration."""

GFN_TEXT = """Trains an energy-based model p(x) ∝ exp(-E(x)) of binary vectors together with a GFlowNet that samples
from it (EB-GFN), or by persistent contrastive divergence with Gibbs sampling or Gibbs with gradients. A setting that
is not given takes the default of the data set."""

RL_TEXT = """Trains SAC, SAC with a normalising flow, or SteinSAC (--algo), whose actions are SVGD particles of
exp(Q / alpha) with a known density, on an environment of Gymnasium. The seeds are trained one after another, each into
the run folder DIR/seed-N, one seed too; one that diverges does not keep the others from being trained. The defaults are
the settings of the published runs on MuJoCo; --steps 1000000, the full length, is one of them."""

RL_FILES = """A run folder holds config.yaml, metrics.jsonl (losses, entropy, and with --algo stein sigma, eps, the norm
of the score and the rejection by Metropolis-Hastings; all returns of each evaluation; steps per second without
evaluations), TensorBoard events and checkpoints: model.zip, which Stable-Baselines3 loads, replay buffer, generators
and the state of the environment. Ctrl-C or SIGTERM ends the run after the updates in hand with a checkpoint (exit code
130). --resume goes on with every seed in --out that has not ended, to the same numbers as an unbroken run; only where
an environment's state cannot be saved does an episode begin anew. With a larger --steps, --resume lengthens runs,
finished or not. Exit code 2: the request cannot be carried out; 1: a
seed diverged, the environment failed, or a checkpoint could not be written. The last checkpoint then is whole."""

FILES = """The run folder holds config.yaml, metrics.jsonl, TensorBoard events, samples.png, curves.png and
checkpoints. Ctrl-C ends the run with a checkpoint (exit code 130); --resume goes on from it, or from the last one
after a kill, to the same numbers as an unbroken run. With a larger --steps or --iterations, --resume lengthens a run,
finished or not; what depends on the length, such as learning rates, follows the new length from there on. Exit code 2:
the request cannot be carried out; 1: diverged. `torchrun --nproc-per-node N -m svgdx train ...` trains data-parallel:
an update sees N times --batch, gradients are averaged, rank 0 writes; ranks that torchrun starts again go on from the
last checkpoint."""

EVAL_TEXT = """Evaluates the newest checkpoint of a run, prints each quantity with its settings and writes them to
evaluation.json in the run folder."""

RL_EVAL_TEXT = """Evaluates the newest checkpoint of a run: mean, standard deviation and interquartile mean of the
returns, for svgdx/Multigoal-v0 the share of rollouts that reach each goal; writes them to evaluation.json in the run
folder. --video draws MuJoCo by EGL where there is no screen, unless MUJOCO_GL names another way."""

REPORT_TEXT = """Writes a table and figures from runs of `svgdx train ebm` or of `svgdx train rl`. Of ebm, finished or
diverged runs of one data set: each configuration a row and a line, its seeds as mean, spread and band. Of rl, runs of
any length: for each environment the interquartile mean of the returns over seeds with its 95 % interval by stratified
bootstrap, the norm of the score, steps per second, and the shares of goals that `svgdx eval rl` found."""

SAMPLE_TEXT = """Runs an SVGD sampler on a target whose entropy is known and writes config.yaml, result.json, sample.png
(particles, their density against the target's, entropy along the chain against the truth) and evolution.gif. The preset
met-svgd first learns its initial Gaussian, bandwidths and step sizes (metrics.jsonl). A setting that is not given takes
the default of the target."""

# What svgdx[rl] has beyond svgdx[train].
RL_PACKAGES = ("gymnasium", "mujoco", "stable_baselines3", "zuko", "moviepy")

# Modules of each experiment: its settings, and its training.
EXPERIMENTS = {
    "ebm": ("svgdx.experiments.ebm.config", "EBMConfig", "svgdx.experiments.ebm.train"),
    "eb-gfn": ("svgdx.experiments.eb_gfn.config", "EBGFNConfig", "svgdx.experiments.eb_gfn.train"),
    "rl": ("svgdx.experiments.rl.config", "RLConfig", "svgdx.experiments.rl.train"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="svgdx", description="Stein variational gradient descent, fused.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # doctor parses its own options.
    commands.add_parser("doctor", help="check this installation", add_help=False)
    train = commands.add_parser("train", help="train a model", description="Trains a model into a run folder.")
    models = train.add_subparsers(dest="model", required=True, metavar="MODEL")
    texts = {"ebm": ("energy-based model on images", EBM_TEXT), "eb-gfn": ("EB-GFN on binary data", GFN_TEXT)}
    for name, (short, long) in texts.items():
        _add_training(models.add_parser(name, help=short, description=long, epilog=FILES), name)
    _add_rl_training(models.add_parser("rl", help="reinforcement learning", description=RL_TEXT, epilog=RL_FILES))
    evaluation = commands.add_parser("eval", help="evaluate a trained model", description="Evaluates a run.")
    models = evaluation.add_subparsers(dest="model", required=True, metavar="MODEL")
    _add_evaluation(models.add_parser("eb-gfn", help="run of `svgdx train eb-gfn`", description=EVAL_TEXT))
    _add_rl_evaluation(models.add_parser("rl", help="run of `svgdx train rl`", description=RL_EVAL_TEXT))
    report = commands.add_parser("report", help="compare finished runs", description=REPORT_TEXT)
    report.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folder, or folder of folders seed-N")
    report.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder that gets report.md and PNG")
    _add_sampling(commands.add_parser("sample", help="sample from a toy target", description=SAMPLE_TEXT))
    return parser


def _settings(model: str) -> type[Settings]:
    module, name, _ = EXPERIMENTS[model]
    found: type[Settings] = getattr(importlib.import_module(module), name)
    return found


def _add_training(parser: argparse.ArgumentParser, model: str) -> None:
    from svgdx.experiments.run.settings import add_options

    folder = parser.add_argument_group("run folder")
    folder.add_argument("--out", metavar="DIR", required=True, type=Path, help="run folder; must be new or empty")
    resume = "continue the run in --out with its own settings; a larger length (--steps, --iterations) lengthens it"
    folder.add_argument("--resume", action="store_true", help=resume)
    folder.add_argument("--checkpoint", metavar="FILE", type=Path, help="with --resume: go on from this checkpoint")
    folder.add_argument("--quiet", action="store_true", help="no progress bar")
    wait = "under torchrun: most seconds a rank waits for the others (default: 1800)"
    folder.add_argument("--timeout", metavar="X", type=float, default=1800.0, help=wait)
    add_options(parser, _settings(model))


def _add_rl_training(parser: argparse.ArgumentParser) -> None:
    from svgdx.experiments.run.settings import add_options

    folder = parser.add_argument_group("run folders")
    folder.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder of the run folders seed-N")
    folder.add_argument("--seeds", metavar="N,N,...", type=_seeds, help="seeds to train (default: 0; resuming: all)")
    resume = "continue the runs in --out with their own settings; a larger --steps lengthens them"
    folder.add_argument("--resume", action="store_true", help=resume)
    folder.add_argument("--checkpoint", metavar="FOLDER", type=Path, help="with --resume: go on from this checkpoint")
    folder.add_argument("--quiet", action="store_true", help="no progress bar")
    add_options(parser, _settings("rl"), without=("seed",))


def _seeds(text: str) -> list[int]:
    found = [int(each) for each in text.split(",")]
    if min(found) < 0 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"seeds are at least 0 and differ, but are {text}")
    return found


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    from svgdx.experiments.eb_gfn.config import EvaluationSettings
    from svgdx.experiments.run.settings import add_options

    parser.add_argument("run", metavar="RUN", type=Path, help="run folder of `svgdx train eb-gfn`")
    parser.add_argument("--checkpoint", metavar="FILE", type=Path, help="evaluate this checkpoint, not the newest")
    add_options(parser, EvaluationSettings)


def _add_rl_evaluation(parser: argparse.ArgumentParser) -> None:
    from svgdx.experiments.rl.config import RLEvaluationSettings
    from svgdx.experiments.run.settings import add_options

    parser.add_argument("run", metavar="RUN", type=Path, help="run folder of `svgdx train rl`: DIR/seed-N")
    parser.add_argument("--checkpoint", metavar="FOLDER", type=Path, help="evaluate this checkpoint, not the newest")
    parser.add_argument("--video", metavar="FILE", type=Path, help="film one rollout: FILE.mp4 or FILE.gif")
    add_options(parser, RLEvaluationSettings)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    from svgdx.experiments.run.settings import add_options
    from svgdx.experiments.toys.config import SampleConfig
    from svgdx.experiments.toys.targets import TARGETS

    parser.add_argument("model", metavar="TARGET", choices=TARGETS, help=", ".join(TARGETS))
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="run folder; must be new or empty")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_options(parser, SampleConfig, without=("target",))


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["doctor"]:
        from svgdx import doctor

        return doctor.main(arguments[1:])
    try:
        parser = build_parser()
    except ModuleNotFoundError as error:
        return _missing(error)
    options = parser.parse_args(arguments)
    name = " ".join(["svgdx", options.command, *([options.model] if "model" in options else [])])
    try:
        from svgdx.experiments.run.errors import StoppedError, UsageError

        known = {"train": _train, "eval": _evaluate, "report": _report, "sample": _sample}
        return known[options.command](options)
    except ModuleNotFoundError as error:
        return _missing(error)
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Before training began, or a second Ctrl-C: nothing more is written.
        return 130
    except StoppedError as error:
        print(f"{name}: stopped: {error}; the last checkpoint is kept", file=sys.stderr)
        return 1


def _missing(error: ModuleNotFoundError) -> int:
    package = str(error.name).partition(".")[0]
    extra = "rl" if package in RL_PACKAGES else "train"
    print(f"svgdx: training needs the package {package}: pip install 'svgdx[{extra}]'", file=sys.stderr)
    return 2


def _train(options: argparse.Namespace) -> int:
    from svgdx.experiments.run import parallel

    experiment = importlib.import_module(EXPERIMENTS[options.model][2])
    if options.model == "rl":
        return _train_rl(options, experiment)
    with parallel.launched(options.timeout):
        if parallel.from_main(parallel.restarted() and (options.out / "config.yaml").is_file()):
            # Only how to go on has changed since the command was given.
            options.resume, options.checkpoint = True, None
        with parallel.together():
            config, data, folder = _open_run(options, experiment)
        code: int = experiment.run(config, data, folder, options.resume, options.checkpoint, options.quiet)
    return code


def _train_rl(options: argparse.Namespace, experiment: Any) -> int:
    from svgdx.experiments.run import parallel
    from svgdx.experiments.run.errors import UsageError
    from svgdx.experiments.run.settings import given_options

    if parallel.ranks_launched() > 1:
        raise UsageError("it is not data-parallel: start it without torchrun")
    given = given_options(options, _settings("rl"))
    code: int = experiment.run(given, options.out, options.seeds, options.resume, options.checkpoint, options.quiet)
    return code


def _open_run(options: argparse.Namespace, experiment: Any) -> tuple[Settings, Any, RunFolder]:
    import torch

    from svgdx.experiments.run import parallel
    from svgdx.experiments.run.errors import UsageError
    from svgdx.experiments.run.folder import RunFolder
    from svgdx.experiments.run.settings import given_options

    cls = _settings(options.model)
    given = given_options(options, cls)
    config: Any
    if options.resume:
        folder = RunFolder.reopen(options.out, options.model)
        config = folder.resumed_settings(cls, given, options.checkpoint)
        return config, experiment.load(config), folder
    if options.checkpoint:
        raise UsageError("--checkpoint: only with --resume")
    config = cls.from_options(given)
    config = dataclasses.replace(config, threads=config.threads or torch.get_num_threads())
    # Before the folder is made: a refused run leaves nothing behind.
    data = experiment.load(config)
    if not parallel.main():
        return config, data, RunFolder(options.out, options.model)
    return config, data, RunFolder.create(options.out, config.to_yaml(), options.model)


def _evaluate(options: argparse.Namespace) -> int:
    if options.model == "rl":
        return _evaluate_rl(options)
    from svgdx.experiments.eb_gfn import evaluate as eval_eb_gfn
    from svgdx.experiments.eb_gfn.config import EvaluationSettings
    from svgdx.experiments.run.settings import given_options

    return eval_eb_gfn.run(options.run, options.checkpoint, given_options(options, EvaluationSettings))


def _evaluate_rl(options: argparse.Namespace) -> int:
    from svgdx.experiments.rl import evaluate as eval_rl
    from svgdx.experiments.rl.config import RLEvaluationSettings
    from svgdx.experiments.run.settings import given_options

    given = given_options(options, RLEvaluationSettings)
    return eval_rl.run(options.run, options.checkpoint, options.video, given)


def _report(options: argparse.Namespace) -> int:
    from svgdx.experiments.ebm import report

    return report.run(options.runs, options.out)


def _sample(options: argparse.Namespace) -> int:
    import torch

    from svgdx.experiments.run.folder import RunFolder
    from svgdx.experiments.run.settings import given_options
    from svgdx.experiments.toys import sample
    from svgdx.experiments.toys.config import SampleConfig

    config = SampleConfig.from_options(given_options(options, SampleConfig) | {"target": options.model})
    config = dataclasses.replace(config, threads=config.threads or torch.get_num_threads())
    toy = sample.load(config)
    return sample.run(config, toy, RunFolder.create(options.out, config.to_yaml(), "sample"), options.quiet)


if __name__ == "__main__":
    sys.exit(main())
