"""A signal inside an evaluation of every experiment: a prompt end, and a resumed run with the same numbers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from experiments.small_runs import assert_same_run, checkpoints, command, records, resume, run_folder

from svgdx import cli
from svgdx.experiments.eb_gfn import results
from svgdx.experiments.eb_gfn.pcd import PCDTrainer
from svgdx.experiments.eb_gfn.trainer import EBGFNTrainer
from svgdx.experiments.ebm.base import ImageTrainer
from svgdx.experiments.ebm.glow import GlowTrainer
from svgdx.experiments.ebm.trainer import EBMTrainer
from svgdx.experiments.metrics import features, images

LANGEVIN = {"config": "langevin", "chains": "persistent", "buffer": 90}
GLOW = {"config": "glow", "glow_width": 4, "glow_blocks": 1}
# By name: the experiment, its changes, and the stage of the evaluation in which the signal comes.
CASES: dict[str, tuple[str, dict[str, Any], Any, str]] = {
    "svgd, samples": ("ebm", {}, EBMTrainer, "samples"),
    "langevin, distances": ("ebm", LANGEVIN, images, "frechet_distance"),
    "glow, samples": ("ebm", GLOW, GlowTrainer, "samples"),
    "eb-gfn, likelihood": ("eb-gfn", {"negatives": "persistent", "chains": 9}, EBGFNTrainer, "measure"),
    "eb-gfn, samples": ("eb-gfn", {}, EBGFNTrainer, "samples"),
    "pcd, samples": ("eb-gfn", {"sampler": "pcd-gibbs", "negatives": None}, PCDTrainer, "samples"),
}  # fmt: skip


def signal_at_call(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int) -> list[int]:
    """Sends SIGTERM when a function or method is called for the `number`-th time; returns the calls."""
    calls: list[int] = []
    original = vars(owner)[name]

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls) + 1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)
    return calls


@pytest.mark.parametrize("case", CASES)
def test_a_signal_in_an_evaluation(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, changes, owner, name = CASES[case]
    if "glow" in case:
        pytest.importorskip("normflows", reason="Glow needs the packages of svgdx[flow]")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli.main(command(experiment, whole, **changes)) == 0
    with monkeypatch.context() as patch:
        # Steps 0 and 4 are evaluated; the signal comes in the second evaluation.
        calls = signal_at_call(patch, owner, name, 2)
        assert cli.main(command(experiment, run, **changes)) == 130
        assert len(calls) == 2
    assert "interrupted: saved a checkpoint at step 4; continue with --resume" in capsys.readouterr().err
    assert records(run)[-1]["step"] == 3
    assert checkpoints(run)[-1].stem == "step-00000004"
    assert not (run / "samples-00000004.png").exists()
    assert resume(experiment, run) == 0
    assert_same_run(run, whole, experiment)


def test_the_stage_in_which_the_signal_comes_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distances: list[int] = []
    monkeypatch.setattr(images.ImageDistances, "__call__", lambda *args: distances.append(1))
    signal_at_call(monkeypatch, EBMTrainer, "samples", 1)
    assert cli.main(command("ebm", tmp_path / "run")) == 130
    assert distances == []
    assert issubclass(EBMTrainer, ImageTrainer)


def test_a_signal_ends_the_training_of_the_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_classifiers", {})
    monkeypatch.setattr(features, "UPDATES", 10**9)
    calls = signal_at_call(monkeypatch, features.Classifier, "forward", 5)
    assert cli.main(command("ebm", tmp_path / "run")) == 130
    assert len(calls) == 5
    assert images._classifiers == {}


def test_a_signal_after_the_last_step_leaves_the_final_evaluation_to_the_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        signal_at_call(patch, results, "_mmd", 1)
        assert cli.main(command("eb-gfn", tmp_path, iterations=2, final_points=20)) == 130
    assert "interrupted in the final evaluation; continue with --resume" in capsys.readouterr().err
    assert checkpoints(tmp_path)[-1].stem == "step-00000002"
    assert not (tmp_path / "evaluation.json").exists()
    assert resume("eb-gfn", tmp_path) == 0
    figures = json.loads((tmp_path / "evaluation.json").read_text())["figures"]
    names = ["gflownet_nll", "energy_nll", "mmd", "neg_log_rmse", "neg_log_rmse_bound"]
    assert [figure["name"] for figure in figures] == names


def test_a_signal_in_an_evaluation_of_reinforcement_learning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")
    from svgdx.experiments.rl import callback

    changes = {"preset": "met-svgd-mh-greedy", "alpha_rule": "tuned"}
    assert cli.main(command("rl", tmp_path / "whole", **changes)) == 0
    whole, out = run_folder("rl", tmp_path / "whole"), tmp_path / "run"
    run = run_folder("rl", out)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        # Steps 0, 60 and 120 are evaluated.
        signal_at_call(patch, callback, "evaluate", 2)
        assert cli.main(command("rl", out, **changes)) == 130
    assert "interrupted: saved a checkpoint at step 60; continue with --resume" in capsys.readouterr().err
    assert records(run)[-1]["step"] == 40
    assert [path.name for path in checkpoints(run)] == ["step-00000040", "step-00000060"]
    with monkeypatch.context() as patch:
        # The repeated evaluation is the first of the resumed run; the second is that of its last step.
        signal_at_call(patch, callback, "evaluate", 2)
        assert resume("rl", out) == 130
    assert [record["step"] for record in records(run)] == [0, 20, 40, 60, 80, 100]
    assert "has all its" not in capsys.readouterr().err
    assert resume("rl", out) == 0
    assert_same_run(run, whole, "rl")
    # The clock's quantities are there, too.
    assert [record.keys() for record in records(run)] == [record.keys() for record in records(whole)]


def test_an_episode_that_never_ends_is_left_at_the_first_signal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gymnasium = pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
    pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")
    steps: list[int] = []

    class Endless(gymnasium.Env):  # type: ignore[misc, name-defined]
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

        def reset(self, **kwargs: Any) -> Any:
            super().reset(**kwargs)
            return self.observation_space.sample() * 0, {}

        def step(self, action: Any) -> Any:
            steps.append(1)
            if len(steps) == 100:
                os.kill(os.getpid(), signal.SIGTERM)
            if len(steps) > 200:
                raise RuntimeError("the evaluation continues after the signal")
            return self.observation_space.sample() * 0, 0.0, False, False, {}

    gymnasium.register("Endless-v0", entry_point=Endless, max_episode_steps=10**9)
    try:
        assert cli.main(command("rl", tmp_path / "run", env="Endless-v0", algo="sac")) == 130
    finally:
        del gymnasium.registry["Endless-v0"]
    assert "interrupted: stopped before the first checkpoint; continue with --resume" in capsys.readouterr().err
    run = run_folder("rl", tmp_path / "run")
    assert not (run / "metrics.jsonl").exists()
    assert checkpoints(run) == []
