"""Checkpoints of reinforcement learning: folders, complete or absent, whose damage is noticed when they are read."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv

from svgdx.experiments.rl import environment as rl_environment
from svgdx.experiments.run.checkpoint import (
    Checkpoint,
    require_format,
    sync,
    temporary_beside,
    write_atomically,
)
from svgdx.experiments.run.compute import generators
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder

FORMAT, MANIFEST_FORMAT = "svgdx-rl-2", "svgdx-rl-manifest-2"
MODEL, BUFFER, STATE, FACTS = "model.zip", "replay_buffer.npz", "state.safetensors", "checkpoint.json"
# Absent if the state of the environment cannot be saved.
ENVIRONMENT = "environment.pkl"
_FILES = (MODEL, BUFFER, STATE, ENVIRONMENT)
_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass
class RLCheckpoint(Checkpoint):
    """The state of a run of `svgdx train rl`.

    On the disk it is a folder: `model.zip` as Stable-Baselines3 saves it, the filled part of the replay buffer, the
    state of all generators as safetensors and JSON, and that of the environment as a pickle.

    Attributes:
        path: the folder, of a checkpoint that was read.
        model: the algorithm, of a checkpoint to be written.
        environment: what `svgdx.experiments.rl.environment.restore` puts back, a pickle; None if it cannot be saved, so
            that a resumed run begins a new episode.
        generators: the numbers of the random generators' states that `tensors` does not hold.
    """

    path: Path = Path()
    model: Any = None
    environment: bytes | None = None
    generators: dict[str, Any] | None = None

    @classmethod
    def of(cls, model: Any, env: VecEnv, seconds: float) -> RLCheckpoint:
        """The present state of an algorithm, its environment and the generators."""
        name, keys, *numbers = np.random.get_state()  # noqa: NPY002
        assert name == "MT19937"
        states = generators.states(model.device) | {"numpy": torch.from_numpy(np.asarray(keys, np.int64))}
        tensors = (
            model.policy.state_dict()
            | rl_environment.statistics(env)
            | {f"generators/{name}": value for name, value in states.items()}
        )
        state = cls(model.num_timesteps, 0, tensors, seconds)
        state.model, state.environment = model, rl_environment.snapshot(env)
        state.generators = {"numpy": numbers, "action_space": model.action_space.np_random.bit_generator.state}
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
        states = {name.removeprefix("generators/"): value for name, value in self.tensors.items()}
        generators.restore(states, model.device)
        # Stable-Baselines3 draws batches from NumPy's global generator.
        keys = self.tensors["generators/numpy"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", keys, *self.generators["numpy"]))  # noqa: NPY002
        model.action_space.np_random.bit_generator.state = self.generators["action_space"]


class RLFolder(RunFolder):
    """The folder of one seed's run. Its checkpoints are folders, too.

    Loading one unpickles `model.zip` and the state of the environment, which can execute anything. The run folder's
    manifest.json lists the checkpoints that the run wrote, by the digest of their checkpoint.json, which in turn has
    those of the other files, and is signed with a key of this user. Any other checkpoint, and an environment whose name
    imports a module, is refused unless `trusted`.

    Attributes:
        trusted: whether to accept what the manifest does not vouch for.
        env: the environment that a new manifest vouches for.
    """

    suffix = ""

    def __init__(self, path: Path, experiment: str = "rl") -> None:
        super().__init__(path, experiment)
        self.manifest = path / "manifest.json"
        self.trusted, self.env = False, ""

    def _write(self, path: Path, state: Any) -> None:
        temporary = temporary_beside(path)
        temporary.mkdir()
        try:
            _write_files(temporary, state)
            # Listed before it is there: a kill in between must not leave a checkpoint that is refused.
            self._list(_digest(temporary / FACTS), path.name)
            if path.exists():
                shutil.rmtree(path)
            os.rename(temporary, path)
            sync(self.checkpoints)
        except BaseException:
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
            require_format(path, facts["format"], FORMAT)
            numbers = int(facts["step"]), int(facts["metrics_bytes"])
            seconds, generators = float(facts["seconds"]), facts["generators"]
            # Reading a pipe would wait for a writer for ever.
            present = {entry.name for entry in path.iterdir() if entry.is_file()} - {FACTS}
            if present != set(facts["sha256"]) or not {MODEL, BUFFER, STATE} <= present <= {*_FILES}:
                raise UsageError(f"{path}: corrupt checkpoint: its files are {', '.join(sorted(present))}")
            for name in present:
                if _digest(path / name) != facts["sha256"][name]:
                    raise UsageError(
                        f"{path}: corrupt checkpoint: {name} does not match the checksum it was saved with"
                    )
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise UsageError(f"{path}: corrupt checkpoint: {reason}") from error
        if not self.trusted:
            self._require_listed(path)
        try:
            tensors = safetensors.torch.load_file(path / STATE)
        except safetensors.SafetensorError as error:
            raise UsageError(f"{path}: corrupt checkpoint: {error}") from error
        snapshot = path / ENVIRONMENT
        return RLCheckpoint(
            *numbers,
            tensors,
            seconds,
            "rl",
            facts.get("pending"),
            path=path,
            environment=snapshot.read_bytes() if ENVIRONMENT in facts["sha256"] else None,
            generators=generators,
        )

    def start(self, env: str) -> None:
        """Begins the manifest of a new run in an environment. Raises UsageError if it cannot be written."""
        self.env = env
        try:
            self._write_manifest({})
        except OSError as error:
            raise UsageError(f"{self.manifest} cannot be written: {error}") from error

    def check_environment(self, env: str) -> None:
        """Takes the environment of config.yaml over into later manifests.

        Raises:
            UsageError: its name imports a module, and the manifest does not vouch for it.
        """
        self.env = env
        if ":" in env and not self.trusted and (not self.manifest.exists() or self._signed().get("env") != env):
            raise UsageError(
                f"{self.config}: env {env} imports a module, and {self.manifest} does not show that you started this "
                "run with it; pass --trust if you trust where the folder comes from"
            )

    def _signed(self) -> dict[str, Any]:
        """The manifest. Raises UsageError if it cannot be read or was not signed by this user."""
        try:
            content: dict[str, Any] = json.loads(self.manifest.read_text())
            signature = content.pop("signature")
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise UsageError(f"{self.manifest} cannot be read: {error}") from error
        expected = signature_of(content)
        if not expected or not hmac.compare_digest(str(signature), expected):
            raise UsageError(
                f"{self.manifest} is not signed with your key, {key_path()}, so this run may be somebody else's. "
                "Loading it executes code that it contains; pass --trust if you trust where it comes from"
            )
        return content

    def _list(self, digest: str, name: str) -> None:
        names: dict[str, str] = {}
        # A manifest that cannot be read got here by --trust; it is replaced.
        with contextlib.suppress(UsageError):
            names = self._signed()["checkpoints"]
        self._write_manifest(names | {digest: name})

    def _write_manifest(self, names: dict[str, str]) -> None:
        content = {"format": MANIFEST_FORMAT, "env": self.env, "checkpoints": names}
        signed = content | {"signature": signature_of(content)}
        write_atomically(self.manifest, (json.dumps(signed, indent=1) + "\n").encode())

    def _require_listed(self, path: Path) -> None:
        exists = self.manifest.exists()
        if not exists or _digest(path / FACTS) not in self._signed().get("checkpoints", {}):
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
    present = {name: value for name, value in state.tensors.items() if name.startswith(("generators/", "normalize/"))}
    safetensors.torch.save_file(present, folder / STATE)
    files = [MODEL, BUFFER, STATE]
    if state.environment is not None:
        files.append(ENVIRONMENT)
        (folder / ENVIRONMENT).write_bytes(state.environment)
    facts = {
        "format": FORMAT,
        "step": state.step,
        "metrics_bytes": state.metrics_bytes,
        "seconds": state.seconds,
        "generators": state.generators,
        "sha256": {name: _digest(folder / name) for name in files},
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


def key_path() -> Path:
    """The file with the key that signs this user's manifests."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "svgdx" / "key"


def signature_of(content: dict[str, Any]) -> str:
    """The signature of a manifest with this user's key, which is made if there is none; "" if that is not possible."""
    try:
        return hmac.new(_key(), json.dumps(content, sort_keys=True).encode(), "sha256").hexdigest()
    except (OSError, RuntimeError) as error:
        print(
            f"warning: there is no key to sign the run with, so it can only be resumed with --trust: {error}",
            file=sys.stderr,
        )
        return ""


def _key() -> bytes:
    path = key_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = temporary_beside(path)
        number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(number, "wb") as file:
                file.write(secrets.token_bytes(32))
            # Another process may have been faster: its key counts.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink()
    key = path.read_bytes()
    if len(key) < 32:
        raise OSError(f"{path} is no key: it has {len(key)} bytes")
    return key
