"""The folder of one run: config.yaml, metrics.jsonl, checkpoints, TensorBoard events and pictures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from svgdx.experiments.run import checkpoint, parallel
from svgdx.experiments.run.checkpoint import Checkpoint
from svgdx.experiments.run.compute import device
from svgdx.experiments.run.errors import StoppedError, UsageError
from svgdx.experiments.run.settings import Settings, chosen_options, resumed

if TYPE_CHECKING:
    from typing_extensions import Self

C = TypeVar("C", bound=Settings)
D = TypeVar("D")


class RunFolder:
    """Paths and files of a run. `create` makes the folder of a new run, `reopen` that of a run to resume."""

    # A checkpoint is named step-STEP and this.
    suffix = ".safetensors"

    def __init__(self, path: Path, experiment: str = "ebm") -> None:
        self.path = path
        self.experiment = experiment
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.events = path / "tensorboard"

    @staticmethod
    def check_free(path: Path) -> None:
        """Raises UsageError if the path is taken: existing files are never overwritten."""
        if path.exists() and not path.is_dir():
            raise UsageError(f"--out: {path} exists and is not a folder")
        # A run killed while it wrote config.yaml leaves its temporary file and nothing else.
        if path.is_dir() and any(entry.name != "config.yaml.tmp" for entry in path.iterdir()):
            raise UsageError(f"--out: {path} is not empty; pass --resume to continue the run in it")

    @classmethod
    def create(cls, path: Path, config_text: str, experiment: str = "ebm") -> Self:
        """The folder of a new run. Raises UsageError if the path is taken or cannot be written."""
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
        """The folder of a run to resume. Raises UsageError if the path is not a run folder."""
        folder = cls(path, experiment)
        if not folder.config.is_file():
            raise UsageError(f"{path} is not a run folder: it holds no config.yaml")
        folder.checkpoints.mkdir(exist_ok=True)
        return folder

    def resumed_settings(self, cls: type[C], options: dict[str, Any], chosen: Path | None) -> C:
        """The settings with which the run continues; nothing is written yet, see `write_settings`.

        Args:
            cls: class of the settings.
            options: settings from the command line, see `svgdx.experiments.run.settings.resumed`.
            chosen: the checkpoint from which the run continues; None takes the newest.

        Raises:
            UsageError: the run cannot continue with these options or from this checkpoint.
        """
        config = localised(resumed(cls.from_yaml(self.config), options))
        self.load(chosen)
        return config

    def write_settings(self, config: Settings) -> None:
        """Writes config.yaml, on rank 0, if the settings differ from it. Raises UsageError if it cannot be written."""
        if not parallel.main() or config == type(config).from_yaml(self.config):
            return
        try:
            checkpoint.write_atomically(self.config, config.to_yaml().encode())
        except OSError as error:
            raise UsageError(f"{self.config} cannot be written: {error}") from error

    def saved(self) -> list[Path]:
        """The checkpoints, oldest first."""
        name = re.compile(r"step-\d{8}" + re.escape(self.suffix))
        return sorted(path for path in self.checkpoints.iterdir() if name.fullmatch(path.name))

    def save(self, state: Checkpoint, keep: int) -> Path:
        """Writes the checkpoint of a step, then removes all but the newest `keep`.

        Raises StoppedError if it cannot be written; the checkpoints before it are kept.
        """
        path = self.checkpoints / f"step-{state.step:08d}{self.suffix}"
        try:
            if self.metrics.exists():
                checkpoint.sync(self.metrics)
            length = self.metrics.stat().st_size if self.metrics.exists() else 0
            self._write(path, dataclasses.replace(state, metrics_bytes=length, experiment=self.experiment))
            for old in self.saved()[:-keep]:
                _remove(old)
        except OSError as error:
            raise StoppedError(f"step {state.step}: the checkpoint {path} cannot be written: {error}") from error
        return path

    def _write(self, path: Path, state: Any) -> None:
        """Writes a checkpoint that is complete or absent. Raises OSError if it cannot be written."""
        checkpoint.save(path, state)

    def load(self, chosen: Path | None) -> tuple[Path, Checkpoint] | None:
        """The chosen checkpoint or the newest; None if the run was killed before its first.

        Raises UsageError, naming a damaged file and the checkpoint before it, which is never used unasked.
        """
        saved = self.saved()
        if chosen is None and not saved:
            return None
        path = chosen or saved[-1]
        try:
            state = self.read(path)
        except UsageError as error:
            earlier = [other for other in saved if other.name < path.name]
            hint = "there is no checkpoint before it"
            if earlier:
                hint = f"pass --checkpoint {earlier[-1]} to continue from the one before it"
            raise UsageError(f"{error}\n{hint}") from error
        length = self.metrics.stat().st_size if self.metrics.exists() else 0
        if length < state.metrics_bytes:
            expected = f"the {state.metrics_bytes} bytes with which {path} was saved"
            raise UsageError(f"{self.metrics}: must have at least {expected}, but has {length}")
        return path, state

    def read(self, path: Path) -> Checkpoint:
        """A checkpoint. Raises UsageError, naming the file, if it is missing or damaged."""
        return checkpoint.load(path, self.experiment)

    def rewind(self, loaded: tuple[Path, Checkpoint] | None) -> None:
        """Undoes what the run wrote after the checkpoint that `load` returned; says on stderr where it continues.

        Later checkpoints are renamed, not removed.
        """
        if loaded is None:
            step, length = -1, 0
            print(f"{self.path}: the run ended before its first checkpoint: starting at step 0", file=sys.stderr)
        else:
            path, state = loaded
            step, length = state.step, state.metrics_bytes
            print(f"{self.path}: resuming at step {step} from {path}", file=sys.stderr)
        if self.metrics.exists():
            os.truncate(self.metrics, length)
        for path in self.saved():
            if int(path.stem.removeprefix("step-")) > step:
                discarded = path.with_name(path.name + ".discarded")
                # A folder, unlike a file, does not replace what was renamed before.
                if discarded.is_dir():
                    shutil.rmtree(discarded)
                path.rename(discarded)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl. Raises StoppedError if it cannot be written."""
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise StoppedError(f"{self.metrics} cannot be written: {error}") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
            data = load(config)
            folder.write_settings(config)
            return config, data, folder
        if options.checkpoint:
            raise UsageError("--checkpoint: only with --resume")
        config = localised(cls.from_options(chosen))
        data = load(config)
        if not parallel.main():
            return config, data, RunFolder(options.out, experiment)
        return config, data, RunFolder.create(options.out, config.to_yaml(), experiment)


def localised(config: C) -> C:
    """The settings with what they stand for on this machine: its device, and torch's number of threads for 0.

    Raises UsageError if the machine does not have the device.
    """
    home: dict[str, Any] = {"device": device.resolved(getattr(config, "device", "cpu"))}
    if getattr(config, "threads", 1) == 0:
        home["threads"] = torch.get_num_threads()
    names = {item.name for item in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: value for name, value in home.items() if name in names})
