"""Runs the examples in their quick setting and writes the gallery page from what they draw and print."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

# Seconds, for one example on a busy machine.
TIMEOUT = 300
WORKERS = 2


class Example(NamedTuple):
    """One example: its file, the picture that it drew, and the line that it printed."""

    path: Path
    picture: bytes
    result: str


def run_all(folder: Path) -> list[Example]:
    """Runs every example of a folder, two at a time.

    Raises RuntimeError with the output of the first example that fails, or if there is none.
    """
    if not any(folder.glob("*.py")):
        raise RuntimeError(f"{folder} has no examples")
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(_run, sorted(folder.glob("*.py"))))


def page(examples: list[Example]) -> str:
    """Returns the gallery page in Markdown; the pictures are expected in the folder gallery/."""
    cards, sections = [], []
    for example in examples:
        source = example.path.read_text()
        title, _, text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
        title = title.rstrip(".")
        picture = f"![{title}](gallery/{example.path.stem}.png)"
        link = f"[{picture}](#{example.path.stem})\n[{title}](#{example.path.stem})"
        cards.append(f'<figure markdown="span">\n{link}\n</figure>')
        sections.append(
            f"## {title} {{ #{example.path.stem} }}\n\n{text.strip()}\n\n{picture}\n\n"
            f"It printed: `{example.result}`\n\n{_listing(example.path)}"
        )
        # Such as the C++ program that a script compiles.
        others = (path for path in example.path.parent.glob(f"{example.path.stem}.*") if path != example.path)
        sections += [_listing(path) for path in sorted(others)]
    return f"""---
hide: [navigation]
---

# Gallery

Scripts to start from. The pictures were made by this build, which ran each script with `--quick`; without it a script
runs longer and draws a better picture: `python docs/examples/{examples[0].path.name}`.

<div class="gallery" markdown>

{chr(10).join(cards)}

</div>

{chr(10).join(sections)}"""


def _listing(path: Path) -> str:
    return f'```{path.suffix.removeprefix(".")} title="docs/examples/{path.name}"\n{path.read_text()}```\n'


def _run(path: Path) -> Example:
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / f"{path.stem}.png"
        command = [sys.executable, str(path.resolve()), "--quick", "--out", str(picture)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        try:
            run = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{path} took more than {TIMEOUT} s:\n{error.stdout}{error.stderr}") from error
        if run.returncode != 0 or not picture.is_file():
            raise RuntimeError(f"{path} failed with status {run.returncode}:\n{run.stdout}{run.stderr}")
        lines = [line for line in run.stdout.splitlines() if line.strip()]
        return Example(path, picture.read_bytes(), lines[-1] if lines else "")
