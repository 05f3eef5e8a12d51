"""A larger length on resuming: config.yaml, the run that follows, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from experiments.small_runs import SMALL, assert_same_run, checkpoints, command, records, resume, run_folder

from svgdx import cli

LENGTH = {"ebm": "steps", "eb-gfn": "iterations", "rl": "steps"}
# Nothing that this run of EB-GFN learns with depends on its length.
FIXED = {"eb-gfn": {"warmup": 6}}


def longer(experiment: str) -> int:
    return int(1.5 * SMALL[experiment][LENGTH[experiment]])


@pytest.fixture(scope="module", params=["ebm", "eb-gfn", "rl"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    experiment = request.param
    if experiment == "rl":
        pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")
    out = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(command(experiment, out, **FIXED.get(experiment, {}))) == 0
    return experiment, out


def test_a_finished_run_is_lengthened(finished: tuple[str, Path], tmp_path: Path) -> None:
    experiment, original = finished
    out, name, steps = tmp_path / "run", LENGTH[finished[0]], longer(finished[0])
    shutil.copytree(original, out)
    before = yaml.safe_load((run_folder(experiment, out) / "config.yaml").read_text())
    assert resume(experiment, out, f"--{name}={steps}") == 0
    run = run_folder(experiment, out)
    assert yaml.safe_load((run / "config.yaml").read_text()) == before | {name: steps}
    assert records(run)[-1]["step"] == steps
    old = records(run_folder(experiment, original))
    assert records(run)[: len(old)] == old
    assert checkpoints(run)[-1].stem == f"step-{steps:08d}"
    if experiment == "ebm":
        # The noise of the data follows the new length from the resumed step on.
        for record in records(run)[1:]:
            length = steps if record["step"] > before[name] else before[name]
            expected = 0.3 * (0.06 / 0.3) ** min(1.0, record["step"] / (0.8 * length))
            assert record["noise"] == pytest.approx(expected)
    else:
        whole = tmp_path / "whole"
        assert cli.main(command(experiment, whole, **FIXED.get(experiment, {}), **{name: steps})) == 0
        assert_same_run(run, run_folder(experiment, whole), experiment)
    # The new length is now the run's own.
    assert resume(experiment, out) == 0
    assert records(run)[-1]["step"] == steps


def test_other_lengths_are_refused_and_nothing_is_changed(
    finished: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, out = finished
    name, steps = LENGTH[experiment], SMALL[experiment][LENGTH[experiment]]
    contents = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    refusals = {
        f"--{name}={steps // 2}": f"--{name} {steps // 2}: the run has {steps}, and --resume can only lengthen it",
        f"--{name}=0": f"--{name} 0: the run has {steps}",
        "--batch=3": "--batch 3: the run has",
    }
    if experiment == "rl":
        refusals["--steps=125"] = "--steps: must be a multiple of --update-every = 10"
    for option, message in refusals.items():
        assert resume(experiment, out, option) == 2
        assert message in capsys.readouterr().err
    # A refused checkpoint leaves the length as it was, too.
    missing = "step-00000001" if experiment == "rl" else "step-00000001.safetensors"
    assert resume(experiment, out, f"--{name}={longer(experiment)}", f"--checkpoint={missing}") == 2
    assert "there is no such checkpoint" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == contents


def test_an_unfinished_run_is_lengthened(finished: tuple[str, Path], tmp_path: Path) -> None:
    experiment, original = finished
    out, name, steps = tmp_path / "run", LENGTH[finished[0]], longer(finished[0])
    shutil.copytree(original, out)
    run = run_folder(experiment, out)
    newest = checkpoints(run)[-1]
    newest.rename(newest.with_name("set-aside.tmp"))
    assert resume(experiment, out, f"--{name}={steps}") == 0
    assert [record["step"] for record in records(run)][-1] == steps
    steps_logged = [record["step"] for record in records(run)]
    assert steps_logged == sorted(set(steps_logged))
