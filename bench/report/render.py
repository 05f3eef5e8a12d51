"""Renders a benchmark run: python bench/report/render.py RUN.json OUT

RUN.json is what `pytest --benchmark-json` wrote. OUT.json keeps the numbers with the facts of the machine, OUT.md is
the table and OUT.png the picture.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

# Peer -> {"cpu": least seconds or absent on a GPU, "wall": seconds, "memory": bytes, "flops": of the products}.
Row = dict[str, dict[str, Any]]
# Test -> shape -> row.
Tables = dict[str, dict[str, Row]]
OURS = "svgdx"
# Not peers but measurements of the machine. A copy moves the logits twice, forward and backward three times.
COPIES = {
    "copy": (1.5, "of its bandwidth"),
    "copy, new tensor": (1.5, "of its bandwidth"),
    "derivatives": (1.0, "of svgdx's time"),
}


def load(path: pathlib.Path) -> dict[str, Any]:
    """The results of a run: {"date", "commit", "machine", "sizes": names by test, "tables"}."""
    run = json.loads(path.read_text())
    info = run["machine_info"]
    # A run on a GPU machine by an older version has only what pytest-benchmark knows.
    machine = info.get("facts") or {"chip": info["cpu"].get("brand_raw", "unknown CPU")}
    commit = {name: run["commit_info"].get(name) for name in ("id", "dirty")}
    tables: Tables = {}
    sizes: dict[str, str] = {}
    for entry in run["benchmarks"]:
        test, shape = _place(entry)
        extra = entry["extra_info"]
        numbers = {name: extra[name] for name in ("cpu", "memory", "flops") if extra.get(name) is not None}
        numbers["wall"] = entry["stats"]["median"]
        # An entry may time several calls together.
        for name in {"cpu", "wall"} & set(numbers):
            numbers[name] /= extra.get("calls", 1)
        tables.setdefault(test, {}).setdefault(shape, {})[entry["params"]["peer"]] = numbers
        sizes[test] = extra.get("sizes", "B, M, D")
    return {"date": run["datetime"][:10], "commit": commit, "machine": machine, "sizes": sizes, "tables": tables}


def _place(entry: dict[str, Any]) -> tuple[str, str]:
    """The table and the row of an entry."""
    test = entry["name"].split("[")[0].removeprefix("test_").replace("_", " + ")
    if "shape" not in entry["params"]:  # components of one total, one row each
        return entry["group"], test.replace(" + ", " ")
    if entry["params"].get("device") == "cuda":
        test += ", CUDA"
    return test, ", ".join(map(str, entry["params"]["shape"]))


def seconds(numbers: dict[str, Any]) -> float:
    """CPU time, or wall time of a row without it."""
    return float(numbers.get("cpu", numbers["wall"]))


def milliseconds(value: float) -> str:
    return f"{value * 1e3:.3g}"


def cell(numbers: dict[str, Any] | None) -> str:
    """CPU-ms and, behind a slash, wall ms."""
    if numbers is None:
        return "–"
    wall = milliseconds(numbers["wall"])
    return f"{milliseconds(numbers['cpu'])} / {wall}" if "cpu" in numbers else wall


def peers_of(rows: dict[str, Row]) -> list[str]:
    return list(dict.fromkeys(peer for row in rows.values() for peer in row if peer not in (OURS, *COPIES)))


def table(rows: dict[str, Row], sizes: str, machine: dict[str, Any]) -> list[str]:
    peers = peers_of(rows)
    has_memory = any("memory" in row[OURS] for row in rows.values())
    ceiling = machine.get("ceiling") if any("flops" in row[OURS] for row in rows.values()) else None
    copies = [name for name in COPIES if all(name in row for row in rows.values())]
    head = [sizes, OURS, *peers, "relative to the best"] + (["memory, MiB", "best peer's"] if has_memory else [])
    head += ["products at the chip's best rate", "of svgdx's time"] if ceiling else []
    head += [column for name in copies for column in (name, COPIES[name][1])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for shape, row in rows.items():
        ours = row[OURS]
        best = min((peer for peer in peers if peer in row), key=lambda peer: seconds(row[peer]), default=None)
        cells = [shape, cell(ours), *(cell(row.get(peer)) for peer in peers)]
        cells += ["–" if best is None else f"**{seconds(row[best]) / seconds(ours):.1f}×** ({best})"]
        if has_memory:
            memory = [row[peer].get("memory") if peer else None for peer in (OURS, best)]
            cells += ["–" if value is None else f"{value / 2**20:.1f}" for value in memory]
        if ceiling:
            cells += _ceiling(ours, ceiling)
        for name in copies:
            share = COPIES[name][0] * seconds(row[name]) / seconds(ours)
            cells += [milliseconds(seconds(row[name])), f"{100 * share:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _ceiling(ours: dict[str, Any], ceiling: float) -> list[str]:
    if "flops" not in ours:
        return ["–", "–"]
    least = 1e-9 * ours["flops"] / ceiling
    return [milliseconds(least), f"{100 * least / seconds(ours):.0f} %"]


def heading(results: dict[str, Any], commands: str) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    text = f"Made by {commands} on {results['date']}, {machine['chip']}, float32"
    if not versions:
        return text + ". Medians in milliseconds; memory beyond inputs and outputs."
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in machine["products"].items())
    return (
        f"{text}; {versions}. Milliseconds, CPU time / wall time: the least CPU time of a call with one thread on one "
        f"core, and the median wall time of the same calls; memory beyond inputs and outputs. The best matrix products "
        f"of the chip reach, in GFLOP/s of one core: {rates}."
    )


def draw(tables: Tables, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tables), figsize=(6.4 * len(tables), 4), squeeze=False)
    for axis, (test, rows) in zip(axes[0], tables.items(), strict=True):
        peers = peers_of(rows)
        for k, peer in enumerate(peers):
            shift = (k - (len(peers) - 1) / 2) * 0.8 / len(peers)
            positions = [i + shift for i, row in enumerate(rows.values()) if peer in row]
            ratios = [seconds(row[peer]) / seconds(row[OURS]) for row in rows.values() if peer in row]
            axis.bar(positions, ratios, 0.8 / len(peers), label=peer)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set(yscale="log", title=test, ylabel=f"time / {OURS}'s time")
        axis.set_xticks(range(len(rows)), list(rows), rotation=30, ha="right")
        axis.set_ylim(top=8 * axis.get_ylim()[1])  # room for the legend
        if peers:
            axis.legend(fontsize="small", ncols=3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _script(name: str) -> str:
    """The benchmark's file, as a path in this repository."""
    root = pathlib.Path(__file__).parents[2]
    paths = sorted((root / "bench").rglob(f"bench_{name}.py"))
    return paths[0].relative_to(root).as_posix() if paths else f"bench/bench_{name}.py"


def main(source: str, out: str) -> None:
    results = load(pathlib.Path(source))
    name = pathlib.Path(out).name
    commands = f"`pytest {_script(name)} --benchmark-json {source}` and `python bench/report/render.py {source} {out}`"
    lines = [heading(results, commands)]
    for test, rows in results["tables"].items():
        lines += ["", f"### {test}", "", *table(rows, results["sizes"][test], results["machine"])]
    pathlib.Path(out + ".md").write_text("\n".join(lines) + "\n")
    if pathlib.Path(out + ".json").resolve() != pathlib.Path(source).resolve():
        pathlib.Path(out + ".json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results["tables"], pathlib.Path(out + ".png"))


if __name__ == "__main__":
    main(*sys.argv[1:3])
