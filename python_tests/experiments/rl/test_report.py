"""`svgdx report` for reinforcement learning: the interquartile mean and its interval, the tables, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")
pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from experiments.processes import printed_commands

from svgdx import cli
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.metrics.returns import interval, iqm
from svgdx.experiments.rl import TRAIN
from svgdx.experiments.rl.config import MULTIGOAL, RLConfig
from svgdx.experiments.rl.models import command, resolved
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.settings import chosen_options


def make_run(root: Path, label: str, seed: int, means: list[float], env: str = MULTIGOAL, **changes: Any) -> Path:
    """A run folder as training leaves it, with an evaluation of two episodes every 1,000 steps.

    means: the mean return of each evaluation. changes: further settings; `diverged` is the step of a divergence.
    """
    algo = {"algo": label} if label.startswith("sac") else {"preset": label}
    diverged = changes.pop("diverged", 0)
    config = resolved(RLConfig.from_options({"env": env, "steps": 3000, **algo, **changes}))
    folder = RunFolder.create(root / label / f"seed-{seed}", dataclasses.replace(config, seed=seed).to_yaml(), "rl")
    for index, mean in enumerate(means):
        record: dict[str, Any] = {"step": 1000 * index, "returns": [mean - 1, mean + 1], "seconds": 10.0 * index**2}
        folder.append_metrics(record | ({} if label.startswith("sac") else {"score_norm": 2.0 + seed, "sigma": 0.5}))
    if diverged:
        folder.append_metrics({"step": diverged, "diverged": f"step {diverged}: critic_loss is nan"})
    return folder.path


def write_evaluation(run: Path, shares: list[float]) -> None:
    """Writes evaluation.json as `svgdx eval rl` does."""
    content = {"step": 3000, "settings": {"episodes": 200, "actions": "sampled"}, "goal_shares": shares, "goals": []}
    (run / "evaluation.json").write_text(json.dumps(content))


def report(out: Path, *runs: Path) -> tuple[int, str]:
    """Runs `svgdx report`; its exit code and report.md."""
    code = cli.main(["report", *map(str, runs), "--out", str(out)])
    return code, (out / "report.md").read_text() if (out / "report.md").exists() else ""


def table(text: str, number: int = 0) -> dict[str, dict[str, str]]:
    """The rows of the table with this number, by their first cell."""
    blocks = [list(lines) for kind, lines in itertools.groupby(text.splitlines(), lambda line: line[:1] == "|") if kind]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in blocks[number]]
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    values = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 1000.0]])
    assert iqm(values) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert iqm([1.0, 2.0, 6.0]) == pytest.approx(3.0)


def test_interval_is_that_of_all_resamples() -> None:
    """With two runs and two tasks, all resamples can be listed, because each task is resampled on its own."""
    scores = np.array([[0.0, 10.0], [1.0, 30.0]])
    every = [
        iqm(np.column_stack([scores[list(a), 0], scores[list(b), 1]]))
        for a in itertools.product(range(2), repeat=2)
        for b in itertools.product(range(2), repeat=2)
    ]
    bounds = interval(scores, resamples=40_000, confidence=0.9)
    assert bounds == pytest.approx(tuple(np.quantile(np.repeat(every, 1000), [0.05, 0.95])))
    assert bounds == interval(scores, resamples=40_000, confidence=0.9)
    # If the tasks were resampled together, these two would be the only values besides the IQM of both runs.
    assert {round(value, 6) for value in every} > {round(iqm(scores[[0, 0]]), 6), round(iqm(scores[[1, 1]]), 6)}


def test_interval_covers_the_true_mean() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        bounds = interval(generator.normal(3.0, 2.0, (30, 1)), 500, seed=seed)
        assert bounds is not None
        covered += bounds[0] <= 3.0 <= bounds[1]
    # The IQM of a symmetric distribution is its mean. Percentile intervals of 30 runs cover a little less than 95 %.
    assert 170 <= covered <= 199


def test_scores_without_an_interval() -> None:
    assert interval(np.array([[1.0, 2.0]])) is None
    with pytest.raises(ValueError, match=r"shape \(runs, tasks\), but have shape \(3,\)"):
        interval(np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        interval(np.array([[1.0], [np.nan]]))


def test_table_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, final in enumerate([-10.0, -20.0, -60.0]):
        make_run(tmp_path, "sac", seed, [-90.0, -50.0, -40.0, final])
    make_run(tmp_path, "sac", 3, [])
    make_run(tmp_path, "met-svgd", 0, [-90.0, -30.0, -8.0, -7.0])
    make_run(tmp_path, "met-svgd", 1, [-90.0, -33.0], diverged=1450)
    make_run(tmp_path, "p-svgd", 0, [-80.0, -70.0, -60.0, -50.0])
    walker = make_run(tmp_path / "walker", "sac", 0, [1.0, 2.0], env="Walker2d-v5")
    paths = [tmp_path / name for name in ("met-svgd", "p-svgd", "sac")]
    code, text = report(tmp_path / "out", walker, *paths)
    assert code == 0
    assert "seed-3: left out, because it has no evaluation yet" in capsys.readouterr().err
    assert list(table(text, 1)) == ["sac", "p-svgd", "met-svgd"]
    sac, p_svgd, met = table(text, 1).values()
    assert sac["seeds"] == "3"
    assert sac["IQM at step 3,000"] == "-30.0 [-60.0, -10.0]"
    assert sac["mean"] == "-30.0 ± 26.5"
    assert sac["norm of the score"] == sac["target"] == "–"
    # 2,000 steps since the first update, in 90 - 10 s.
    assert sac["steps/s"] == "25.0 ± 0.0"
    assert p_svgd["IQM at step 3,000"] == "-50.0 (one seed)"
    assert p_svgd["target"] == "s2ac"
    assert met["diverged at step"] == "1450"
    assert met["mean"] == "-20.0 ± 18.4"
    assert met["norm of the score"] == "2.50 ± 0.71"
    assert table(text, 0)["sac"]["IQM at step 1,000"] == "2.0 (one seed)"
    assert "`svgdx eval rl` has not been run on" in text
    assert "10,000 stratified bootstrap resamples" in text
    expected = f"svgdx train rl --env {MULTIGOAL} --algo stein --preset met-svgd --steps 3000 --seeds 0,1"
    assert expected in text
    assert (tmp_path / "out" / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_shares_of_goals_are_compared(tmp_path: Path) -> None:
    write_evaluation(make_run(tmp_path, "sac", 0, [-90.0, -50.0]), [1.0, 0.0, 0.0, 0.0])
    write_evaluation(make_run(tmp_path, "met-svgd", 0, [-90.0, -50.0]), [0.25, 0.2, 0.3, 0.2])
    write_evaluation(make_run(tmp_path, "met-svgd", 1, [-90.0, -50.0]), [0.25, 0.3, 0.1, 0.3])
    code, text = report(tmp_path / "out", tmp_path / "sac", tmp_path / "met-svgd")
    assert code == 0
    rows = table(text, 1)
    assert rows["sac"]["goal 1"] == "100.0"
    assert rows["sac"]["lowest of all seeds"] == "0.0"
    assert rows["met-svgd"]["goal 3"] == "20.0 ± 14.1"
    assert rows["met-svgd"]["none"] == "5.0 ± 0.0"
    assert rows["met-svgd"]["lowest of all seeds"] == "10.0"
    assert "200 rollouts with sampled actions after 3,000 steps" in text
    runs = ["sac/seed-0", "met-svgd/seed-0", "met-svgd/seed-1"]
    evaluations = [["eval", "rl", f"svgdx-multigoal-v0-four-goals-{run}"] for run in runs]
    assert printed_commands(text)[2:-1] == evaluations


def test_an_algorithm_with_two_activations_has_two_rows(tmp_path: Path) -> None:
    elu = make_run(tmp_path, "met-svgd", 0, [1.0, 2.0], activation="elu")
    softplus = make_run(tmp_path / "other", "met-svgd", 0, [3.0, 4.0])
    walker = make_run(tmp_path / "walker", "met-svgd", 0, [5.0, 6.0], env="Walker2d-v5", activation="elu")
    code, text = report(tmp_path / "out", elu, walker, softplus, make_run(tmp_path, "sac", 0, [0.0, 1.0]))
    assert code == 0
    assert list(table(text, 0)) == ["sac", "met-svgd, elu", "met-svgd, softplus"]
    assert list(table(text, 1)) == ["met-svgd, elu"]
    assert table(text, 0)["met-svgd, softplus"]["mean"] == "4.0"
    assert "--activation elu" in text


def test_seeds_may_differ_in_when_checkpoints_are_written(tmp_path: Path) -> None:
    make_run(tmp_path, "sac", 0, [1.0, 2.0])
    make_run(tmp_path, "sac", 1, [1.0, 2.0], checkpoint_every=500, keep_checkpoints=1, threads=2)
    code, text = report(tmp_path / "out", tmp_path / "sac")
    assert code == 0
    assert table(text)["sac"]["seeds"] == "2"


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", "sac", 0, [1.0, 2.0])
    same = make_run(tmp_path / "b", "sac", 0, [1.0, 2.0])
    other = make_run(tmp_path / "c", "sac", 1, [1.0, 2.0], alpha=3.0)
    empty = make_run(tmp_path / "d", "sac", 2, [])
    image = RunFolder.create(tmp_path / "e", EBMConfig().to_yaml()).path
    cases = {
        "the same configuration and seed": [run, same],
        "alpha is 8.0 and 3.0": [run, other],
        "no run has an evaluation yet": [empty],
        "all runs must be of one experiment": [run, image],
        "holds no config.yaml": [tmp_path / "none"],
    }
    for named, runs in cases.items():
        assert report(tmp_path / "out", *runs)[0] == 2
        assert named in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_the_printed_commands_repeat_the_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "sac", seed, [-90.0, -50.0], alpha=3.0) for seed in (0, 2)]
    runs.append(make_run(tmp_path, "met-svgd", 1, [-90.0, -50.0], env="Walker2d-v5", particles=7))
    *trainings, last = printed_commands(report(tmp_path / "out", *runs)[1])
    folders = ["svgdx-multigoal-v0-four-goals-sac", "walker2d-v5-met-svgd"]
    assert last == ["report", *folders, "--out", "report"]
    repeated = []
    for words, folder in zip(trainings, folders, strict=True):
        assert words[:2] == ["train", "rl"]
        options = TRAIN.parser().parse_args(words[2:])
        assert str(options.out) == folder
        config = resolved(RLConfig.from_options(chosen_options(options, RLConfig)))
        repeated += [dataclasses.replace(config, seed=seed) for seed in options.seeds]
    assert repeated == [RLConfig.from_yaml(run / "config.yaml") for run in runs]


def test_the_command_of_a_run_gives_its_settings() -> None:
    changes = {"env": "Hopper-v5", "preset": "met-svgd-64", "svgd_steps": 5, "alpha_rule": "tuned", "hidden": 64}
    config = resolved(RLConfig.from_options(changes))
    words = command(config).split()[3:]
    assert words[::2] == ["--env", "--algo", "--preset", "--hidden", "--alpha-rule", "--svgd-steps"]
    options = TRAIN.parser().parse_args(["--out", "x", *words])
    assert resolved(RLConfig.from_options({name: getattr(options, name) for name in changes})) == config
    # A heuristic bandwidth, the preset's default, would not be allowed for one particle.
    single = resolved(RLConfig.from_options({"preset": "p-svgd", "particles": 1, "bandwidth": "learnt"}))
    assert command(single).split()[5:] == [
        "--algo",
        "stein",
        "--preset",
        "p-svgd",
        "--particles",
        "1",
        "--bandwidth",
        "learnt",
    ]
