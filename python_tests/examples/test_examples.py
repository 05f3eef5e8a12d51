"""The examples of docs/examples: each runs in its quick setting, draws a picture and prints a result that is right."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import forkserver
import numpy as np
import pytest
from PIL import Image

for package in ("matplotlib", "sklearn", "stable_baselines3"):
    pytest.importorskip(package, reason="the examples need the packages of svgdx[rl]")

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MOST_LINES = 60
# Seconds, on a busy machine.
TIMEOUT = 300


def moments_are_right(mean_x: float, mean_y: float, *rest: float) -> bool:
    true_x, true_y, deviation_x, deviation_y, true_deviation_x, true_deviation_y = rest
    means = abs(mean_x - true_x) < 0.4 and abs(mean_y - true_y) < 0.4
    return means and abs(deviation_x - true_deviation_x) < 0.4 and abs(deviation_y - true_deviation_y) < 0.5


# What must hold for the numbers in the last line of each example's output.
CHECKS: dict[str, Callable[..., bool]] = {
    "svgd_2d": moments_are_right,
    "bayesian_network": lambda level, covered, points, ratio: level == 90 and 75 < covered < 98 and ratio > 2,
    "own_gflownet": lambda distance, most, log_z, true_log_z: distance < 0.15 and abs(log_z - true_log_z) < 0.3,
    "eb_gfn_2d": lambda untrained, trained, data: data < trained < 0.5 * untrained,
    "ebm_digits": lambda untrained, trained, data: data < trained < 0.75 * untrained,
    "score_matching": lambda *values: len(values) == 4 and min(values[:3]) > values[3] + 0.3,
    "ops_from_cpp": lambda difference, *means: difference < 1e-5 and max(map(abs, means)) < 0.1,
    "distributed_svgd": lambda count, processes, x, y, true_x, true_y, entropy, true_entropy: (
        (count, processes) == (400, 1) and max(abs(x), abs(y)) < 0.4 and abs(entropy - true_entropy) < 0.3
    ),
    # So short a training teaches nothing; returns of Pendulum lie between -2000 and 0.
    "stein_sac_pendulum": lambda steps, mean, least, most, *rest: -2000 < least <= mean <= most < 0,
}


def run(name: str, picture: Path, *launcher: str) -> str:
    """Runs an example in its quick setting, after a launcher such as `-m torch.distributed.run`.

    Returns the last line that it printed.
    """
    command = [*launcher, str(EXAMPLES / f"{name}.py"), "--quick", "--out", str(picture)]
    result = forkserver.run(command, picture.parent, os.environ | {"OMP_NUM_THREADS": "1"}, TIMEOUT)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip().splitlines()[-1]


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?", line)]


def is_drawn(picture: Path) -> bool:
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"), dtype=float)
    return min(pixels.shape) > 100 and bool(pixels.std() > 3)


def test_every_example_has_a_check() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == CHECKS.keys()


@pytest.mark.parametrize("name", CHECKS)
def test_the_result_is_right(name: str, tmp_path: Path) -> None:
    if name == "ops_from_cpp" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("there is no C++ compiler")
    picture = tmp_path / f"{name}.png"
    line = run(name, picture)
    assert CHECKS[name](*numbers(line)), line
    assert is_drawn(picture)


def test_particles_on_two_processes(tmp_path: Path) -> None:
    line = run("distributed_svgd", tmp_path / "two.png", "-m", "torch.distributed.run", "--nproc-per-node", "2")
    count, processes, x, y, *_, entropy, true_entropy = numbers(line)
    assert (count, processes) == (400, 2)
    assert max(abs(x), abs(y)) < 0.4
    assert abs(entropy - true_entropy) < 0.3


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_a_blank_picture_is_noticed(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300), "white").save(tmp_path / "blank.png")
    assert not is_drawn(tmp_path / "blank.png")
