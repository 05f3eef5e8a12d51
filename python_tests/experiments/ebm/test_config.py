"""Configurations of `svgdx train ebm`: what they train with, what they log, how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

from svgdx import cli
from svgdx.experiments.ebm import train
from svgdx.experiments.ebm.config import CONFIGURATIONS, EBMConfig
from svgdx.experiments.ebm.trainer import EBMTrainer
from svgdx.experiments.metrics.calibration import SCALES
from svgdx.experiments.run import checkpoint
from svgdx.samplers import EpsilonGreedy, Heuristic, Learnt, MetropolisHastings

SMALL = ["--steps=4", "--particles=8", "--svgd-steps=3", "--attached-steps=2", "--sampler-every=2", "--hidden=16"]
SMALL += ["--eval-every=4", "--eval-samples=70", "--log-every=1", "--glow-blocks=1", "--glow-width=4", "--quiet"]
EVERY = {"noise"}
OF_ENERGY = EVERY | {"score_norm", "steps", "energy_samples", "energy_data", "energy_loss"}
OF_SVGD = OF_ENERGY | {"sigma", "sigma_median", "eps", "eps_bound", "trace", "discrepancy", "entropy", "objective"}
OF_SVGD |= {"rate", "past_bound"}
EVALUATED = {f"{name}_{scale}" for name in ("fit", "cosine") for scale in SCALES}
EVALUATED |= {"feature_distance", "pixel_distance", "data_score_norm", "data_hvp_norm"}
CLAIMED = {"claimed_entropy", "entropy_bound", "entropy_excess"}
LOGGED = dict.fromkeys(CONFIGURATIONS, OF_SVGD) | {
    "langevin": OF_ENERGY,
    "met-svgd-mh": OF_SVGD | {"mh_rejection"},
    "glow": EVERY | {"nll"},
}


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def trained(out: Path, *more: str) -> list[dict[str, Any]]:
    assert cli.main(["train", "ebm", f"--out={out}", *SMALL, *more]) == 0
    return records(out)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_trains_and_logs_its_quantities(tmp_path: Path, name: str) -> None:
    if name == "glow":
        pytest.importorskip("normflows", reason="Glow needs the packages of svgdx[flow]")
    logged = trained(tmp_path / "run", f"--config={name}")
    assert [record["step"] for record in logged] == [0, 1, 2, 3, 4]
    for record in logged[1:]:
        assert LOGGED[name] <= record.keys(), LOGGED[name] - record.keys()
    expected = {"feature_distance", "pixel_distance"} if name == "glow" else EVALUATED
    assert logged[-1].keys() >= expected | (CLAIMED if name != "langevin" else set())
    saved = checkpoint.load(sorted((tmp_path / "run" / "checkpoints").iterdir())[-1])
    assert saved.step == 4


def new_trainer(**changes: Any) -> EBMTrainer:
    config = EBMConfig.from_options({"steps": 10, "threads": 1, "particles": 8, "hidden": 16} | changes)
    trainer = train.trainer_of(config, train.load_task(config))
    assert isinstance(trainer, EBMTrainer)
    return trainer


def test_configurations_are_those_of_the_paper() -> None:
    samplers = {
        name: new_trainer(config=name).negatives.sampler  # type: ignore[attr-defined]
        for name in CONFIGURATIONS
        if name not in ("langevin", "glow")
    }
    for name, sampler in samplers.items():
        learnt = isinstance(sampler.kernel.bandwidth, Learnt), isinstance(sampler.step_size, Learnt)
        assert learnt == {"p-svgd": (False, False), "met-svgd-sigma": (True, False)}.get(name, (True, True))
        assert sampler.hessian == ("none" if name == "p-svgd" else "hutchinson")
        # Without the trace in its density, this row keeps the bound of the full Jacobian.
        assert sampler.density == ("kernel" if name == "met-svgd-no-trace" else "first-order")
        assert sampler.bound == ("none" if name in ("p-svgd", "met-svgd-no-bound") else "leaky")
        assert (sampler.stop is not None) == (name == "met-svgd-lc")
        assert name != "met-svgd-lc" or (sampler.stop.signed, sampler.stop.least) == (True, 8)
        assert isinstance(sampler.control, MetropolisHastings) == (name == "met-svgd-mh")
        assert sampler.divisor == ("M-1" if name == "p-svgd" else "M")
    heuristic = samplers["p-svgd"].kernel.bandwidth
    assert isinstance(heuristic, Heuristic)
    assert heuristic.name == "median"


def test_explicit_options_override_the_configuration() -> None:
    sampler = new_trainer(config="met-svgd-mh", control="epsilon-greedy", mh_iterations=3).negatives.sampler  # type: ignore[attr-defined]
    assert isinstance(sampler.control, EpsilonGreedy)
    assert sampler.control.iterations == 3
    config = EBMConfig.from_options({"config": "p-svgd", "step_size": 0.2, "seed": 3})
    assert config.command() == "svgdx train ebm --config p-svgd --step-size 0.2 --seed 3"
    assert config.command(without=("seed",)) == "svgdx train ebm --config p-svgd --step-size 0.2"
    assert EBMConfig.from_options({"config": "p-svgd"}).command() == "svgdx train ebm --config p-svgd"


def test_a_chain_that_stops_at_once_is_logged_as_such(tmp_path: Path) -> None:
    logged = trained(tmp_path / "run", "--config=met-svgd-lc", "--stop-threshold=1e12", "--stop-least=0")
    assert [record["steps"] for record in logged[1:]] == [0.0] * 4
    assert all("eps" not in record and "entropy" in record for record in logged[1:])


def test_langevin_chains_persist_and_resume_bit_for_bit(tmp_path: Path) -> None:
    more = ["--config=langevin", "--chains=persistent", "--buffer=100", "--checkpoint-every=2"]
    trained(tmp_path / "run", *more)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "step-00000004.safetensors")
    chains = saved.tensors["buffer/chains"]
    assert chains.shape == (100, 64)
    initial = checkpoint.load(tmp_path / "run" / "checkpoints" / "step-00000000.safetensors").tensors["buffer/chains"]
    # Each of four updates moves eight of them.
    assert 8 <= int((chains != initial).any(-1).sum()) <= 32
    middle = tmp_path / "run" / "checkpoints" / "step-00000002.safetensors"
    resumed = ["train", "ebm", f"--out={tmp_path / 'run'}", "--quiet", "--resume", f"--checkpoint={middle}"]
    assert cli.main(resumed) == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("data", ["digits", "patches"])
def test_the_convolutional_energy_trains_on_either_data(tmp_path: Path, data: str) -> None:
    more = ["--energy=conv", "--width=2", f"--data={data}", "--steps=1", "--eval-every=1", "--eval-samples=8"]
    more += ["--svgd-steps=1", "--attached-steps=1", "--sampler-every=1"]
    logged = trained(tmp_path / "run", *more)
    assert ("pixel_distance" in logged[-1]) == (data == "digits")
    assert logged[-1]["feature_distance"] > 0


@pytest.mark.parametrize(("arguments", "named"), [
    (["--config=met-svgd-hmc"], "--config"),
    (["--config=langevin", "--chains=persistent", "--buffer=60"], "--buffer"),
    (["--control=truncation"], "--control"),
    (["--stop-threshold=0.1"], "--stop signed"),
    (["--patience=2"], "--stop signed"),
    (["--temperature=0"], "--temperature"),
    (["--inception-weights=none.pth"], "--inception-weights"),
])  # fmt: skip
def test_bad_settings_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    try:
        code = cli.main(["train", "ebm", f"--out={tmp_path / 'run'}", *SMALL, *arguments])
    except SystemExit as error:  # argparse ends this way
        code = int(error.code or 0)
    assert code == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "more", [["--config=langevin", "--langevin-step=1e30"], ["--config=met-svgd", "--energy-lr=1e30"]]
)
def test_divergence_is_a_result_with_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(["train", "ebm", f"--out={out}", *SMALL, *more]) == 1
    assert "stopped: step" in capsys.readouterr().err
    last = records(out)[-1]
    assert last["step"] >= 1
    assert f"step {last['step']}: " in last["diverged"]
    last_checkpoint = checkpoint.load(sorted((out / "checkpoints").iterdir())[-1])
    assert all(bool(value.isfinite().all()) for value in last_checkpoint.tensors.values() if value.is_floating_point())
    assert (out / "samples.png").exists()
    assert (out / "curves.png").exists()
