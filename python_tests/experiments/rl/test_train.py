"""`svgdx train rl`: run folders, resuming to the same numbers, interruption, failures, refusals."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import forkserver
import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")
gymnasium = pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from experiments.processes import interrupted  # noqa: E402
from experiments.small_runs import TIMES, assert_same_run, command, records, resume, timeless  # noqa: E402

from svgdx import cli  # noqa: E402
from svgdx.experiments.rl.checkpoint import RLCheckpoint, RLFolder  # noqa: E402
from svgdx.experiments.rl.config import RLConfig  # noqa: E402
from svgdx.rl import PRESETS, SteinSAC  # noqa: E402


def saved(run: Path) -> list[RLCheckpoint]:
    """The checkpoints of a run, oldest first."""
    folder = RLFolder(run, "rl")
    return [folder.read(path) for path in folder.saved()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "runs"
    assert cli.main(command("rl", out, seeds="0,2", particles=None)) == 0
    return out


def test_each_seed_has_a_run_folder_with_the_documented_files(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == ["seed-0", "seed-2"]
    run = finished / "seed-2"
    files = {"config.yaml", "metrics.jsonl", "manifest.json", ".lock"}
    assert {path.name for path in run.iterdir()} == {*files, "checkpoints", "tensorboard"}
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    config = RLConfig.from_yaml(run / "config.yaml")
    # The settings of the preset are written out.
    assert (config.seed, config.preset, config.target, config.particles) == (2, "met-svgd", "max-entropy", 10)
    assert [state.step for state in saved(run)] == [80, 120]
    # Stable-Baselines3 reads the model on its own.
    loaded = SteinSAC.load(saved(run)[-1].path / "model.zip")
    assert loaded.num_timesteps == 120
    assert loaded._n_updates == 10
    assert timeless(run) != timeless(finished / "seed-0")


def test_metrics_hold_every_quantity(finished: Path) -> None:
    lines = records(finished / "seed-0")
    assert [line["step"] for line in lines] == [0, 20, 40, 60, 80, 100, 120]
    quantities = {"critic_loss", "actor_loss", "entropy", "sigma", "eps", "score_norm", *TIMES}
    assert all(quantities <= line.keys() for line in lines[2:])
    returns = {line["step"]: line["returns"] for line in lines if "returns" in line}
    assert returns.keys() == {0, 60, 120}
    assert all(len(values) == 3 and len(set(values)) == 3 for values in returns.values())


@pytest.mark.parametrize("algo", ["sac", "sac-nf", "stein"])
def test_a_run_resumes_from_a_checkpoint_to_the_same_numbers(tmp_path: Path, algo: str) -> None:
    changes = {"algo": algo, "alpha_rule": "tuned"}
    # The probability of a Metropolis-Hastings step depends on the progress of the run.
    changes |= {"preset": "met-svgd-mh-greedy"} if algo == "stein" else {}
    assert cli.main(command("rl", tmp_path / "uninterrupted", keep_checkpoints=3, **changes)) == 0
    shutil.copytree(tmp_path / "uninterrupted", tmp_path / "broken")
    run = tmp_path / "broken" / "seed-0"
    # As a kill after step 100 leaves it: lines after the checkpoint, of which the last is incomplete.
    for step in (80, 120):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')
    assert resume("rl", tmp_path / "broken") == 0
    assert_same_run(run, tmp_path / "uninterrupted" / "seed-0", "rl")
    assert [state.step for state in saved(run)] == [40, 80, 120]


@pytest.mark.parametrize("algo", ["sac", "stein"])
def test_a_normalised_environment_resumes_and_is_evaluated_with_its_statistics(tmp_path: Path, algo: str) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    changes = {"algo": algo, "normalize": "both"}
    assert cli.main(command("rl", whole, **changes)) == 0
    shutil.copytree(whole, run)
    older = saved(run / "seed-0")[0]
    assert float(older.tensors["normalize/obs_rms/count"]) == pytest.approx(older.step + 2, abs=1)
    assert resume("rl", run, f"--checkpoint={older.path}", "--seeds=0") == 0
    assert_same_run(run / "seed-0", whole / "seed-0", "rl")
    # The reward is far below -10, where VecNormalize would clip it, so returns are those of the environment.
    assert cli.main(["eval", "rl", str(run / "seed-0"), "--episodes=2"]) == 0
    evaluation = json.loads((run / "seed-0" / "evaluation.json").read_text())
    assert evaluation["mean"] / evaluation["episode_length"] < -15


def test_a_run_killed_before_its_first_checkpoint_begins_again(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "seed-0").mkdir()
    shutil.copy(finished / "seed-0" / "config.yaml", tmp_path / "seed-0")
    assert resume("rl", tmp_path) == 0
    assert_same_run(tmp_path / "seed-0", finished / "seed-0", "rl")


def test_an_interrupted_run_ends_with_a_checkpoint_and_resumes_with_all_seeds(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    # Long enough to be interrupted; up to then the seed has the numbers of a shorter run.
    arguments = command("rl", out, particles=None, seeds="0,1", steps=4000, checkpoint_every=4000)
    status, message = interrupted(arguments, out / "seed-0", 3, signal.SIGTERM, tmp_path)
    assert status == 130
    assert "interrupted: saved a checkpoint at step" in message
    assert "Traceback" not in message
    (state,) = saved(out / "seed-0")
    assert state.step >= 60
    # The folder of the other seed exists, so that --resume trains it as well.
    assert (out / "seed-1" / "config.yaml").is_file()
    assert not saved(out / "seed-1")
    assert timeless(out / "seed-0")[:4] == timeless(finished / "seed-0")[:4]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "seed-0"
    shutil.copytree(finished / "seed-0", run)
    newest = run / "checkpoints" / "step-00000120"
    content = bytearray((newest / "replay_buffer.npz").read_bytes())
    content[-5] ^= 1
    (newest / "replay_buffer.npz").write_bytes(content)
    assert resume("rl", tmp_path) == 2
    message = capsys.readouterr().err
    assert f"{newest}: corrupt checkpoint: replay_buffer.npz" in message
    offered = run / "checkpoints" / "step-00000080"
    assert f"--checkpoint {offered}" in message
    # The second time a discarded checkpoint of that step exists already.
    for _ in range(2):
        assert resume("rl", tmp_path, "--checkpoint", str(offered)) == 0
        assert_same_run(run, finished / "seed-0", "rl")
    assert Path(f"{newest}.discarded").is_dir()


class Failing(gymnasium.Env):  # type: ignore[misc, name-defined]
    """A Multigoal whose 50th step raises or returns a reward of NaN."""

    def __init__(self, how: str = "raises") -> None:
        self.inner = gymnasium.make("svgdx/Multigoal-v0").unwrapped
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space
        self.how, self.count = how, 0

    def reset(self, **kwargs: Any) -> Any:
        return self.inner.reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.count += 1
        observation, reward, *rest = self.inner.step(action)
        if self.count == 50 and self.how == "raises":
            raise RuntimeError("the motor is broken")
        return observation, np.nan if self.count == 50 else reward, *rest


@pytest.fixture
def failing(request: pytest.FixtureRequest) -> Any:
    gymnasium.register("Failing-v0", entry_point=Failing, max_episode_steps=20, kwargs={"how": request.param})
    yield "Failing-v0"
    del gymnasium.registry["Failing-v0"]


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ("raises", "step 49: environment Failing-v0, step: RuntimeError: the motor is broken"),
        ("nan", "step 49: environment Failing-v0, step: its reward is not finite: nan"),
    ],
    indirect=["failing"],
)
def test_a_failed_environment_is_named_and_the_checkpoint_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], failing: str, expected: str
) -> None:
    assert cli.main(command("rl", tmp_path / "run", env=failing)) == 1
    assert expected in capsys.readouterr().err
    assert [state.step for state in saved(tmp_path / "run" / "seed-0")] == [40]


@pytest.mark.parametrize("algo", ["sac", "sac-nf", "stein"])
def test_divergence_is_recorded_and_does_not_stop_the_other_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], algo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svgdx.experiments.rl import models

    original = models.CLASSES[algo].train

    def poisoned(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.num_timesteps == 60 and self.seed == 0:
            with torch.no_grad():
                next(iter(self.critic.parameters())).fill_(torch.nan)
        original(self, *args, **kwargs)

    monkeypatch.setattr(models.CLASSES[algo], "train", poisoned)
    assert cli.main(command("rl", tmp_path / "run", seeds="0,1", algo=algo)) == 1
    message = capsys.readouterr().err
    assert "seed-0: stopped: step 60: " in message
    assert "nan" in message or "not finite" in message or "NaN" in message
    run = tmp_path / "run" / "seed-0"
    assert [state.step for state in saved(run)] == [40]
    assert timeless(run)[-1]["step"] == 60
    assert "diverged" in timeless(run)[-1]
    loaded = models.CLASSES[algo].load(saved(run)[0].path / "model.zip")
    assert all(bool(value.isfinite().all()) for value in loaded.policy.parameters())
    assert [state.step for state in saved(tmp_path / "run" / "seed-1")] == [80, 120]


def test_a_full_disk_at_a_checkpoint_is_reported_and_the_last_one_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The limit of a file's size fails as a full disk does; it leaves room for the model and some of the transitions.
    run = tmp_path / "run" / "seed-0"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    changes = {"steps": 8000, "checkpoint_every": 1000, "buffer": 9000, "eval_every": 8000, "log_every": 8000}
    changes |= {"algo": "sac", "random_steps": 8000, "update_after": 7000, "update_every": 1000}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (130_000, before[1]))
        assert cli.main(command("rl", tmp_path / "run", keep_checkpoints=1, **changes)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = capsys.readouterr().err
    assert "cannot be written" in message
    assert "File too large" in message
    assert "the last checkpoint is kept" in message
    (state,) = saved(run)
    assert state.step >= 1000
    assert f"step {state.step + 1000}: the checkpoint" in message
    assert [path.name for path in (run / "checkpoints").iterdir()] == [state.path.name]


REFUSED = {
    "unknown environment": (["--env=Walker3d-v5"], "--env Walker3d-v5"),
    "discrete actions": (["--env=CartPole-v1"], "--env CartPole-v1"),
    "unknown algorithm": (["--algo=ppo"], "--algo"),
    "unknown preset": (["--preset=sac"], "preset must be one of p-svgd"),
    "preset of another algorithm": (["--algo=sac", "--preset=met-svgd"], "--preset: is only valid with --algo stein"),
    "particles of another algorithm": (
        ["--algo=sac-nf", "--particles=4"],
        "--particles: is only valid with --algo stein",
    ),
    "no particles": (["--particles=0"], "particles must be an integer, at least 1"),
    "unknown bound": (["--bound=tight"], "--bound"),
    "goals of another environment": (["--env=Pendulum-v1", "--goals=three"], "--goals"),
    "unknown goals": (["--goals=five"], "goals must be one of four, three"),
    "steps between updates": (["--steps=125"], "--steps: must be a multiple of --update-every = 10"),
    "evaluation between updates": (["--eval-every=15"], "--eval-every"),
    "same seed twice": (["--seeds=1,1"], "--seeds"),
    "no seeds": (["--seeds="], "--seeds"),
    "rate of zero": (["--lr=0"], "--lr"),
    "target of a fixed alpha": (["--target-entropy=-1"], "--target-entropy"),
    "checkpoint without resume": (["--checkpoint=x"], "--checkpoint"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    extra, named = REFUSED[case]
    try:
        code = cli.main([*command("rl", tmp_path / "run"), *extra])
    except SystemExit as error:  # argparse ends this way
        code = int(error.code or 0)
    assert code == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_folders_in_use_and_folders_without_a_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command("rl", finished, seeds="1,2")) == 2
    assert "seed-2 is not empty" in capsys.readouterr().err
    assert not (finished / "seed-1").exists()
    assert resume("rl", tmp_path) == 2
    assert "holds no folder seed-N" in capsys.readouterr().err
    assert resume("rl", finished, "--gamma=0.5") == 2
    assert "--gamma 0.5: the run has 0.9," in capsys.readouterr().err


def test_a_finished_run_is_left_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("metrics.jsonl")}
    assert resume("rl", finished) == 0
    assert capsys.readouterr().err.count("has all its 120 steps") == 2
    assert {path: path.read_bytes() for path in finished.rglob("metrics.jsonl")} == before


def test_every_preset_is_resolved() -> None:
    from svgdx.experiments.rl.models import resolved

    for preset, changes in PRESETS.items():
        config = resolved(RLConfig.from_options({"preset": preset}))
        assert all(getattr(config, {"steps": "svgd_steps"}.get(name, name)) == value for name, value in changes.items())


def test_several_ranks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["train", "rl", "--env", "Pendulum-v1", "--out", str(tmp_path / "run")]) == 2
    assert "train rl: it is not data-parallel: start it without torchrun" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_missing_packages_are_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['stable_baselines3'] = None; from svgdx import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    process = forkserver.run(["-c", program, *command("rl", tmp_path / "run")], tmp_path)
    assert process.returncode == 2
    assert "needs the package stable_baselines3: pip install 'svgdx[rl]'" in process.stderr
    assert not (tmp_path / "run").exists()
