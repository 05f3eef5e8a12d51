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

from svgdx.experiments.run import parallel
from svgdx.experiments.run.checkpoint import Checkpoint
from svgdx.experiments.run.errors import DivergedError
from svgdx.experiments.run.folder import RunFolder

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


def stream_seed(seed: int, step: int, purpose: int, shared: bool = False) -> int:
    """64 bits that depend on seed, step, purpose and rank alone: a resumed run needs no state of a generator.

    shared: the same on every rank, that of rank 0 and of a run without others.
    """
    entropy = [seed % 2**64, step, purpose, *([] if shared or parallel.main() else [parallel.rank()])]
    words = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return int(words[0]) << 32 | int(words[1])


def stream(seed: int, step: int, purpose: int, shared: bool = False) -> torch.Generator:
    """A generator of random numbers seeded by `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, step, purpose, shared))


def check_finite(step: int, quantities: dict[str, float]) -> None:
    """Raises DivergedError, on every rank, that names the step and the first quantity that is not finite."""
    bad = next((f"{name} is {value}" for name, value in quantities.items() if not math.isfinite(value)), None)
    parallel.raise_together(None if bad is None else DivergedError(f"step {step}: {bad}"))


def run(trainer: Trainer, folder: RunFolder, resume: bool, chosen: Path | None, quiet: bool) -> bool:
    """Trains to the last step: True; or False after SIGINT or SIGTERM, with a checkpoint of the step reached."""
    # No rank goes on before all have read: what rank 0 writes next is not to be found here.
    with parallel.together():
        found = folder.load(chosen) if resume else None
        if found:
            trainer.restore(*found)
    if resume and parallel.main():
        _rewind(folder, found)
    writer = SummaryWriter(str(folder.events), purge_step=trainer.step + 1) if parallel.main() else None
    try:
        with signals() as stop:
            if not found:
                _record(trainer, folder, writer, {})
                _save(trainer, folder)
            finished = _loop(trainer, folder, writer, stop, quiet)
    except DivergedError as error:
        # How the run ended is one of its results: `svgdx report` reads it.
        if parallel.main():
            folder.append_metrics({"step": trainer.step, "diverged": str(error)})
        raise
    finally:
        if writer:
            writer.close()
    if not finished and parallel.main():
        print(f"interrupted: checkpoint of step {trainer.step} written; --resume goes on", file=sys.stderr)
    return finished


def _rewind(folder: RunFolder, found: tuple[Path, Checkpoint] | None) -> None:
    if found:
        path, saved = found
        print(f"resuming at step {saved.step} from {path}", file=sys.stderr)
        folder.rewind(saved.step, saved.metrics_bytes)
    else:
        print("the run was ended before its first checkpoint: starting at step 0", file=sys.stderr)
        folder.rewind(-1, 0)


def _loop(trainer: Trainer, folder: RunFolder, writer: SummaryWriter | None, stop: list[int], quiet: bool) -> bool:
    """True when the last step was reached, False when a signal came first."""
    options, total = trainer.options, trainer.last_step
    hidden = quiet or not parallel.main()
    with tqdm(total=total, initial=trainer.step, unit="step", disable=hidden, mininterval=0.5) as bar:
        while trainer.step < total and not parallel.any_rank(bool(stop)):
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
    tensors = trainer.tensors()
    with parallel.together():
        _check_tensors(trainer.step, tensors)
        if parallel.main():
            folder.save(trainer.step, tensors, trainer.options.keep_checkpoints, trainer.seconds)


def _check_tensors(step: int, tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise DivergedError(f"step {step}: {name} is not finite")


@contextmanager
def _divergence_named(trainer: Trainer) -> Iterator[None]:
    """Ops refuse NaN with errors of their own: where a parameter is not finite, that is what is told."""
    try:
        yield
    except RuntimeError:
        with parallel.alone():
            _check_tensors(trainer.step, trainer.tensors())
        raise


def _record(trainer: Trainer, folder: RunFolder, writer: SummaryWriter | None, quantities: dict[str, float]) -> str:
    """Logs one step, its quantities as means over the ranks; with an evaluation, by rank 0, where one is due."""
    step, text = trainer.step, ""
    due = step % trainer.options.eval_every == 0 or step == trainer.last_step
    quantities = parallel.means(quantities)
    with parallel.together():
        if writer:
            with parallel.alone(), _divergence_named(trainer):
                record, text = trainer.record(quantities, folder, due)
            folder.append_metrics({"step": step} | record)
            for name, value in record.items():
                writer.add_scalar(name, value, step)
    return text


@contextmanager
def signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are put into. The step in hand is finished; a second signal acts at once."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # torchrun passes on what the ranks may have got already, and kills those that take too long by itself.
        for each, handler in before.items() if parallel.size() == 1 else ():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
