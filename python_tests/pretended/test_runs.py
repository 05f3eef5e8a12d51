"""Whole runs of every command on the pretended GPU equal those on the CPU: metrics, pictures and checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

for package in ("sklearn", "gymnasium", "stable_baselines3", "zuko"):
    pytest.importorskip(package, reason="these runs need the packages of svgdx[rl]")

from experiments.small_runs import assert_same_run, command, run_folder, timeless  # noqa: E402
from pretended.gpu import pretended_cuda  # noqa: E402

from svgdx import cli  # noqa: E402

SHORT = {"ebm": {"steps": 4, "eval_every": 4}, "eb-gfn": {"iterations": 4}, "rl": {"steps": 60}}
# Runs without CUDA graphs whose arithmetic is the same on both devices: metrics, pictures and checkpoints are equal to
# the bit.
EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "ebm met-svgd": ("ebm", {}),
    "ebm met-svgd-mh": ("ebm", {"config": "met-svgd-mh", "mh_iterations": 3}),
    "ebm met-svgd-lc": ("ebm", {"config": "met-svgd-lc", "stop": "squared", "stop_threshold": 1e-12}),
    "ebm langevin, persistent": ("ebm", {"config": "langevin", "chains": "persistent", "buffer": 80}),
    "ebm by denoising": ("ebm", {"config": "langevin", "loss": "denoising"}),
    "ebm by score matching": ("ebm", {"config": "langevin", "loss": "score"}),
    "eb-gfn pcd-gibbs": ("eb-gfn", {"sampler": "pcd-gibbs"}),
    "eb-gfn pcd-gwg": ("eb-gfn", {"sampler": "pcd-gwg", "flips": 3, "data": "2spirals"}),
}
# The compiled rollouts and sweeps of the CPU round in another order than those of CUDA, and an Adam that is captured
# reads its learning rate in float32.
CLOSE: dict[str, tuple[str, dict[str, Any]]] = {
    "ebm met-svgd, captured": ("ebm", {"steps": 6, "eval_every": 6, "sampler_every": 100}),
    "eb-gfn tb": ("eb-gfn", {}),
    "eb-gfn vargrad, persistent": ("eb-gfn", {"loss": "vargrad", "negatives": "persistent", "sweeps": 2}),
    "eb-gfn scratch, digits": ("eb-gfn", {"data": "digits", "negatives": "scratch", "binarisation": "dynamic"}),
    "rl met-svgd": ("rl", {"algo": "stein"}),
    "rl p-svgd": ("rl", {"algo": "stein", "preset": "p-svgd"}),
}
# Runs that draw from torch's generators, whose numbers depend on the device: they only have to train.
OTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "ebm glow": ("ebm", {"config": "glow", "glow_blocks": 1, "glow_width": 4}),
    "rl sac-nf": ("rl", {"algo": "sac-nf", "alpha_rule": "tuned"}),
}
RUNS = EXACT | CLOSE | OTHER


def trained(name: str, out: Path, device: str) -> Path:
    experiment, changes = RUNS[name]
    graph = "off" if name in EXACT else "auto"
    words = command(experiment, out, device=device, graph=graph, **SHORT[experiment] | changes)
    # The data sets other than ising lack some of its settings.
    code = cli.main([word for word in words if changes.get("data", "ising") == "ising" or "--side" not in word])
    assert code == 0
    return run_folder(experiment, out)


def on_both(name: str, folder: Path) -> tuple[Path, Path]:
    on_cpu = trained(name, folder / "cpu", "cpu")
    with pretended_cuda():
        return on_cpu, trained(name, folder / "gpu", "cuda")


@pytest.mark.parametrize("name", EXACT)
def test_a_run_on_the_gpu_equals_that_on_the_cpu(tmp_path: Path, name: str) -> None:
    assert_same_run(*on_both(name, tmp_path), EXACT[name][0])


@pytest.mark.parametrize("name", CLOSE)
def test_a_run_on_the_gpu_equals_that_on_the_cpu_up_to_rounding(tmp_path: Path, name: str) -> None:
    on_cpu, on_gpu = (timeless(run) for run in on_both(name, tmp_path))
    assert len(on_cpu) == len(on_gpu)
    for one, other in zip(on_cpu, on_gpu, strict=True):
        assert other.keys() == one.keys()
        for quantity, value in one.items():
            assert other[quantity] == pytest.approx(value, rel=1e-3, abs=1e-4), (one["step"], quantity)


@pytest.mark.parametrize("name", OTHER)
def test_other_algorithms_train_on_the_gpu(tmp_path: Path, name: str) -> None:
    if name == "ebm glow":
        pytest.importorskip("normflows", reason="Glow needs the packages of svgdx[flow]")
    with pretended_cuda():
        run = trained(name, tmp_path, "cuda")
    numbers = [value for record in timeless(run) for value in record.values() if isinstance(value, float)]
    assert len(numbers) > 10
    assert all(map(math.isfinite, numbers))
