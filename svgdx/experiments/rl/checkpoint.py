"""Checkpoints of reinforcement learning: folders, complete or absent, whose damage is noticed when they are read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from svgdx.experiments.rl import environment as rl_environment
from svgdx.experiments.run.checkpoint import Checkpoint, sync, write_atomically
from svgdx.experiments.run.compute import generators
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder

FORMAT, MANIFEST_FORMAT = "svgdx-rl-1", "svgdx-rl-manifest-1"
MODEL, BUFFER, STATE, FACTS = "model.zip", "replay_buffer.npz", "state.pt", "checkpoint.json"
_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass
class RLCheckpoint(Checkpoint):
    """The state of a run of `svgdx train rl`.

    On the disk it is a folder: `model.zip` as Stable-Baselines3 saves it, the filled part of the replay buffer, and the
    state of the environment and of all generators.

    Attributes:
        path: the folder, of a checkpoint that was read.
        model: the algorithm, of a checkpoint to be written.
        environment: what `svgdx.experiments.rl.environment.restore` puts back; None if it cannot be saved, so that a
            resumed run begins a new episode.
        generators: states of the random generators by name.
    """

    path: Path = Path()
    model: Any = None
    environment: bytes | None = None
    generators: dict[str, Any] | None = None

    @classmethod
    def of(cls, model: Any, env: DummyVecEnv, seconds: float) -> RLCheckpoint:
        """The present state of an algorithm, its environment and the generators."""
        saved = generators.states(model.device) | {
            "numpy": np.random.get_state(),  # noqa: NPY002
            "action_space": model.action_space.np_random.bit_generator.state,
        }
        state = cls(model.num_timesteps, 0, model.policy.state_dict(), seconds)
        state.model, state.environment, state.generators = model, rl_environment.snapshot(env), saved
        return state

    def restore_buffer(self, buffer: ReplayBuffer) -> None:
        """Puts the transitions back into an empty buffer of the same size."""
        with np.load(self.path / BUFFER) as saved:
            for name in _ARRAYS:
                getattr(buffer, name)[: len(saved[name])] = saved[name]
            buffer.pos, buffer.full = int(saved["pos"]), bool(saved["full"])

    def restore_generators(self, model: Any) -> None:
        """Puts the states of torch's, NumPy's and the action space's generators back."""
        assert self.generators is not None
        generators.restore(self.generators, model.device)
        # Stable-Baselines3 draws batches from NumPy's global generator.
        np.random.set_state(self.generators["numpy"])  # noqa: NPY002
        model.action_space.np_random.bit_generator.state = self.generators["action_space"]


class RLFolder(RunFolder):
    """The folder of one seed's run. Its checkpoints are folders, too.

    Loading one unpickles `model.zip` and `state.pt`, which can execute anything. The run folder's manifest.json lists
    the checkpoints that the run wrote, by the digest of their checkpoint.json, which in turn has those of the other
    files. Any other checkpoint is refused unless `trusted`.
    """

    suffix = ""

    def __init__(self, path: Path, experiment: str = "rl") -> None:
        super().__init__(path, experiment)
        self.manifest = path / "manifest.json"
        self.trusted = False

    def _write(self, path: Path, state: Any) -> None:
        temporary = path.with_name(path.name + ".tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            _write_files(temporary, state)
            # Listed before it is there: a kill in between must not leave a checkpoint that is refused.
            self._list(_digest(temporary / FACTS), path.name)
            if path.exists():
                shutil.rmtree(path)
            os.rename(temporary, path)
            sync(self.checkpoints)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def read(self, path: Path) -> RLCheckpoint:
        """A checkpoint.

        Raises:
            UsageError: it is missing, damaged, of another experiment, or not in the manifest; nothing was unpickled.
        """
        if not path.is_dir():
            raise UsageError(f"{path}: there is no such checkpoint")
        try:
            facts = json.loads((path / FACTS).read_text())
            if facts["format"] != FORMAT:
                raise UsageError(f"{path}: not a checkpoint of this experiment")
            for name in (MODEL, BUFFER, STATE):
                if _digest(path / name) != facts["sha256"][name]:
                    raise UsageError(
                        f"{path}: corrupt checkpoint: {name} does not match the checksum it was saved with"
                    )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: corrupt checkpoint: {error}") from error
        if not self.trusted:
            self._require_listed(path)
        state = torch.load(path / STATE, weights_only=False)
        return RLCheckpoint(
            facts["step"],
            facts["metrics_bytes"],
            {},
            facts["seconds"],
            "rl",
            facts.get("pending"),
            path=path,
            environment=state["environment"],
            generators=state["generators"],
        )

    def _listed(self) -> dict[str, str]:
        """The names of the checkpoints that the run wrote, by the digest of their checkpoint.json."""
        try:
            names: dict[str, str] = json.loads(self.manifest.read_text())["checkpoints"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{self.manifest} cannot be read: {error}") from error
        return names

    def _list(self, digest: str, name: str) -> None:
        names: dict[str, str] = {}
        # A manifest that cannot be read got here by --trust; it is replaced.
        with contextlib.suppress(UsageError):
            names = self._listed()
        content = {"format": MANIFEST_FORMAT, "checkpoints": names | {digest: name}}
        write_atomically(self.manifest, (json.dumps(content, indent=1) + "\n").encode())

    def _require_listed(self, path: Path) -> None:
        exists = self.manifest.exists()
        if not exists or _digest(path / FACTS) not in self._listed():
            reason = f"is not listed in {self.manifest}" if exists else f"cannot be verified without {self.manifest}"
            raise UsageError(
                f"{path}: the checkpoint {reason}, so this run may not have written it. Loading it executes code that "
                "it contains; pass --trust if you trust where it comes from"
            )


def _write_files(folder: Path, state: RLCheckpoint) -> None:
    state.model.save(folder / MODEL)
    buffer = state.model.replay_buffer
    arrays = {name: getattr(buffer, name)[: buffer.size()] for name in _ARRAYS}
    np.savez(folder / BUFFER, pos=buffer.pos, full=buffer.full, **arrays)
    torch.save({"environment": state.environment, "generators": state.generators}, folder / STATE)
    facts = {
        "format": FORMAT,
        "step": state.step,
        "metrics_bytes": state.metrics_bytes,
        "seconds": state.seconds,
        "sha256": {name: _digest(folder / name) for name in (MODEL, BUFFER, STATE)},
    }
    if state.pending is not None:
        facts["pending"] = state.pending
    (folder / FACTS).write_text(json.dumps(facts, indent=1))
    for path in [*folder.iterdir(), folder]:
        sync(path)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
