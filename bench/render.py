"""Renders a benchmark run: python bench/render.py RESULTS.json OUT writes a table, OUT.md, and a picture, OUT.png."""

from __future__ import annotations

import json
import pathlib
import sys
from collections import defaultdict
from typing import Any

Row = dict[str, dict[str, Any]]
OURS = "svgdx"
# Not peers but measurements of the machine. A copy moves the logits twice, forward and backward three times.
COPIES = {
    "copy": (1.5, "of its bandwidth"),
    "copy, new tensor": (1.5, "of its bandwidth"),
    "products": (1.0, "of svgdx's time"),
    "derivatives": (1.0, "of svgdx's time"),
}


def load(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, dict[str, Row]]]:
    """The run, and results[test][shape][peer] = {"median": seconds, "memory": bytes or None}."""
    run = json.loads(path.read_text())
    results: dict[str, dict[str, Row]] = defaultdict(lambda: defaultdict(dict))
    for entry in run["benchmarks"]:
        test = entry["name"].split("[")[0].removeprefix("test_").replace("_", " + ")
        if entry["params"].get("device") == "cuda":
            test += ", CUDA"
        if "shape" in entry["params"]:
            shape = str(tuple(entry["params"]["shape"])).strip("()")
        else:  # components of one total, one row each
            test, shape = entry["group"], test.replace(" + ", " ")
        values = {"median": entry["stats"]["median"], "memory": entry["extra_info"].get("memory")}
        values["sizes"] = entry["extra_info"].get("sizes", "B, M, D")
        results[test][shape][entry["params"]["peer"]] = values
    return run, results


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"


def peers_of(rows: dict[str, Row]) -> list[str]:
    return list(dict.fromkeys(peer for row in rows.values() for peer in row if peer not in (OURS, *COPIES)))


def table(rows: dict[str, Row]) -> list[str]:
    peers = peers_of(rows)
    has_memory = any(row[OURS]["memory"] is not None for row in rows.values())
    copies = [name for name in COPIES if all(name in row for row in rows.values())]
    sizes = next(iter(rows.values()))[OURS]["sizes"]
    head = [sizes, OURS, *peers, "relative to the best"] + (["memory, MiB", "best peer's"] if has_memory else [])
    head += [column for name in copies for column in (name, COPIES[name][1])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for shape, row in rows.items():
        best = min((p for p in peers if p in row), key=lambda p: row[p]["median"])
        cells = [shape, milliseconds(row[OURS]["median"])]
        cells += [milliseconds(row[p]["median"]) if p in row else "–" for p in peers]
        cells += [f"**{row[best]['median'] / row[OURS]['median']:.1f}×** ({best})"]
        if has_memory:
            cells += [f"{row[p]['memory'] / 2**20:.1f}" for p in (OURS, best)]
        for name in copies:
            share = COPIES[name][0] * row[name]["median"] / row[OURS]["median"]
            cells += [milliseconds(row[name]["median"]), f"{100 * share:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(results: dict[str, dict[str, Row]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(6.4 * len(results), 4), squeeze=False)
    for axis, (test, rows) in zip(axes[0], results.items(), strict=True):
        peers = peers_of(rows)
        for k, peer in enumerate(peers):
            shift = (k - (len(peers) - 1) / 2) * 0.8 / len(peers)
            positions = [i + shift for i, row in enumerate(rows.values()) if peer in row]
            ratios = [row[peer]["median"] / row[OURS]["median"] for row in rows.values() if peer in row]
            axis.bar(positions, ratios, 0.8 / len(peers), label=peer)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set(yscale="log", title=test, ylabel=f"time / {OURS}'s time")
        axis.set_xticks(range(len(rows)), list(rows), rotation=30, ha="right")
        axis.set_ylim(top=8 * axis.get_ylim()[1])  # room for the legend
        axis.legend(fontsize="small", ncols=3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(source: str, out: str) -> None:
    run, results = load(pathlib.Path(source))
    cpu = run["machine_info"]["cpu"]
    lines = [
        f"Made by `pytest bench/bench_{pathlib.Path(source).stem}.py --benchmark-json {source}` and "
        f"`python bench/render.py {source} {out}` on {run['datetime'][:10]}, {cpu.get('brand_raw', 'unknown CPU')}, "
        "2 threads, float32. Medians in milliseconds; memory beyond inputs and outputs.",
    ]
    for test, rows in results.items():
        lines += ["", f"### {test}", "", *table(rows)]
    pathlib.Path(out + ".md").write_text("\n".join(lines) + "\n")
    draw(results, pathlib.Path(out + ".png"))


if __name__ == "__main__":
    main(*sys.argv[1:3])
