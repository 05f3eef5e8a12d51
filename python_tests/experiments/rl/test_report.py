"""`svgdx report` of reinforcement learning: the interquartile mean and its interval, the table, refusals."""

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

from svgdx import cli
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.metrics.returns import interval, iqm
from svgdx.experiments.rl import TRAIN
from svgdx.experiments.rl.config import MULTIGOAL, RLConfig
from svgdx.experiments.rl.models import command, resolved
from svgdx.experiments.run.folder import RunFolder


def made(root: Path, label: str, seed: int, means: list[float], env: str = MULTIGOAL, **more: Any) -> Path:
    """A run folder as training leaves it, evaluated every 1,000 steps with these mean returns of two rollouts."""
    algo = {"algo": label} if label.startswith("sac") else {"preset": label}
    ended = more.pop("diverged", 0)
    config = resolved(RLConfig.from_options({"env": env, "steps": 3000, **algo, **more}))
    folder = RunFolder.create(root / label / f"seed-{seed}", dataclasses.replace(config, seed=seed).to_yaml(), "rl")
    for index, mean in enumerate(means):
        record: dict[str, Any] = {"step": 1000 * index, "returns": [mean - 1, mean + 1], "seconds": 10.0 * index**2}
        folder.append_metrics(record | ({} if label.startswith("sac") else {"score_norm": 2.0 + seed, "sigma": 0.5}))
    if ended:
        folder.append_metrics({"step": ended, "diverged": f"step {ended}: critic_loss is nan"})
    return folder.path


def evaluated(run: Path, shares: list[float]) -> None:
    found = {"step": 3000, "settings": {"episodes": 200, "actions": "sampled"}, "goal_shares": shares, "goals": []}
    (run / "evaluation.json").write_text(json.dumps(found))


def report(out: Path, *runs: Path) -> tuple[int, str]:
    code = cli.main(["report", *map(str, runs), "--out", str(out)])
    return code, (out / "report.md").read_text() if (out / "report.md").exists() else ""


def table(text: str, number: int = 0) -> dict[str, dict[str, str]]:
    """The rows of a table by their first cell."""
    blocks = [list(lines) for kind, lines in itertools.groupby(text.splitlines(), lambda line: line[:1] == "|") if kind]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in blocks[number]]
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    values = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 1000.0]])
    assert iqm(values) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert iqm([1.0, 2.0, 6.0]) == pytest.approx(3.0)


def test_interval_is_that_of_all_resamples() -> None:
    """Of two runs and two tasks every resample can be written down: each task draws for itself."""
    scores = np.array([[0.0, 10.0], [1.0, 30.0]])
    every = [
        iqm(np.column_stack([scores[list(a), 0], scores[list(b), 1]]))
        for a in itertools.product(range(2), repeat=2)
        for b in itertools.product(range(2), repeat=2)
    ]
    found = interval(scores, resamples=40_000, confidence=0.9)
    assert found == pytest.approx(tuple(np.quantile(np.repeat(every, 1000), [0.05, 0.95])))
    assert found == interval(scores, resamples=40_000, confidence=0.9)
    # Had the tasks been drawn together, none would lie between.
    assert {round(value, 6) for value in every} > {round(iqm(scores[[0, 0]]), 6), round(iqm(scores[[1, 1]]), 6)}


def test_interval_covers_the_true_mean() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        found = interval(generator.normal(3.0, 2.0, (30, 1)), 500, seed=seed)
        assert found is not None
        covered += found[0] <= 3.0 <= found[1]
    # Of a symmetric distribution the IQM is the mean; percentile intervals of 30 runs cover a little less than 95 %.
    assert 170 <= covered <= 199


def test_interval_refuses_what_has_none() -> None:
    assert interval(np.array([[1.0, 2.0]])) is None
    with pytest.raises(ValueError, match=r"shape \(runs, tasks\), but have \(3,\)"):
        interval(np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        interval(np.array([[1.0], [np.nan]]))


def test_table_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, final in enumerate([-10.0, -20.0, -60.0]):
        made(tmp_path, "sac", seed, [-90.0, -50.0, -40.0, final])
    made(tmp_path, "sac", 3, [])
    made(tmp_path, "met-svgd", 0, [-90.0, -30.0, -8.0, -7.0])
    made(tmp_path, "met-svgd", 1, [-90.0, -33.0], diverged=1450)
    made(tmp_path, "p-svgd", 0, [-80.0, -70.0, -60.0, -50.0])
    walker = made(tmp_path / "walker", "sac", 0, [1.0, 2.0], env="Walker2d-v5")
    paths = [tmp_path / name for name in ("met-svgd", "p-svgd", "sac")]
    code, text = report(tmp_path / "out", walker, *paths)
    assert code == 0
    assert "seed-3: holds no evaluation yet and is left out" in capsys.readouterr().err
    assert list(table(text, 1)) == ["sac", "p-svgd", "met-svgd"]
    sac, p_svgd, met = table(text, 1).values()
    assert sac["seeds"] == "3"
    assert sac["IQM at step 3,000"] == "-30.0 [-60.0, -10.0]"
    assert sac["mean"] == "-30.0 ± 26.5"
    assert sac["norm of the score"] == sac["target"] == "–"
    # 2,000 steps from the first update, in 90 - 10 s.
    assert sac["steps/s"] == "25.0 ± 0.0"
    assert p_svgd["IQM at step 3,000"] == "-50.0 (one seed)"
    assert p_svgd["target"] == "s2ac"
    assert met["diverged at step"] == "1450"
    assert met["mean"] == "-20.0 ± 18.4"
    assert met["norm of the score"] == "2.50 ± 0.71"
    assert table(text, 0)["sac"]["IQM at step 1,000"] == "2.0 (one seed)"
    assert "`svgdx eval rl` has not been run on" in text
    assert "10,000 stratified bootstrap resamples" in text
    expected = f"svgdx train rl --env {MULTIGOAL} --algo stein --preset met-svgd --steps 3000 --seeds 0,1 --out DIR"
    assert expected in text
    assert (tmp_path / "out" / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_shares_of_goals_stand_beside_each_other(tmp_path: Path) -> None:
    evaluated(made(tmp_path, "sac", 0, [-90.0, -50.0]), [1.0, 0.0, 0.0, 0.0])
    evaluated(made(tmp_path, "met-svgd", 0, [-90.0, -50.0]), [0.25, 0.2, 0.3, 0.2])
    evaluated(made(tmp_path, "met-svgd", 1, [-90.0, -50.0]), [0.25, 0.3, 0.1, 0.3])
    code, text = report(tmp_path / "out", tmp_path / "sac", tmp_path / "met-svgd")
    assert code == 0
    rows = table(text, 1)
    assert rows["sac"]["goal 1"] == "100.0"
    assert rows["sac"]["least of all seeds"] == "0.0"
    assert rows["met-svgd"]["goal 3"] == "20.0 ± 14.1"
    assert rows["met-svgd"]["none"] == "5.0 ± 0.0"
    assert rows["met-svgd"]["least of all seeds"] == "10.0"
    assert "200 rollouts by sampled actions after 3,000 steps" in text
    assert "    svgdx eval rl DIR/seed-N\n" in text


def test_an_algorithm_with_two_activations_has_two_lines(tmp_path: Path) -> None:
    one = made(tmp_path, "met-svgd", 0, [1.0, 2.0], activation="elu")
    other = made(tmp_path / "other", "met-svgd", 0, [3.0, 4.0])
    walker = made(tmp_path / "walker", "met-svgd", 0, [5.0, 6.0], env="Walker2d-v5")
    code, text = report(tmp_path / "out", one, walker, other, made(tmp_path, "sac", 0, [0.0, 1.0]))
    assert code == 0
    assert list(table(text, 0)) == ["sac", "met-svgd, elu", "met-svgd, softplus"]
    assert list(table(text, 1)) == ["met-svgd, elu"]
    assert table(text, 0)["met-svgd, softplus"]["mean"] == "4.0"
    assert "--activation elu" in text


def test_seeds_with_checkpoints_at_other_steps_are_one_configuration(tmp_path: Path) -> None:
    made(tmp_path, "sac", 0, [1.0, 2.0])
    made(tmp_path, "sac", 1, [1.0, 2.0], checkpoint_every=500, keep_checkpoints=1, threads=2)
    code, text = report(tmp_path / "out", tmp_path / "sac")
    assert code == 0
    assert table(text)["sac"]["seeds"] == "2"


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = made(tmp_path / "a", "sac", 0, [1.0, 2.0])
    same = made(tmp_path / "b", "sac", 0, [1.0, 2.0])
    other = made(tmp_path / "c", "sac", 1, [1.0, 2.0], alpha=3.0)
    empty = made(tmp_path / "d", "sac", 2, [])
    image = RunFolder.create(tmp_path / "e", EBMConfig().to_yaml()).path
    cases = {
        "the same configuration and seed": [one, same],
        "alpha is 8.0 and 3.0": [one, other],
        "no run holds an evaluation yet": [empty],
        "all runs must be of one experiment": [one, image],
        "holds no config.yaml": [tmp_path / "none"],
    }
    for named, runs in cases.items():
        assert report(tmp_path / "out", *runs)[0] == 2
        assert named in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_the_command_of_a_run_gives_its_settings() -> None:
    given = {"env": "Hopper-v5", "preset": "met-svgd-64", "svgd_steps": 5, "alpha_rule": "tuned", "hidden": 64}
    config = resolved(RLConfig.from_options(given))
    words = command(config).split()[3:]
    assert words[::2] == ["--env", "--algo", "--preset", "--hidden", "--alpha-rule", "--svgd-steps"]
    options = TRAIN.parser().parse_args(["--out", "x", *words])
    assert resolved(RLConfig.from_options({name: getattr(options, name) for name in given})) == config
