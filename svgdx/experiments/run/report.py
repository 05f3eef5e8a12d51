"""What the reports of all experiments share: runs as their folders hold them, and the pieces of a table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.settings import resolve

# Settings in which the seeds of one configuration may differ.
FREE = ("seed", "threads", "device", "checkpoint_every", "keep_checkpoints")


def run(options: argparse.Namespace) -> int:
    """Runs `svgdx report` and returns its exit code. The experiment of the runs writes the report.

    options: parsed arguments. `reports` maps the setting that only one experiment's config.yaml has to
    "module:function", which takes the run folders and the folder to write into.

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


def expanded(paths: list[Path]) -> list[Path]:
    """The run folders that the paths name: a path itself, or the folders seed-N in it, sorted by name."""
    folders: list[Path] = []
    for path in paths:
        seeds = [] if (path / "config.yaml").is_file() else list(path.glob("seed-*"))
        numbered = [folder for folder in seeds if re.fullmatch(r"seed-\d+", folder.name)]
        folders += sorted(numbered, key=lambda folder: folder.name) or [path]
    return folders


def _config(path: Path) -> dict[str, Any]:
    file = RunFolder.reopen(path).config
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from error
    return config if isinstance(config, dict) else {}


class Run:
    """What a run folder says about its run.

    Attributes:
        path: the folder.
        config: settings of the run.
        metrics: lines of metrics.jsonl.
        step: step of the last line; 0 if there is none.
        diverged: the step at which the run diverged, and the message; None for a run that did not diverge.

    Raises:
        UsageError: metrics.jsonl cannot be read.
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
        """(step, value) of every line that has the quantity."""
        return [(record["step"], record[name]) for record in self.metrics if name in record]

    def last(self, name: str) -> float | None:
        """The last value of the quantity; None if it was not logged."""
        values = self.values(name)
        return values[-1][1] if values else None


def check_same(one: Run, other: Run) -> None:
    """Raises UsageError unless two runs are different seeds of one configuration."""
    first, second = dataclasses.asdict(one.config), dataclasses.asdict(other.config)
    if first["seed"] == second["seed"]:
        raise UsageError(f"{one.path} and {other.path} have the same configuration and seed")
    for name in first:
        if name not in FREE and first[name] != second[name]:
            raise UsageError(f"{one.path} and {other.path}: {name} is {first[name]} and {second[name]}")


def make_folder(out: Path) -> None:
    """Creates the folder of a report if necessary. Raises UsageError if that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: {out} cannot be written: {error}") from error


def spread(values: list[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation over the seeds that have a value."""
    present = [value for value in values if value is not None]
    if not present:
        return "–"
    deviation = f" ± {statistics.stdev(present):.{digits}f}" if len(present) > 1 else ""
    return f"{statistics.mean(present):.{digits}f}{deviation}"


def table(head: Sequence[str], rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
