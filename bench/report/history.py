"""The history of svgdx's CPU times: python bench/report/history.py [--check]

Without an option it draws the times in bench/results/*.json over the commits that changed them, to
bench/results/history.png, with the last change of each row in bench/results/history.md. --check measures svgdx's rows
now, briefly, and warns of each that lost 10 % against the file in this checkout; on another chip it compares nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from render import load

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = "bench/results"
LOSS = 1.10
# Rows that take seconds, or need an environment.
LONG = ("bf16", "large", "environment", "16384", "4096", "stable", "sbx")
OURS = "svgdx"

# (benchmark, table, shape) -> seconds at the ceiling of the machine that measured them.
Times = dict[tuple[str, str, str], float]


def times_of(name: str, results: dict[str, Any]) -> Times:
    """svgdx's CPU times in one file of results."""
    return {
        (name, test, shape): row[OURS]["cpu"]
        for test, rows in results["tables"].items()
        for shape, row in rows.items()
        if "cpu" in row.get(OURS, {})
    }


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True).stdout


def commits() -> list[tuple[str, str, Times]]:
    """For each commit that changed the times, oldest first: its short name, the chip, and all times as of then."""
    history: list[tuple[str, str, Times]] = []
    log = git("log", "--reverse", "--format=%H", "--", f"{RESULTS}/*.json").split()
    for commit in log:
        times: Times = {}
        chips = set()
        for path in git("ls-tree", "--name-only", commit, f"{RESULTS}/").split():
            if not path.endswith(".json"):
                continue
            results = json.loads(git("show", f"{commit}:{path}"))
            if isinstance(results, dict) and "tables" in results:
                times |= times_of(pathlib.Path(path).stem, results)
                chips.add(results["machine"]["chip"])
        if times and (not history or times != history[-1][2]):  # other results may have changed
            history.append((commit[:9], " and ".join(sorted(chips)), times))
    return history


def report(history: list[tuple[str, str, Times]]) -> str:
    """The table of the newest times and of their change since the commit before."""
    lines = [
        "Made by `make bench-history` from the files beside this page: least CPU milliseconds of svgdx on one core.",
        "",
    ]
    lines += ["| benchmark | table | row | " + " | ".join(f"{name}" for name, _, _ in history[-6:]) + " |"]
    lines += ["|---|---|---|" + "---|" * len(history[-6:])]
    for key in history[-1][2]:
        cells = [f"{1e3 * times[key]:.3g}" if key in times else "–" for _, _, times in history[-6:]]
        lines.append("| " + " | ".join([*key, *cells]) + " |")
    chips = ", ".join(dict.fromkeys(chip for _, chip, _ in history[-6:]))
    return "\n".join([*lines, "", f"Chips: {chips}."]) + "\n"


def draw(history: list[tuple[str, str, Times]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(key[0] for _, _, times in history for key in times))
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 4.5), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        for key in dict.fromkeys(key for _, _, times in history for key in times if key[0] == name):
            points = [(i, 1e3 * times[key]) for i, (_, _, times) in enumerate(history) if key in times]
            axis.plot(*zip(*points, strict=True), marker="o", label=f"{key[1]}: {key[2]}")
        axis.set(yscale="log", title=name, ylabel="CPU-ms")
        axis.set_xticks(range(len(history)), [commit for commit, _, _ in history], rotation=60, ha="right")
        axis.legend(fontsize="xx-small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def measure(folder: pathlib.Path) -> tuple[dict[str, Any], Times]:
    """The machine's facts and svgdx's times now, each of a few calls."""
    scripts = sorted((ROOT / "bench").rglob("bench_*.py"))
    names = [script.stem.removeprefix("bench_") for script in scripts]
    stored = [script for script, name in zip(scripts, names, strict=True) if (ROOT / RESULTS / f"{name}.json").exists()]
    choice = " and ".join([OURS, "not cuda", *(f"not {word}" for word in LONG)])
    environment = os.environ | {"SVGDX_BENCH_SECONDS": "0.3", "OMP_NUM_THREADS": "1"}
    times: Times = {}
    machine: dict[str, Any] = {}
    for script in stored:
        output = folder / f"{script.stem}.json"
        # Not `python -m pytest`, which would import the package of this folder and not the one that is installed.
        program = pathlib.Path(sys.executable).with_name("pytest")
        command = [str(program), "-q", str(script), "-k", choice, "--benchmark-json", str(output)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        results = load(output)
        machine = results["machine"]
        times |= times_of(script.stem.removeprefix("bench_"), results)
    return machine, times


def check() -> list[str]:
    """A warning for each row that lost 10 % or more, at the rate of this machine's products."""
    files = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / RESULTS).glob("*.json"))}
    stored = {name: results for name, results in files.items() if isinstance(results, dict) and "tables" in results}
    with tempfile.TemporaryDirectory() as folder:
        machine, times = measure(pathlib.Path(folder))
    return losses(stored, machine, times)


def losses(stored: dict[str, Any], machine: dict[str, Any], times: Times) -> list[str]:
    """A warning for each time that exceeds the stored one by 10 %, both at their machine's rate of products."""
    warnings = []
    for name, results in stored.items():
        if results["machine"]["chip"] != machine["chip"]:
            continue
        speed = machine["ceiling"] / results["machine"]["ceiling"]
        for key, before in times_of(name, results).items():
            if key in times and times[key] * speed > LOSS * before:
                loss = 100 * (times[key] * speed / before - 1)
                text = f"{1e3 * times[key]:.3g} CPU-ms, {loss:.0f} % more than {1e3 * before:.3g}"
                warnings.append(f"warning: {', '.join(key)}: {text} of commit {str(results['commit']['id'])[:9]}")
    return warnings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="measure svgdx's rows now and warn of those that lost 10 %%"
    )
    if parser.parse_args().check:
        print("\n".join(check()) or "no row lost 10 %")
        return
    history = commits()
    if not history:
        raise SystemExit(f"no commit has results in {RESULTS}/*.json with their tables")
    (ROOT / RESULTS / "history.md").write_text(report(history))
    draw(history, ROOT / RESULTS / "history.png")
    print(report(history))


if __name__ == "__main__":
    main()
