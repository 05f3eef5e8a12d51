"""Every trainer on the GPU: its numbers against those stored from a CPU, with CUDA graphs and without, and its times.

    python bench/gpu/trainers.py OUT.json [--device cpu] [--limit SECONDS] [NAME...]

runs the commands of python_tests/experiments/stored/runs.py on the device. For each it writes the largest deviation of
any quantity, relative to the largest stored number of its series, with --graph off and auto; and for each of UPDATES
the seconds of one update at the default sizes, with --graph off and auto, and on the CPU. What lacks a package, or was
not begun before the limit, is reported as skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "python_tests"))

from experiments.stored import runs  # noqa: E402

# Untimed updates come first. Then at most TIMED updates are timed, and none that would begin after SECONDS.
WARM, TIMED, SECONDS = 10, 20, 3.0
Result = dict[str, Any]


def deviation(stored: dict[str, list[float]], series: dict[str, list[float]]) -> Result:
    """The largest relative deviation, its series, and the series of other lengths, which are not compared.

    A chain that stops has zeros on a GPU for the means over no steps, which a run on a CPU leaves out.
    """
    lengths = [name for name, numbers in stored.items() if len(series.get(name, ())) != len(numbers)]
    by_series = {
        name: max(abs(one - other) for one, other in zip(numbers, series[name], strict=True))
        / max(1e-12, *map(abs, numbers))
        for name, numbers in stored.items()
        if name not in lengths
    }
    worst = max(by_series, key=lambda key: by_series[key])
    return {"deviation": by_series[worst], "of": worst} | ({"lengths": lengths} if lengths else {})


def compared(name: str, device: str) -> Result:
    stored = json.loads(runs.STORED.read_text())[name]["metrics"]
    result: Result = {}
    modes = ("off", "auto") if runs.COMMANDS[name].startswith("train") else ("",)
    for mode in modes:
        more = f"--device {device}" + (f" --graph {mode}" if mode else "")
        with tempfile.TemporaryDirectory() as folder:
            result[mode or "off"] = deviation(stored, runs.flattened(runs.run(name, Path(folder), more)))
    return result


def ebm(graph: str, device: str, **changes: Any) -> Any:
    from svgdx.experiments.ebm import train
    from svgdx.experiments.ebm.config import EBMConfig

    config = EBMConfig.from_options({"device": device, "graph": graph, "log_every": 1000} | changes)
    return train.trainer_of(config, train.load_task(config))


def eb_gfn(graph: str, device: str, **changes: Any) -> Any:
    from svgdx.experiments.eb_gfn import train
    from svgdx.experiments.eb_gfn.config import EBGFNConfig

    config = EBGFNConfig.from_options({"device": device, "graph": graph, "log_every": 1000} | changes)
    return train.trainer_of(config, train.load_task(config))


class Stein:
    """The updates of SteinSAC, without those of its environment."""

    def __init__(self, graph: str, device: str, **changes: Any) -> None:
        from svgdx.experiments.rl import environment, models
        from svgdx.experiments.rl.config import RLConfig

        options = {"env": "Pendulum-v1", "algo": "stein", "buffer": 1000, "update_after": 10**6, "random_steps": 10**6}
        config = RLConfig.from_options(options | {"device": device, "graph": graph} | changes)
        config = models.resolved(config)
        self.model = models.make(config, environment.make(config))
        self.model.learn(200)

    def update(self) -> None:
        self.model.update(self.model.replay_buffer.sample(self.model.batch_size))


UPDATES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "ebm met-svgd": (ebm, {}),
    "ebm met-svgd-mh": (ebm, {"config": "met-svgd-mh"}),
    "ebm langevin": (ebm, {"config": "langevin"}),
    "ebm patches": (ebm, {"data": "patches", "energy": "conv", "config": "langevin"}),
    "eb-gfn digits": (eb_gfn, {"data": "digits", "k_schedule": "fixed", "k": 16}),
    "eb-gfn ising": (eb_gfn, {"data": "ising"}),
    "eb-gfn pcd-gibbs": (eb_gfn, {"data": "ising", "sampler": "pcd-gibbs"}),
    "rl met-svgd": (Stein, {"preset": "met-svgd"}),
    "rl met-svgd-mh": (Stein, {"preset": "met-svgd-mh"}),
}


def seconds_of_update(name: str, graph: str, device: str) -> float:
    make, changes = UPDATES[name]
    trainer = make(graph, device, **changes)

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    for _ in range(1 if device == "cpu" else WARM):
        trainer.update()
    wait()
    began, count = time.perf_counter(), 0
    while count < TIMED and (count == 0 or time.perf_counter() - began < SECONDS):
        trainer.update()
        count += 1
    wait()
    return (time.perf_counter() - began) / count


def timed(name: str, device: str) -> Result:
    forms = {"off": ("off", device), "auto": ("auto", device), "cpu": ("off", "cpu")}
    return {"seconds": {form: seconds_of_update(name, *where) for form, where in forms.items()}}


def attempt(function: Callable[[str, str], Result], name: str, device: str) -> Result:
    try:
        return function(name, device)
    except ModuleNotFoundError as error:
        return {"skipped": str(error)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", help="commands and updates; all by default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which nothing is begun")
    options = parser.parse_intermixed_args()
    began = time.perf_counter()
    results: dict[str, dict[str, Result]] = {"numbers": {}, "updates": {}}
    for part, names, function in (("updates", UPDATES, timed), ("numbers", runs.COMMANDS, compared)):
        for name in names:
            if options.names and name not in options.names:
                continue
            late = time.perf_counter() - began > options.limit
            results[part][name] = {"skipped": "the time was up"} if late else attempt(function, name, options.device)
            print(f"{part}: {name}: {results[part][name]}", flush=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    return int(any("failed" in result for part in results.values() for result in part.values()))


if __name__ == "__main__":
    sys.exit(main())
