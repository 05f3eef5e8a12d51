"""The documents: their examples run, their commands parse, their links lead somewhere, public names have docstrings."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import forkserver
import pytest
from experiments.processes import calls_of_svgdx
from quick import quick

from svgdx import cli
from svgdx.experiments.ebm import report as ebm_report
from svgdx.experiments.rl import report as rl_report

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").rglob("*.md")})
# Seconds, for one example on a busy machine.
TIMEOUT = 240

FENCED = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(svgdx [^`]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run_shell(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script of bash with the commands of this interpreter in front of PATH."""
    path = os.pathsep.join([str(forkserver.scripts()), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-euc", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def run_python(arguments: list[str], folder: Path) -> None:
    result = forkserver.run(arguments, folder, timeout=TIMEOUT)
    assert result.returncode == 0, f"{arguments}\n{result.stdout}\n{result.stderr}"


def examples(path: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a document that are Python or shell: language and text."""
    return FENCED.findall(path.read_text())


# Those of the guide to GPUs run on the pretended one, see pretended/test_guide.py.
@pytest.mark.parametrize("path", [ROOT / "README.md", *(path for path in GUIDES if path.stem != "gpu")], ids=name_of)
def test_examples_run(path: Path, tmp_path: Path) -> None:
    blocks = examples(path)
    assert blocks, f"{path} has no runnable example"
    for language, text in blocks:
        with quick():
            result = forkserver.run(["-c", text], tmp_path) if language == "python" else run_shell(text, tmp_path)
        assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"


def command_lines(path: Path) -> list[str]:
    """The calls of svgdx in code blocks, lists of commands and loops, without `torchrun ... -m`."""
    text = path.read_text()
    lines = "".join(block for language, block in examples(path) if language == "sh").splitlines()
    lines += re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    lines += re.findall(r"^- `([^`]*)`$", text, re.MULTILINE)
    lines = [re.sub(r"^torchrun .*? -m ", "", line) for line in lines]
    loops = calls_of_svgdx([line for line in lines if re.match(r"for .*; do svgdx ", line)])
    return [line for line in lines if line.startswith("svgdx ")] + [shlex.join(["svgdx", *words]) for words in loops]


def unparsed(path: Path) -> list[str]:
    """The commands of a document that their parsers refuse."""
    refused = []
    for line in command_lines(path):
        words = shlex.split(line, comments=True)[1:]
        # The doctor parses its own options.
        if words in (["doctor"], ["doctor", "--json"]):
            continue
        command = cli.command_of(words)
        try:
            parser = cli.overview() if command is None else command.parser()
            parser.parse_args(words if command is None else words[len(command.name.split()) :])
        except SystemExit as stop:
            refused += [line] if stop.code else []
    return refused


def unknown_words(path: Path) -> list[str]:
    """Commands inside sentences, which may be incomplete, with a subcommand or an option that does not exist."""
    unknown = []
    for text in INLINE.findall(path.read_text().replace("\n", " ")):
        words = shlex.split(text)[1:]
        models = words[1].split("|") if len(words) > 1 else [""]
        for words in ([words[0], model, *words[2:]] for model in models):
            command = cli.command_of(words)
            options = {"--json"}
            if command is not None:
                options = {option for action in command.parser()._actions for option in action.option_strings}
            exists = command is not None or words[0] == "doctor" or (words[0] in cli.GROUPS and words[1:] == [""])
            if not exists or any(word.startswith("--") and word.partition("=")[0] not in options for word in words):
                unknown.append(text)
    return unknown


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_parse(path: Path) -> None:
    assert unparsed(path) == []
    assert unknown_words(path) == []


def test_a_wrong_command_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Run `svgdx train ebm --tpyo`:\n\n    svgdx report --out DIR\n\n```sh\nsvgdx train ebm --out DIR\n```\n"
    )
    assert unparsed(page) == ["svgdx report --out DIR"]
    assert unknown_words(page) == ["svgdx train ebm --tpyo"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in LINK.findall(text):
        if not re.match(r"https?:", target):
            assert (path.parent / target).exists(), f"{path}: {target}"
    assert not re.search(r"(?<![\w.])/(work|home|root|tmp)/", text), f"{path} has a path of one machine"


def test_the_messages_of_troubleshooting_exist() -> None:
    messages = re.findall(r"^\*\*`([^`]+)`", (ROOT / "docs/guides/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(messages) > 5
    sources = [path.read_text() for path in (ROOT / "svgdx").rglob("*.py")]
    for message in messages:
        longest = max(message.split("…"), key=len).strip()
        assert any(longest in source for source in sources), message


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def site_module(name: str) -> ModuleType:
    """A module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_public_names_have_docstrings() -> None:
    assert site_module("checks").all_missing_docstrings() == []


def test_a_missing_docstring_is_noticed() -> None:
    class Documented:
        """Has a docstring."""

        def method(self) -> None:
            pass

    module = ModuleType("example", "Has a docstring.")
    module.__all__ = ["Documented", "function"]  # type: ignore[attr-defined]
    module.Documented = Documented  # type: ignore[attr-defined]
    module.function = lambda: None  # type: ignore[attr-defined]
    expected = ["example.Documented.method", "example.function"]
    assert site_module("checks").missing_docstrings(module) == expected


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys") / "gaussian"
    options = ["--particles", "20", "--steps", "4", "--decay-from", "0", "--epochs", "2", "--frames", "0"]
    assert cli.main(["sample", "gaussian", *options, "--out", str(folder), "--quiet"]) == 0
    return folder


def test_the_table_of_toys_is_made_by_its_command(toy_run: Path, tmp_path: Path) -> None:
    run_python([str(ROOT / "docs/results/toys.py"), str(toy_run), str(tmp_path / "toys.md")], tmp_path)
    entropy = json.loads((toy_run / "result.json").read_text())["entropy"]
    page = (tmp_path / "toys.md").read_text()
    assert f"| gaussian | met-svgd | 1 | none | 20, 4 | 2 | {entropy:.3f} ±" in page
    assert "`svgdx sample gaussian --particles 20 --steps 4" in page
    committed = (ROOT / "docs/results/toys.md").read_text()
    assert page.splitlines()[:8] == committed.splitlines()[:8]


def test_the_picture_of_the_demo_is_made_by_its_command(tmp_path: Path) -> None:
    options = ["--steps", "2", "--eval-every", "2", "--eval-samples", "64", "--svgd-steps", "4"]
    assert cli.main(["train", "ebm", *options, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    run_python([str(ROOT / "docs/results/demo.py"), str(tmp_path / "run"), "demo.png"], tmp_path)
    assert (tmp_path / "demo.png").read_bytes()[:4] == b"\x89PNG"


def test_the_page_of_eb_gfn_is_made_by_its_command(tmp_path: Path) -> None:
    options = ["--iterations", "2", "--hidden", "8", "--energy-hidden", "8", "--final-points", "10"]
    options += ["--eval-every", "2", "--eval-points", "10"]
    for data in ("2spirals", "digits"):
        folder = str(tmp_path / data)
        assert cli.main(["train", "eb-gfn", "--data", data, *options, "--out", folder, "--quiet"]) == 0
        evaluation = ["--points", "10", "--z-samples", "20", "--mmd-samples", "20", "--ais-temperatures", "2"]
        assert cli.main(["eval", "eb-gfn", folder, *evaluation]) == 0
    script = str(ROOT / "docs/results/eb_gfn.py")
    run_python([script, "2spirals", "digits", "eb_gfn.md", "eb_gfn.png"], tmp_path)
    page = (tmp_path / "eb_gfn.md").read_text()
    figures = {
        figure["name"]: figure["value"]
        for figure in json.loads((tmp_path / "2spirals" / "evaluation.json").read_text())["figures"]
    }
    assert f"| 2spirals | eb-gfn | 20.037 | 20.050 | {figures['gflownet_nll']:.3f} ±" in page
    assert "`svgdx train eb-gfn --data digits" in page
    committed = (ROOT / "docs/results/eb_gfn.md").read_text()
    for line in ("## 2-D data", "Negative log-likelihood", "| data | sampler | entropy", "Hours are wall-clock"):
        assert next(row for row in page.splitlines() if row.startswith(line)) in committed
    assert (tmp_path / "eb_gfn.png").read_bytes()[:4] == b"\x89PNG"


def test_the_reports_say_what_svgdx_report_writes() -> None:
    assert rl_report.INTRODUCTION in (ROOT / "docs/results/rl/report.md").read_text()
    page = (ROOT / "docs/results/ebm/report.md").read_text()
    assert ebm_report._EXPLAINED["feature_distance"] in page
    # Every row of the table has its command, which runs three seeds.
    assert len(re.findall(r"^\| [\w. -]+ \| [\d.]+ \| 3 ", page, re.MULTILINE)) == 12
    commands = command_lines(ROOT / "docs/results/ebm/report.md")
    assert sum(line.startswith("svgdx train ebm") for line in commands) == 36
