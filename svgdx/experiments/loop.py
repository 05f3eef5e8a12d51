"""The training loop of all experiments: resuming, logging, evaluation, checkpoints and a clean stop."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from svgdx.experiments.checkpoint import Checkpoint
from svgdx.experiments.errors import DivergedError
from svgdx.experiments.run_folder import RunFolder

INTERRUPTED = 130


class RunOptions(Protocol):
    """The settings the loop reads."""

    log_every: int
    eval_every: int
    checkpoint_every: int
    keep_checkpoints: int


class Trainer(Protocol):
    """What the loop drives."""

    step: int
    # Duration of all updates so far, over all resumes; evaluations are not in it.
    seconds: float

    @property
    def last_step(self) -> int: ...
    @property
    def options(self) -> RunOptions: ...
    def update(self) -> dict[str, float]:
        """One update; returns its quantities. Raises DivergedError before a parameter took in what is not finite."""

    def record(self, quantities: dict[str, float], folder: RunFolder, evaluate: bool) -> tuple[dict[str, Any], str]:
        """The line of metrics.jsonl for this step, pictures written where it evaluates; and the bar's short text."""

    def tensors(self) -> dict[str, Tensor]: ...
    def restore(self, path: Path, saved: Checkpoint) -> None: ...


def stream_seed(seed: int, step: int, purpose: int) -> int:
    """64 bits that depend on seed, step and purpose alone: a resumed run needs no state of a generator."""
    words = np.random.SeedSequence([seed % 2**64, step, purpose]).generate_state(2, np.uint32)
    return int(words[0]) << 32 | int(words[1])


def stream(seed: int, step: int, purpose: int) -> torch.Generator:
    """A generator of random numbers seeded by `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, step, purpose))


def check_finite(step: int, quantities: dict[str, float]) -> None:
    """Raises DivergedError that names the step and the first quantity that is not finite."""
    for name, value in quantities.items():
        if not math.isfinite(value):
            raise DivergedError(f"step {step}: {name} is {value}")


def run(trainer: Trainer, folder: RunFolder, resume: bool, chosen: Path | None, quiet: bool) -> bool:
    """Trains to the last step: True; or False after SIGINT or SIGTERM, with a checkpoint of the step reached."""
    found = folder.load(chosen) if resume else None
    if found:
        path, saved = found
        trainer.restore(path, saved)
        print(f"resuming at step {saved.step} from {path}", file=sys.stderr)
        folder.rewind(saved.step, saved.metrics_bytes)
    elif resume:
        print("the run was ended before its first checkpoint: starting at step 0", file=sys.stderr)
        folder.rewind(-1, 0)
    writer = SummaryWriter(str(folder.events), purge_step=trainer.step + 1)
    try:
        with _signals() as stop:
            if not found:
                _record(trainer, folder, writer, {})
                _save(trainer, folder)
            finished = _loop(trainer, folder, writer, stop, quiet)
    except DivergedError as error:
        # How the run ended is one of its results: `svgdx report` reads it.
        folder.append_metrics({"step": trainer.step, "diverged": str(error)})
        raise
    finally:
        writer.close()
    if not finished:
        print(f"interrupted: checkpoint of step {trainer.step} written; --resume goes on", file=sys.stderr)
    return finished


def _loop(trainer: Trainer, folder: RunFolder, writer: SummaryWriter, stop: list[int], quiet: bool) -> bool:
    """True when the last step was reached, False when a signal came first."""
    options, total = trainer.options, trainer.last_step
    with tqdm(total=total, initial=trainer.step, unit="step", disable=quiet, mininterval=0.5) as bar:
        while trainer.step < total and not stop:
            begin = time.perf_counter()
            with _divergence_named(trainer):
                quantities = trainer.update()
            trainer.seconds += time.perf_counter() - begin
            step, last = trainer.step, trainer.step == total
            if last or step % options.log_every == 0 or step % options.eval_every == 0:
                text = _record(trainer, folder, writer, quantities)
                if text:
                    bar.set_postfix_str(text)
            # A signal may come at any line: what it asks for is done below, once the step is whole.
            if last or step % options.checkpoint_every == 0:
                _save(trainer, folder)
            bar.update()
        if trainer.step < total:
            _save(trainer, folder)
    return trainer.step == total


def _save(trainer: Trainer, folder: RunFolder) -> None:
    # An update can overflow although its gradient was finite: the last good checkpoint must not be displaced.
    tensors = _finite_tensors(trainer)
    folder.save(trainer.step, tensors, trainer.options.keep_checkpoints, trainer.seconds)


def _finite_tensors(trainer: Trainer) -> dict[str, Tensor]:
    tensors = trainer.tensors()
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise DivergedError(f"step {trainer.step}: {name} is not finite")
    return tensors


@contextmanager
def _divergence_named(trainer: Trainer) -> Iterator[None]:
    """Ops refuse NaN with errors of their own: where a parameter is not finite, that is what is told."""
    try:
        yield
    except RuntimeError:
        _finite_tensors(trainer)
        raise


def _record(trainer: Trainer, folder: RunFolder, writer: SummaryWriter, quantities: dict[str, float]) -> str:
    """Logs one step, with an evaluation where one is due."""
    step = trainer.step
    due = step % trainer.options.eval_every == 0 or step == trainer.last_step
    with _divergence_named(trainer):
        record, text = trainer.record(quantities, folder, due)
    folder.append_metrics({"step": step} | record)
    for name, value in record.items():
        writer.add_scalar(name, value, step)
    return text


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are put into. The step in hand is finished; a second signal acts at once."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
