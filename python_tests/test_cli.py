"""`svgdx`: the list of commands, their help, and what it costs to ask for it."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import forkserver
import pytest

from svgdx import cli
from svgdx.experiments.run.settings import Command, resolve

OPTIONAL = ("yaml", "sklearn", "skimage", "matplotlib", "tensorboard", "safetensors", "gymnasium", "mujoco")


def commands() -> dict[str, Command]:
    return {name: resolve(target) for name, target in cli.COMMANDS.items()}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that argparse ends."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    output = capsys.readouterr()
    return int(end.value.code or 0), output.out, output.err


def test_the_table_names_each_command_as_it_is_called() -> None:
    assert {name: command.name for name, command in commands().items()} == {name: name for name in cli.COMMANDS}


def test_help_lists_every_command_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    listed = "\n".join(printed(capsys, *words, "--help")[1] for words in ([], ["train"], ["eval"]))
    for command in commands().values():
        assert f" {command.name.split()[-1]} " in listed
        assert command.summary in listed
    assert " doctor " in listed


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["eval", "--help"]])
def test_lists_need_no_optional_package_and_no_experiment(arguments: list[str], tmp_path: Path) -> None:
    """Not even where none of them is installed."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))
from svgdx import cli
try:
    cli.main({arguments!r})
finally:
    rooms = [name for name in sys.modules if name.startswith("svgdx.experiments.") and name.count(".") > 2]
    print("imported", sorted(rooms))
"""
    result = forkserver.run(["-c", program], tmp_path)
    assert result.returncode == 0, result.stderr
    expected = [f"svgdx.experiments.run.{name}" for name in ("compute", "compute.device", "errors", "settings")]
    assert result.stdout.splitlines()[-1] == f"imported {expected}"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_fits_the_terminal(
    name: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="the settings need the packages of svgdx[train]")
    monkeypatch.setenv("COLUMNS", str(columns))
    code, text, _ = printed(capsys, *name.split(), "--help")
    assert code == 0
    assert max(map(len, text.splitlines())) <= columns
    assert text.startswith(f"usage: svgdx {name} ")
    assert "PATH" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["train"], "required: MODEL"),
        (["tain", "ebm"], "invalid choice: 'tain'"),
        (["train", "ebn"], "invalid choice: 'ebn'"),
        (["--", "train", "ebm"], "svgdx: error: "),
    ],
)
def test_unknown_commands_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = printed(capsys, *arguments)
    assert code == 2
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "ebm", "--threads=100000"], "--threads: must be at most 1024, but is 100000"),
        (["train", "ebm", "--timeout=nan"], "argument --timeout: must be a positive number of seconds"),
        (
            ["train", "eb-gfn", "--data=2spirals", "--timeout=1e300"],
            "argument --timeout: must be a positive number of seconds",
        ),
        (["train", "rl", "--seeds=0-2"], "--seeds: must be numbers such as 0,1,2, but are '0-2'"),
        (["train", "rl", "--env=Pendulum-v1", "--buffer=1000000000000"], "out of memory: .*; nothing was written"),
    ],
)
def test_what_cannot_be_asked_for_is_named_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")
    try:
        code = cli.main([*arguments, f"--out={tmp_path / 'run'}", "--quiet"])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert re.search(message, capsys.readouterr().err)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_help_on_a_terminal_without_some_letters(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the settings need the packages of svgdx[train]")
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding=encoding))
    for model in ("ebm", "eb-gfn"):
        with pytest.raises(SystemExit) as end:
            cli.main(["train", model, "--help"])
        assert end.value.code == 0
    assert b"usage: svgdx train ebm" in terminal.getvalue()


def test_a_reader_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    assert cli.main(["--help"]) == 1
    # What Python flushes when it ends goes nowhere.
    sys.stdout.close()


def test_an_output_that_takes_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115
    assert cli.main(["--help"]) == 1
    assert capsys.readouterr().err == "svgdx: the output cannot be written: [Errno 28] No space left on device\n"
    sys.stdout.close()


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_stream(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, None)
    assert printed_code(["--help"]) == 0
    monkeypatch.setattr(sys, name, None)
    assert printed_code(["train", "ebn"]) == 2


def printed_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    return int(end.value.code or 0)


def test_a_file_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(options: object) -> int:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(cli, "resolve", lambda target: full if target.endswith(":run") else resolve(target))
    assert cli.main(["report", str(tmp_path), f"--out={tmp_path}"]) == 1
    assert capsys.readouterr().err == f"svgdx report: stopped: [Errno 28] No space left on device: '{tmp_path}'\n"
