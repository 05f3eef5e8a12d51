"""Commands that settings print: each one, parsed as a shell and argparse would, gives the same settings again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="the settings need the packages of svgdx[train]")

from svgdx import cli
from svgdx.experiments.eb_gfn.config import DATA_DEFAULTS, EBGFNConfig
from svgdx.experiments.ebm.config import CONFIGURATIONS, EBMConfig
from svgdx.experiments.rl.config import MULTIGOAL, RLConfig
from svgdx.experiments.run.errors import UsageError
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.settings import Settings, chosen_options
from svgdx.experiments.toys.config import TARGET_DEFAULTS, SampleConfig

CASES: list[tuple[type[Settings], dict[str, Any]]] = [
    *((EBMConfig, {"config": name}) for name in CONFIGURATIONS),
    (EBMConfig, {"data": "cifar10", "data_root": "my data/$HOME", "seed": -3, "energy_lr": 1e-5}),
    (EBMConfig, {"data": "mnist", "data_root": "-data"}),
    (EBMConfig, {"config": "p-svgd", "bandwidth": "learnt", "hessian": "hutchinson"}),
    *((EBGFNConfig, {"data": name, "data_root": "data"}) for name in ("mnist", "mnist14", "omniglot", "silhouettes")),
    *((EBGFNConfig, {"data": name}) for name in ("2spirals", "pinwheel", "ising", "digits")),
    (EBGFNConfig, {"data": "digits", "iterations": 5000}),
    (EBGFNConfig, {"data": "digits", "iterations": 700}),
    (EBGFNConfig, {"data": "digits", "iterations": 700, "warmup": 1000}),
    (EBGFNConfig, {"data": "ising", "sigma": -1e-5, "mh": "barker", "seed": -1}),
    *((SampleConfig, {"target": name}) for name in TARGET_DEFAULTS),
    (SampleConfig, {"target": "gaussian", "preset": "p-svgd", "sigma": 2.0, "decay_from": 3}),
    (SampleConfig, {"target": "mixture-4-2d", "preset": "svgd", "seed": 5}),
    (RLConfig, {"algo": "sac", "alpha_rule": "tuned", "target_entropy": -2.5}),
    (RLConfig, {"env": MULTIGOAL, "algo": "sac-nf", "goals": "three"}),
    (RLConfig, {"env": "Pendulum-v1", "preset": "p-svgd", "steps": 20_000}),
]


def parsed(text: str) -> Settings:
    """What `svgdx` makes of a printed command."""
    words = shlex.split(text)
    assert words[0] == "svgdx"
    command = cli.command_of(words[1:])
    assert command is not None
    assert command.settings is not None
    options = command.parser().parse_args([*words[1 + len(command.name.split()) :], "--out", "run"])
    cls = {"EBMConfig": EBMConfig, "EBGFNConfig": EBGFNConfig, "SampleConfig": SampleConfig, "RLConfig": RLConfig}
    kind = cls[command.settings.partition(":")[2]]
    return kind.from_options(chosen_options(options, kind))


@pytest.mark.parametrize(("cls", "options"), CASES)
def test_a_printed_command_gives_the_same_settings(cls: type[Settings], options: dict[str, Any]) -> None:
    config = cls.from_options(options)
    assert parsed(config.command()) == config


def test_a_printed_command_holds_only_what_differs_from_the_defaults() -> None:
    for data in DATA_DEFAULTS.keys() & {"pinwheel", "ising", "digits"}:
        assert EBGFNConfig.from_options({"data": data}).command() == f"svgdx train eb-gfn --data {data}"
    config = EBGFNConfig.from_options({"data": "digits", "iterations": 700})
    assert config.command() == "svgdx train eb-gfn --data digits --iterations 700"
    config = SampleConfig.from_options({"target": "gaussian", "preset": "p-svgd"})  # type: ignore[assignment]
    assert config.command() == "svgdx sample gaussian --preset p-svgd"


def test_options_that_are_left_out_take_their_defaults() -> None:
    config = EBMConfig.from_options({"seed": 7, "threads": 3, "steps": 5})
    assert config.command(without=("seed", "threads")) == "svgdx train ebm --config met-svgd --steps 5"


def test_help_names_the_defaults_of_variants() -> None:
    assert (
        EBGFNConfig.defaults_text("energy_activation") == "elu; silu for digits, mnist, mnist14, omniglot, silhouettes"
    )
    assert EBMConfig.defaults_text("hessian") == "hutchinson; none for p-svgd"
    assert EBMConfig.defaults_text("step") == "learnt; fixed for p-svgd, met-svgd-sigma"
    assert EBMConfig.defaults_text("data_root") == ""
    assert RLConfig.defaults_text("goals") == f"four for {MULTIGOAL}"


def test_a_path_in_another_encoding_is_kept(tmp_path: Path) -> None:
    """Under a POSIX locale Python reads a letter that is not ASCII as lone surrogates."""
    config = EBMConfig(data="mnist", data_root=os.fsdecode(b"data-\xff\xc3"))
    folder = RunFolder.create(tmp_path / "run", config.to_yaml())
    assert EBMConfig.from_yaml(folder.config) == config


@pytest.mark.parametrize("text", ["[" * 100_000, "a: \x00", "\xe9", "3", ""])
def test_a_config_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=f"^{path}: "):
        EBMConfig.from_yaml(path)
