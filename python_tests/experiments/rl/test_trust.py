"""What a run's signed manifest does not vouch for is refused before anything is unpickled or imported."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")
pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from svgdx import cli

SMALL = {
    "env": "svgdx/Multigoal-v0", "algo": "sac", "steps": 40, "hidden": 8, "update-every": 20, "updates": 1,
    "update-after": 20, "batch": 16, "random-steps": 30, "eval-every": 40, "eval-episodes": 2, "log-every": 40,
    "checkpoint-every": 20, "buffer": 90,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "runs"
    assert cli.main(["train", "rl", f"--out={out}", "--quiet", *(f"--{k}={v}" for k, v in SMALL.items())]) == 0
    return out


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished runs, which may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


class Intruder:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (exec, (f"open({str(self.marker)!r}, 'w').close()",))


def plant(checkpoint: Path, marker: Path) -> None:
    """Puts an intruder into both pickles of a checkpoint and makes its checksums fit again."""
    (checkpoint / "environment.pkl").write_bytes(pickle.dumps(Intruder(marker)))
    with zipfile.ZipFile(checkpoint / "model.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    intruder = {":type:": "", ":serialized:": base64.b64encode(pickle.dumps(Intruder(marker))).decode()}
    files["data"] = json.dumps(json.loads(files["data"]) | {"intruder": intruder}).encode()
    with zipfile.ZipFile(checkpoint / "model.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    facts = json.loads((checkpoint / "checkpoint.json").read_text())
    for name in facts["sha256"]:
        facts["sha256"][name] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    (checkpoint / "checkpoint.json").write_text(json.dumps(facts, indent=1))


def resume(runs: Path, *more: str) -> int:
    return cli.main(["train", "rl", f"--out={runs}", "--quiet", "--resume", "--steps=60", *more])


def evaluate(runs: Path, *more: str) -> int:
    return cli.main(["eval", "rl", str(runs / "seed-0"), "--episodes=2", *more])


@pytest.mark.parametrize("command", [resume, evaluate])
def test_a_changed_checkpoint_is_refused_before_it_is_unpickled(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: object
) -> None:
    checkpoint, marker = runs / "seed-0" / "checkpoints" / "step-00000040", tmp_path / "executed"
    plant(checkpoint, marker)
    before = sorted(path.relative_to(runs) for path in runs.rglob("*"))
    assert command(runs) == 2
    message = capsys.readouterr().err
    assert f"{checkpoint}: the checkpoint is not listed in {runs / 'seed-0' / 'manifest.json'}" in message
    assert "pass --trust" in message
    assert not marker.exists()
    assert sorted(path.relative_to(runs) for path in runs.rglob("*")) == before
    # The checkpoint before it is still the run's own.
    assert command(runs, f"--checkpoint={checkpoint.with_name('step-00000020')}") == 0
    assert not marker.exists()


def test_trust_loads_it(runs: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    plant(runs / "seed-0" / "checkpoints" / "step-00000040", marker)
    assert evaluate(runs, "--trust") == 0
    assert marker.exists()


def test_a_run_of_another_user_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = Path(os.environ["XDG_CONFIG_HOME"]) / "svgdx" / "key"
    assert (len(key.read_bytes()), key.stat().st_mode & 0o777) == (32, 0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert (resume(runs), evaluate(runs)) == (2, 2)
    message = capsys.readouterr().err
    assert f"{runs / 'seed-0' / 'manifest.json'} is not signed with your key, {tmp_path / 'other'}" in message
    # Without a key, nothing is signed, and an empty signature vouches for nothing.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(runs / "seed-0" / "config.yaml"))
    manifest = runs / "seed-0" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"signature": ""}))
    assert evaluate(runs) == 2
    assert evaluate(runs, "--trust") == 0


def test_an_environment_of_another_user_is_not_imported(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "intruding.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = runs / "seed-0" / "config.yaml"
    config.write_text(
        config.read_text().replace("env: svgdx/", "env: intruding:svgdx/").replace("goals: four", "goals: null")
    )
    assert (resume(runs), evaluate(runs)) == (2, 2)
    assert f"{config}: env intruding:svgdx/Multigoal-v0 imports a module" in capsys.readouterr().err
    assert not (tmp_path / "imported").exists()
    assert evaluate(runs, "--trust") == 0
    assert (tmp_path / "imported").exists()


@pytest.mark.parametrize("content", [None, "not JSON"])
def test_without_a_manifest_a_checkpoint_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    manifest = runs / "seed-0" / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    assert (resume(runs), evaluate(runs)) == (2, 2)
    message = capsys.readouterr().err
    assert (f"cannot be verified without {manifest}" if content is None else f"{manifest} cannot be read") in message
    # A run that is trusted once writes a manifest of its own.
    assert resume(runs, "--trust") == 0
    assert evaluate(runs) == 0


def test_a_checkpoint_of_another_run_is_refused(runs: Path, finished: Path, tmp_path: Path) -> None:
    """Its own folder would accept it: the manifest that counts is that of the run that loads it."""
    other = tmp_path / "other"
    arguments = ["train", "rl", f"--out={other}", "--quiet", "--seeds=1", *(f"--{k}={v}" for k, v in SMALL.items())]
    assert cli.main(arguments) == 0
    foreign = f"--checkpoint={other / 'seed-1' / 'checkpoints' / 'step-00000040'}"
    assert evaluate(runs, foreign) == 2
    # The metrics of this run say nothing about the other's checkpoint: only a run that continues needs them.
    (runs / "seed-0" / "metrics.jsonl").write_text("")
    assert evaluate(runs, foreign, "--trust") == 0
    assert resume(runs) == 2


def test_checkpoints_of_an_earlier_version_are_refused_by_their_format(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for checkpoint in (runs / "seed-0" / "checkpoints").iterdir():
        # As they were: generators and environment as a pickle, which is not opened.
        (checkpoint / "state.safetensors").rename(checkpoint / "state.pt")
        facts = json.loads((checkpoint / "checkpoint.json").read_text()) | {"format": "svgdx-rl-1"}
        (checkpoint / "checkpoint.json").write_text(json.dumps(facts))
    assert (resume(runs), evaluate(runs), evaluate(runs, "--trust")) == (2, 2, 2)
    message = capsys.readouterr().err
    assert (
        message.count("has the format svgdx-rl-1 of another version of svgdx, but this version reads svgdx-rl-2") == 3
    )
    assert "continue the run with the version that wrote it, or start a new run" in message
    assert "--checkpoint" not in message


def test_a_pipe_among_the_files_of_a_checkpoint_is_not_opened(runs: Path) -> None:
    (model,) = (runs / "seed-0" / "checkpoints").glob("*40/model.zip")
    model.unlink()
    os.mkfifo(model)
    assert evaluate(runs, "--trust") == 2


def test_trust_without_resume_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "rl", f"--out={tmp_path / 'runs'}", "--trust"]) == 2
    assert "--trust: only with --resume" in capsys.readouterr().err
