"""Runs of every experiment that take seconds: their commands, and what is compared of two run folders."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from svgdx import cli
from svgdx.experiments.run import checkpoint

EBM: dict[str, Any] = {
    "steps": 8, "particles": 8, "svgd_steps": 3, "attached_steps": 2, "sampler_every": 2, "hidden": 16,
    "eval_every": 4, "eval_samples": 70, "checkpoint_every": 2, "log_every": 1, "threads": 1,
}  # fmt: skip
GFN: dict[str, Any] = {
    "data": "ising", "side": 3, "sigma": 0.2, "samples": 100, "iterations": 8, "batch": 6, "hidden": 8, "depth": 2,
    "energy_hidden": 8, "energy_depth": 2, "eval_every": 4, "eval_points": 10, "eval_paths": 2, "final_points": 0,
    "checkpoint_every": 2, "log_every": 1, "energy_lr": 1e-3, "policy_lr": 1e-3, "energy_l1": 0, "lr_decay": "none",
    "negatives": "data", "k_schedule": "anneal", "k": 0, "chains": 0, "sweeps": 1, "mh": "metropolis",
    "loss": "tb", "backward_policy": "learnt",
}  # fmt: skip
RL: dict[str, Any] = {
    "env": "svgdx/Multigoal-v0", "steps": 120, "hidden": 8, "update_every": 10, "updates": 1, "update_after": 20,
    "random_steps": 30, "eval_every": 60, "eval_episodes": 3, "log_every": 20, "checkpoint_every": 40, "batch": 16,
    "buffer": 90,
}  # fmt: skip
STEIN: dict[str, Any] = {"particles": 4, "svgd_steps": 2}
SMALL = {"ebm": EBM, "eb-gfn": GFN, "rl": RL}
# Quantities that depend on the clock.
TIMES = ("seconds", "steps_per_second")


def command(experiment: str, out: Path, **changes: object) -> list[str]:
    """The command of a new run in the folder `out`; a change of None leaves the setting out."""
    small = SMALL[experiment]
    if experiment == "rl" and changes.get("algo", "stein") == "stein":
        small = small | STEIN
    settings = {name: value for name, value in (small | changes).items() if value is not None}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return ["train", experiment, "--out", str(out), "--quiet", *options]


def resume(experiment: str, out: Path, *more: str) -> int:
    """Resumes a run; returns the exit code."""
    return cli.main(["train", experiment, "--out", str(out), "--quiet", "--resume", *more])


def run_folder(experiment: str, out: Path) -> Path:
    """The folder of the only run in `out`."""
    return out / "seed-0" if experiment == "rl" else out


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the quantities that depend on the clock."""
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records(run)]


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints that resuming can use, oldest first."""
    return sorted(path for path in (run / "checkpoints").iterdir() if path.suffix in ("", ".safetensors"))


def tensors(path: Path, experiment: str) -> dict[str, torch.Tensor]:
    """All numbers of a checkpoint: parameters and optimisers; of a run of `rl` also the replay buffer."""
    if experiment != "rl":
        return checkpoint.load(path, experiment).tensors
    values = {}
    with zipfile.ZipFile(path / "model.zip") as model:
        for name in (name for name in model.namelist() if name.endswith(".pth")):
            values |= {f"{name}/{key}": value for key, value in _leaves(torch.load(io.BytesIO(model.read(name))))}
    with np.load(path / "replay_buffer.npz") as buffer:
        values |= {name: torch.from_numpy(np.asarray(buffer[name])) for name in buffer.files}
    return values | safetensors.torch.load_file(path / "state.safetensors")


def _leaves(state: Any, name: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(state, torch.Tensor):
        return [(name, state)]
    children = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return [leaf for key, child in children for leaf in _leaves(child, f"{name}/{key}")]


def assert_same_run(one: Path, other: Path, experiment: str) -> None:
    """Two runs have the same metrics, apart from times, and the same last checkpoint and pictures, to the bit."""
    assert timeless(one) == timeless(other)
    if experiment == "ebm":
        # Nothing in it depends on the clock.
        assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    pictures = [{path.name: path.read_bytes() for path in run.glob("samples*.png")} for run in (one, other)]
    assert pictures[0] == pictures[1]
    assert checkpoints(one)[-1].name == checkpoints(other)[-1].name
    first, second = (tensors(checkpoints(run)[-1], experiment) for run in (one, other))
    assert first.keys() == second.keys()
    assert len(first) >= 5
    assert all(torch.equal(first[name], second[name]) for name in first)


__all__ = [
    "SMALL",
    "assert_same_run",
    "checkpoints",
    "command",
    "records",
    "resume",
    "run_folder",
    "tensors",
    "timeless",
]
