"""`svgdx` in a process of its own, interrupted in the middle of a run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path


def interrupted(arguments: list[str], run: Path, lines: int, number: signal.Signals, cwd: Path) -> tuple[int, str]:
    """Sends a signal once more than so many metrics are written; the exit status and what stderr got.

    arguments: of `svgdx`. run: the folder whose metrics are counted. cwd: away from the repo, so that the installed
    package runs and not the source tree.
    """
    command = [sys.executable, "-m", "svgdx.cli", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=cwd)
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_bytes().count(b"\n") > lines:
            break
        time.sleep(0.005)
    process.send_signal(number)
    _, message = process.communicate(timeout=300)
    return process.returncode, message.decode()


__all__ = ["interrupted"]
