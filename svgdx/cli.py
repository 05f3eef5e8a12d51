"""The console script `svgdx`: a table of commands, each imported when it is asked for."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys

from svgdx.experiments.run.errors import StoppedError, UsageError
from svgdx.experiments.run.settings import Command, Paragraphs, resolve

# By the words after `svgdx`: where the command is described. These packages import nothing heavy.
COMMANDS = {
    "train ebm": "svgdx.experiments.ebm:TRAIN",
    "train eb-gfn": "svgdx.experiments.eb_gfn:TRAIN",
    "train rl": "svgdx.experiments.rl:TRAIN",
    "eval eb-gfn": "svgdx.experiments.eb_gfn:EVALUATE",
    "eval rl": "svgdx.experiments.rl:EVALUATE",
    "report": "svgdx.experiments:REPORT",
    "sample": "svgdx.experiments.toys:SAMPLE",
}
GROUPS = {
    "train": ("train a model", "Train a model into a run folder that can be resumed."),
    "eval": ("evaluate a trained model", "Evaluate the newest checkpoint of a run."),
}
DOCTOR = ("doctor", "check this installation")
# What svgdx[rl] installs beyond svgdx[train].
RL_PACKAGES = ("gymnasium", "mujoco", "stable_baselines3", "zuko", "moviepy")


def command_of(arguments: list[str]) -> Command | None:
    """The command that the first words name; None if they name none."""
    names = (" ".join(arguments[:count]) for count in (1, 2))
    name = next((name for name in names if name in COMMANDS), None)
    command: Command | None = None if name is None else resolve(COMMANDS[name])
    return command


def overview() -> argparse.ArgumentParser:
    """A parser that lists the commands and refuses any other."""
    text = "Stein variational gradient descent: samplers, energy-based models and reinforcement learning."
    hint = "`svgdx COMMAND --help` explains a command."
    parser = argparse.ArgumentParser("svgdx", description=text, epilog=hint, formatter_class=Paragraphs)
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")
    groups = {}
    for word, (summary, description) in GROUPS.items():
        group = commands.add_parser(word, help=summary, description=description)
        groups[word] = group.add_subparsers(required=True, title="models", metavar="MODEL")
    for target in COMMANDS.values():
        command: Command = resolve(target)
        first, _, last = command.name.partition(" ")
        (groups[first] if last else commands).add_parser(last or first, help=command.summary, add_help=False)
    commands.add_parser(DOCTOR[0], help=DOCTOR[1], add_help=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    _prepare_streams()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"svgdx: the output cannot be written: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _prepare_streams() -> None:
    """Lets no letter and no closed stream end a command: what a terminal cannot show becomes a question mark."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # A stream whose file was exchanged beneath it, as in a forked process, may refuse.
            with contextlib.suppress(OSError):
                stream.reconfigure(errors="replace")


def _run(arguments: list[str]) -> int:
    if arguments[:1] == [DOCTOR[0]]:
        code: int = resolve("svgdx.doctor:main")(arguments[1:])
        return code
    command = command_of(arguments)
    if command is None:
        parser = overview()
        parser.parse_args(arguments)
        parser.error("the command must come first")
    try:
        options = command.parser().parse_args(arguments[len(command.name.split()) :])
        code = resolve(command.run)(options)
        return code
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "svgdx" or error.name is None:
            raise
        extra = "rl" if package in RL_PACKAGES else "train"
        return _failed(command, f"needs the package {package}: pip install 'svgdx[{extra}]'", 2)
    except UsageError as error:
        return _failed(command, str(error), 2)
    except StoppedError as error:
        return _failed(command, f"stopped: {error}; the last checkpoint is kept", 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _failed(command, f"stopped: {error}", 1)
    except KeyboardInterrupt:
        # Before training began, or a second Ctrl-C: nothing more is written.
        return 130


def _failed(command: Command, message: str, code: int) -> int:
    print(f"svgdx {command.name}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
