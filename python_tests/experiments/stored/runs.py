"""Short runs of every trainer whose numbers are stored beside this file, and the command that stores them anew.

    cd python_tests && python -m experiments.stored.runs NAME...

runs the named commands (all of them without a name) with the installed svgdx, on one thread, and writes their numbers
into metrics.json. Do this only for a change that is meant to change results, and say so in the commit.

COMMANDS are those of the command line without --out, --quiet and --threads. The numbers of a run are the lines of its
metrics.jsonl and the numbers of its result.json, without what depends on the clock.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from quick import undrawn

from svgdx import cli
from svgdx.experiments.metrics import features

STORED = Path(__file__).with_name("metrics.json")

_EBM = (
    "train ebm --particles 12 --svgd-steps 5 --attached-steps 2 --sampler-every 2 --hidden 24 --steps 6 --eval-every 6 "
    "--eval-samples 24 --log-every 1 --checkpoint-every 6 --energy-lr 0.02 --step-size 1 --bandwidth-start 0.3 --config"
)
_PATCHES = (
    "train ebm --data patches --energy conv --width 4 --particles 4 --svgd-steps 3 --attached-steps 1 "
    "--sampler-every 2 --steps 3 --eval-every 3 --eval-samples 8 --log-every 1 --checkpoint-every 3"
)
_GFN = (
    "train eb-gfn --hidden 16 --depth 2 --energy-hidden 16 --energy-depth 2 --batch 12 --iterations 8 --eval-every 8 "
    "--eval-points 16 --eval-paths 2 --final-points 0 --log-every 1 --checkpoint-every 8 --data"
)
_RL = (
    "train rl --env Pendulum-v1 --steps 120 --random-steps 40 --update-after 40 --update-every 20 --updates 3 "
    "--batch 16 --hidden 16 --eval-every 120 --eval-episodes 1 --log-every 20 --checkpoint-every 120 --buffer 200 "
    "--algo"
)
_SAMPLE = "--particles 20 --steps 10 --chains 2 --frames 0"

COMMANDS = {
    "demo": "train ebm --data digits --log-every 1",
    **{
        f"ebm {name}": f"{_EBM} {name}"
        for name in (
            "met-svgd", "met-svgd-sigma", "met-svgd-no-trace", "met-svgd-no-bound", "p-svgd", "langevin", "glow",
        )
    },
    # At a smaller bandwidth its gradient is rounding, which Adam makes as large as any other.
    "ebm met-svgd-mh": f"{_EBM} met-svgd-mh --bandwidth-start 1",
    "ebm met-svgd-lc": f"{_EBM} met-svgd-lc --stop squared --stop-least 0 --stop-threshold 1e-3 --patience 2",
    "ebm langevin, persistent": f"{_EBM} langevin --chains persistent --buffer 24",
    "ebm met-svgd, epsilon-greedy": f"{_EBM} met-svgd --control epsilon-greedy --bandwidth-start 1",
    "ebm patches": _PATCHES,
    "eb-gfn 2spirals, tb": f"{_GFN} 2spirals --loss tb",
    "eb-gfn 2spirals, db": f"{_GFN} 2spirals --loss db",
    "eb-gfn 2spirals, subtb": f"{_GFN} 2spirals --loss subtb --backward-policy uniform",
    "eb-gfn ising": f"{_GFN} ising --side 4 --samples 100 --loss vargrad",
    "eb-gfn digits": f"{_GFN} digits",
    "eb-gfn pcd-gibbs": f"{_GFN} ising --side 4 --samples 100 --sampler pcd-gibbs",
    "eb-gfn pcd-gwg": f"{_GFN} 2spirals --sampler pcd-gwg",
    "rl sac": f"{_RL} sac",
    "rl sac, tuned": f"{_RL} sac --alpha-rule tuned",
    "rl sac-nf": f"{_RL} sac-nf",
    "rl met-svgd": f"{_RL} stein --svgd-steps 2",
    "rl p-svgd": f"{_RL} stein --preset p-svgd --svgd-steps 2",
    # An episode of 200 steps is too long for the many evaluations of Q in Metropolis-Hastings.
    "rl met-svgd-mh": f"{_RL} stein --preset met-svgd-mh".replace("Pendulum-v1", "svgdx/Multigoal-v0"),
    "sample met-svgd": f"sample gaussian {_SAMPLE} --decay-from 5 --epochs 3",
    "sample met-svgd, mixture": f"sample mixture-4-2d {_SAMPLE} --epochs 3 --stop 0.03 --hessian exact "
    "--density logdet",
    "sample met-svgd-mh": f"sample ill-conditioned {_SAMPLE} --epochs 2",
    "sample p-svgd": f"sample gaussian {_SAMPLE} --steps 4 --eps 12 --preset p-svgd",
    "sample svgd": f"sample two-gaussians {_SAMPLE} --preset svgd --hessian exact",
}  # fmt: skip
# The demo's schedules span its 1,000 updates, so that it is stopped and not shortened.
DEMO_UPDATES = 20
CLOCK = ("seconds", "steps_per_second")
# What is compared of result.json; the truth is left out, because it depends on the target alone.
RESULT = ("entropy", "kept", "length", "largest_norm", "mean", "variance", "entropies")


def command(name: str) -> str:
    """The command line of a run, without --out and --quiet."""
    return f"svgdx {COMMANDS[name]} --threads 1"


def run(name: str, folder: Path, more: str = "--device cpu") -> list[dict[str, Any]]:
    """Runs a command with more options in this process, writing below an empty folder; returns its numbers by line."""
    out = folder / "run"
    arguments = [*command(name).split()[1:], *more.split(), "--out", str(out), "--quiet"]
    if name == "demo":
        threading.Thread(target=_stop_after, args=(out / "metrics.jsonl", DEMO_UPDATES), daemon=True).start()
    with undrawn(), _quick_classifier(name):
        code = cli.main(arguments)
    if code not in ((0, 130) if name == "demo" else (0,)):
        raise RuntimeError(f"{command(name)} ended with exit code {code}")
    records: list[dict[str, Any]] = []
    for path in sorted(out.rglob("metrics.jsonl")):
        records += [json.loads(line) for line in path.read_text().splitlines()]
    if (out / "result.json").exists():
        result = json.loads((out / "result.json").read_text())
        records.append({key: result[key] for key in RESULT})
    records = records[: DEMO_UPDATES + 1] if name == "demo" else records
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in records]


@contextlib.contextmanager
def _quick_classifier(name: str) -> Iterator[None]:
    """The classifier of photographs behind feature_distance takes 10 s to train; here it gets three updates."""
    with mock.patch.object(features, "UPDATES", 3 if "patches" in name else features.UPDATES):
        yield


def _stop_after(metrics: Path, updates: int) -> None:
    """Interrupts this process, as Ctrl-C does, once the metrics have the line of an update."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if metrics.exists() and metrics.read_bytes().count(b"\n") > updates:
            os.kill(os.getpid(), signal.SIGINT)
            return
        time.sleep(0.02)


def flattened(records: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Quantity -> its numbers in the order of the records, lists end to end."""
    series: dict[str, list[float]] = {}
    for record in records:
        for key, value in record.items():
            numbers = value if isinstance(value, list) else [value]
            series.setdefault(key, []).extend(float(number) for number in numbers)
    return series


def main(names: list[str]) -> None:
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    for name in names or COMMANDS:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            series = flattened(run(name, Path(folder)))
        assert all(math.isfinite(number) for numbers in series.values() for number in numbers), name
        rounded = {key: [float(f"{number:.8g}") for number in numbers] for key, numbers in series.items()}
        stored[name] = {"command": command(name), "metrics": rounded}
        print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    lines = [
        f'  {json.dumps(name)}: {{\n    "command": {json.dumps(entry["command"])},\n    "metrics": {{\n'
        + ",\n".join(f"      {json.dumps(key)}: {json.dumps(value)}" for key, value in entry["metrics"].items())
        + "\n    }\n  }"
        for name, entry in sorted(stored.items())
    ]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
