"""`svgdx train eb-gfn` and `svgdx eval eb-gfn`: updates, the run folder, resuming to the bit, refusals, divergence."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from experiments.processes import interrupted
from experiments.small_runs import GFN, assert_same_run, checkpoints, command, records, resume
from quick import drawn

from svgdx import cli, gflownets
from svgdx.experiments.eb_gfn.base import EnergyTrainer
from svgdx.experiments.eb_gfn.config import DATASETS, IMAGES, EBGFNConfig
from svgdx.experiments.eb_gfn.tasks import load_task
from svgdx.experiments.eb_gfn.train import trainer_of
from svgdx.experiments.eb_gfn.trainer import EBGFNTrainer
from svgdx.experiments.metrics import bits
from svgdx.experiments.run import checkpoint


def new_trainer(**changes: Any) -> EnergyTrainer:
    config = EBGFNConfig.from_options({name: v for name, v in (GFN | changes).items() if v is not None})
    return trainer_of(config, load_task(config))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(command("eb-gfn", out)) == 0
    return out


def test_the_run_folder_holds_the_documented_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    pictures = {f"samples-{step:08d}.png" for step in (0, 4, 8)} | {"samples.png", "curves.png"}
    assert names == {".lock", "config.yaml", "metrics.jsonl", "checkpoints", "tensorboard"} | pictures
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in finished.glob("*.png"))
    lines = records(finished)
    assert [line["step"] for line in lines] == list(range(9))
    quantities = {"policy_loss", "log_z", "k", "acceptance", "energy_data", "energy_negatives", "energy_loss"}
    assert all(quantities <= line.keys() for line in lines[1:])
    assert [line["step"] for line in lines if {"nll", "neg_log_rmse"} <= line.keys()] == [0, 4, 8]
    seconds = [line["seconds"] for line in lines]
    assert seconds[0] == 0
    assert seconds == sorted(seconds)
    assert seconds[-1] > 0


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in IMAGES[1:]])
def test_every_data_set_that_needs_no_files_starts(name: str, tmp_path: Path) -> None:
    trainer = new_trainer(data=name, side=None, sigma=None)
    before = [parameter.clone() for parameter in trainer.energy.parameters()]
    quantities = trainer.update()
    assert all(math.isfinite(value) for value in quantities.values())
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.energy.parameters(), strict=True))
    trainer.task.pictured = min(trainer.task.pictured, 100)
    with drawn():
        trainer.task.picture(tmp_path, 1, trainer.samples(trainer.task.pictured), trainer.energy)
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "db"},
        {"loss": "subtb", "backward_policy": "uniform"},
        {"loss": "vargrad", "back_ratio": 0.0},
        {"back_ratio": 1.0, "ema": 0.9, "mh": "barker"},
        {"negatives": "persistent", "chains": 9, "sweeps": 3, "k_schedule": "random", "temperature": 2.0},
        {"negatives": "scratch", "epsilon": 0.1},
        {"mh": "none", "k_schedule": "fixed", "k": 3, "matmul": "bf16"},
        {"sampler": "pcd-gibbs", "chains": 10, "energy_l1": 0.1},
        {"sampler": "pcd-gibbs", "chains": 10, "energy_l1": 0.08, "l1_scale": 0.01, "refit": 0.5},
        {"sampler": "pcd-gwg", "flips": 3, "energy_penalty": 0.1},
    ],
)
def test_variants_resume_to_the_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    uninterrupted, broken = new_trainer(**changes), new_trainer(**changes)
    for _ in range(3):
        uninterrupted.update()
        broken.update()
    again = new_trainer(**changes)
    again.restore(tmp_path, checkpoint.Checkpoint(broken.step, 0, broken.tensors(), 1.5, "eb-gfn"))
    assert again.seconds == 1.5
    for _ in range(2):
        assert uninterrupted.update() == again.update()
    one, other = uninterrupted.tensors(), again.tensors()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_refit_keeps_the_large_couplings_and_has_no_penalty() -> None:
    trainer = new_trainer(sampler="pcd-gibbs", chains=10, energy_l1=0.3, l1_scale=0.01, refit=0.5)
    weight = trainer.energy.weight
    assert isinstance(weight, torch.nn.Parameter)
    with torch.no_grad():
        weight[0, 1], weight[2, 3] = 0.5, 0.06
    penalty = trainer.task.penalty(trainer.energy, trainer.config)
    assert penalty is not None
    # Both entries of a pair; J is half of an entry of the weight alone.
    expected = 0.3 * 0.01 * 2 * (math.log1p(0.25 / 0.01) + math.log1p(0.03 / 0.01))
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)
    trainer.step = 3
    trainer.update()
    assert not trainer.refits
    assert int((weight != 0).sum()) > 2
    trainer.update()
    assert trainer.refits
    coupling = 0.5 * (weight + weight.T).detach()
    assert {(i, j) for i, j in coupling.fill_diagonal_(0).nonzero().tolist()} == {(0, 1), (1, 0)}


@pytest.mark.parametrize("negatives", ["data", "persistent"])
def test_the_energy_learns_from_data_against_accepted_moves(negatives: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = new_trainer(negatives=negatives, warmup=1)
    accept, seen = gflownets.accept, {}

    def watched_accept(proposal: gflownets.Proposal, *rest: Any) -> Any:
        seen["start"] = proposal.x
        seen["next"], accepted, probability = accept(proposal, *rest)
        return seen["next"], accepted, probability

    def watched_descent(e_data: torch.Tensor, e_negatives: torch.Tensor, quantities: dict[str, float]) -> None:
        seen["e_data"], seen["e_negatives"] = e_data, e_negatives

    monkeypatch.setattr(gflownets, "accept", watched_accept)
    monkeypatch.setattr(trainer, "descend_energy", watched_descent)
    # Couplings so large that some moves are accepted and some are rejected.
    torch.nn.init.normal_(trainer.energy.weight, std=0.3)
    start = trainer.chains
    trainer.update()
    data = trainer.task.batch(trainer.config.batch, trainer.seed(1))
    torch.testing.assert_close(seen["e_data"], trainer.energy(data))
    torch.testing.assert_close(seen["e_negatives"], trainer.energy(seen["next"]))
    torch.testing.assert_close(seen["start"], data if start is None else start)
    assert not torch.equal(seen["start"], seen["next"])
    if negatives == "persistent":
        assert torch.equal(trainer.chains, seen["next"])


def test_the_length_of_moves_follows_its_schedule() -> None:
    lengths = {}
    for schedule in ("anneal", "fixed", "random"):
        trainer = new_trainer(k_schedule=schedule, warmup=18, k=0 if schedule == "anneal" else 4)
        lengths[schedule] = []
        for trainer.step in range(1, 31):
            lengths[schedule].append(trainer._k())
    # D = 9: floor(step / 2), from 1 up to D.
    assert lengths["anneal"] == [max(1, min(9, step // 2)) for step in range(1, 31)]
    assert set(lengths["fixed"]) == {4}
    assert set(lengths["random"]) == {1, 2, 3, 4}


@pytest.mark.parametrize(("decay", "at_three_quarters"), [("none", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_learning_rates_fall_only_over_the_end(decay: str, at_three_quarters: float) -> None:
    trainer = new_trainer(lr_decay=decay, decay_share=0.5, iterations=1000)
    expected = {1: 1.0, 500: 1.0, 751: at_three_quarters, 1000: 1.0 if decay == "none" else 0.0}
    for trainer.step, factor in expected.items():
        trainer._set_rates()
        rates = [group["lr"] for adam in trainer.optimisers.values() for group in adam.param_groups]
        assert rates == pytest.approx([1e-3 * factor, 1e-3 * factor, 1.0 * factor], rel=1e-2, abs=5e-3 * factor + 2e-3)


def test_the_averaged_policy_is_the_exponential_mean() -> None:
    trainer = new_trainer(ema=0.75)
    assert isinstance(trainer, EBGFNTrainer)
    mean = trainer.policy.head.weight.detach().clone()
    for _ in range(3):
        trainer.update()
        mean = 0.75 * mean + 0.25 * trainer.policy.head.weight.detach()
    torch.testing.assert_close(trainer.averaged.head.weight, mean)


def test_training_finds_the_distribution() -> None:
    changes = {"samples": 4000, "batch": 64, "hidden": 32, "iterations": 250, "warmup": 50, "policy_lr": 5e-3}
    trainer = new_trainer(**changes, energy_lr=1e-2, lr_decay="linear", decay_share=0.5)
    assert isinstance(trainer, EBGFNTrainer)
    while trainer.step < trainer.last_step:
        trainer.update()
    states = bits.all_states(9)
    log_q = gflownets.log_likelihood(trainer.policy, states, 100, 0)
    # The error of J = 0 is 0.13.
    assert trainer.task.measure(trainer.energy)["neg_log_rmse"] > -math.log(0.04)
    log_z = bits.exact_log_z(trainer.energy, 9)
    with torch.no_grad():
        log_p = -trainer.energy(states) - log_z
    # The divergence of the uniform distribution is above 2.
    assert float((log_p.exp() * (log_p - log_q)).sum()) < 0.2
    assert trainer.log_z.value.item() == pytest.approx(log_z, abs=0.3)


LONG = {"iterations": 150, "eval_every": 150, "checkpoint_every": 7}


def run_until(out: Path, lines: int, number: signal.Signals) -> tuple[int, str]:
    return interrupted(command("eb-gfn", out, **LONG), out, lines, number, out.parent)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert cli.main(command("eb-gfn", out, **LONG)) == 0
    return out


def test_a_killed_run_resumes_to_the_same_numbers(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run_until(out, 8, signal.SIGKILL)[0] == -signal.SIGKILL
    saved = checkpoint.load(checkpoints(out)[-1], "eb-gfn").seconds
    assert resume("eb-gfn", out) == 0
    assert_same_run(out, uninterrupted, "eb-gfn")
    assert records(out)[-1]["seconds"] > saved > 0


def test_an_interrupted_run_ends_with_a_checkpoint_and_resumes(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    status, message = run_until(out, 8, signal.SIGTERM)
    assert status == 130
    assert "interrupted: saved a checkpoint at step" in message
    assert "Traceback" not in message
    saved = checkpoint.load(checkpoints(out)[-1], "eb-gfn")
    # A step whose evaluation was interrupted has no line yet.
    assert saved.step == records(out)[-1]["step"] + (saved.pending is not None)
    assert resume("eb-gfn", out) == 0
    assert_same_run(out, uninterrupted, "eb-gfn")


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.main(command("eb-gfn", out, energy_lr=1e38, checkpoint_every=1, iterations=4)) == 1
    message = capsys.readouterr().err
    assert "svgdx train eb-gfn: stopped: step " in message
    assert "the last checkpoint is kept" in message
    saved = checkpoint.load(checkpoints(out)[-1], "eb-gfn")
    assert all(bool(value.isfinite().all()) for value in saved.tensors.values())


def test_parameters_that_overflowed_are_not_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.main(command("eb-gfn", out, policy_lr=1e39, checkpoint_every=1)) == 1
    assert "step 1: policy" in capsys.readouterr().err
    assert checkpoints(out)[-1].name == "step-00000000.safetensors"


REFUSED = {
    "unknown data set": (["--data=faces"], "--data"),
    "unknown sampler": (["--sampler=hmc"], "--sampler"),
    "no iterations": (["--iterations=0", "--warmup=1"], "--iterations"),
    "one example": (["--batch=1"], "--batch"),
    "rate of zero": (["--policy-lr=0"], "--policy-lr"),
    "rate is nan": (["--energy-lr=nan"], "--energy-lr"),
    "ratio above one": (["--back-ratio=1.5"], "--back-ratio"),
    "negative epsilon": (["--epsilon=-0.1"], "--epsilon"),
    "temperature of zero": (["--temperature=0"], "--temperature"),
    "mean that never moves": (["--ema=1"], "--ema"),
    "grid too small": (["--side=2"], "--side"),
    "k of an annealed run": (["--k=3"], "--k:"),
    "mnist without a folder": (["--data=mnist"], "--data-root"),
    "missing data folder": (["--data=omniglot", "--data-root=no/such/folder"], "no/such/folder"),
    "folder for digits": (["--data=digits", "--data-root=."], "--data-root"),
    "checkpoint without resume": (["--checkpoint=x"], "--checkpoint"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    extra, named = REFUSED[case]
    out = tmp_path / "run"
    try:
        code = cli.main([*command("eb-gfn", out), *extra])
    except SystemExit as error:  # argparse ends this way
        code = int(error.code or 0)
    assert code == 2
    assert named in capsys.readouterr().err
    assert not out.exists()


def test_a_run_of_another_experiment_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "ebm", "--out", str(finished), "--resume"]) == 2
    assert str(finished / "config.yaml") in capsys.readouterr().err


def test_help_tells_the_defaults_of_each_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "eb-gfn", "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in (*GFN, "resume", "out"):
        assert f"--{name.replace('_', '-')}" in text
    assert "(default: 128; 125 for pinwheel;" in text


def test_defaults_depend_on_the_data_set_and_the_command_tells_what_was_given() -> None:
    config = EBGFNConfig.from_options({"data": "pinwheel", "iterations": 7, "mh": "barker"})
    assert (config.batch, config.warmup) == (125, 7)
    assert config.command() == "svgdx train eb-gfn --data pinwheel --mh barker --iterations 7"
    assert EBGFNConfig.from_options({"data": "pinwheel", "batch": 5}).batch == 5


@pytest.mark.parametrize("sampler", ["eb-gfn", "pcd-gibbs"])
def test_eval_prints_what_enumeration_gives(sampler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.main(command("eb-gfn", out, sampler=sampler, iterations=30, energy_lr=2e-3, eval_every=30)) == 0
    capsys.readouterr()
    settings = ["--points=50", "--mmd-samples=50", "--ais-temperatures=100", "--ais-chains=200", "--z-samples=5000"]
    assert cli.main(["eval", "eb-gfn", str(out), *settings]) == 0
    printed = capsys.readouterr().out
    content = json.loads((out / "evaluation.json").read_text())
    figures = {figure["name"]: figure for figure in content["figures"]}
    for text in ("ising", sampler, "30 iterations", "squared MMD", "-log RMSE of J", "temperatures 100", "chains 200"):
        assert text in printed
    config = EBGFNConfig.from_yaml(out / "config.yaml")
    trainer = trainer_of(config, load_task(config))
    trainer.restore(checkpoints(out)[-1], checkpoint.load(checkpoints(out)[-1], "eb-gfn"))
    points = trainer.task.held_out(50, 0)
    log_z = bits.Estimate(bits.exact_log_z(trainer.energy, 9), 0.0)
    exact = bits.energy_nll(trainer.energy, points, log_z).value
    assert figures["energy_nll_ais"]["value"] == pytest.approx(exact, abs=0.05)
    assert figures["energy_nll_ais"]["settings"]["points"] == 50
    if sampler == "eb-gfn":
        assert figures["energy_nll"]["value"] == pytest.approx(exact, abs=0.05)
        assert 1000 < figures["energy_nll"]["settings"]["effective"] < 5000
        likelihood = gflownets.log_likelihood(trainer.policy, points, 200, 7)
        assert figures["gflownet_nll"]["value"] == pytest.approx(-float(likelihood.mean()), abs=0.1)
        assert "J 20" in printed
    else:
        assert "gflownet_nll" not in figures


def test_eval_refuses_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "eb-gfn", str(tmp_path)]) == 2
    assert "config.yaml" in capsys.readouterr().err
