"""The folder of one run: config.yaml, metrics.jsonl, checkpoints, TensorBoard events and pictures."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import torch

from svgdx.experiments.run import checkpoint, parallel
from svgdx.experiments.run.checkpoint import Checkpoint, is_temporary
from svgdx.experiments.run.compute import device
from svgdx.experiments.run.errors import FormatError, StoppedError, UsageError, is_out_of_memory
from svgdx.experiments.run.settings import Settings, chosen_options, resumed

if TYPE_CHECKING:
    from typing_extensions import Self

C = TypeVar("C", bound=Settings)
D = TypeVar("D")

# Locked by the process that writes into a run folder.
LOCK = ".lock"


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
        self._lock: Lock | None = None

    @staticmethod
    def check_free(path: Path) -> None:
        """Raises UsageError if the path is taken or no possible name: existing files are never overwritten."""
        try:
            # TensorBoard, which writes into the folder, takes no other name.
            str(path.absolute()).encode()
            exists, is_folder = path.exists(), path.is_dir()
            entries = list(path.iterdir()) if is_folder else []
        except (OSError, UnicodeEncodeError) as error:
            raise UsageError(f"--out: {str(path)!r} cannot be written: {error}") from error
        if exists and not is_folder:
            raise UsageError(f"--out: {path} exists and is not a folder")
        # A run killed while it wrote config.yaml leaves its lock and a temporary file, and nothing else.
        if any(entry.name != LOCK and not is_temporary(entry) for entry in entries):
            raise UsageError(f"--out: {path} is not empty; pass --resume to continue the run in it")

    def lock(self) -> None:
        """Makes this process the only one that writes into the folder, as long as this object exists.

        Removes what a killed process left behind.

        Raises:
            UsageError: another process has locked the folder, or one of its entries is a symbolic link.
        """
        for path in (self.config, self.metrics, self.checkpoints, self.events, self.path / LOCK):
            if path.is_symlink():
                raise UsageError(f"{path} is a symbolic link, but a run writes into its own folder only")
        try:
            self._lock = Lock.of(self.path / LOCK)
            for entry in filter(is_temporary, [*self.path.iterdir(), *self.checkpoints.glob("*")]):
                _remove(entry)
        except BlockingIOError as error:
            raise UsageError(
                f"{self.path}: another process is running in this folder; wait until it has ended"
            ) from error
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error}") from error

    @classmethod
    def create(cls, path: Path, config_text: str, experiment: str = "ebm") -> Self:
        """The folder of a new run. Raises UsageError if the path is taken or cannot be written."""
        cls.check_free(path)
        folder = cls(path, experiment)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder.lock()
            # Another process may have been faster.
            if folder.config.exists():
                raise UsageError(f"--out: {path} is not empty; pass --resume to continue the run in it")
            checkpoint.write_atomically(folder.config, config_text.encode())
            folder.checkpoints.mkdir()
        except OSError as error:
            with contextlib.suppress(OSError):
                (path / LOCK).unlink()
                path.rmdir()
            raise UsageError(f"--out: {path} cannot be written: {error}") from error
        return folder

    @classmethod
    def reopen(cls, path: Path, experiment: str = "ebm") -> Self:
        """The folder of a run, to read; `lock` before writing. Raises UsageError if the path is not a run folder."""
        folder = cls(path, experiment)
        if not folder.config.is_file():
            raise UsageError(f"{path} is not a run folder: it holds no config.yaml")
        return folder

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Gives the lock back at the end, and names the cause if memory is exhausted inside.

        The folder is then removed if nothing was recorded in it.

        Raises:
            UsageError: memory was exhausted before anything was recorded. StoppedError: later.
        """
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            text = f"out of memory: {str(error).splitlines()[0] if str(error) else 'an allocation failed'}"
            if self.discard_unused():
                raise UsageError(f"{text}; choose smaller settings; nothing was written") from error
            raise StoppedError(text) from error
        finally:
            self._lock = None

    def discard_unused(self) -> bool:
        """Removes the folder of a run that has recorded nothing; returns whether it did."""
        made = {self.config.name, LOCK, "manifest.json", self.checkpoints.name, self.events.name}
        if self.saved() or any(entry.name not in made and not is_temporary(entry) for entry in self.path.iterdir()):
            return False
        shutil.rmtree(self.path)
        return True

    def resumed_settings(self, cls: type[C], options: dict[str, Any], chosen: Path | None) -> C:
        """The settings with which the run continues; nothing is written yet, see `write_settings`.

        Args:
            cls: class of the settings.
            options: settings from the command line, see `svgdx.experiments.run.settings.resumed`.
            chosen: the checkpoint from which the run continues; None takes the newest.

        Raises:
            UsageError: the run cannot continue with these options or from this checkpoint.
        """
        present = cls.from_yaml(self.config)
        config = localised(resumed(present, options))
        if self.load_with_metrics(chosen) is None:
            self._require_young(getattr(present, "checkpoint_every", 0))
        return config

    def _require_young(self, checkpoint_every: int) -> None:
        """Raises UsageError if a run without checkpoints has gone so far that it must have had one."""
        last = max((line.get("step", 0) for line in self.read_metrics()), default=0)
        if last > checkpoint_every or (last > 0 and not self.checkpoints.is_dir()):
            raise UsageError(
                f"{self.checkpoints} holds no checkpoint, but {self.metrics} reaches step {last}: put the checkpoints "
                "back, or start a new run in another folder"
            )

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
        if not self.checkpoints.is_dir():
            return []
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
        except FormatError:
            raise
        except UsageError as error:
            earlier = [other for other in saved if other.name < path.name]
            hint = "there is no checkpoint before it"
            if earlier:
                hint = f"pass --checkpoint {earlier[-1]} to continue from the one before it"
            raise UsageError(f"{error}\n{hint}") from error
        return path, state

    def load_with_metrics(self, chosen: Path | None) -> tuple[Path, Checkpoint] | None:
        """Like `load`, for a reader that also needs the metrics that were logged before the checkpoint.

        Raises UsageError as `load` does, and if metrics.jsonl is shorter than when the checkpoint was saved.
        """
        loaded = self.load(chosen)
        length = self.metrics.stat().st_size if self.metrics.exists() else 0
        if loaded is not None and length < loaded[1].metrics_bytes:
            expected = f"the {loaded[1].metrics_bytes} bytes with which {loaded[0]} was saved"
            raise UsageError(f"{self.metrics}: must have at least {expected}, but has {length}")
        return loaded

    def read(self, path: Path) -> Checkpoint:
        """A checkpoint. Raises UsageError, naming the file, if it is missing or damaged."""
        return checkpoint.load(path, self.experiment)

    def rewind(self, loaded: tuple[Path, Checkpoint] | None) -> None:
        """Undoes what the run wrote after the checkpoint that `load_with_metrics` returned.

        Says on stderr where the run continues. Later checkpoints are renamed, not removed.
        """
        if loaded is None:
            step, length = -1, 0
            print(f"{self.path}: the run ended before its first checkpoint: starting at step 0", file=sys.stderr)
        else:
            path, state = loaded
            step, length = state.step, state.metrics_bytes
            print(f"{self.path}: resuming at step {step} from {path}", file=sys.stderr)
        self.checkpoints.mkdir(exist_ok=True)
        if self.metrics.exists():
            # A new file: another name of the old one, as in a backup made of hard links, keeps its content.
            checkpoint.write_atomically(self.metrics, self.metrics.read_bytes()[:length])
        for path in self.saved():
            if int(path.stem.removeprefix("step-")) > step:
                discarded = path.with_name(path.name + ".discarded")
                # A folder does not replace what was renamed before.
                _remove(discarded)
                path.rename(discarded)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl. Raises StoppedError if it cannot be written."""
        try:
            with open(self.metrics, "a", encoding="utf-8", opener=_own) as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise StoppedError(f"{self.metrics} cannot be written: {error}") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl. Raises UsageError, naming the line, if one is no record of a step."""
        if not self.metrics.exists():
            return []
        lines: list[dict[str, Any]] = []
        try:
            # A run that was killed, or that is at work, may have written a part of its last line.
            for line in self.metrics.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):
                    record = json.loads(line)
                    if not (isinstance(record, dict) and isinstance(record.get("step"), int)):
                        raise ValueError("it is no record of a step")
                    lines.append(record)
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{self.metrics}: line {len(lines) + 1} cannot be read: {error}") from error
        return lines


class Lock:
    """An exclusive lock on a file, held until every object that shares it in this process is gone.

    The system releases it when the process ends, however it ends.
    """

    _held: ClassVar[WeakValueDictionary[Path, Lock]] = WeakValueDictionary()

    def __init__(self, path: Path) -> None:
        self._number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._number)
            raise
        weakref.finalize(self, os.close, self._number)

    @classmethod
    def of(cls, path: Path) -> Lock:
        """The lock on a file, made if this process does not hold it yet.

        Raises BlockingIOError if another process holds it, another OSError if the file cannot be opened.
        """
        path = path.parent.resolve() / path.name
        lock = cls._held.get(path)
        if lock is None:
            lock = cls._held[path] = cls(path)
        return lock


def _own(path: str, flags: int) -> int:
    """Opens a file for `open`, unless it is a symbolic link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
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
            if parallel.main():
                folder.lock()
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

    Raises UsageError if the machine does not have the device, or cannot capture updates that must be.
    """
    home: dict[str, Any] = {"device": device.resolved(getattr(config, "device", "cpu"))}
    if getattr(config, "threads", 1) == 0:
        home["threads"] = torch.get_num_threads()
    names = {item.name for item in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{name: value for name, value in home.items() if name in names})
    if "graph" in names:
        config.captures()
    return config
