"""Checkpoints: safetensors files that are whole or not there, and say so when they were damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from svgdx.experiments.run.errors import UsageError


@dataclass
class Checkpoint:
    """State after `step` updates of an experiment.

    metrics_bytes: the length of metrics.jsonl that belongs to it; seconds: what the updates took, over all resumes.
    """

    step: int
    metrics_bytes: int
    tensors: dict[str, Tensor]
    seconds: float = 0.0
    experiment: str = "ebm"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file such that a crash at any moment leaves the old one or the new one, never a part.

    Raises OSError if it cannot be written; the old file is kept.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(path: Path, checkpoint: Checkpoint) -> None:
    facts = {
        "format": f"svgdx-{checkpoint.experiment}-1",
        "step": str(checkpoint.step),
        "metrics_bytes": str(checkpoint.metrics_bytes),
        "seconds": repr(checkpoint.seconds),
        "sha256": _digest(checkpoint.tensors),
    }
    write_atomically(path, safetensors.torch.save(checkpoint.tensors, facts))


def load(path: Path, experiment: str = "ebm") -> Checkpoint:
    """Reads a checkpoint. Raises UsageError, naming the file, when it is missing, cut short, altered or foreign."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such checkpoint") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(f"{path}: corrupt checkpoint: {error}") from error
    if facts.get("format") != f"svgdx-{experiment}-1":
        raise UsageError(f"{path}: not a checkpoint of this experiment")
    if facts.get("sha256") != _digest(tensors):
        raise UsageError(f"{path}: corrupt checkpoint: its tensors do not have the checksum they were saved with")
    seconds = float(facts.get("seconds", 0.0))
    return Checkpoint(int(facts["step"]), int(facts["metrics_bytes"]), tensors, seconds, experiment)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def flatten(modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All tensors of modules and optimisers under one name each: energy/layers.0.weight, adam/0/exp_avg."""
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": value for key, value in state.items()}
    return {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}


def restore(
    path: Path,
    tensors: dict[str, Tensor],
    modules: dict[str, nn.Module],
    optimisers: dict[str, torch.optim.Optimizer],
) -> None:
    """Puts back what flatten took. Raises UsageError, naming the file, when the tensors do not fit."""
    try:
        for name, module in modules.items():
            module.load_state_dict(_under(tensors, name))
    except RuntimeError as error:
        raise UsageError(f"{path}: does not fit the run's config.yaml: {error}") from error
    for name, optimiser in optimisers.items():
        state: dict[int, dict[str, Any]] = {}
        for key, value in _under(tensors, name).items():
            index, entry = key.split("/")
            state.setdefault(int(index), {})[entry] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(name + "/"): value for key, value in tensors.items() if key.startswith(name + "/")}


def remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
