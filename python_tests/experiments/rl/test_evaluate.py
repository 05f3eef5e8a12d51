"""`svgdx eval rl`: returns, shares of goals, videos, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")
pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from svgdx import cli
from svgdx.experiments.rl import evaluate
from svgdx.experiments.rl.config import MULTIGOAL, RLConfig, RLEvaluationSettings

SMALL = {
    "env": MULTIGOAL, "steps": 40, "hidden": 8, "update-every": 20, "updates": 1, "update-after": 20, "batch": 16,
    "random-steps": 30, "eval-every": 40, "eval-episodes": 2, "log-every": 40, "checkpoint-every": 40, "buffer": 90,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert cli.main(["train", "rl", f"--out={out}", "--quiet", *(f"--{k}={v}" for k, v in SMALL.items())]) == 0
    return out / "seed-0"


class Straight:
    """Moves one unit per step, in another direction in each copy of the environment."""

    device = torch.device("cpu")
    directions = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0.7, 0.7]], np.float32)

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        return np.resize(self.directions, (len(observation), 2)), None


def test_returns_and_shares_of_a_known_policy() -> None:
    config = RLConfig.from_options({"env": MULTIGOAL})
    settings = RLEvaluationSettings(episodes=5)
    evaluation = evaluate.measured(Straight(), config, settings, {})
    # Five steps of one unit, with squared distances 16, 9, 4, 1, 0, and 10 for the goal; the fifth copy hits a corner.
    to_goal = -5 * 30 - (16 + 9 + 4 + 1) + 10
    returns, goals = evaluation.returns, evaluation.goals
    assert sorted(goals) == [-1, 0, 1, 2, 3]
    assert [value for value, goal in zip(returns, goals, strict=True) if goal >= 0] == [to_goal] * 4
    assert sorted(evaluation.lengths) == [5, 5, 5, 5, 30]
    metrics = evaluation.metrics(4)
    assert metrics["goal_shares"] == [0.2] * 4
    assert metrics["mean"] == pytest.approx(np.mean(returns))
    assert metrics["std"] == pytest.approx(np.std(returns, ddof=1))
    # By the rule of rliable and SciPy, the middle half of five values leaves out the first and the last.
    assert metrics["iqm"] == pytest.approx(to_goal)
    assert "goal_shares" not in evaluation.metrics(0)


def test_an_evaluation_is_printed_and_written_and_depends_only_on_its_seed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []
    for seed in (0, 0, 1):
        assert cli.main(["eval", "rl", str(run), "--episodes=12", f"--seed={seed}"]) == 0
        written.append(json.loads((run / "evaluation.json").read_text()))
    assert written[0] == written[1] != written[2]
    first = written[0]
    assert first["settings"] == {"episodes": 12, "actions": "sampled", "seed": 0, "threads": 1, "device": "cpu"}
    assert (first["step"], len(first["returns"]), len(first["goals"])) == (40, 12, 12)
    assert first["mean"] == pytest.approx(np.mean(first["returns"]))
    assert first["goal_shares"] == [first["goals"].count(goal) / 12 for goal in range(4)]
    printed = capsys.readouterr().out
    assert f"mean {first['mean']:.2f}" in printed
    assert "step 40: 12 episodes, sampled actions" in printed


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_a_video_is_written(run: Path, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("moviepy", reason="videos need the packages of svgdx[rl]")
    video = tmp_path / f"film.{suffix}"
    assert cli.main(["eval", "rl", str(run), "--episodes=1", "--video", str(video)]) == 0
    content = video.read_bytes()
    assert content[:6] == b"GIF89a" if suffix == "gif" else content[4:8] == b"ftyp"
    assert [path.name for path in tmp_path.iterdir()] == [video.name]


def test_bad_requests_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases: dict[str, list[str]] = {
        "--video: must end in .mp4 or .gif": [str(run), "--video=film.avi"],
        "is a folder of runs; evaluate one of them, such as": [str(run.parent)],
        "holds no config.yaml": [str(tmp_path)],
        "there is no such checkpoint": [str(run), "--checkpoint=none"],
        "--episodes": [str(run), "--episodes=0"],
    }
    for named, arguments in cases.items():
        assert cli.main(["eval", "rl", *arguments]) == 2
        assert named in capsys.readouterr().err
