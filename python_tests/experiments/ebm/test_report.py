"""`svgdx report` for energy-based models: its table, its commands, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from experiments.processes import printed_commands

from svgdx import cli
from svgdx.experiments.ebm import TRAIN
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.ebm.runs import EBMRun
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.settings import chosen_options


def run_folder(root: Path, config: str, seed: int, distances: list[float], diverged: int = 0, **more: Any) -> str:
    """A run folder as training leaves it, with these feature distances in its evaluations."""
    settings = EBMConfig.from_options({"config": config, "seed": seed, "steps": 10, **more})
    folder = RunFolder.create(root / f"{config}-{seed}", settings.to_yaml())
    for index, distance in enumerate(distances):
        step = round(10 * index / (len(distances) - 1))
        record = {"step": step, "feature_distance": distance, "score_norm": 1.0 + seed, "sigma": 0.5, "eps": 0.2}
        folder.append_metrics(record | {"pixel_distance": 7.0, "sigma_median": 2.0, "mh_rejection": 0.25})
    if diverged:
        folder.append_metrics({"step": diverged, "diverged": f"step {diverged}: energy_loss is nan"})
    return str(folder.path)


def report(out: Path, *runs: str) -> tuple[int, str]:
    code = cli.main(["report", *runs, "--out", str(out)])
    return code, (out / "report.md").read_text() if (out / "report.md").exists() else ""


def rows_of(text: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {cells[0]: cells for cells in lines[2:]} | {"": lines[0]}


def test_table_has_mean_and_spread_over_seeds_and_marks_divergence(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path, "langevin", seed, [9.0, 5.0 + seed, 6.0 + seed]) for seed in (0, 2)]
    runs += [run_folder(tmp_path, "met-svgd-no-trace", 0, [9.0, 4.0, 8.0], diverged=13, steps=20)]
    code, text = report(tmp_path / "out", *reversed(runs))
    assert code == 0
    rows = rows_of(text)
    assert list(rows)[:2] == ["langevin", "met-svgd-no-trace"]
    table, claims = (rows_of(part) for part in text.split("## What sampler"))
    langevin = dict(zip(table[""], table["langevin"], strict=True))
    assert langevin["seeds"] == "2"
    assert langevin["diverged at step"] == "none"
    assert langevin["feature_distance, best"] == "6.00 ± 1.41"
    assert langevin["last"] == "7.00 ± 1.41"
    assert langevin["T"] == "0.01"
    assert dict(zip(table[""], table["met-svgd-no-trace"], strict=True))["diverged at step"] == "13 (not finite)"
    assert "met-svgd-no-trace, which diverges in the paper: of 1 runs here, 1 diverged" in text
    assert dict(zip(claims[""], claims["langevin"], strict=True))["norm of grad f at samples"] == "2.00 ± 1.41"
    assert dict(zip(claims[""], claims["langevin"], strict=True))["entropy claimed"] == "–"
    assert "not FID" in text
    assert (
        "    for seed in 0 2; do svgdx train ebm --config langevin --steps 10 --seed $seed --out langevin-$seed; done\n"
        in text
    )
    for picture in ("figures.png", "samples.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


def test_pairs_are_compared_with_the_published_order(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path, "langevin", seed, [90.0, 10.0 + seed]) for seed in (0, 1)]
    runs += [run_folder(tmp_path, "p-svgd", seed, [90.0, 3.0 + seed]) for seed in (0, 1)]
    runs += [run_folder(tmp_path, "met-svgd-sigma", seed, [90.0, 9.5 + seed]) for seed in (0, 1)]
    runs += [run_folder(tmp_path, "met-svgd", seed, [90.0, 5.0 + seed]) for seed in (0, 1)]
    text = report(tmp_path / "out", *runs)[1]
    lines = {line.split(": ")[0]: line for line in text.splitlines() if line.startswith("- ")}
    assert "met-svgd (5.5) before langevin (10.5)" in lines["- reproduced"]
    assert "langevin (10.5) before p-svgd (3.5)" in lines["- not reproduced"]
    # The published numbers of these two are the same.
    assert "langevin (10.5) before met-svgd-sigma" not in text
    assert "met-svgd-sigma (10.0) before langevin" not in text
    # 5.5 and 3.5 are further apart than both deviations of 0.7, and the published order is the other one.
    assert "met-svgd (5.5) before p-svgd (3.5)" in lines["- not reproduced"]


def test_close_means_are_not_distinguished(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path, "langevin", seed, [90.0, 10.0 + 4 * seed]) for seed in (0, 1)]
    runs += [run_folder(tmp_path, "met-svgd", seed, [90.0, 9.0 + 4 * seed]) for seed in (0, 1)]
    text = report(tmp_path / "out", *runs)[1]
    assert "not distinguishable with these seeds: met-svgd (11.0) before langevin (12.0)" in text
    assert "- reproduced: no pair" in text


def test_rows_are_named_by_the_options_that_set_them_apart(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path, "langevin", 0, [9.0, 5.0], hidden=16)]
    runs += [run_folder(tmp_path / "hot", "langevin", 0, [9.0, 5.0], hidden=16, temperature=1.0)]
    runs += [run_folder(tmp_path, "met-svgd", 0, [9.0, 5.0], hidden=16)]
    text = report(tmp_path / "out", *runs)[1]
    rows = rows_of(text)
    assert list(rows)[:3] == ["langevin", "langevin --temperature 1.0", "met-svgd"]
    assert text.count("| langevin --temperature 1.0 | 1 | 1 |") == 1
    (command,) = (line for line in text.splitlines() if "--out langevin-temperature-1.0-$seed" in line)
    assert "--temperature 1.0" in command


@pytest.mark.parametrize(("rule", "values"), [
    ("gradient", {"sampler_gradient": [1.0] * 10 + [101.0]}),
    ("distance", {"feature_distance": [50.0, 10.0, 51.0]}),
    ("entropy", {"entropy_excess": [9.0, 0.9, 1.1]}),
])  # fmt: skip
def test_divergence_without_a_number_that_is_not_finite(
    tmp_path: Path, rule: str, values: dict[str, list[float]]
) -> None:
    path = Path(run_folder(tmp_path, "met-svgd", 0, [9.0, 8.0], steps=20))
    ((name, numbers),) = values.items()
    folder = RunFolder.reopen(path)
    folder.metrics.unlink()
    for step, number in enumerate(numbers):
        folder.append_metrics({"step": step, name: number})
    folder.append_metrics({"step": 20})
    assert EBMRun(path).divergence("feature_distance") == (len(numbers) - 1, rule)
    calm = {"step": 20, "sampler_gradient": 99.0, "feature_distance": 49.0, "entropy_excess": 1.0}
    lines = folder.metrics.read_text().splitlines()
    del lines[len(numbers) - 1]
    folder.metrics.write_text("\n".join(lines) + "\n")
    folder.append_metrics(calm)
    assert EBMRun(path).divergence("feature_distance") is None


def test_fid_is_compared_if_every_run_has_it(tmp_path: Path) -> None:
    one, other = (run_folder(tmp_path, name, 0, [90.0, 10.0]) for name in ("langevin", "met-svgd"))
    for path in (one, other):
        RunFolder.reopen(Path(path)).append_metrics({"step": 10, "fid": 42.0})
    text = report(tmp_path / "out", one, other)[1]
    assert "fid, best" in text
    assert "42.00" in text
    assert "not FID" not in text


def test_runs_that_cannot_be_compared_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run_folder(tmp_path / "a", "langevin", 0, [9.0, 5.0])
    cases = {
        "have the same configuration and seed": run_folder(tmp_path / "b", "langevin", 0, [9.0, 5.0]),
        "these are of digits, patches": run_folder(tmp_path / "d", "met-svgd", 0, [9.0, 5.0], data="patches"),
        "the run has not ended: it is at step 10 of 11": run_folder(
            tmp_path / "e", "met-svgd", 0, [9.0, 5.0], steps=11
        ),
        "holds no config.yaml": str(tmp_path),
    }
    for message, run in cases.items():
        assert cli.main(["report", first, run, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert said.startswith("svgdx report: ")
        assert message in said
    assert not (tmp_path / "out").exists()


def test_the_printed_commands_repeat_the_runs(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path, "langevin", seed, [9.0, 5.0], langevin_step=0.02) for seed in (0, 2)]
    runs.append(run_folder(tmp_path, "met-svgd-lc", 1, [9.0, 5.0], hidden=16))
    text = report(tmp_path / "out", *runs)[1]
    *trainings, last = printed_commands(text)
    folders = ["langevin-0", "langevin-2", "met-svgd-lc-1"]
    assert last == ["report", *folders, "--out", "report"]
    for run, folder, words in zip(runs, folders, trainings, strict=True):
        assert words[:2] == ["train", "ebm"]
        options = TRAIN.parser().parse_args(words[2:])
        assert str(options.out) == folder
        repeated = EBMConfig.from_options(chosen_options(options, EBMConfig))
        assert repeated == EBMConfig.from_yaml(Path(run) / "config.yaml")
