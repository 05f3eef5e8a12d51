"""What the reports of all experiments share: runs as they stand in their folders."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
from pathlib import Path
from typing import Any

import yaml

from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.settings import resolve

# These may differ between seeds of one configuration.
FREE = ("seed", "threads", "checkpoint_every", "keep_checkpoints")


class Run:
    """A run.

    Attributes:
        metrics: its lines of metrics.jsonl. step: that of the last one.
        diverged: the step at which it ended before its last, and why; None for a run that did not diverge.

    Raises UsageError that names the file where it cannot be read.
    """

    def __init__(self, folder: RunFolder, config: Any) -> None:
        self.path, self.config = folder.path, config
        try:
            self.metrics = folder.read_metrics()
        except json.JSONDecodeError as error:
            raise UsageError(f"{folder.metrics}: cannot be read: {error}") from error
        last: dict[str, Any] = self.metrics[-1] if self.metrics else {"step": 0}
        self.step: int = last["step"]
        self.diverged: tuple[int, str] | None = (last["step"], last["diverged"]) if "diverged" in last else None

    def values(self, name: str) -> list[tuple[int, Any]]:
        """(step, value) where the quantity was logged."""
        return [(record["step"], record[name]) for record in self.metrics if name in record]

    def last(self, name: str) -> float | None:
        found = self.values(name)
        return found[-1][1] if found else None


def expanded(paths: list[Path]) -> list[Path]:
    """The run folders of the paths: each itself, or the folders seed-N in it."""
    found: list[Path] = []
    for path in paths:
        seeds = [] if (path / "config.yaml").is_file() else list(path.glob("seed-*"))
        named = sorted((each for each in seeds if re.fullmatch(r"seed-\d+", each.name)), key=lambda each: each.name)
        found += named or [path]
    return found


def run(options: argparse.Namespace) -> int:
    """Runs `svgdx report` and returns its exit code: the experiment of the runs writes the report.

    options: parsed arguments; `reports` maps the setting that only one experiment's config.yaml has to
    "module:function", which takes run folders and the folder to write into.

    Raises UsageError if a path is not a run folder, its experiment has no report, or the experiments differ.
    """
    paths = expanded(options.runs)
    markers = {path: next((name for name in options.reports if name in _config(path)), None) for path in paths}
    for path, marker in markers.items():
        if marker is None:
            raise UsageError(f"{path}: there is no report for runs of this experiment")
        if marker != markers[paths[0]]:
            raise UsageError(f"all runs must be of one experiment, but {paths[0]} and {path} are not")
    code: int = resolve(options.reports[markers[paths[0]]])(paths, options.out)
    return code


def _config(path: Path) -> dict[str, Any]:
    file = RunFolder.reopen(path).config
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def check_same(one: Run, other: Run) -> None:
    """Raises UsageError unless two runs are seeds of one configuration."""
    first, second = dataclasses.asdict(one.config), dataclasses.asdict(other.config)
    if first["seed"] == second["seed"]:
        raise UsageError(f"{one.path} and {other.path}: the same configuration and seed")
    for name in first:
        if name not in FREE and first[name] != second[name]:
            raise UsageError(f"{one.path} and {other.path}: {name} is {first[name]} and {second[name]}")


def make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: {out} cannot be written: {error}") from error


def spread(values: list[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds of those that are there."""
    found = [value for value in values if value is not None]
    if not found:
        return "–"
    deviation = f" ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.{digits}f}{deviation}"
