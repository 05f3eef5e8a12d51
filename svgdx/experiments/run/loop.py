"""The training loop of experiments that have an update of their own, and the random numbers of all experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from svgdx import streams
from svgdx.experiments.run import checkpoint, parallel
from svgdx.experiments.run.checkpoint import Checkpoint
from svgdx.experiments.run.compute.device import torch_device
from svgdx.experiments.run.compute.graph import Graphs
from svgdx.experiments.run.compute.guard import Quantities
from svgdx.experiments.run.errors import StoppedError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.recorder import Record, Recorder, RunOptions, named_divergence, signals
from svgdx.streams import Stream

# Exit code of a run that a signal ended.
INTERRUPTED = 130


class Trainer:
    """Base of what the loop drives; a subclass defines `update` and `evaluate`.

    Args:
        options: when to log, to evaluate and to save.
        last_step: number of updates of the run.
        device: where the run computes, see `svgdx.experiments.run.compute.device.torch_device`.

    Attributes:
        step: number of updates so far.
        seconds: their duration, over all resumptions; the recorder adds to it.
        modules, optimisers: what a checkpoint holds, by name.
        graphs: makes the updates; captures none unless a subclass replaces it.
        quiet: whether evaluations show no progress bar.
        chains_name: name of the tensor whose rows differ between ranks, such as persistent chains; empty for none.
    """

    chains_name = ""

    def __init__(self, options: RunOptions, last_step: int, device: str = "cpu") -> None:
        self.options, self.last_step, self.device = options, last_step, torch_device(device)
        self.step, self.seconds = 0, 0.0
        self.quiet = not parallel.main()
        self.modules: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.graphs = Graphs(self.device, [], False)

    @property
    def is_read(self) -> bool:
        """Whether the quantities of this step are read: on the CPU always, on a GPU if something is due.

        On a GPU, quantities that are not read and cost launches may be left out.
        """
        options = self.options
        due = self.step % options.log_every == 0 or self.step % options.eval_every == 0
        return due or self.step >= self.last_step or self.device.type == "cpu"

    def update(self) -> Quantities:
        """Makes one update and returns its quantities.

        Raises DivergedError before any parameter takes in a value that is not finite.
        """
        raise NotImplementedError

    def evaluate(self, record: Record, folder: RunFolder, check_stop: Callable[[], None]) -> tuple[Record, str]:
        """See `svgdx.experiments.run.recorder.Experiment.evaluate`."""
        raise NotImplementedError

    def record(self, quantities: dict[str, float]) -> Record:
        """The line of metrics.jsonl without an evaluation."""
        return quantities

    def tensors(self) -> dict[str, Tensor]:
        """Modules and optimisers as tensors, and the chains of this rank."""
        return checkpoint.flatten(self.modules, self.optimisers)

    def checkpoint(self) -> Checkpoint:
        """The state of this step, with the chains of all ranks on rank 0."""
        tensors = self.tensors()
        if self.chains_name in tensors:
            tensors[self.chains_name] = parallel.gathered_rows(tensors[self.chains_name])
        return Checkpoint(self.step, 0, tensors, self.seconds)

    def restore(self, path: Path, saved: Checkpoint) -> dict[str, Tensor]:
        """Puts a checkpoint back and returns its tensors, with the chains of this rank.

        Raises UsageError, naming the file, if it does not fit.
        """
        tensors, present = dict(saved.tensors), self.tensors()
        if self.chains_name in tensors and self.chains_name in present:
            count = len(present[self.chains_name])
            tensors[self.chains_name] = parallel.rows_of_rank(tensors[self.chains_name], count)
        checkpoint.restore(path, tensors, self.modules, self.optimisers)
        self.graphs.forget()
        self.step, self.seconds = saved.step, saved.seconds
        return tensors


def stream_seed(seed: int, step: int, purpose: int, shared: bool = False) -> int:
    """64 bits that depend on seed, step, purpose and rank alone, so that a resumed run needs no generator's state.

    shared: whether the bits are the same on every rank, those of rank 0 and of a run with one rank.
    """
    return streams.stream_seed(seed, step, purpose, 0 if shared else parallel.rank())


def stream(seed: int, step: int, purpose: int, shared: bool = False, device: torch.device | str = "cpu") -> Stream:
    """The stream of random numbers on a device that `stream_seed` starts, the same on every device."""
    return Stream.of_seed(stream_seed(seed, step, purpose, shared), device)


def run(trainer: Trainer, folder: RunFolder, resume: bool, chosen: Path | None, quiet: bool) -> bool:
    """Trains to the last step.

    Args:
        trainer: a new trainer.
        folder: the run's folder.
        resume, chosen: whether to continue the run in the folder, and from which checkpoint; None takes the newest.
        quiet: whether to hide the progress bar.

    Returns:
        True; or False after SIGINT, SIGTERM or SIGHUP, with a checkpoint of the step reached.

    Raises:
        UsageError: the checkpoint cannot be used. DivergedError: a quantity is not finite. StoppedError: a file cannot
            be written.
    """
    # No rank continues before all have read: a rank must not find what rank 0 writes next.
    with parallel.together():
        loaded = folder.load_with_metrics(chosen) if resume else None
        if loaded:
            trainer.restore(*loaded)
    if resume and parallel.main():
        folder.rewind(loaded)
    trainer.quiet |= quiet
    try:
        with signals() as stop, Recorder(trainer, folder, stop, quiet) as recorder:
            recorder.begin(loaded[1] if loaded else None)
            while recorder.running:
                with named_divergence(trainer):
                    quantities = trainer.update()
                recorder.after_update(quantities)
    except OSError as error:
        raise StoppedError(f"step {trainer.step}: {error}") from error
    return not recorder.stopped
