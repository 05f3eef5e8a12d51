"""Renders the results of bench/gpu/session.sh: python bench/gpu/tables.py OUT writes OUT/session.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Rows = list[list[str]]


def table(head: list[str], rows: Rows) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def time_of(seconds: Any) -> str:
    """Milliseconds, or what was raised instead."""
    if seconds is None:
        return "–"
    return seconds if isinstance(seconds, str) else f"{seconds * 1e3:.3g}"


def ratio(one: Any, other: Any) -> str:
    if isinstance(one, float) and isinstance(other, float):
        return f"{one / other:.1f}×"
    return "–"


def machine(report: dict[str, Any]) -> list[str]:
    """The GPU, torch and nvcc, from the report of the doctor."""
    torch, build = report["torch"], report["build"]
    gpus = ", ".join(device["name"] for device in torch["devices"])
    return [f"{gpus}; torch {torch['version']}; svgdx {build['version']}, built by nvcc {build['cuda']['nvcc']}.", ""]


def stages(content: dict[str, Any]) -> list[str]:
    rows = [[name, str(stage["code"]), str(stage["seconds"])] for name, stage in content.items()]
    return ["## Stages", "", *table(["stage", "exit code", "seconds"], rows), ""]


def ops(content: list[dict[str, Any]]) -> list[str]:
    rows = []
    for entry in content:
        times = [entry["svgdx"], entry["eager"], entry["compiled"]]
        peers = [peer for peer in times[1:] if isinstance(peer, float)]
        name = entry["op"] + (", with gradients" if entry["gradients"] else "")
        shape = ", ".join(map(str, entry["shape"]))
        rows.append([name, shape, *map(time_of, times), ratio(min(peers, default=None), times[0])])
    head = ["op", "shape", "svgdx", "eager", "torch.compile", "relative to the best"]
    return ["## Ops", "", "Milliseconds of one call in float32.", "", *table(head, rows), ""]


def reason_of(result: dict[str, Any]) -> str:
    """Why there is no result."""
    return str(result.get("failed") or result["skipped"])


def updates(content: dict[str, Any]) -> list[str]:
    rows = []
    for name, result in content.items():
        seconds = result.get("seconds")
        if seconds is None:
            rows.append([name, *(["–"] * 3), reason_of(result)])
        else:
            times = [time_of(seconds[form]) for form in ("cpu", "off", "auto")]
            rows.append([name, *times, ratio(seconds["off"], seconds["auto"])])
    head = ["trainer", "CPU", "--graph off", "--graph auto", "gain by graphs"]
    return ["## Updates", "", "Milliseconds of one update at the default sizes.", "", *table(head, rows), ""]


def deviation_of(result: dict[str, Any]) -> str:
    text = f"{result['deviation']:.1e} ({result['of']})"
    return text + (f"; of other lengths: {', '.join(names)}" if (names := result.get("lengths")) else "")


def numbers(content: dict[str, Any]) -> list[str]:
    rows = []
    for name, result in content.items():
        if "off" not in result:
            rows.append([name, reason_of(result), ""])
        else:
            cells = [deviation_of(result[mode]) for mode in result]
            rows.append([name, *cells, *([""] * (2 - len(cells)))])
    text = "Largest deviation from the stored numbers of a CPU, relative to the largest number of its series."
    return ["## Numbers", "", text, "", *table(["command", "--graph off", "--graph auto"], rows), ""]


def main(folder: Path) -> None:
    lines = ["# Session on a GPU", "", "Written by `bench/gpu/session.sh`.", ""]
    parts = {"doctor.log": machine, "stages.json": stages, "ops.json": ops}
    for name, render in parts.items():
        path = folder / name
        if path.exists():
            lines += render(json.loads(path.read_text()))
    path = folder / "trainers.json"
    if path.exists():
        content = json.loads(path.read_text())
        lines += updates(content["updates"]) + numbers(content["numbers"])
    (folder / "session.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
