"""The recorder of a run: what happens between two updates, the same for every experiment.

A `Recorder` logs, evaluates, saves checkpoints, checks for values that are not finite, times the updates and ends the
run cleanly on SIGINT, SIGTERM or SIGHUP. `svgdx.experiments.run.loop.run` drives it for trainers with an update of
their own, and a callback of Stable-Baselines3 drives it for reinforcement learning.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from svgdx.experiments.run import parallel
from svgdx.experiments.run.checkpoint import Checkpoint
from svgdx.experiments.run.compute.guard import Guard, Quantity, floats
from svgdx.experiments.run.errors import DivergedError, StoppedError, StopRequested, require_finite_tensors
from svgdx.experiments.run.folder import RunFolder

if TYPE_CHECKING:
    from typing_extensions import Self

# A line of metrics.jsonl without its step. What precedes a slash in a name groups the quantities in TensorBoard only.
Record = dict[str, Any]


class RunOptions(Protocol):
    """The settings that the recorder reads."""

    log_every: int
    eval_every: int
    checkpoint_every: int
    keep_checkpoints: int


class Experiment(Protocol):
    """What a recorder records.

    Attributes:
        seconds: duration of all updates over all resumptions, without evaluations; the recorder adds to it.
        step, last_step: updates done, and those after which the run is finished.
    """

    seconds: float

    @property
    def step(self) -> int: ...
    @property
    def last_step(self) -> int: ...
    @property
    def options(self) -> RunOptions: ...

    def record(self, quantities: dict[str, Any]) -> Record:
        """The record of this step from the quantities of its update, which are empty for a run that begins."""

    def evaluate(self, record: Record, folder: RunFolder, check_stop: Callable[[], None]) -> tuple[Record, str]:
        """The record with the quantities of an evaluation, and a short text for the progress bar.

        It runs on rank 0 only, so it must not wait for another rank. It calls `check_stop` between its stages, which
        raises StopRequested after a signal. In either case it leaves the state of the training and the generators
        unchanged. Pictures go into the folder.
        """

    def tensors(self) -> dict[str, Tensor]:
        """All that is trained, on this rank: what must be finite."""

    def checkpoint(self) -> Checkpoint | None:
        """The state of this step, on every rank; None if a resumed run may as well start again."""


class Stop:
    """Whether SIGINT, SIGTERM or SIGHUP has come since `signals` began to listen."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raises StopRequested if a signal has come."""
        if self.requested:
            raise StopRequested


class Recorder:
    """Records a run: call `begin` once and `after_update` after every update, inside a `with` block.

    Args:
        experiment: what is recorded.
        folder: the run's folder.
        stop: whether a signal has come, see `signals`.
        quiet: whether to hide the progress bar.
        description: text before the progress bar.

    Attributes:
        stopped: whether a signal ended the run before it was finished.
    """

    def __init__(
        self, experiment: Experiment, folder: RunFolder, stop: Stop, quiet: bool, description: str | None = None
    ) -> None:
        self.experiment, self.folder, self.stop = experiment, folder, stop
        self.stopped = False
        self._since = 0.0
        self._saved = False
        self._guard = Guard()
        step = experiment.step
        self._writer = _events(folder, step) if parallel.main() else None
        self._bar = tqdm(
            total=experiment.last_step,
            initial=step,
            unit="step",
            disable=quiet or not parallel.main(),
            mininterval=0.5,
            desc=description,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._writer:
            try:
                self._writer.close()
            except OSError as failure:
                print(f"warning: TensorBoard events are incomplete: {failure}", file=sys.stderr)
        if not parallel.main():
            return
        step = self.experiment.step
        if isinstance(error, DivergedError):
            # How the run ended is one of its results: `svgdx report` reads it.
            self.folder.append_metrics({"step": step, "diverged": str(error)})
        if self.stopped and error is None:
            saved = f"saved a checkpoint at step {step}" if self._saved else "stopped before the first checkpoint"
            print(f"{self.folder.path}: interrupted: {saved}; continue with --resume", file=sys.stderr)

    @property
    def running(self) -> bool:
        """Whether another update is due."""
        return not self.stopped and self.experiment.step < self.experiment.last_step

    def begin(self, saved: Checkpoint | None) -> None:
        """Starts a run, with an evaluation before the first update, or resumes one.

        Args:
            saved: the checkpoint that was restored; an evaluation that a signal interrupted there is made now. None
                starts a new run.
        """
        if saved is None:
            self._finish_step(self.experiment.record({}))
        elif saved.pending is not None:
            self._finish_step(saved.pending)
        self._since = time.perf_counter()

    def after_update(self, quantities: dict[str, Quantity]) -> None:
        """Does what is due after an update. Quantities on a GPU are read only if something is due.

        Raises:
            DivergedError: a quantity, or what is about to be saved, is not finite.
            StoppedError: a file of the run cannot be written.
        """
        experiment = self.experiment
        experiment.seconds += time.perf_counter() - self._since
        self._guard.note(experiment.step, quantities)
        record = None
        if self._evaluates or experiment.step % experiment.options.log_every == 0:
            self._guard.check()
            record = experiment.record(parallel.means(floats(quantities)))
        self._finish_step(record)
        self._bar.update(experiment.step - self._bar.n)
        self._since = time.perf_counter()

    @property
    def _evaluates(self) -> bool:
        experiment = self.experiment
        return experiment.step >= experiment.last_step or experiment.step % experiment.options.eval_every == 0

    def _finish_step(self, record: Record | None) -> None:
        """Evaluates, logs and saves whatever is due at this step. record: None if no line is due."""
        experiment = self.experiment
        last = experiment.step >= experiment.last_step
        interrupted = record is not None and not self._log(record)
        # A signal may come at any line: it takes effect here, where the step is complete.
        stop = parallel.any_rank(self.stop.requested) or interrupted
        self.stopped = stop and (not last or interrupted)
        if last or stop or experiment.step % experiment.options.checkpoint_every == 0:
            self._save(record if interrupted else None)

    def _log(self, record: Record) -> bool:
        """Writes the record, with an evaluation if one is due; False if a signal interrupted the evaluation."""
        experiment, text = self.experiment, ""
        try:
            with parallel.together():
                if self._writer:
                    if self._evaluates:
                        with named_divergence(experiment):
                            record, text = experiment.evaluate(record, self.folder, self.stop.check)
                    self._write(self._writer, record)
        except StopRequested:
            return False
        if text:
            self._bar.set_postfix_str(text)
        return True

    def _write(self, writer: SummaryWriter, record: Record) -> None:
        step = self.experiment.step
        self.folder.append_metrics({"step": step} | {name.rpartition("/")[2]: value for name, value in record.items()})
        try:
            for name, value in record.items():
                if not isinstance(value, list):
                    writer.add_scalar(name, value, step)
        except OSError as error:
            raise StoppedError(f"step {step}: {self.folder.events} cannot be written: {error}") from error

    def _save(self, pending: Record | None) -> None:
        state = self.experiment.checkpoint()
        if state is None:
            return
        self._guard.check()
        # An update can overflow although its gradient was finite: the last good checkpoint must not be displaced.
        with parallel.together():
            require_finite_tensors(self.experiment.step, state.tensors)
            if parallel.main():
                keep = self.experiment.options.keep_checkpoints
                self.folder.save(dataclasses.replace(state, pending=pending), keep)
        self._saved = True


@contextmanager
def progress_bar(text: str, total: int, unit: str, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A progress bar of an evaluation, only on a terminal and gone at its end; yields what advances it."""
    with tqdm(total=total, desc=text, unit=unit, disable=True if quiet else None, leave=False) as bar:
        yield bar.update


def _events(folder: RunFolder, step: int) -> SummaryWriter:
    """The TensorBoard events of a run from a step on. Raises StoppedError if they cannot be written."""
    try:
        return SummaryWriter(str(folder.events), purge_step=step + 1)
    except OSError as error:
        raise StoppedError(f"step {step}: {folder.events} cannot be written: {error}") from error


@contextmanager
def named_divergence(experiment: Experiment) -> Iterator[None]:
    """Turns the RuntimeError with which ops refuse NaN into a DivergedError that names the tensor, if there is one."""
    try:
        yield
    except RuntimeError:
        require_finite_tensors(experiment.step, experiment.tensors())
        raise


@contextmanager
def signals() -> Iterator[Stop]:
    """Notes SIGINT, SIGTERM and SIGHUP, so that the update at work is completed; a second one acts at once.

    The second one raises KeyboardInterrupt. SIGHUP stays ignored under nohup.
    """
    stop = Stop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def receive(number: int, frame: FrameType | None) -> None:
        # torchrun repeats signals that the ranks may have got already, and kills ranks that take too long.
        if stop.requested and parallel.size() == 1:
            raise KeyboardInterrupt
        stop.requested = True

    for number, handler in handlers.items():
        if number != signal.SIGHUP or handler is not signal.SIG_IGN:
            signal.signal(number, receive)
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
