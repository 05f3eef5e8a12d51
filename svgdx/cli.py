"""The console script `svgdx`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from svgdx.experiments.config import EBMConfig
    from svgdx.experiments.run_folder import RunFolder

EBM_TEXT = """Trains an energy-based model p(x) ∝ exp(f(x)) on images, f a multilayer perceptron, by alternating
MET-SVGD: a sampler of SVGD steps with learnt initial Gaussian, bandwidths and step sizes is trained to maximise
E_q[f] + H(q), the energy to minimise E_q[f] - E_data[f]."""

EBM_FILES = """The run folder holds config.yaml, metrics.jsonl, TensorBoard events, samples.png, curves.png and
checkpoints. Ctrl-C ends the run with a checkpoint (exit code 130); --resume goes on from it, or from the last one
after a kill, to the same numbers as an unbroken run. Exit code 2: the request cannot be carried out; 1: diverged."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="svgdx", description="Stein variational gradient descent, fused.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # doctor parses its own options.
    commands.add_parser("doctor", help="check this installation", add_help=False)
    train = commands.add_parser("train", help="train a model", description="Trains a model into a run folder.")
    models = train.add_subparsers(dest="model", required=True, metavar="MODEL")
    _add_ebm(models.add_parser("ebm", help="energy-based model on images", description=EBM_TEXT, epilog=EBM_FILES))
    return parser


def _add_ebm(parser: argparse.ArgumentParser) -> None:
    from svgdx.experiments.config import add_options

    folder = parser.add_argument_group("run folder")
    folder.add_argument("--out", metavar="DIR", required=True, type=Path, help="run folder; must be new or empty")
    folder.add_argument("--resume", action="store_true", help="go on with the run in --out, with its own settings")
    folder.add_argument("--checkpoint", metavar="FILE", type=Path, help="with --resume: go on from this checkpoint")
    folder.add_argument("--quiet", action="store_true", help="no progress bar")
    add_options(parser)


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
    return _train_ebm(options)


def _missing(error: ModuleNotFoundError) -> int:
    print(f"svgdx: training needs the package {error.name}: pip install 'svgdx[train]'", file=sys.stderr)
    return 2


def _train_ebm(options: argparse.Namespace) -> int:
    try:
        from svgdx.experiments import train_ebm
    except ModuleNotFoundError as error:
        return _missing(error)
    from svgdx.experiments.errors import DivergedError, UsageError

    try:
        config, folder = _open_run(options)
        return train_ebm.run(config, folder, options.resume, options.checkpoint, options.quiet)
    except UsageError as error:
        print(f"svgdx train ebm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Before training began, or a second Ctrl-C: nothing more is written.
        return 130
    except DivergedError as error:
        print(f"svgdx train ebm: stopped: {error}; the last checkpoint is kept", file=sys.stderr)
        return 1


def _open_run(options: argparse.Namespace) -> tuple[EBMConfig, RunFolder]:
    import torch

    from svgdx.experiments import data
    from svgdx.experiments.config import EBMConfig, flag, given_options
    from svgdx.experiments.errors import UsageError
    from svgdx.experiments.run_folder import RunFolder

    given = given_options(options)
    if options.resume:
        folder = RunFolder.reopen(options.out)
        config = EBMConfig.from_yaml(folder.config)
        for name, value in given.items():
            if value != getattr(config, name):
                raise UsageError(f"{flag(name)} {value}: the run has {getattr(config, name)}, and --resume keeps it")
        return config, folder
    if options.checkpoint:
        raise UsageError("--checkpoint: only with --resume")
    config = EBMConfig(**given)
    config.validate()
    config = dataclasses.replace(config, threads=config.threads or torch.get_num_threads())
    # Before the folder is made: a refused run leaves nothing behind.
    data.load(config.data, config.data_root)
    return config, RunFolder.create(options.out, config.to_yaml())


if __name__ == "__main__":
    sys.exit(main())
