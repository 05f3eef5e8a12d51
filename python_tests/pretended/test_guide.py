"""The examples of docs/guides/gpu.md run on the pretended GPU, in this process."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="training needs the packages of svgdx[train]")

import matplotlib.pyplot as plt
from pretended.gpu import pretended_cuda

from svgdx import cli

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "gpu.md"
FENCED = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = FENCED.findall(GUIDE.read_text())
    assert {language for language, _ in blocks} == {"python", "sh"}
    names: dict[str, object] = {}
    with pretended_cuda():
        for language, text in blocks:
            if language == "python":
                exec(compile(text, GUIDE.name, "exec"), names)
                continue
            for line in text.splitlines():
                program, *words = shlex.split(line)
                assert program == "svgdx"
                assert cli.main(words) == 0
    plt.close("all")
    assert "device: cpu" in (tmp_path / "runs/ising/config.yaml").read_text()
