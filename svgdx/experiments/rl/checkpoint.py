"""Checkpoints of reinforcement learning: folders that are whole or not there, and say so when they were damaged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from svgdx.experiments.rl import environment as rl_environment
from svgdx.experiments.run.checkpoint import Checkpoint
from svgdx.experiments.run.errors import StoppedError, UsageError
from svgdx.experiments.run.folder import RunFolder

FORMAT = "svgdx-rl-1"
MODEL, BUFFER, STATE, FACTS = "model.zip", "replay_buffer.npz", "state.pt", "checkpoint.json"
_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass
class RLCheckpoint(Checkpoint):
    """A folder: `model.zip` as Stable-Baselines3 saves it, the filled part of the replay buffer, and all generators.

    Attributes:
        path: the folder.
        environment: what `rl_environment.restore` puts back; None where an episode begins on resuming.
    """

    path: Path = Path()
    environment: bytes | None = None
    generators: dict[str, Any] | None = None

    def restore_buffer(self, buffer: ReplayBuffer) -> None:
        """Puts the transitions back into an empty buffer of the same size."""
        with np.load(self.path / BUFFER) as saved:
            for name in _ARRAYS:
                getattr(buffer, name)[: len(saved[name])] = saved[name]
            buffer.pos, buffer.full = int(saved["pos"]), bool(saved["full"])

    def restore_generators(self, model: Any) -> None:
        assert self.generators is not None
        torch.set_rng_state(self.generators["torch"])
        # Stable-Baselines3 draws batches from NumPy's global generator.
        np.random.set_state(self.generators["numpy"])  # noqa: NPY002
        model.action_space.np_random.bit_generator.state = self.generators["action_space"]


class RLFolder(RunFolder):
    """The folder of one seed's run. Its checkpoints are folders, too."""

    checkpoint_name = re.compile(r"step-(\d{8})")

    def write(self, step: int, model: Any, env: DummyVecEnv, keep: int, seconds: float) -> None:
        """Writes a checkpoint beside the others, then removes all but the newest `keep`.

        Raises StoppedError when it cannot be written; those that are there stay as they are.
        """
        path = self.checkpoints / f"step-{step:08d}"
        temporary = path.with_name(path.name + ".tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            self._write_files(temporary, step, model, env, seconds)
            if path.exists():
                shutil.rmtree(path)
            os.rename(temporary, path)
            _sync(self.checkpoints)
            for old in self.saved()[:-keep]:
                shutil.rmtree(old)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise StoppedError(f"step {step}: the checkpoint {path} cannot be written: {error}") from error

    def _write_files(self, folder: Path, step: int, model: Any, env: DummyVecEnv, seconds: float) -> None:
        model.save(folder / MODEL)
        buffer = model.replay_buffer
        arrays = {name: getattr(buffer, name)[: buffer.size()] for name in _ARRAYS}
        np.savez(folder / BUFFER, pos=buffer.pos, full=buffer.full, **arrays)
        generators = {
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(),  # noqa: NPY002
            "action_space": model.action_space.np_random.bit_generator.state,
        }
        torch.save({"environment": rl_environment.snapshot(env), "generators": generators}, folder / STATE)
        if self.metrics.exists():
            _sync(self.metrics)
        facts = {
            "format": FORMAT,
            "step": step,
            "metrics_bytes": self.metrics.stat().st_size if self.metrics.exists() else 0,
            "seconds": seconds,
            "sha256": {name: _digest(folder / name) for name in (MODEL, BUFFER, STATE)},
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=1))
        for each in [*folder.iterdir(), folder]:
            _sync(each)

    def rewind(self, step: int, metrics_bytes: int) -> None:
        # Folders, unlike files, do not take the place of those that were set aside before.
        later = (path for path in self.saved() if int(path.name.removeprefix("step-")) > step)
        for path in later:
            shutil.rmtree(path.with_name(path.name + ".discarded"), ignore_errors=True)
        super().rewind(step, metrics_bytes)

    def read(self, path: Path) -> RLCheckpoint:
        """A checkpoint. Raises UsageError, naming the folder, when it is missing, damaged or foreign."""
        if not path.is_dir():
            raise UsageError(f"{path}: there is no such checkpoint")
        try:
            facts = json.loads((path / FACTS).read_text())
            if facts["format"] != FORMAT:
                raise UsageError(f"{path}: not a checkpoint of this experiment")
            for name, digest in facts["sha256"].items():
                if _digest(path / name) != digest:
                    raise UsageError(f"{path}: corrupt checkpoint: {name} does not have the checksum it was saved with")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: corrupt checkpoint: {error}") from error
        state = torch.load(path / STATE, weights_only=False)
        return RLCheckpoint(
            facts["step"], facts["metrics_bytes"], {}, facts["seconds"], "rl", path, state["environment"],
            state["generators"],
        )  # fmt: skip


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
