"""`svgdx`: the list of commands, their help, and what it costs to ask for it."""

from __future__ import annotations

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
    expected = ["svgdx.experiments.run.errors", "svgdx.experiments.run.settings"]
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
