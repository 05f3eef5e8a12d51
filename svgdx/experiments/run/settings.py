"""Settings of an experiment: a dataclass whose fields are its command-line options and its config.yaml."""

from __future__ import annotations

import argparse
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from svgdx.experiments.run.errors import UsageError

S = TypeVar("S", bound="Settings")


def option(
    default: Any,
    group: str,
    text: str,
    choices: tuple[str, ...] | None = None,
    least: float = 0.0,
    most: float = math.inf,
    positive: bool = False,
    kind: type = str,
) -> Any:
    """A field with its help text; numbers must lie in [least, most], and be above 0 where `positive`.

    kind: the type of a value where the default is None, which stands for "not given".
    """
    facts: dict[str, Any] = {"group": group, "help": text, "choices": choices, "kind": kind}
    facts |= {"least": least, "most": most, "positive": positive}
    return field(default=default, metadata=facts)


@dataclass
class Settings:
    """Base of an experiment's settings; its fields are made by `option`.

    Attributes:
        length: the field that says how long a run is, which --resume can increase.
    """

    length: ClassVar[str] = "steps"

    def validate(self) -> None:
        """Raises UsageError that names the first option whose value does not fit."""
        for each in dataclasses.fields(self):
            _validate_field(each, getattr(self, each.name))

    def to_yaml(self) -> str:
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)

    @classmethod
    def defaults_text(cls, name: str) -> str:
        """The default of a field as --help gives it."""
        default = next(each.default for each in dataclasses.fields(cls) if each.name == name)
        return "" if default is None else str(default)

    @classmethod
    def from_options(cls: type[S], given: dict[str, Any]) -> S:
        """The settings of a new run: what was given on the command line, and defaults for the rest."""
        config = cls(**given)
        config.validate()
        return config

    @classmethod
    def from_yaml(cls: type[S], path: Path) -> S:
        """Reads a config.yaml. Raises UsageError, naming the file, when it is not one of this experiment."""
        try:
            values = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
        names = {each.name for each in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            odd = sorted(map(str, set(values) ^ names)) if isinstance(values, dict) else ["all of it"]
            raise UsageError(f"{path}: does not fit this version's settings: {', '.join(odd)}")
        config = cls(**values)
        try:
            config.validate()
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        return config


def _validate_field(each: dataclasses.Field[Any], value: Any) -> None:
    name, facts = flag(each.name), each.metadata
    if value is None and each.default is None:
        return
    if facts["choices"] and value not in facts["choices"]:
        raise UsageError(f"{name}: must be one of {', '.join(facts['choices'])}, but is {value!r}")
    expected = _type_of(each)
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
    return "--" + name.replace("_", "-")


def _type_of(each: dataclasses.Field[Any]) -> type:
    kind: type = each.metadata["kind"]
    return kind if each.default is None else type(each.default)


def add_options(parser: argparse.ArgumentParser, cls: type[Settings], without: tuple[str, ...] = ()) -> None:
    """Adds one option for each field but those of `without`, in its group. Those not given leave no attribute."""
    groups: dict[str, Any] = {}
    for each in dataclasses.fields(cls):
        if each.name in without:
            continue
        title = each.metadata["group"]
        group = groups.setdefault(title, None) or parser.add_argument_group(title)
        groups[title] = group
        choices = each.metadata["choices"]
        default = cls.defaults_text(each.name)
        group.add_argument(
            flag(each.name),
            type=_type_of(each),
            choices=choices,
            metavar=None if choices else {int: "N", float: "X", str: "PATH"}[_type_of(each)],
            default=argparse.SUPPRESS,
            help=each.metadata["help"].replace("%", "%%") + (f" (default: {default})" if default else ""),
        )


def given_options(options: argparse.Namespace, cls: type[Settings]) -> dict[str, Any]:
    """The settings that were given on the command line."""
    names = [each.name for each in dataclasses.fields(cls)]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def resumed(config: S, options: dict[str, Any]) -> S:
    """The settings with which a run continues: its own, but for a larger length among the options.

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
        if name != config.length and value != present and (name, value) != ("threads", 0):
            raise UsageError(f"{flag(name)} {value}: the run has {present}, and --resume keeps it")
    longer = dataclasses.replace(config, **{name: value for name, value in options.items() if name == config.length})
    longer.validate()
    return longer
