"""`svgdx` in its own process, interrupted in the middle of a run, and the commands that a report prints."""

from __future__ import annotations

import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import forkserver


def interrupted(arguments: list[str], run: Path, lines: int, number: signal.Signals, cwd: Path) -> tuple[int, str]:
    """Sends a signal once metrics.jsonl has more than `lines` lines; returns the exit status and stderr.

    Args:
        arguments: those of `svgdx`.
        run: the folder whose metrics are counted.
        lines: lines before the signal.
        number: the signal.
        cwd: a folder outside the repository, so that the installed package runs and not the source tree.
    """
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 300
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        process = forkserver.start(["-m", "svgdx", *arguments], cwd, out, error)
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.read_bytes().count(b"\n") > lines:
                break
            time.sleep(0.005)
        process.send_signal(number)
        status = process.wait(300)
        error.seek(0)
        return status, error.read().decode()


def printed_commands(report: str) -> list[list[str]]:
    """The arguments of `svgdx` in the section "Commands" of a report, which bash runs as it stands."""
    return calls_of_svgdx([line.strip() for line in report.partition("## Commands\n")[2].splitlines()])


def calls_of_svgdx(lines: list[str]) -> list[list[str]]:
    """The arguments of `svgdx` whenever bash calls it in these lines, where a function in its place prints them."""
    script = "\n".join(["svgdx() { printf '%q ' \"$@\"; echo; }", *lines])
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in shell.stdout.splitlines()]


__all__ = ["calls_of_svgdx", "interrupted", "printed_commands"]
