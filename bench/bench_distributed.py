"""Scaling of svgdx.distributed on this machine's cores: Gloo processes with one thread each, float32.

Strong scaling fixes M; weak scaling fixes the work per rank, M^2 / P. "work" is the time of a rank's blocks if they are
all in its memory, "travel" that of a round of the ring without work; (work + travel - ring) / travel of the travel is
hidden behind the work. Bytes are those that the busiest rank passes to torch.distributed; the minimum is
2 M D (P - 1) / P numbers, which bring every rank the particles and scores of all others.

python bench/bench_distributed.py bench/results/distributed.md [RANKS ...]
"""

from __future__ import annotations

import datetime
import json
import math
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from svgdx import distributed
from svgdx.distributed import median
from svgdx.distributed.blocks import Field
from svgdx.distributed.ring import circulate
from svgdx.distributed.shards import Shards, even_split

REPEATS = 5
STRONG = [(4096, 32), (1024, 512)]
WEAK = (2896, 32)
MEDIAN = (4096, 32)
TINY = (8, 4)
FLOAT = 4


class Meter:
    """Counts the bytes that this process sends point to point."""

    def __init__(self) -> None:
        self.bytes, self.make = 0, dist.P2POp

    def __enter__(self) -> Meter:
        def counted(op: Any, tensor: torch.Tensor, *rest: Any) -> dist.P2POp:
            self.bytes += tensor.numel() * tensor.element_size() if op is dist.isend else 0
            return self.make(op, tensor, *rest)

        dist.P2POp = counted  # type: ignore[assignment,misc]
        return self

    def __exit__(self, *_: object) -> None:
        dist.P2POp = self.make  # type: ignore[misc]


def busiest(value: float, group: dist.ProcessGroup) -> float:
    largest = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    return float(largest)


def seconds(function: Callable[[], object], group: dist.ProcessGroup) -> float:
    """The shortest of several runs, each timed by its slowest rank: other processes can only lengthen a run."""
    times = []
    for _ in range(REPEATS + 1):
        dist.barrier(group)
        begin = time.perf_counter()
        function()
        times.append(busiest(time.perf_counter() - begin, group))
    return min(times[1:])


def measure(particles: int, dim: int, group: dist.ProcessGroup, gradient: bool) -> dict[str, float]:
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    generator = torch.Generator().manual_seed(0)
    everything = torch.randn(2, particles, dim, generator=generator)
    counts = even_split(particles, size)
    blocks = [block.contiguous() for block in everything.split(counts, 1)]
    x, score = blocks[rank]
    sigma, shards, field = torch.tensor(math.sqrt(dim)), Shards(group, rank, counts), Field(particles)

    def ring() -> object:
        return distributed.svgd_phi_trace(x, score, sigma, group)

    def work() -> object:
        return [field(x, *block, (sigma,), 0 if owner == rank else None) for owner, block in enumerate(blocks)]

    def travel() -> object:
        return list(circulate(shards, torch.cat([x, score], -1), size - 1))[-1]

    def with_gradient() -> object:
        inputs = [tensor.clone().requires_grad_() for tensor in (x, score, sigma)]
        phi, trace = distributed.svgd_phi_trace(*inputs, group)
        return torch.autograd.grad(phi.sum() + trace.sum(), inputs)

    measured = {"ring": seconds(ring, group), "work": seconds(work, group), "travel": seconds(travel, group)}
    for name, function in {"bytes": ring, "gradient bytes": with_gradient}.items():
        with Meter() as meter:
            function()
        measured[name] = busiest(meter.bytes, group)
    if gradient:
        measured["gradient"] = seconds(with_gradient, group)
    return measured


def measure_median(particles: int, dim: int, group: dist.ProcessGroup) -> dict[str, float]:
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    x = torch.randn(particles, dim, generator=torch.Generator().manual_seed(0)).split(even_split(particles, size))[rank]
    rounds = 0
    visit = median._Selection._pairs

    def counted(self: Any) -> Any:
        nonlocal rounds
        rounds += 1
        return visit(self)

    median._Selection._pairs = counted  # type: ignore[method-assign]
    with Meter() as meter:
        distributed.median_distance(x, group)
    median._Selection._pairs = visit  # type: ignore[method-assign]
    measured = {"rounds": float(rounds), "bytes": busiest(meter.bytes, group)}
    return measured | {"seconds": seconds(lambda: distributed.median_distance(x, group), group)}


def ranks_work(rank: int, world: list[int], store: str, out: str) -> None:
    torch.set_num_threads(1)
    wait = datetime.timedelta(minutes=10)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=max(world), timeout=wait)
    results: dict[str, Any] = {}
    for size in world:
        group = dist.new_group(list(range(size)))
        if rank < size:
            for particles, dim in STRONG:
                results[f"strong {particles} {dim} {size}"] = measure(particles, dim, group, gradient=True)
            particles = round(WEAK[0] * math.sqrt(size))
            results[f"weak {particles} {WEAK[1]} {size}"] = measure(particles, WEAK[1], group, gradient=False)
            # Almost no work or travel: this measures the host's cost per block and the check of shapes.
            results[f"tiny {TINY[0]} {TINY[1]} {size}"] = measure(*TINY, group, gradient=False)
            results[f"median {MEDIAN[0]} {MEDIAN[1]} {size}"] = measure_median(*MEDIAN, group)
        dist.barrier()
    if rank == 0:
        pathlib.Path(out).write_text(json.dumps(results))
    dist.destroy_process_group()


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def of_kind(results: dict[str, dict[str, float]], kind: str) -> list[tuple[int, int, int, dict[str, float]]]:
    """M, D, P and the measurements of one kind of run."""
    names = [name.split() for name in results]
    return [(int(m), int(d), int(p), results[f"{k} {m} {d} {p}"]) for k, m, d, p in names if k == kind]


def milliseconds(value: float) -> str:
    return f"{1e3 * value:.3g}"


def scaling_rows(results: list[tuple[int, int, int, dict[str, float]]]) -> list[list[str]]:
    alone = {dim: of for _, dim, size, of in results if size == 1}
    rows = []
    for particles, dim, size, of in sorted(results, key=lambda row: (row[1], row[2])):
        work = alone[dim]["ring"] / size * (particles / of_size(results, dim)) ** 2
        hidden = (of["work"] + of["travel"] - of["ring"]) / of["travel"] if size > 1 else math.nan
        rows.append([
            f"{particles}, {dim}",
            str(size),
            *(milliseconds(of[name]) for name in ("ring", "work", "travel")),
            milliseconds(work),
            f"{100 * work / of['ring']:.0f} %",
            "–" if size == 1 else f"{100 * min(1.0, max(0.0, hidden)):.0f} %",
        ])  # fmt: skip
    return rows


def of_size(results: list[tuple[int, int, int, dict[str, float]]], dim: int) -> int:
    """M of the run with one rank."""
    return next(particles for particles, d, size, _ in results if d == dim and size == 1)


def byte_rows(results: list[tuple[int, int, int, dict[str, float]]]) -> list[list[str]]:
    rows = []
    for particles, dim, size, of in results:
        if size > 1:
            least = FLOAT * 2 * particles * dim * (size - 1) / size
            back = of["gradient bytes"] - of["bytes"]
            rows.append([f"{particles}, {dim}", str(size), f"{of['bytes']:,.0f}", f"{least:,.0f}"])
            rows[-1] += [f"{of['bytes'] / least:.3f}", f"{back / least:.3f}"]
    return rows


def report(results: dict[str, dict[str, float]], command: str) -> str:
    strong, weak, median_ = (of_kind(results, kind) for kind in ("strong", "weak", "median"))
    head = ["M, D", "P", "ring, ms", "work, ms", "travel, ms", "model, ms", "efficiency", "travel hidden"]
    today = datetime.date.today().isoformat()
    lines = [
        f"Made by `{command}` on {today}, {platform.machine()}, torch {torch.__version__}, Gloo on one machine, one "
        f"thread per rank, float32; every time is the shortest of {REPEATS}.",
        "",
        "ring: `svgd_phi_trace`, with its check of shapes. work: the same blocks from memory. travel: a round of the "
        "ring without work. model: the time of one rank times (M / M₁)² / P, with all travel hidden; efficiency: "
        "model / ring.",
        "",
        *("### Strong scaling", "", *table(head, scaling_rows(strong)), ""),
        *("### Weak scaling, M² / P constant", "", *table(head, scaling_rows(weak)), ""),
        *("### Forward and backward", ""),
        *table(["M, D", "P", "ms", "relative to one rank"], gradient_rows(strong)),
        *("", "### Bytes sent by a rank", ""),
        *table(
            ["M, D", "P", "forward", "minimum", "forward / minimum", "backward / minimum"], byte_rows(strong + weak)
        ),
        *("", "### Eight particles: the host's cost of a round", ""),
        *table(
            ["P", "ring, ms", "travel, ms", "per block, ms"],
            [
                [str(p), *(milliseconds(value) for value in (of["ring"], of["travel"], of["ring"] / p))]
                for _, _, p, of in of_kind(results, "tiny")
            ],
        ),
        *("", "### Exact median of distances", ""),
        *table(
            ["M, D", "P", "ms", "rounds of the ring", "bytes sent"],
            [
                [f"{m}, {d}", str(p), milliseconds(of["seconds"]), f"{of['rounds']:.0f}", f"{of['bytes']:,.0f}"]
                for m, d, p, of in median_
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def gradient_rows(results: list[tuple[int, int, int, dict[str, float]]]) -> list[list[str]]:
    alone = {dim: of["gradient"] for _, dim, size, of in results if size == 1}
    return [
        [f"{m}, {d}", str(p), milliseconds(of["gradient"]), f"{alone[d] / of['gradient']:.2f}×"]
        for m, d, p, of in sorted(results, key=lambda row: (row[1], row[2]))
    ]


def main() -> None:
    out, world = pathlib.Path(sys.argv[1]), [int(size) for size in sys.argv[2:]] or [1, 2]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "results.json"
        mp.spawn(ranks_work, (world, str(pathlib.Path(folder) / "store"), str(path)), nprocs=max(world))
        results = json.loads(path.read_text())
    out.write_text(report(results, " ".join(["python", "bench/bench_distributed.py", *sys.argv[1:]])))


if __name__ == "__main__":
    main()
