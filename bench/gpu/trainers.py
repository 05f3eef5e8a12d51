"""Every trainer on the GPU: its numbers against those stored from a CPU, and the seconds of one run.

    python bench/gpu/trainers.py OUT.json

runs the commands of python_tests/experiments/stored/runs.py with --device cuda. For each it writes the largest
deviation of any quantity, relative to the largest stored number of its series, and the seconds of a second run with its
evaluations. A command whose packages are missing is reported as skipped.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "python_tests"))


def deviations(stored: dict[str, list[float]], series: dict[str, list[float]]) -> dict[str, float]:
    """The largest relative deviation of each series that both have."""
    return {
        name: max(abs(one - other) for one, other in zip(numbers, series[name], strict=False))
        / max(1e-12, *map(abs, numbers))
        for name, numbers in stored.items()
        if series.get(name)
    }


def measured(name: str, stored: dict[str, Any]) -> dict[str, Any]:
    from experiments.stored import runs

    seconds, series = [], {}
    # The first run compiles and fills caches.
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            series = runs.flattened(runs.run(name, Path(folder), "--device cuda"))
            seconds.append(time.perf_counter() - began)
    by_series = deviations(stored[name]["metrics"], series)
    worst = max(by_series, key=lambda key: by_series[key], default="")
    return {"deviation": by_series.get(worst), "of": worst, "seconds": seconds[-1]}


def main(path: Path) -> int:
    from experiments.stored import runs

    stored = json.loads(runs.STORED.read_text())
    results: dict[str, Any] = {}
    for name in runs.COMMANDS:
        try:
            results[name] = measured(name, stored)
        except ModuleNotFoundError as error:
            results[name] = {"skipped": str(error)}
        except Exception as error:
            results[name] = {"failed": f"{type(error).__name__}: {error}"}
        print(f"{name}: {results[name]}", flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    return int(any("failed" in result for result in results.values()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
