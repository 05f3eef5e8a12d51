"""The folder of one run: config.yaml, metrics.jsonl, checkpoints, TensorBoard events and pictures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from svgdx.experiments.run import checkpoint, parallel
from svgdx.experiments.run.checkpoint import Checkpoint
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.settings import Settings, chosen_options, resumed

if TYPE_CHECKING:
    from typing_extensions import Self

C = TypeVar("C", bound=Settings)
D = TypeVar("D")


class RunFolder:
    """Paths and files of a run; made by `create` for a new run or by `reopen` for one to go on with."""

    checkpoint_name = re.compile(r"step-(\d{8})\.safetensors")

    def __init__(self, path: Path, experiment: str = "ebm") -> None:
        self.path = path
        self.experiment = experiment
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.events = path / "tensorboard"

    @staticmethod
    def check_free(path: Path) -> None:
        """Raises UsageError when the path is taken: nothing that exists is written over."""
        if path.exists() and not path.is_dir():
            raise UsageError(f"--out: {path} exists and is no folder")
        # A run killed while it wrote config.yaml leaves its temporary file, and nothing else.
        if path.is_dir() and any(found.name != "config.yaml.tmp" for found in path.iterdir()):
            raise UsageError(f"--out: the folder {path} is not empty; --resume goes on with the run in it")

    @classmethod
    def create(cls, path: Path, config_text: str, experiment: str = "ebm") -> Self:
        """A new run. Raises UsageError when the path is taken or cannot be written."""
        cls.check_free(path)
        folder = cls(path, experiment)
        try:
            path.mkdir(parents=True, exist_ok=True)
            checkpoint.write_atomically(folder.config, config_text.encode())
            folder.checkpoints.mkdir()
        except OSError as error:
            raise UsageError(f"--out: {path} cannot be written: {error}") from error
        return folder

    @classmethod
    def reopen(cls, path: Path, experiment: str = "ebm") -> Self:
        folder = cls(path, experiment)
        if not folder.config.is_file():
            raise UsageError(f"{path} holds no config.yaml, so it is no run folder")
        folder.checkpoints.mkdir(exist_ok=True)
        return folder

    def resumed_settings(self, cls: type[C], options: dict[str, Any], chosen: Path | None) -> C:
        """The settings with which the run continues; a larger length among the options is written to config.yaml.

        Args:
            cls: class of the settings.
            options: settings from the command line, see `svgdx.experiments.run.settings.resumed`.
            chosen: the checkpoint from which the run continues; None takes the newest.

        Raises:
            UsageError: the run cannot continue with these options or from this checkpoint; config.yaml is unchanged.
        """
        present = cls.from_yaml(self.config)
        config = resumed(present, options)
        if config != present:
            self.load(chosen)
            if parallel.main():
                checkpoint.write_atomically(self.config, config.to_yaml().encode())
        return config

    def saved(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(path for path in self.checkpoints.iterdir() if self.checkpoint_name.fullmatch(path.name))

    def save(self, step: int, tensors: dict[str, Any], keep: int, seconds: float = 0.0) -> None:
        """Writes the checkpoint of a step, then removes all but the newest `keep`."""
        if self.metrics.exists():
            with open(self.metrics, "rb") as file:
                os.fsync(file.fileno())
        length = self.metrics.stat().st_size if self.metrics.exists() else 0
        state = Checkpoint(step, length, tensors, seconds, self.experiment)
        checkpoint.save(self.checkpoints / f"step-{step:08d}.safetensors", state)
        for path in self.saved()[:-keep]:
            checkpoint.remove(path)

    def load(self, chosen: Path | None) -> tuple[Path, Checkpoint] | None:
        """The chosen checkpoint or the newest; None when the run was killed before its first.

        Raises UsageError that names a damaged file and the one before it; never falls back by itself.
        """
        saved = self.saved()
        if chosen is None and not saved:
            return None
        path = chosen or saved[-1]
        try:
            found = self.read(path)
        except UsageError as error:
            earlier = [other for other in saved if other.name < path.name]
            hint = f"--checkpoint {earlier[-1]} goes on from the one before" if earlier else "there is none before it"
            raise UsageError(f"{error}\n{hint}") from error
        length = self.metrics.stat().st_size if self.metrics.exists() else 0
        if length < found.metrics_bytes:
            raise UsageError(f"{self.metrics}: {length} bytes, but {path} was saved with {found.metrics_bytes}")
        return path, found

    def read(self, path: Path) -> Checkpoint:
        """A checkpoint. Raises UsageError, naming the file, when it is missing or damaged."""
        return checkpoint.load(path, self.experiment)

    def rewind(self, step: int, metrics_bytes: int) -> None:
        """Takes back what the run wrote after the checkpoint. Later checkpoints are set aside, not removed."""
        if self.metrics.exists():
            os.truncate(self.metrics, metrics_bytes)
        for path in self.saved():
            if int(path.stem.removeprefix("step-")) > step:
                path.rename(path.with_name(path.name + ".discarded"))

    def append_metrics(self, record: dict[str, Any]) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]


def open_run(
    options: argparse.Namespace, cls: type[C], experiment: str, load: Callable[[C], D]
) -> tuple[C, D, RunFolder]:
    """Settings, data and folder of the run that a command line asks for, on every rank.

    Args:
        options: parsed arguments, those of `run_folder_arguments` among them. Ranks that torchrun restarted resume.
        cls: class of the settings.
        experiment: name under which checkpoints are written.
        load: loads the data of a run with these settings.

    Raises UsageError, on every rank, if the run cannot be started or resumed; a refused run leaves no folder.
    """
    if parallel.from_main(parallel.restarted() and (options.out / "config.yaml").is_file()):
        options.resume, options.checkpoint = True, None
    with parallel.together():
        chosen = chosen_options(options, cls)
        if options.resume:
            folder = RunFolder.reopen(options.out, experiment)
            config = folder.resumed_settings(cls, chosen, options.checkpoint)
            return config, load(config), folder
        if options.checkpoint:
            raise UsageError("--checkpoint: only with --resume")
        config = with_threads(cls.from_options(chosen))
        data = load(config)
        if not parallel.main():
            return config, data, RunFolder(options.out, experiment)
        return config, data, RunFolder.create(options.out, config.to_yaml(), experiment)


def with_threads(config: C) -> C:
    """The settings with the number of threads that 0 stands for: torch's own."""
    changes: dict[str, Any] = {} if getattr(config, "threads", 0) else {"threads": torch.get_num_threads()}
    return dataclasses.replace(config, **changes)
