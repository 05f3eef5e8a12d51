"""The recorder: when it logs, evaluates and saves, what it writes, how a run ends, and what a resumed run repeats."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from experiments.small_runs import checkpoints, records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from svgdx.experiments.run import checkpoint, loop
from svgdx.experiments.run.errors import DivergedError, StoppedError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.loop import Trainer
from svgdx.experiments.run.recorder import Record, Recorder, signals


@dataclass
class Options:
    log_every: int = 2
    eval_every: int = 3
    checkpoint_every: int = 4
    keep_checkpoints: int = 10


class Counter(Trainer):
    """Counts its updates in a parameter; `evaluating` is called at the first stage of every evaluation."""

    def __init__(
        self, last_step: int = 8, options: Options | None = None, evaluating: Callable[[int], None] = lambda step: None
    ) -> None:
        super().__init__(options or Options(), last_step)
        self.evaluating = evaluating
        self.module = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.module.weight)
        torch.nn.init.zeros_(self.module.bias)
        self.modules["module"] = self.module

    def update(self) -> dict[str, float]:
        self.step += 1
        with torch.no_grad():
            self.module.weight += 1
        return {"train/weight": self.module.weight.item()}

    def evaluate(self, record: Record, folder: RunFolder, check_stop: Callable[[], None]) -> tuple[Record, str]:
        self.evaluating(self.step)
        check_stop()
        return record | {"eval/twice": 2 * self.module.weight.item(), "eval/list": [1, 2]}, "text"


def new_folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "", "ebm")


def train(trainer: Trainer, folder: RunFolder, resume: bool = False) -> bool:
    return loop.run(trainer, folder, resume, None, quiet=True)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_logs_evaluates_and_saves_when_it_is_due(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    assert train(Counter(), folder)
    lines = records(folder.path)
    assert [line["step"] for line in lines] == [0, 2, 3, 4, 6, 8]
    assert [line["step"] for line in lines if "twice" in line] == [0, 3, 6, 8]
    assert lines[0] == {"step": 0, "twice": 0.0, "list": [1, 2]}
    assert lines[2] == {"step": 3, "weight": 3.0, "twice": 6.0, "list": [1, 2]}
    assert [checkpoint.load(path).step for path in checkpoints(folder.path)] == [0, 4, 8]


def test_tensorboard_gets_the_numbers_under_their_groups(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    train(Counter(), folder)
    events = EventAccumulator(str(folder.events))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["eval/twice", "train/weight"]
    values = {event.step: event.value for event in events.Scalars("eval/twice")}
    assert values == {0: 0, 3: 6, 6: 12, 8: 16}


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    train(Counter(options=Options(checkpoint_every=1, keep_checkpoints=2)), folder)
    assert [checkpoint.load(path).step for path in checkpoints(folder.path)] == [7, 8]


def test_evaluations_are_not_timed(tmp_path: Path) -> None:
    class Slow(Counter):
        def update(self) -> dict[str, float]:
            time.sleep(0.01)
            return super().update()

    trainer = Slow(evaluating=lambda step: time.sleep(0.5))
    before = time.perf_counter()
    train(trainer, new_folder(tmp_path))
    duration = time.perf_counter() - before
    assert 0.08 <= trainer.seconds < duration - 4 * 0.5 + 1e-3
    assert checkpoint.load(checkpoints(tmp_path / "run")[-1]).seconds == trainer.seconds


@pytest.mark.parametrize("step", [0, 3, 6, 8])
def test_a_signal_in_an_evaluation_ends_the_run_and_the_resumed_run_repeats_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    whole, folder = RunFolder.create(tmp_path / "whole", "", "ebm"), new_folder(tmp_path)
    assert train(Counter(), whole)
    trainer = Counter(evaluating=lambda now: interrupt() if now == step else None)
    assert not train(trainer, folder)
    assert f"interrupted: saved a checkpoint at step {step}; continue with --resume" in capsys.readouterr().err
    assert trainer.step == step
    # The interrupted evaluation has left no line.
    assert folder.read_metrics() == [line for line in whole.read_metrics() if line["step"] < step]
    saved = checkpoint.load(checkpoints(folder.path)[-1])
    assert saved.step == step
    assert saved.pending == ({} if step == 0 else {"train/weight": float(step)})
    assert train(Counter(), folder, resume=True)
    assert folder.metrics.read_bytes() == whole.metrics.read_bytes()
    assert [path.name for path in checkpoints(whole.path)] == sorted(
        path.name for path in checkpoints(folder.path) if step % 4 == 0 or path.name != f"step-{step:08d}.safetensors"
    )
    last = [checkpoint.load(checkpoints(each.path)[-1]) for each in (whole, folder)]
    assert last[0].metrics_bytes == last[1].metrics_bytes
    assert last[1].pending is None


def test_a_run_killed_after_the_repeated_evaluation_repeats_it_again(tmp_path: Path) -> None:
    whole, folder = RunFolder.create(tmp_path / "whole", "", "ebm"), new_folder(tmp_path)
    train(Counter(), whole)
    train(Counter(evaluating=lambda now: interrupt() if now == 3 else None), folder)

    class Killed(Counter):
        def update(self) -> dict[str, float]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Killed(), folder, resume=True)
    assert records(folder.path)[-1]["step"] == 3
    assert train(Counter(), folder, resume=True)
    assert folder.metrics.read_bytes() == whole.metrics.read_bytes()


def test_a_signal_in_an_update_ends_the_run_after_it(tmp_path: Path) -> None:
    class Interrupted(Counter):
        def update(self) -> dict[str, float]:
            if self.step == 4:
                interrupt()
            return super().update()

    folder = new_folder(tmp_path)
    assert not train(Interrupted(), folder)
    saved = checkpoint.load(checkpoints(folder.path)[-1])
    assert (saved.step, saved.pending) == (5, None)
    assert train(Counter(), folder, resume=True)
    assert [line["step"] for line in records(folder.path)] == [0, 2, 3, 4, 6, 8]


def test_a_signal_after_the_last_evaluation_does_not_undo_the_run(tmp_path: Path) -> None:
    class Late(Counter):
        def evaluate(self, record: Record, folder: RunFolder, check_stop: Callable[[], None]) -> tuple[Record, str]:
            evaluated = super().evaluate(record, folder, check_stop)
            if self.step == self.last_step:
                interrupt()
            return evaluated

    folder = new_folder(tmp_path)
    assert train(Late(), folder)
    assert checkpoint.load(checkpoints(folder.path)[-1]).pending is None


@pytest.fixture
def without_nohup() -> Iterator[None]:
    """The tests may run under nohup, which ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("without_nohup")
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_acts_at_once(first: int, second: int) -> None:
    before = [signal.getsignal(number) for number in (first, second)]
    with signals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), first)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), second)
    assert [signal.getsignal(number) for number in (first, second)] == before


def test_nohup_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("method", ["__init__", "add_scalar", "close"])
def test_events_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, method, full)
    folder = new_folder(tmp_path)
    if method == "close":
        assert train(Counter(), folder)
        assert "warning: TensorBoard events are incomplete: [Errno 28]" in capsys.readouterr().err
        return
    with pytest.raises(StoppedError, match=r"step 0: .*tensorboard cannot be written: \[Errno 28\] No space left"):
        train(Counter(), folder)


def test_any_other_full_disk_stops_the_run_too(tmp_path: Path) -> None:
    def full(step: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StoppedError, match=r"step 0: \[Errno 28\] No space left"):
        train(Counter(evaluating=full), new_folder(tmp_path))


@pytest.mark.parametrize("where", ["quantity", "evaluation"])
def test_divergence_is_recorded_and_the_last_checkpoint_is_kept(tmp_path: Path, where: str) -> None:
    class Diverging(Counter):
        def update(self) -> dict[str, float]:
            quantities = super().update()
            return quantities | {"loss": float("nan")} if self.step == 6 and where == "quantity" else quantities

    def evaluating(step: int) -> None:
        if step == 6 and where == "evaluation":
            raise DivergedError(f"step {step}: loss is nan")

    folder = new_folder(tmp_path)
    with pytest.raises(DivergedError, match="step 6: loss is nan"):
        train(Diverging(evaluating=evaluating), folder)
    assert records(folder.path)[-1] == {"step": 6, "diverged": "step 6: loss is nan"}
    assert [checkpoint.load(path).step for path in checkpoints(folder.path)] == [0, 4]


def test_a_parameter_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    class Overflowing(Counter):
        def update(self) -> dict[str, float]:
            quantities = super().update()
            if self.step == 4:
                self.module.bias.data.fill_(torch.inf)
            return quantities

    folder = new_folder(tmp_path)
    with pytest.raises(DivergedError, match="step 4: module/bias is not finite"):
        train(Overflowing(), folder)
    assert [checkpoint.load(path).step for path in checkpoints(folder.path)] == [0]


def test_an_error_of_an_op_names_the_parameter_that_is_not_finite(tmp_path: Path) -> None:
    class Refused(Counter):
        def update(self) -> dict[str, float]:
            self.step += 1
            if self.step == 2:
                self.module.bias.data.fill_(torch.nan)
            if self.step == 3:
                raise RuntimeError("an op refuses NaN")
            return {}

    with pytest.raises(DivergedError, match="step 3: module/bias is not finite"):
        train(Refused(), new_folder(tmp_path))

    class Broken(Counter):
        def update(self) -> dict[str, float]:
            raise RuntimeError("another error")

    with pytest.raises(RuntimeError, match="another error"):
        train(Broken(), RunFolder.create(tmp_path / "other", "", "ebm"))


def test_a_full_disk_stops_the_run_and_keeps_the_checkpoints(tmp_path: Path) -> None:
    class Growing(Counter):
        def tensors(self) -> dict[str, torch.Tensor]:
            return super().tensors() | {"ballast": torch.zeros(1000 * self.step)}

    folder = new_folder(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # The limit of a file's size fails as a full disk does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(StoppedError, match=r"step 8: the checkpoint .* cannot be written: .*File too large"):
            train(Growing(), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in folder.checkpoints.iterdir() if "00000008" in path.name] == []
    assert [checkpoint.load(path).step for path in checkpoints(folder.path)] == [0, 4]


def test_metrics_that_cannot_be_written_stop_the_run(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    folder.metrics.mkdir()
    with pytest.raises(StoppedError, match=r"metrics.jsonl cannot be written"):
        train(Counter(), folder)


def test_a_recorder_that_can_begin_again_saves_nothing_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Restarting(Counter):
        def checkpoint(self) -> Any:
            return super().checkpoint() if self.step else None

    folder = new_folder(tmp_path)
    trainer = Restarting(evaluating=lambda step: interrupt())
    with signals() as stop, Recorder(trainer, folder, stop, quiet=True) as recorder:
        recorder.begin(None)
        assert recorder.stopped
        assert not recorder.running
    assert "interrupted: stopped before the first checkpoint; continue with --resume" in capsys.readouterr().err
    assert checkpoints(folder.path) == []
    assert not folder.metrics.exists()
