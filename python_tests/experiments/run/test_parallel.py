"""Data-parallel training: one run folder, equal parameters, other numbers of ranks, missing and killed ranks."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import forkserver
import pytest
import torch
import torch.distributed as dist

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from distributed.pool import WORLD, Pool
from quick import quick

from svgdx import cli
from svgdx.experiments.ebm.trainer import EBMTrainer
from svgdx.experiments.run import checkpoint, loop, parallel
from svgdx.experiments.run.loop import stream_seed
from svgdx.experiments.run.parallel import check_finite

EBM: dict[str, Any] = {
    "steps": 6, "particles": 8, "svgd-steps": 3, "attached-steps": 2, "sampler-every": 2, "hidden": 8,
    "eval-every": 6, "eval-samples": 40, "checkpoint-every": 3, "log-every": 1, "threads": 1,
}  # fmt: skip
LANGEVIN = EBM | {"config": "langevin", "chains": "persistent", "buffer": 50, "restart": 0.1}
GFN: dict[str, Any] = {
    "data": "ising", "side": 3, "sigma": 0.2, "samples": 100, "iterations": 6, "batch": 6, "hidden": 8, "depth": 2,
    "energy-hidden": 8, "energy-depth": 2, "eval-every": 6, "eval-points": 10, "eval-paths": 2, "final-points": 0,
    "checkpoint-every": 3, "log-every": 1, "lr-decay": "none", "negatives": "persistent", "chains": 5,
}  # fmt: skip
PCD = {name: value for name, value in GFN.items() if name != "negatives"} | {"sampler": "pcd-gibbs"}
RUNS = {"ebm": ("ebm", EBM), "langevin": ("ebm", LANGEVIN), "eb-gfn": ("eb-gfn", GFN), "pcd": ("eb-gfn", PCD)}


def command(name: str, out: Path, **changes: object) -> list[str]:
    model, settings = RUNS[name]
    settings = settings | {key.replace("_", "-"): value for key, value in changes.items()}
    return ["train", model, "--out", str(out), "--quiet", *(f"--{key}={value}" for key, value in settings.items())]


def run_command(arguments: list[str]) -> int:
    """The exit code of a command on one rank, with quick metrics."""
    with quick():
        return cli.main(arguments)


def train(group: dist.ProcessGroup, arguments: list[str]) -> tuple[int, dict[str, torch.Tensor]]:
    """The exit code of a command, and this rank's parameters at the end of its training."""
    parameters: dict[str, torch.Tensor] = {}

    def run(trainer: Any, *arguments: Any) -> bool:
        finished = original(trainer, *arguments)
        for key, module in trainer.modules.items():
            if key != "buffer":
                parameters.update({f"{key}/{name}": value.detach() for name, value in module.named_parameters()})
        return finished

    original, loop.run = loop.run, run
    try:
        return run_command(arguments), parameters
    finally:
        loop.run = original


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("*.safetensors"))[-1]


def records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_run(one: Path, other: Path, experiment: str) -> None:
    assert records(one) == records(other)
    assert newest(one).name == newest(other).name
    first, second = (checkpoint.load(newest(run), experiment).tensors for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["ebm", "eb-gfn"])
def test_ranks_train_one_model_into_one_folder(pool: Pool, name: str, tmp_path: Path) -> None:
    model, out = RUNS[name][0], tmp_path / "run"
    ranks = pool.call(WORLD, train, command(name, out))
    assert [code for code, _ in ranks] == [0] * WORLD
    for key, value in ranks[0][1].items():
        # Without a learnt log Z each rank measures its own.
        assert all(torch.equal(value, parameters[key]) for _, parameters in ranks[1:]) or key == "log_z/value"
    assert cli.main(command(name, tmp_path / "one")) == 0
    alone, together = records(tmp_path / "one"), records(out)
    assert [record["step"] for record in together] == list(range(7))
    assert [set(record) for record in together] == [set(record) for record in alone]
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    # In the first update rank 0 draws what a run without other ranks draws, and the others draw something else.
    assert together[1] != alone[1]
    state, state_of_one = (checkpoint.load(newest(run), model).tensors for run in (out, tmp_path / "one"))
    for key in set(state) & {"chains", "buffer/chains"}:
        assert len(state[key]) == WORLD * len(state_of_one[key])
        assert len(state[key].chunk(WORLD)) == WORLD
        assert not torch.equal(state[key].chunk(WORLD)[0], state[key].chunk(WORLD)[1])


@pytest.mark.parametrize("name", RUNS)
def test_checkpoints_load_with_another_number_of_ranks(pool: Pool, name: str, tmp_path: Path) -> None:
    model = RUNS[name][0]
    steps = {"ebm": "steps", "eb-gfn": "iterations"}[model]
    resumed = ["train", model, "--quiet", "--resume", "--out"]
    for way, (first, second) in {"fewer": (pool, None), "more": (None, pool)}.items():
        out = tmp_path / way
        for ranks, arguments in ((first, command(name, out)), (second, [*resumed, str(out)])):
            if ranks is second:
                # The other ranks repeat the second half of the run.
                newest(out).unlink()
            code = cli.main(arguments) if ranks is None else pool.call(WORLD, train, arguments)[1][0]
            assert code == 0
        assert [record["step"] for record in records(out)] == list(range(RUNS[name][1][steps] + 1))


def test_a_resumed_run_of_several_ranks_ends_with_the_same_numbers(pool: Pool, tmp_path: Path) -> None:
    for name in ("langevin", "eb-gfn"):
        whole, broken = tmp_path / f"{name}-whole", tmp_path / f"{name}-broken"
        for out in (whole, broken):
            pool.call(WORLD, train, command(name, out))
        newest(broken).unlink()
        pool.call(WORLD, train, ["train", RUNS[name][0], "--quiet", "--resume", "--out", str(broken)])
        assert_same_run(whole, broken, RUNS[name][0])


def interrupted(group: dist.ProcessGroup, arguments: list[str]) -> int:
    """Sends SIGTERM to rank 0 in its second evaluation, while the other ranks wait for it."""
    original, calls = EBMTrainer.samples, []

    def samples(self: Any, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    EBMTrainer.samples = samples
    try:
        return run_command(arguments)
    finally:
        EBMTrainer.samples = original


def test_a_signal_in_an_evaluation_ends_every_rank(pool: Pool, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    pool.call(WORLD, train, command("langevin", whole, eval_every=3))
    assert pool.call(WORLD, interrupted, command("langevin", run, eval_every=3)) == [130] * WORLD
    assert records(run)[-1]["step"] == 2
    assert checkpoint.load(newest(run)).step == 3
    pool.call(WORLD, train, ["train", "ebm", "--quiet", "--resume", "--out", str(run)])
    assert_same_run(whole, run, "ebm")


def refused(group: dist.ProcessGroup, arguments: list[str]) -> int:
    return run_command(arguments)


def test_a_refused_run_ends_on_every_rank(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert pool.call(WORLD, refused, command("eb-gfn", tmp_path)) == [2] * WORLD
    assert pool.call(WORLD, refused, command("ebm", tmp_path / "run", energy_lr=1e30)) == [1] * WORLD
    assert "diverged" in records(tmp_path / "run")[-1]


def one_diverges(group: dist.ProcessGroup) -> str:
    value = float("nan") if parallel.rank() == 2 else 1.0
    try:
        check_finite(5, {"loss": value})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def test_a_divergence_on_one_rank_stops_all_and_names_it(pool: Pool) -> None:
    assert set(pool.call(WORLD, one_diverges)) == {"DivergedError: rank 2: step 5: loss is nan"}


def seeds(group: dist.ProcessGroup) -> tuple[int, int]:
    return stream_seed(1, 2, 3), stream_seed(1, 2, 3, shared=True)


def test_each_rank_has_its_own_seeds(pool: Pool) -> None:
    of_ranks = pool.call(WORLD, seeds)
    assert len({own for own, _ in of_ranks}) == WORLD
    assert {shared for _, shared in of_ranks} == {stream_seed(1, 2, 3)}
    assert of_ranks[0][0] == stream_seed(1, 2, 3)


def test_ranks_that_never_meet_under_torchrun_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    begin = time.monotonic()
    assert cli.main(["train", "eb-gfn", "--out", str(tmp_path / "run"), "--timeout", "2"]) == 2
    assert time.monotonic() - begin < 60
    assert "rank 0 of 2: not all ranks joined within 2 s" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def torchrun(arguments: list[str], folder: Path, *options: str) -> forkserver.Process:
    # The folder is outside the repo, so that the installed package runs and not the source tree.
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", *options]
    with open(folder / "torchrun.log", "ab") as log:
        return forkserver.start([*launch, "-m", "svgdx", *arguments], folder, log, log)


def worker(process: forkserver.Process, rank: int) -> int:
    """The process id of a rank."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no rank {rank}")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes of torchrun in /proc")
def test_a_killed_rank_is_restarted_and_the_run_ends_with_the_same_numbers(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"iterations": 30, "eval_every": 15, "checkpoint_every": 5}
    folders = {name: tmp_path / name for name in ("whole", "killed")}
    for folder in folders.values():
        folder.mkdir()
    runs = {
        name: torchrun(command("eb-gfn", folder / "run", **settings), folder, "--max-restarts=1")
        for name, folder in folders.items()
    }
    try:
        metrics = folders["killed"] / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 12):
            assert runs["killed"].poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(worker(runs["killed"], 1), signal.SIGKILL)
        for name, process in runs.items():
            assert process.wait(300) == 0, (folders[name] / "torchrun.log").read_text()
    finally:
        for process in runs.values():
            process.send_signal(signal.SIGTERM)  # torchrun stops its ranks
            process.wait(60)
    assert "resuming at step" in (folders["killed"] / "torchrun.log").read_text()
    assert "resuming at step" not in (folders["whole"] / "torchrun.log").read_text()
    assert_same_run(folders["whole"] / "run", folders["killed"] / "run", "eb-gfn")
