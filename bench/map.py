"""A map of speed-ups over random shapes instead of named ones: one thread, float32, CPU time, least of many calls.

    taskset -c 0 python bench/map.py --out OUT
    taskset -c 0 python bench/map.py --out OUT --resume
    python bench/map.py --shapes 30 --ops phi_trace --limit 1e9 --peers eager jax --seed 3

draws shapes log-uniformly and times svgdx and every peer in turn. OUT.csv gets all times, row by row, so that --resume
continues an interrupted run; OUT.md gets the least, the lowest decile and the median of svgdx's speed-up over the best
peer, and OUT.png the picture. The peers are the forms of peers/map.py in eager mode, under torch.compile (with sizes
as variables, or each shape would take seconds to compile; again with fixed sizes if svgdx is less than 1.5 times as
fast) and under jax.jit. Beside them stands torch's floor for a call with gradients: torch.autograd.grad through the
fewest built-in ops on single numbers, with as many inputs and outputs.
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib.metadata
import importlib.util
import math
import os
import pathlib
import platform
import random
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peers.map import OPS, Sizes, shapes_of

from svgdx import _library

Row = dict[str, Any]
Call = Callable[[], Any]
PASSES = {False: "forward", True: "forward + backward"}
PEERS = ["eager", "compile", "jax"]
CLOSE = 1.5


def in_turn(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """The least CPU time of each call, in seconds; the calls alternate."""
    least = dict.fromkeys(calls, math.inf)
    start, rounds = time.process_time(), 0
    while rounds < 3 or (time.process_time() - start < seconds and rounds < 300):
        for name, call in calls.items():
            before = time.process_time_ns()
            call()
            least[name] = min(least[name], 1e-9 * (time.process_time_ns() - before))
        rounds += 1
        if time.process_time() - start > 20 * seconds:
            break
    return least


def jax_call(op: str, inputs: list[torch.Tensor], upstream: list[torch.Tensor] | None) -> Call:
    """jax.jit of the form, or of its vector-Jacobian product."""
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    form, count = functools.partial(OPS[op].form, jnp), OPS[op].differentiable
    arrays = [jnp.asarray(tensor.detach().numpy()) for tensor in inputs]
    if upstream is None:
        function = jax.jit(form)
    else:
        gradient = tuple(jnp.asarray(tensor.numpy()) for tensor in upstream)

        def gradients(*values: Any) -> Any:
            return jax.vjp(lambda *variable: form(*variable, *values[count:]), *values[:count])[1](gradient)

        function = jax.jit(gradients)
    return lambda: jax.block_until_ready(function(*arrays))


@functools.cache
def compiled(op: str, backward: bool) -> Callable[..., Any]:
    """One function for all shapes; `backward` only tells the two graphs apart."""
    return torch.compile(functools.partial(OPS[op].form, torch), fullgraph=True, dynamic=True)


def floor_call(count: int, upstream: list[torch.Tensor]) -> Call:
    """The least that a gradient costs in torch: torch.autograd.grad through the fewest built-in ops.

    They have ``count`` inputs, and as many outputs of as many dimensions as ``upstream``, of one number each.
    """
    one = {1: torch.sin, 3: torch.lerp}[count]
    several = {1: torch.unbind, 3: lambda *values: torch.unbind(torch.lerp(*values))}[count]
    function = several if len(upstream) > 1 else one
    lead = (len(upstream),) if len(upstream) > 1 else ()
    shape = (1,) * upstream[0].dim()
    inputs = [torch.ones(*lead, *shape, requires_grad=True) for _ in range(count)]
    ones = [torch.ones(shape) for _ in upstream]
    return lambda: torch.autograd.grad(function(*inputs), inputs, ones)


class Cell:
    """One op at one shape, with or without its gradient: the calls of svgdx and its peers."""

    def __init__(self, op: str, sizes: Sizes, backward: bool) -> None:
        self.op, self.sizes, self.backward = op, sizes, backward
        self.inputs = list(OPS[op].problem(sizes))
        self.variable = [tensor.requires_grad_() for tensor in self.inputs[: OPS[op].differentiable if backward else 0]]
        self.upstream = [torch.ones_like(t) for t in OPS[op].ours(*self.inputs)] if backward else None

    def call_of(self, function: Callable[..., Any]) -> Call:
        if self.upstream is None:
            return lambda: function(*self.inputs)
        return lambda: torch.autograd.grad(function(*self.inputs), self.variable, self.upstream)

    def calls(self, peers: list[str]) -> dict[str, Call]:
        """Each has run once, and its result agreed with svgdx's."""
        form = functools.partial(OPS[self.op].form, torch)
        makers: dict[str, Callable[[], Call]] = {
            "svgdx": lambda: self.call_of(OPS[self.op].ours),
            "eager": lambda: self.call_of(form),
            "compile": lambda: self.call_of(compiled(self.op, self.backward)),
            "fixed": lambda: self.call_of(torch.compile(form, fullgraph=True, dynamic=False)),
            "jax": lambda: jax_call(self.op, self.inputs, self.upstream),
        }
        calls = {name: makers[name]() for name in ["svgdx", *peers]}
        expected = calls["svgdx"]()
        for name, call in calls.items():
            self.agree(name, call(), expected)
        return calls

    def agree(self, name: str, results: Any, expected: Any) -> None:
        for result, value in zip(results, expected, strict=True):
            other = torch.from_numpy(np.array(result)) if name == "jax" else result.detach()
            error, norm = torch.linalg.vector_norm(other - value), torch.linalg.vector_norm(value)
            if not error <= 1e-2 * norm + 1e-3:
                print(f"{self.op} {self.sizes}: {name} differs from svgdx by {error / norm:.1e}", flush=True)

    def measure(self, peers: list[str], seconds: float) -> Row:
        calls = self.calls(peers)
        if self.upstream is not None:
            calls["floor"] = floor_call(len(self.variable), self.upstream)
        times = in_turn(calls, seconds)
        if "compile" in peers and min(times[name] for name in peers) < CLOSE * times["svgdx"]:
            torch._dynamo.reset()
            compiled.cache_clear()
            again = in_turn(self.calls(["fixed"]), seconds)
            times["compile"] = min(times["compile"], again["fixed"])
            times["svgdx"] = min(times["svgdx"], again["svgdx"])
        return row_of(self.op, PASSES[self.backward], self.sizes, times)


def row_of(op: str, name: str, sizes: Sizes, times: dict[str, float]) -> Row:
    best = min((peer for peer in PEERS if peer in times), key=times.__getitem__)
    return {"op": op, "pass": name, "sizes": sizes, "best": best, "ratio": times[best] / times["svgdx"], "times": times}


class Times:
    """The file of all times, to which every row is written as soon as it is measured.

    Args:
        path: the file; None writes nothing.
        peers: names of the peers.
        resume: whether to keep the rows that are there.
    """

    def __init__(self, path: pathlib.Path | None, peers: list[str], resume: bool) -> None:
        self.path, self.names = path, ["svgdx", *peers, "floor"]
        self.header = ["op", "pass", "B", "M or D", "D or T", *(f"{name}, us" for name in self.names)]
        self.measured: dict[tuple[str, str, Sizes], Row] = {}
        if path is not None and resume and path.exists():
            self.measured = {(row["op"], row["pass"], row["sizes"]): row for row in self._read(path)}
        elif path is not None:
            self._write("w", self.header)

    def _read(self, path: pathlib.Path) -> list[Row]:
        with path.open(newline="") as file:
            header, *lines = csv.reader(file)
        if header != self.header:
            raise SystemExit(
                f"{path} has other columns than {', '.join(self.header)}; leave out --resume to replace it"
            )
        rows = []
        for op, name, *numbers in lines:
            batch, second, third = map(int, numbers[:3])
            times = {peer: 1e-6 * float(text) for peer, text in zip(self.names, numbers[3:], strict=True) if text}
            rows.append(row_of(op, name, (batch, second, third), times))
        return rows

    def add(self, row: Row) -> None:
        times = [f"{1e6 * row['times'][name]:.4g}" if name in row["times"] else "" for name in self.names]
        self._write("a", [row["op"], row["pass"], *row["sizes"], *times])

    def _write(self, mode: str, cells: list[Any]) -> None:
        if self.path is not None:
            with self.path.open(mode, newline="") as file:
                csv.writer(file).writerow(cells)


def measure(options: argparse.Namespace, times: Times) -> list[Row]:
    rows = []
    for op in options.ops:
        generator = random.Random(options.seed)
        draw = lambda low, high: math.exp(generator.uniform(math.log(low), math.log(high)))  # noqa: B023, E731
        for sizes in shapes_of(op, options.shapes, draw, options.limit):
            for backward in options.backward:
                if backward and not OPS[op].differentiable:
                    continue
                row = times.measured.get((op, PASSES[backward], sizes))
                if row is None:
                    row = Cell(op, sizes, backward).measure(options.peers, options.seconds)
                    times.add(row)
                texts = ", ".join(f"{name} {1e3 * value:.3f}" for name, value in row["times"].items())
                print(f"{row['ratio']:6.2f}  {op} {row['pass']} {sizes}: {texts} ms", flush=True)
                rows.append(row)
    return rows


def quantile(ratios: list[float], share: float) -> float:
    return sorted(ratios)[min(len(ratios) - 1, int(share * len(ratios)))]


def table(rows: list[Row], facts: dict[str, Any], command: str) -> str:
    lines = [
        "# Speed-up of svgdx over the best peer at random shapes\n",
        f"Made by `{command}` on {time.strftime('%Y-%m-%d')}: {facts['cpu']}, one thread, float32, CPU time; "
        f"torch {facts['torch']}, JAX {facts['jax']}.\n",
        "A speed-up is the best peer's time over svgdx's. The last column counts those of the shapes below 1.0 at "
        "which the best peer's whole call takes less time than torch.autograd.grad of the fewest built-in ops of "
        "single numbers with as many inputs and outputs: no op that torch differentiates could be faster there, "
        "whatever its kernel.\n",
        "| op | pass | shapes | least | lowest decile | median | below 1.0 | of these, best peer under torch's floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for op, name in dict.fromkeys((row["op"], row["pass"]) for row in rows):
        cells = [row for row in rows if (row["op"], row["pass"]) == (op, name)]
        ratios = [row["ratio"] for row in cells]
        slower = [row for row in cells if row["ratio"] < 1]
        bounded = sum(row["times"].get("floor", 0) > row["times"][row["best"]] for row in slower)
        numbers = " | ".join(f"{quantile(ratios, share):.2f}" for share in (0, 0.1, 0.5))
        lines.append(f"| {op} | {name} | {len(ratios)} | {numbers} | {len(slower)} | {bounded} |")
    lines += ["\nThe lowest:\n", "| speed-up | op | pass | shape | best peer |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row["ratio"])[:12]:
        shape = f"{OPS[row['op']].names} = {', '.join(map(str, row['sizes']))}"
        lines.append(f"| {row['ratio']:.2f} | {row['op']} | {row['pass']} | {shape} | {row['best']} |")
    return "\n".join(lines) + "\n"


def draw_map(rows: list[Row], path: pathlib.Path) -> None:
    from matplotlib import pyplot as plt

    ops = list(dict.fromkeys(row["op"] for row in rows))
    figure, axes = plt.subplots(2, len(ops), figsize=(3.4 * len(ops), 6.4), squeeze=False, layout="constrained")
    for axis_row, name in zip(axes, PASSES.values(), strict=True):
        for axis, op in zip(axis_row, ops, strict=True):
            cells = [row for row in rows if (row["op"], row["pass"]) == (op, name)]
            if not cells:
                axis.axis("off")
                continue
            colours = [math.log2(row["ratio"]) for row in cells]
            places = [[row["sizes"][i] for row in cells] for i in (1, 2)]
            dots = [12 + 8 * math.log2(row["sizes"][0]) for row in cells]
            limits = {"cmap": "RdYlGn", "vmin": -3, "vmax": 3, "edgecolors": "black", "linewidths": 0.3}
            points = axis.scatter(*places, c=colours, s=dots, **limits)
            letters = OPS[op].names.split(", ")
            axis.set(xscale="log", yscale="log", xlabel=letters[1], ylabel=letters[2], title=f"{op}\n{name}")
    bar = figure.colorbar(points, ax=axes, label="speed-up over the best peer; larger dots: larger B")
    bar.set_ticks([-3, -2, -1, 0, 1, 2, 3], labels=["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    figure.savefig(path, dpi=100)
    plt.close(figure)


def machine() -> dict[str, Any]:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    version = importlib.metadata.version("jax") if importlib.util.find_spec("jax") else "not installed"
    cpu = names[0] if names else platform.processor()
    return {"cpu": cpu, "torch": torch.__version__, "jax": version, "products": _library.product_facts()._asdict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=200, help="number of shapes of each op")
    parser.add_argument("--seed", type=int, default=18, help="seed of the shapes")
    parser.add_argument("--limit", type=float, default=math.inf, help="most multiply-adds (of a trajectory: numbers)")
    parser.add_argument("--seconds", type=float, default=0.1, help="CPU seconds of calls per op, pass and shape")
    parser.add_argument("--ops", nargs="+", default=list(OPS), choices=OPS, help="ops to time")
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--backward", nargs="+", type=lambda text: bool(int(text)), default=[False, True], help="0, 1")
    parser.add_argument("--out", type=pathlib.Path, help="writes OUT.csv, OUT.md and OUT.png")
    parser.add_argument("--resume", action="store_true", help="measure only what is missing in OUT.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000
    facts = machine()
    if facts["jax"] == "not installed" and "jax" in options.peers:
        options.peers.remove("jax")
        print("JAX is not installed: it is not among the peers", flush=True)
    rows = measure(options, Times(options.out and options.out.with_suffix(".csv"), options.peers, options.resume))
    text = table(rows, facts, shlex.join(["taskset", "-c", "0", "python", "bench/map.py", *sys.argv[1:]]))
    print(text)
    if options.out:
        options.out.with_suffix(".md").write_text(text + f"\n![speed-ups]({options.out.name}.png)\n")
        draw_map(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
