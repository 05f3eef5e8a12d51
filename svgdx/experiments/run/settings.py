"""Settings of an experiment, and the commands of `svgdx` that take them.

The fields of a `Settings` dataclass are the options of a command and the lines of config.yaml. A `Command` holds the
text of its --help and names the code it runs, so that the command can be listed without importing that code.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import math
import shlex
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from svgdx.experiments.run.compute import device
from svgdx.experiments.run.errors import UsageError

S = TypeVar("S", bound="Settings")

# Longer lists of choices go into the help text: argparse does not break a metavar.
_MOST_METAVAR = 24
_YEAR = 31_536_000
# More threads than any machine has cores exhaust the address space and end the process.
MOST_THREADS = 1024


def option(
    default: Any,
    group: str,
    text: str,
    choices: tuple[str, ...] | None = None,
    least: float = 0.0,
    most: float = math.inf,
    positive: bool = False,
    kind: type = str,
    metavar: str | None = None,
    positional: bool = False,
) -> Any:
    """A field with its help text. A number must lie in [least, most], and above 0 if `positive`.

    Args:
        default: its type is that of the values. None means "not set"; then `kind` is the type.
        group: heading under which --help lists the option.
        text: help text.
        choices: the values allowed.
        metavar: name of the value in --help; by default N, X or NAME for int, float and str.
        positional: whether the value is an argument without a flag.
    """
    facts: dict[str, Any] = {"group": group, "help": text, "choices": choices, "kind": kind}
    facts |= {"least": least, "most": most, "positive": positive, "metavar": metavar, "positional": positional}
    return field(default=default, metadata=facts)


def device_option(group: str = "run") -> Any:
    """The field `device` of an experiment's settings, see `svgdx.experiments.run.compute.device.resolved`."""
    text = "device that computes; auto takes CUDA if it can be used here, which `svgdx doctor` explains"
    return option("auto", group, text, metavar=device.NAMES)


def graph_option() -> Any:
    """The field `graph` of a training's settings, see `svgdx.experiments.run.compute.device.is_captured`."""
    text = "whether a GPU replays updates as CUDA graphs; auto does so if the settings allow it"
    return option("auto", "run", text, device.GRAPHS)


@dataclass
class Settings:
    """Base of an experiment's settings, whose fields are made by `option`.

    Attributes:
        program: words of the command that takes the settings.
        selectors: fields on which the defaults of others depend; `command` always prints them.
        variants: by name, the defaults that differ from those of the fields; for --help.
        length: the field that says how long a run is, which --resume can increase.
        movable: fields that say where a run computes; --resume can change them, and `command` leaves them out.
        added: settings that the config.yaml of older runs lacks, with the values that those runs had.
    """

    program: ClassVar[str] = ""
    selectors: ClassVar[tuple[str, ...]] = ()
    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    length: ClassVar[str] = "steps"
    movable: ClassVar[tuple[str, ...]] = ("device", "graph")
    # Runs of older versions computed on the CPU.
    added: ClassVar[dict[str, Any]] = {"device": "cpu", "graph": "auto", "amp": "none"}

    @property
    def uncapturable(self) -> str | None:
        """Why no update with these settings can be captured as a CUDA graph; None if updates can."""
        return None

    def captures(self) -> bool:
        """Whether updates are captured as CUDA graphs; the device must be a resolved one.

        Raises UsageError if `graph` is "on" and they cannot be.
        """
        return device.is_captured(self.graph, self.device, self.uncapturable)  # type: ignore[attr-defined]

    def validate(self) -> None:
        """Raises UsageError that names the first option whose value is not allowed."""
        for item in dataclasses.fields(self):
            _validate_field(item, getattr(self, item.name))
            if item.name == "device":
                device.check(self.device)  # type: ignore[attr-defined]

    def to_yaml(self) -> str:
        """The content of config.yaml."""
        import yaml

        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)

    @classmethod
    def defaults_text(cls, name: str) -> str:
        """The default of a field, and those of the variants, as --help gives them."""
        default = next(item.default for item in dataclasses.fields(cls) if item.name == name)
        variants: dict[str, list[str]] = {}
        for variant, changes in cls.variants.items():
            if changes.get(name, default) != default:
                variants.setdefault(_shown(changes[name]), []).append(variant)
        texts = [] if default is None else [_shown(default)]
        return "; ".join([*texts, *(f"{value} for {', '.join(names)}" for value, names in variants.items())])

    @classmethod
    def defaults_for(cls, options: dict[str, Any]) -> dict[str, Any]:
        """The defaults under these options, where they differ from those of the fields."""
        return {}

    @classmethod
    def from_options(cls: type[S], options: dict[str, Any]) -> S:
        """The settings of a new run: the options of the command line, and defaults for the rest.

        Raises UsageError that names the first option whose value is not allowed.
        """
        config = cls(**(cls.defaults_for(options) | options))
        config.validate()
        return config

    def command(self: S, without: tuple[str, ...] = (), resolve: Callable[[S], S] = lambda config: config) -> str:
        """The shortest command, --out left out, that gives these settings.

        Args:
            without: further options to leave out.
            resolve: what a new run does to the settings of its command line.
        """
        cls = type(self)
        without = (*without, *(name for name in cls.movable if hasattr(cls, name)))
        wanted = dataclasses.replace(self, **{name: getattr(cls, name) for name in without})

        def gives_wanted(options: dict[str, Any]) -> bool:
            try:
                return resolve(cls(**(cls.defaults_for(options) | options))) == wanted
            except UsageError:
                return False

        options = {name: value for name, value in dataclasses.asdict(wanted).items() if value is not None}
        assert gives_wanted(options), f"no command gives {wanted}"
        # A default may depend on an option that is dropped after it, so go on until none can be dropped.
        before: dict[str, Any] = {}
        while before != options:
            before = options
            for name in before:
                shorter = {other: value for other, value in options.items() if other != name}
                if name not in cls.selectors and gives_wanted(shorter):
                    options = shorter
        first = {name: options[name] for name in cls.selectors if name in options}
        arguments = [_argument(item, options[item.name]) for item in _ordered(cls, first | options)]
        return " ".join(["svgdx", cls.program, *arguments])

    @classmethod
    def from_yaml(cls: type[S], path: Path) -> S:
        """Reads a config.yaml. Raises UsageError, naming the file, if it is not one of this experiment."""
        import yaml

        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
        names = {item.name for item in dataclasses.fields(cls)}
        added = {name: value for name, value in {**Settings.added, **cls.added}.items() if name in names}
        values = added | values if isinstance(values, dict) else values
        if not isinstance(values, dict) or set(values) != names:
            odd = sorted(map(str, set(values) ^ names)) if isinstance(values, dict) else ["all of it"]
            raise UsageError(f"{path}: does not fit this version's settings: {', '.join(odd)}")
        config = cls(**values)
        try:
            config.validate()
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        return config


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ordered(cls: type[Settings], options: dict[str, Any]) -> list[dataclasses.Field[Any]]:
    items = {item.name: item for item in dataclasses.fields(cls)}
    return [items[name] for name in options]


def _argument(item: dataclasses.Field[Any], value: Any) -> str:
    text = shlex.quote(str(value))
    if item.metadata["positional"]:
        return text
    # argparse takes a separate word with a minus for another option.
    return f"{flag(item.name)}={text}" if str(value).startswith("-") else f"{flag(item.name)} {text}"


def _validate_field(item: dataclasses.Field[Any], value: Any) -> None:
    name, facts = item.name if item.metadata["positional"] else flag(item.name), item.metadata
    if value is None and item.default is None:
        return
    if facts["choices"] and value not in facts["choices"]:
        raise UsageError(f"{name}: must be one of {', '.join(facts['choices'])}, but is {value!r}")
    expected = _type_of(item)
    if expected is str:
        if not isinstance(value, str):
            raise UsageError(f"{name}: must be text, but is {value!r}")
        return
    if isinstance(value, bool) or not isinstance(value, expected if expected is int else (int, float)):
        raise UsageError(f"{name}: must be a number of type {expected.__name__}, but is {value!r}")
    if not (math.isfinite(value) and value >= facts["least"]):
        raise UsageError(f"{name}: must be finite and at least {facts['least']:g}, but is {value}")
    if value > facts["most"]:
        raise UsageError(f"{name}: must be at most {facts['most']:g}, but is {value}")
    if facts["positive"] and value == 0:
        raise UsageError(f"{name}: must be positive")


def flag(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


def _type_of(item: dataclasses.Field[Any]) -> type:
    kind: type = item.metadata["kind"]
    return kind if item.default is None else type(item.default)


def add_options(parser: argparse.ArgumentParser, cls: type[Settings], without: tuple[str, ...] = ()) -> None:
    """Adds an option for each field except those of `without`. An option that is not set leaves no attribute."""
    groups: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        if item.name in without:
            continue
        text, choices, metavar = item.metadata["help"], item.metadata["choices"], item.metadata["metavar"]
        remarks = []
        if choices and (metavar or len(",".join(choices)) > _MOST_METAVAR):
            remarks.append(f"one of {', '.join(choices)}")
            metavar = metavar or "NAME"
        elif not choices:
            metavar = metavar or {int: "N", float: "X", str: "NAME"}[_type_of(item)]
        if cls.defaults_text(item.name) and not item.metadata["positional"]:
            remarks.append(f"default: {cls.defaults_text(item.name)}")
        text += f" ({'; '.join(remarks)})" if remarks else ""
        facts = {"type": _type_of(item), "choices": choices, "metavar": metavar, "help": text.replace("%", "%%")}
        if item.metadata["positional"]:
            parser.add_argument(item.name, **facts)
            continue
        title = item.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(flag(item.name), default=argparse.SUPPRESS, **facts)


def chosen_options(options: argparse.Namespace, cls: type[Settings]) -> dict[str, Any]:
    """The settings that the command line sets."""
    names = [item.name for item in dataclasses.fields(cls)]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def resumed(config: S, options: dict[str, Any]) -> S:
    """The settings with which a run continues: its own, but for a larger length and another device.

    What depends on the length, such as learning rates and the noise of the data, follows the new length from the
    resumed step on. A lengthened run therefore differs from one that had this length from the start.

    Args:
        config: the run's own settings.
        options: settings from the command line.

    Raises:
        UsageError: the length is smaller than the run's, or another setting differs from the run's.
    """
    for name, value in options.items():
        present = getattr(config, name)
        if name == config.length and value < present:
            raise UsageError(f"{flag(name)} {value}: the run has {present}, and --resume can only lengthen it")
        # 0 threads stands for as many as the run was started with.
        free = name in (config.length, *config.movable) or (name, value) == ("threads", 0)
        if not free and value != present:
            raise UsageError(f"{flag(name)} {value}: the run has {present}, and --resume keeps it")
    changed = {name: value for name, value in options.items() if name in (config.length, *config.movable)}
    continued = dataclasses.replace(config, **changed)
    continued.validate()
    return continued


@dataclass(frozen=True)
class Command:
    """A command of `svgdx`.

    Attributes:
        name: the words after `svgdx`.
        summary: its line in the list of commands.
        usage: its arguments in short, as in "--out DIR [OPTION ...]".
        description, epilog: paragraphs of --help before and after the options.
        arguments: adds the arguments that are not settings.
        settings: "module:class" of the Settings that become options.
        without: settings that do not become options.
        run: "module:function" that takes the parsed options and returns the exit code.
    """

    name: str
    summary: str
    usage: str
    description: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: str
    settings: str | None = None
    without: tuple[str, ...] = ()
    epilog: str = ""

    def parser(self) -> argparse.ArgumentParser:
        """The parser of what follows the command's name; imports the settings."""
        parser = argparse.ArgumentParser(
            f"svgdx {self.name}", f"%(prog)s {self.usage}", self.description, self.epilog, formatter_class=Paragraphs
        )
        self.arguments(parser)
        if self.settings is not None:
            add_options(parser, resolve(self.settings), self.without)
        return parser


class Paragraphs(argparse.HelpFormatter):
    """Wraps the paragraphs of a text one by one, never at a hyphen; an indented paragraph stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        wrapped = [text if text.startswith(" ") else "\n".join(self._split_lines(text, width)) for text in paragraphs]
        return "\n\n".join(wrapped)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def resolve(target: str) -> Any:
    """Imports what "module:name" names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def run_folder_text(length: str) -> str:
    """The paragraphs of --help about the run folder of a command that trains one model; `length` is its option."""
    return f"""The run folder DIR holds config.yaml, metrics.jsonl, TensorBoard events, checkpoints, samples.png and
curves.png.

Ctrl-C, SIGTERM or SIGHUP stops the run after the current update and saves a checkpoint; an evaluation is left at once
and repeated on resuming. A second signal ends it at once, without a checkpoint. One process at a time may train in a
run folder. A run that was stopped or killed continues with --resume and ends with exactly the numbers of an
uninterrupted run. A larger {length} lengthens a run, finished or not;
whatever depends on the length, such as learning rates, follows the new length from then on.

`torchrun --nproc-per-node N -m svgdx train ...` trains on N processes. Each draws its own --batch, gradients are
averaged, and rank 0 writes the run folder. With --device cuda, each takes the GPU of its LOCAL_RANK. Processes that
torchrun restarts continue from the last checkpoint.

Exit codes: 0 finished; 1 diverged, or a file could not be written (the last checkpoint is kept); 2 the request is
invalid; 130 interrupted."""


def run_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of a command that trains one model in a run folder."""
    group = parser.add_argument_group("run folder")
    group.add_argument("--out", metavar="DIR", required=True, type=Path, help="run folder; must be new or empty")
    group.add_argument("--resume", action="store_true", help="continue the run in --out with its own settings")
    group.add_argument("--checkpoint", metavar="FILE", type=Path, help="with --resume: continue from this checkpoint")
    group.add_argument("--quiet", action="store_true", help="show no progress bar")
    timeout = "with torchrun: seconds that a process waits for the others before it fails (default: 1800)"
    group.add_argument("--timeout", metavar="X", type=_seconds, default=1800.0, help=timeout)


def _seconds(text: str) -> float:
    """A duration in seconds. Raises ArgumentTypeError if it is not positive or longer than a year."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _YEAR:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, at most {_YEAR}, but is {text!r}")
    return seconds
