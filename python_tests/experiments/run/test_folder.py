"""Run folders: one process at a time, nothing outside the folder, nothing half-written, no restart by mistake."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

import safetensors.torch
import torch
from experiments.small_runs import command, resume

from svgdx import cli
from svgdx.experiments.run import checkpoint
from svgdx.experiments.run.checkpoint import Checkpoint, is_temporary, temporary_beside, write_atomically
from svgdx.experiments.run.errors import FormatError, StoppedError, UsageError
from svgdx.experiments.run.folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(command("ebm", out, steps=4)) == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, which may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


def test_one_process_at_a_time(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            folder = RunFolder.reopen(run)
            folder.lock()
            os.write(ready[1], b"1")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    assert os.read(ready[0], 1) == b"1"
    before = contents(run)
    assert resume("ebm", run, "--steps=6") == 2
    assert f"{run}: another process is running in this folder" in capsys.readouterr().err
    assert contents(run) == before
    os.write(done[1], b"1")
    os.waitpid(child, 0)
    # The lock of a process that has ended, however it ended, holds nobody up.
    assert resume("ebm", run, "--steps=6") == 0
    for number in (*ready, *done):
        os.close(number)


def test_two_processes_that_create_one_folder(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "run", "steps: 1")
    with pytest.raises(UsageError, match="is not empty; pass --resume"):
        RunFolder.create(tmp_path / "run", "steps: 2")
    assert first.config.read_text() == "steps: 1"


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "tensorboard", "config.yaml", ".lock"])
def test_a_link_out_of_the_folder_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (run / name).rename(tmp_path / "outside")
    (run / name).symlink_to(tmp_path / "outside")
    before = contents(tmp_path)
    assert resume("ebm", run, "--steps=6") == 2
    assert f"{run / name} is a symbolic link" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_resuming_leaves_another_name_of_the_metrics_alone(run: Path, tmp_path: Path) -> None:
    """A backup made of hard links keeps its content."""
    os.link(run / "metrics.jsonl", tmp_path / "backup")
    before = (tmp_path / "backup").read_bytes()
    assert resume("ebm", run, "--steps=6") == 0
    assert (tmp_path / "backup").read_bytes() == before
    assert (run / "metrics.jsonl").read_bytes().startswith(before)


@pytest.mark.parametrize("name", ["x" * 300, "\udcff"])
def test_an_impossible_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"--out: .* cannot be written: "):
        RunFolder.create(tmp_path / name, "")
    assert not list(tmp_path.iterdir())


def test_writing_follows_no_link(tmp_path: Path) -> None:
    outside, path = tmp_path / "outside", tmp_path / "file.json"
    outside.write_text("mine")
    path.symlink_to(outside)
    write_atomically(path, b"new")
    assert (outside.read_text(), path.read_text(), path.is_symlink()) == ("mine", "new", False)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")

    def fail(*args: object) -> None:
        assert any(is_temporary(entry) for entry in tmp_path.iterdir())
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    assert contents(tmp_path) == {"file.json": b"old"}


def test_what_a_killed_process_left_is_removed_on_resuming(run: Path) -> None:
    leftovers = [temporary_beside(run / "samples.png"), temporary_beside(run / "checkpoints" / "step-00000004")]
    leftovers[0].touch()
    leftovers[1].mkdir()
    assert resume("ebm", run, "--steps=6") == 0
    assert not any(leftover.exists() for leftover in leftovers)


@pytest.mark.parametrize("is_missing", [True, False])
def test_lost_checkpoints_do_not_restart_a_run(run: Path, capsys: pytest.CaptureFixture[str], is_missing: bool) -> None:
    shutil.rmtree(run / "checkpoints")
    if not is_missing:
        (run / "checkpoints").mkdir()
    before = contents(run)
    assert resume("ebm", run) == 2
    assert (
        f"{run / 'checkpoints'} holds no checkpoint, but {run / 'metrics.jsonl'} reaches step 4"
        in capsys.readouterr().err
    )
    assert contents(run) == before


def test_a_run_killed_before_its_first_checkpoint_starts_again(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    (run / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"step": 2')
    assert resume("ebm", run) == 0
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting"),
        ("[" * 100_000, "recursion"),
        ("7", "no record"),
        ('{"steps": 1}', "it is no record of a step"),
        ('{"step": "one"}', "it is no record of a step"),
    ],
)
def test_a_line_of_metrics_that_is_no_record_is_named(tmp_path: Path, line: str, reason: str) -> None:
    folder = RunFolder.create(tmp_path / "run", "")
    folder.metrics.write_text(f'{{"step": 0}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(UsageError, match=rf"metrics.jsonl: line 2 cannot be read: .*{reason}"):
        folder.read_metrics()


def test_exhausted_memory_leaves_no_new_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "new", "")
    with (
        pytest.raises(UsageError, match=r"out of memory: .*; choose smaller settings; nothing was written"),
        folder.at_work(),
    ):
        raise MemoryError("Unable to allocate 9 TiB")
    assert not folder.path.exists()
    used = RunFolder.create(tmp_path / "used", "")
    used.append_metrics({"step": 0})
    with pytest.raises(StoppedError, match=r"out of memory: .*allocate memory"), used.at_work():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    assert used.path.exists()
    with pytest.raises(RuntimeError, match="another"), used.at_work():
        raise RuntimeError("another")


def test_a_checkpoint_of_another_format_is_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "")
    path = folder.checkpoints / "step-00000001.safetensors"
    for name, kind, reason in (
        ("svgdx-ebm-0", FormatError, "has the format svgdx-ebm-0 of another version of svgdx, but .* svgdx-ebm-1 only"),
        ("svgdx-eb-gfn-1", UsageError, "not a checkpoint of this experiment: its format is svgdx-eb-gfn-1"),
    ):
        safetensors.torch.save_file({"weight": torch.zeros(2)}, path, {"format": name})
        with pytest.raises(kind, match=f"{path}: {reason}") as error:
            folder.load(None)
        # No checkpoint before it would be of use.
        assert ("checkpoint before it" in str(error.value)) == (kind is UsageError)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UsageError, match=f"{path}: corrupt checkpoint: it is not a file"):
        folder.load(None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step": None}, "its metadata lacks 'step'"),
        ({"metrics_bytes": None}, "its metadata lacks 'metrics_bytes'"),
        ({"step": "many"}, "its metadata cannot be read: invalid literal"),
        ({"pending": "{"}, "its metadata cannot be read: Expecting"),
        ({"pending": "[" * 100_000}, "its metadata cannot be read: maximum recursion"),
    ],
)
def test_metadata_that_is_missing_or_damaged_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "step-00000001.safetensors"
    checkpoint.save(path, Checkpoint(1, 0, {"weight": torch.zeros(2)}))
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = {name: value for name, value in (file.metadata() | changes).items() if value is not None}
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path, metadata)
    with pytest.raises(UsageError, match=rf"^{path}: corrupt checkpoint: {reason}"):
        checkpoint.load(path)
