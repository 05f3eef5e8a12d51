"""Checkpoints: safetensors files that are complete or absent, and whose damage is noticed when they are read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from svgdx.experiments.run.errors import FormatError, UsageError


@dataclass
class Checkpoint:
    """The state after `step` updates of an experiment.

    Attributes:
        step: number of updates.
        metrics_bytes: the length of metrics.jsonl that belongs to the state.
        tensors: parameters, optimisers and chains by name.
        seconds: duration of the updates, over all resumptions.
        experiment: the experiment that wrote the checkpoint, such as "ebm".
        pending: the step's line of metrics.jsonl without its evaluation, if a signal interrupted the evaluation; a
            resumed run evaluates first. None otherwise.
    """

    step: int
    metrics_bytes: int
    tensors: dict[str, Tensor]
    seconds: float = 0.0
    experiment: str = "ebm"
    pending: dict[str, Any] | None = None


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file such that a crash at any moment leaves the old file or the new one, never a part of it.

    The content goes to a new temporary file first. It follows no symbolic link: a link at `path` is replaced.

    Raises OSError if it cannot be written; the old file is kept.
    """
    temporary = temporary_beside(path)
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with open(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def temporary_beside(path: Path) -> Path:
    """A name in the folder of `path` that nobody can foresee, with the suffix of `path`, see `is_temporary`."""
    return path.with_name(f".{path.stem}-{secrets.token_hex(8)}.tmp{path.suffix}")


def is_temporary(path: Path) -> bool:
    """Whether a file or folder is one that a killed process left behind, named by `temporary_beside`."""
    return re.fullmatch(r"\..*-[0-9a-f]{16}\.tmp(\..*)?", path.name) is not None


def sync(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint as one file. Raises OSError if it cannot be written."""
    metadata = {
        "format": f"svgdx-{checkpoint.experiment}-1",
        "step": str(checkpoint.step),
        "metrics_bytes": str(checkpoint.metrics_bytes),
        "seconds": repr(checkpoint.seconds),
        "sha256": _digest(checkpoint.tensors),
    }
    if checkpoint.pending is not None:
        metadata["pending"] = json.dumps(checkpoint.pending)
    write_atomically(path, safetensors.torch.save(checkpoint.tensors, metadata))


def load(path: Path, experiment: str = "ebm") -> Checkpoint:
    """Reads a checkpoint.

    Raises UsageError, naming the file, if it is missing, truncated, altered, or of another experiment.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: corrupt checkpoint: it is not a file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such checkpoint") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(f"{path}: corrupt checkpoint: {error}") from error
    require_format(path, metadata.get("format"), f"svgdx-{experiment}-1")
    if metadata.get("sha256") != _digest(tensors):
        raise UsageError(f"{path}: corrupt checkpoint: its tensors do not match the checksum they were saved with")
    try:
        return Checkpoint(
            int(metadata["step"]),
            int(metadata["metrics_bytes"]),
            tensors,
            float(metadata.get("seconds", 0.0)),
            experiment,
            json.loads(metadata.get("pending", "null")),
        )
    except KeyError as error:
        raise UsageError(f"{path}: corrupt checkpoint: its metadata lacks {error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: corrupt checkpoint: its metadata cannot be read: {error}") from error


def require_format(path: Path, name: object, expected: str) -> None:
    """Raises UsageError, naming the file, unless a checkpoint's format has the name expected, such as svgdx-rl-2.

    It is a FormatError if only the number at the end differs.
    """
    if name == expected:
        return
    if str(name).rpartition("-")[0] == expected.rpartition("-")[0]:
        raise FormatError(
            f"{path}: has the format {name} of another version of svgdx, but this version reads {expected} only; "
            "continue the run with the version that wrote it, or start a new run in another folder"
        )
    raise UsageError(f"{path}: not a checkpoint of this experiment: its format is {name}, but must be {expected}")


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def flatten(modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All tensors of modules and optimisers, each under a name such as energy/layers.0.weight or adam/0/exp_avg."""
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
    """Puts the tensors that `flatten` returned back. Raises UsageError, naming the file, if they do not fit."""
    try:
        for name, module in modules.items():
            module.load_state_dict(_under(tensors, name))
    except RuntimeError as error:
        raise UsageError(f"{path}: does not match the run's config.yaml: {error}") from error
    for name, optimiser in optimisers.items():
        state: dict[int, dict[str, Any]] = {}
        for key, value in _under(tensors, name).items():
            index, entry = key.split("/")
            state.setdefault(int(index), {})[entry] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(name + "/"): value for key, value in tensors.items() if key.startswith(name + "/")}
