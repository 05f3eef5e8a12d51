"""The environments of `svgdx train rl`: limits on episodes, missing modules, snapshots."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forkserver
import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")
gymnasium = pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from experiments.small_runs import command, records, resume  # noqa: E402

from svgdx import cli  # noqa: E402
from svgdx.experiments.rl import environment, models  # noqa: E402
from svgdx.experiments.rl.config import RLConfig  # noqa: E402
from svgdx.experiments.run.errors import StoppedError  # noqa: E402


class Endless(gymnasium.Env):  # type: ignore[misc, name-defined]
    """A walk on the line whose episodes never end; the reward is 1 per step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.render_mode, self.place = render_mode, np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=1).astype(np.float32)
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.place = self.place + action
        return self.place, 1.0, False, False, {}

    def render(self) -> Any:
        return np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def endless() -> Iterator[str]:
    """The name of a registered environment without a limit."""
    gymnasium.register("Endless-v0", entry_point=Endless)
    yield "Endless-v0"
    del gymnasium.registry["Endless-v0"]


def test_an_environment_without_a_limit_is_refused_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], endless: str
) -> None:
    assert cli.main(command("rl", tmp_path / "runs", env=endless)) == 2
    message = capsys.readouterr().err
    assert "--env Endless-v0: " in message
    assert "--max-episode-steps N" in message
    assert not (tmp_path / "runs").exists()


def test_a_limit_on_episodes_holds_in_training_and_in_both_evaluations(tmp_path: Path, endless: str) -> None:
    assert cli.main(command("rl", tmp_path / "runs", env=endless, max_episode_steps=7)) == 0
    run = tmp_path / "runs" / "seed-0"
    assert yaml.safe_load((run / "config.yaml").read_text())["max_episode_steps"] == 7
    lines = records(run)
    assert [line["returns"] for line in lines if "returns" in line] == [[7.0] * 3] * 3
    assert lines[-1]["episode_return"] == 7.0
    # A resumed run has the limit, too.
    assert resume("rl", tmp_path / "runs", "--steps=160") == 0
    assert records(run)[-1]["episode_return"] == 7.0
    assert cli.main(["eval", "rl", str(run), "--episodes=2"]) == 0
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["returns"] == [7.0, 7.0]
    assert evaluation["episode_length"] == 7.0


def test_a_limit_replaces_that_of_the_environment(tmp_path: Path) -> None:
    env = environment.make(RLConfig.from_options({"env": "Pendulum-v1", "max_episode_steps": 3}))
    env.reset()
    ends = [bool(env.step(np.zeros((1, 1)))[2][0]) for _ in range(7)]
    assert ends == [False, False, True] * 2 + [False]
    environment.check_limit(RLConfig.from_options({"env": "Pendulum-v1"}), env)


def test_a_run_of_a_version_without_the_setting_is_evaluated_and_resumed(tmp_path: Path) -> None:
    assert cli.main(command("rl", tmp_path / "runs")) == 0
    run = tmp_path / "runs" / "seed-0"
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith("max_episode_steps")]
    assert len(older) == len(lines) - 1
    (run / "config.yaml").write_text("".join(older))
    assert RLConfig.from_yaml(run / "config.yaml").max_episode_steps == 0
    assert cli.main(["eval", "rl", str(run), "--episodes=2"]) == 0
    assert resume("rl", tmp_path / "runs", "--steps=160") == 0
    assert records(run)[-1]["step"] == 160


def test_a_stein_run_of_a_version_without_a_soft_start_keeps_its_clamp(tmp_path: Path) -> None:
    """Neither its config.yaml nor its saved policy names the start."""
    config = models.resolved(RLConfig.from_options({"env": "Pendulum-v1", "hidden": 8, "step_size": 0.1}))
    assert config.start == "soft"
    lines = config.to_yaml().splitlines(keepends=True)
    (tmp_path / "config.yaml").write_text("".join(x for x in lines if not x.startswith(("start:", "published:"))))
    older = RLConfig.from_yaml(tmp_path / "config.yaml")
    assert (older.start, older.published) == ("clamp", None)
    env = environment.make(older)
    model = models.make(older, env)
    del model.policy_kwargs["stein_kwargs"]["start"]
    model.save(tmp_path / "model.zip")
    loaded = models.load(older, tmp_path / "model.zip", env)
    assert loaded.policy.actor.settings.start == "clamp"
    state = model.policy.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.policy.state_dict().items())


def outcome(arguments: list[str], folder: Path, program: str = "") -> tuple[int, str]:
    """Runs `svgdx` in a process that can import from `folder`; the exit code and what it wrote to stderr."""
    program += "; import sys; from svgdx import cli; sys.exit(cli.main(sys.argv[1:]))"
    result = forkserver.run(["-c", program.removeprefix("; "), *arguments], folder)
    return result.returncode, result.stderr


REGISTERS = 'import gymnasium; gymnasium.register("Walk-v0", entry_point="{}", max_episode_steps=9)'
WALK = """
import gymnasium

class Walk(gymnasium.Env):
    def __init__(self):
        import nosuch_engine
"""
MODULES = {
    "module that does not exist": ("nosuch_module:X-v0", {}, "nosuch_module"),
    "module that imports a missing one": ("walks:Walk-v0", {"walks": "import nosuch_engine"}, "nosuch_engine"),
    "entry point in a missing module": (
        "walks:Walk-v0", {"walks": REGISTERS.format("nosuch_module:Walk")}, "nosuch_module"
    ),
    "environment that imports a missing module": (
        "walks:Walk-v0",
        {
            "walks": REGISTERS.format("walk_class:Walk"),
            "walk_class": WALK,
        },
        "nosuch_engine",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MODULES)
def test_a_missing_module_of_an_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    env, files, missing = MODULES[case]
    for name, content in files.items():
        (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert cli.main(command("rl", tmp_path / "runs", env=env)) == 2
    finally:
        gymnasium.registry.pop("Walk-v0", None)
        for name in files:
            sys.modules.pop(name, None)
    message = capsys.readouterr().err
    assert f"svgdx train rl: --env {env}: " in message
    assert f"No module named '{missing}'" in message
    assert "needs the package" not in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("def", "SyntaxError: invalid syntax (broken_walks.py, line 1)"),
        ("{}['key']", "KeyError: 'key'"),
        (REGISTERS.format("broken_walks:Walk") + "\nWalk = lambda: 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_environment_whose_own_code_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    (tmp_path / "broken_walks.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert cli.main(command("rl", tmp_path / "runs", env="broken_walks:Walk-v0")) == 2
    finally:
        gymnasium.registry.pop("Walk-v0", None)
        sys.modules.pop("broken_walks", None)
    assert f"svgdx train rl: --env broken_walks:Walk-v0: {reason}" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("reward", [np.array([1.5]), np.float32(1.5), np.array([1.0, 2.0]), None])
def test_a_reward_is_one_number(monkeypatch: pytest.MonkeyPatch, reward: Any) -> None:
    walk = environment.Watched(Endless())
    walk.reset(seed=0)
    monkeypatch.setattr(Endless, "step", lambda self, action: (self.place, reward, False, False, {}))
    if np.size(reward) == 1 and reward is not None:
        assert walk.step(np.zeros(1))[1] == 1.5
        return
    with pytest.raises(StoppedError, match="environment Endless, step: its reward"):
        walk.step(np.zeros(1))


def test_mujoco_is_needed_only_by_its_environments(tmp_path: Path) -> None:
    without_mujoco = "import sys; sys.modules['mujoco'] = None"
    arguments = command("rl", tmp_path / "runs", env="Pendulum-v1", steps=20, eval_every=20, eval_episodes=1)
    assert outcome(arguments, tmp_path, without_mujoco) == (0, "")
    code, message = outcome(command("rl", tmp_path / "others", env="Hopper-v5"), tmp_path, without_mujoco)
    assert code == 2
    assert "--env Hopper-v5: MuJoCo is not installed" in message
    assert not (tmp_path / "others").exists()


@pytest.mark.parametrize("name", ["Pendulum-v1", "svgdx/Multigoal-v0", "Walker2d-v5", "Humanoid-v5"])
def test_an_environment_continues_from_its_snapshot(name: str) -> None:
    config = RLConfig.from_options({"env": name})
    env, other = environment.make(config), environment.make(config)
    env.seed(3)
    env.reset()
    other.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (300, 1, *env.action_space.shape)).astype(np.float32)
    for action in actions[:7]:
        env.step(action)
    snapshot = environment.snapshot(env)
    assert snapshot is not None
    environment.restore(other, snapshot)
    for action in actions:
        # Episodes end on the way, and the environment's own generator starts the next ones.
        expected, actual = env.step(action), other.step(action)
        assert all(np.array_equal(a, b) for a, b in zip(expected[:3], actual[:3], strict=True))
