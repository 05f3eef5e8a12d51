"""`svgdx train ebm`: the run folder, resuming to the bit, interruption, refusals, divergence."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from experiments.processes import interrupted
from experiments.small_runs import EBM, assert_same_run, checkpoints, command, records, resume

from svgdx import cli
from svgdx.experiments.metrics.frechet import frechet_distance
from svgdx.experiments.run import checkpoint
from svgdx.experiments.run.checkpoint import temporary_beside


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(command("ebm", out)) == 0
    return out


def test_the_run_folder_holds_the_documented_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    grids = {f"samples-{step:08d}.png" for step in (0, 4, 8)}
    files = {".lock", "config.yaml", "metrics.jsonl", "samples.png", "curves.png"}
    assert names == {*files, "checkpoints", "tensorboard"} | grids
    assert [path.name for path in sorted((finished / "checkpoints").iterdir())] == [
        f"step-{step:08d}.safetensors" for step in (4, 6, 8)
    ]
    assert list((finished / "tensorboard").glob("events.out.tfevents.*"))
    for picture in finished.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_metrics_hold_every_quantity(finished: Path) -> None:
    lines = records(finished)
    assert [line["step"] for line in lines] == list(range(9))
    quantities = {
        "score_norm", "sigma", "sigma_median", "eps", "eps_bound", "trace", "entropy", "energy_data",
        "energy_samples", "objective", "energy_loss", "sampler_loss",
    }  # fmt: skip
    assert all(quantities <= line.keys() for line in lines[1:])
    assert [line["step"] for line in lines if {"pixel_distance", "feature_distance"} <= line.keys()] == [0, 4, 8]
    last = lines[-1]
    expected = last["energy_samples"] - last["energy_data"] + last["entropy"]
    assert last["objective"] == pytest.approx(expected, rel=1e-5)


def test_the_seed_decides_the_run(finished: Path, tmp_path: Path) -> None:
    assert cli.main(command("ebm", tmp_path / "again")) == 0
    assert_same_run(finished, tmp_path / "again", "ebm")
    assert cli.main(command("ebm", tmp_path / "other", seed=1)) == 0
    assert (finished / "metrics.jsonl").read_bytes() != (tmp_path / "other" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("loss", ["score", "sliced", "denoising", "energy-discrepancy"])
def test_losses_without_samples(loss: str, tmp_path: Path) -> None:
    """A run trains the energy by the loss and reports it; the seed decides it."""
    options = {"config": "langevin", "loss": loss}
    assert cli.main(command("ebm", tmp_path / "run", **options)) == 0
    lines = records(tmp_path / "run")
    assert all("energy_loss" in line and "energy_samples" not in line for line in lines[1:])
    assert all({"pixel_distance", "feature_distance"} <= lines[i].keys() for i in (0, 8))
    assert len({line["energy_loss"] for line in lines[1:]}) == 8
    assert cli.main(command("ebm", tmp_path / "whole", **options)) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole", "ebm")


def test_a_loss_without_samples_trains_no_sampler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command("ebm", tmp_path / "run", loss="score")) == 2
    assert "--loss score: trains no sampler" in capsys.readouterr().err


LONG = {"steps": 60, "eval_every": 30, "checkpoint_every": 7}


def run_until(out: Path, lines: int, number: signal.Signals) -> tuple[int, str]:
    return interrupted(command("ebm", out, **LONG), out, lines, number, out.parent)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert cli.main(command("ebm", out, **LONG)) == 0
    return out


def test_a_killed_run_resumes_to_the_same_numbers(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run_until(out, 20, signal.SIGKILL)[0] == -signal.SIGKILL
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')  # as a kill in the middle of a line leaves it
    assert resume("ebm", out) == 0
    assert_same_run(out, uninterrupted, "ebm")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_a_checkpoint_and_resumes(
    uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    status, message = run_until(out, 20, number)
    assert status == 130
    assert "interrupted: saved a checkpoint at step" in message
    assert "Traceback" not in message
    saved = checkpoint.load(checkpoints(out)[-1])
    # A step whose evaluation was interrupted has no line yet.
    assert saved.step == records(out)[-1]["step"] + (saved.pending is not None)
    assert resume("ebm", out) == 0
    assert_same_run(out, uninterrupted, "ebm")


def test_resume_after_a_kill_before_the_first_checkpoint(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    assert resume("ebm", out) == 0
    assert_same_run(out, finished, "ebm")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_corrupt_checkpoint_is_refused_and_the_one_before_it_offered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: Path, damage: str
) -> None:
    out = tmp_path / "run"
    assert cli.main(command("ebm", out)) == 0
    broken = checkpoints(out)[-1]
    content = bytearray(broken.read_bytes())
    content[-5] ^= 1
    broken.write_bytes({"cut": content[:-9], "flipped": content, "empty": b""}[damage])
    before = contents(out)
    assert resume("ebm", out) == 2
    message = capsys.readouterr().err
    assert f"{broken}: corrupt checkpoint" in message
    offered = out / "checkpoints" / "step-00000006.safetensors"
    assert f"--checkpoint {offered}" in message
    assert contents(out) == before
    assert resume("ebm", out, "--checkpoint", str(offered)) == 0
    assert_same_run(out, finished, "ebm")
    assert Path(f"{broken}.discarded").exists()


def test_divergence_names_step_and_quantity_and_keeps_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(command("ebm", out, energy_lr=1e30)) == 1
    message = capsys.readouterr().err
    assert "stopped: step 2: " in message
    assert "is nan" in message or "is inf" in message or "is -inf" in message
    saved = checkpoint.load(checkpoints(out)[-1])
    assert saved.step == 0
    assert all(bool(value.isfinite().all()) for value in saved.tensors.values())


REFUSED = {
    "unknown data set": (["--data=faces"], "--data"),
    "unknown option": (["--colour=red"], "--colour"),
    "not a number": (["--steps=many"], "--steps"),
    "no steps": (["--steps=0"], "--steps"),
    "one particle": (["--particles=1"], "--particles"),
    "rate of zero": (["--energy-lr=0"], "--energy-lr"),
    "rate is nan": (["--sampler-lr=nan"], "--sampler-lr"),
    "no noise at the end": (["--noise-end=0"], "--noise-end"),
    "negative noise": (["--noise=-0.1"], "--noise"),
    "more attached than steps": (["--attached-steps=4"], "--attached-steps"),
    "mnist without a folder": (["--data=mnist"], "--data-root"),
    "missing data folder": (["--data=mnist", "--data-root=no/such/folder"], "no/such/folder"),
    "folder without mnist": (["--data-root=."], "--data-root"),
    "checkpoint without resume": (["--checkpoint=x"], "--checkpoint"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    extra, named = REFUSED[case]
    out = tmp_path / "run"
    try:
        code = cli.main([*command("ebm", out), *extra])
    except SystemExit as error:  # argparse ends this way
        code = int(error.code or 0)
    assert code == 2
    assert named in capsys.readouterr().err
    assert not out.exists()


def test_a_kill_before_the_first_file_leaves_the_folder_free(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").touch()
    leftover = temporary_beside(out / "config.yaml")
    leftover.write_text("data: dig")
    assert cli.main([*command("ebm", out), "--steps", "1"]) == 0
    assert not leftover.exists()


def test_a_folder_in_use_is_refused_and_left_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(finished)
    assert cli.main(command("ebm", finished)) == 2
    assert "not empty" in capsys.readouterr().err
    assert contents(finished) == before


def test_resume_refuses_folders_settings_and_checkpoints_that_do_not_fit(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    assert resume("ebm", tmp_path) == 2
    assert "config.yaml" in capsys.readouterr().err
    assert resume("ebm", finished, "--hidden=17") == 2
    assert "--hidden" in capsys.readouterr().err
    assert resume("ebm", finished, "--checkpoint=none.safetensors") == 2
    assert "none.safetensors" in capsys.readouterr().err
    assert contents(finished) == before
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    assert resume("ebm", tmp_path) == 2
    assert str(tmp_path / "config.yaml") in capsys.readouterr().err


def test_help_shows_each_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "ebm", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in [*EBM, "data-root", "resume", "out"]:
        assert f"--{name.replace('_', '-')}" in text
    for group in ("data:", "sampler:", "energy:", "run:"):
        assert group in text


def test_frechet_distance_of_known_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2000, 3, generator=generator, dtype=torch.float64)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # Scaling by 2 and moving by (3, 0, 0): 9 + Tr C, C being the covariance of a, plus the moved means' part.
    mean, variance = a.mean(0), a.var(0).sum()
    gap = a.mean(0) + torch.tensor([3.0, 0, 0], dtype=torch.float64)
    assert frechet_distance(a, 2 * a + gap - mean) == pytest.approx(float(gap @ gap + variance), rel=1e-9)
