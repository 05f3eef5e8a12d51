"""A map of speed-ups over random shapes instead of named ones: one thread, float32, CPU time, least of many calls.

    python bench/map.py --shapes 200 --out OUT
    python bench/map.py --shapes 30 --ops phi_trace --peers eager --seed 3

draws shapes (B, M, D) log-uniformly with at most 10^10 multiply-adds, times svgdx and every peer in turn, and writes
OUT.json with the machine's facts, OUT.md with the least, the lowest decile and the median of svgdx's speed-up over the
best peer, and the picture OUT.png. Peers: the matrix-product forms of field_peers.py in eager mode and under
torch.compile, and jax.jit of the same form if JAX is installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from field_peers import matmul
from torch import Tensor

import svgdx
from svgdx import _library

Shape = tuple[int, int, int]
Results = tuple[Tensor, ...]
Form = Callable[[Tensor, Tensor, Tensor], Results]
LARGEST: Shape = (4096, 16384, 4096)
MULTIPLY_ADDS = 10**10
KERNEL_NUMBERS = 2 * 10**8  # above this, a peer's (B, M, M) tensors do not fit beside one another
STEP_SIZE = 0.1


def draw_shapes(count: int, seed: int) -> list[Shape]:
    """Log-uniform in B, M and D."""
    generator = random.Random(seed)
    shapes: list[Shape] = []
    while len(shapes) < count:
        batch, particles, dim = (round(math.exp(generator.uniform(0, math.log(most)))) for most in LARGEST)
        few = batch * particles**2 * dim <= MULTIPLY_ADDS and batch * particles**2 <= KERNEL_NUMBERS
        if particles >= 2 and few:
            shapes.append((batch, particles, dim))
    return shapes


def matmul_step(x: Tensor, score: Tensor, bandwidth: Tensor) -> Results:
    phi, trace = matmul(x, score, bandwidth)
    return x + STEP_SIZE * phi, -STEP_SIZE * trace


def matmul_ksd(x: Tensor, score: Tensor, bandwidth: Tensor) -> Results:
    """The U-statistic from phi and trace: its summand is the Stein operator applied to phi without the own particle."""
    m = x.shape[-2]
    phi, trace = matmul(x, score, bandwidth)
    summand = (score * (phi - score / m)).sum(-1) + trace
    return (summand.sum(-1) / (m - 1),)


def matmul_sqnorm(x: Tensor, score: Tensor, bandwidth: Tensor) -> Results:
    """Gram matrices instead of the Jacobians: the expansion of csrc/jacobian/gram.h."""
    beta, m = (bandwidth**-2)[:, None, None], x.shape[-2]
    x = x - x.mean(-2, keepdim=True)
    c = score - beta * x
    g, f, u = x @ x.mT, c @ c.mT, x @ c.mT
    norm = g.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    kernel = torch.exp(-0.5 * beta * (norm + norm.mT - 2 * g).clamp_min(0))
    kernel = kernel * (1 - torch.eye(m))
    a, b = beta * u + 0.5 * beta.square() * norm, 0.5 * norm - g
    total, ka, kb = kernel.sum(-1), kernel * a, kernel * b
    quadratic = (kernel @ (f * g)) * kernel + 2 * kb * (kernel @ f) + 2 * ka * (kernel @ g)
    sums = quadratic.sum(-1) + 2 * total * (kernel * a * b).sum(-1) + 2 * ka.sum(-1) * kb.sum(-1)
    return (sums * beta[..., 0].square() / m**2,)


def pdist_median(x: Tensor, _score: Tensor, _bandwidth: Tensor) -> Results:
    m = x.shape[-2]
    rows, columns = torch.triu_indices(m, m, 1)
    return (torch.cdist(x, x)[:, rows, columns].median(-1).values,)


def svgdx_step(x: Tensor, score: Tensor, bandwidth: Tensor) -> Results:
    return svgdx.ops.svgd_step(x, score, bandwidth, STEP_SIZE, x.new_zeros(x.shape[:-1]))


OPS: dict[str, tuple[Form, Form]] = {
    "phi_trace": (svgdx.ops.svgd_phi_trace, matmul),
    "step": (svgdx_step, matmul_step),
    "ksd": (lambda x, s, h: (svgdx.ops.ksd(x, s, h),), matmul_ksd),
    "jacobian_sqnorm": (lambda x, s, h: (svgdx.ops.svgd_jacobian_sqnorm(x, s, h),), matmul_sqnorm),
    "median": (lambda x, s, h: (svgdx.ops.median_distance(x),), pdist_median),
}


def in_turn(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The least CPU time of each call, in seconds; the calls alternate."""
    least = dict.fromkeys(calls, math.inf)
    start, rounds = time.process_time(), 0
    while rounds < 2 or (time.process_time() - start < seconds and rounds < 1000):
        for name, call in calls.items():
            before = time.process_time_ns()
            call()
            least[name] = min(least[name], 1e-9 * (time.process_time_ns() - before))
        rounds += 1
    return least


def jax_call(form: Form, inputs: list[Tensor], upstream: list[Tensor] | None) -> Callable[[], object]:
    """jax.jit of phi and trace in the matrix-product form, or of its vector-Jacobian product."""
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")

    def phi_trace(x: Any, score: Any, bandwidth: Any) -> Any:
        m, d = x.shape[-2:]
        beta = (bandwidth**-2)[:, None, None]
        norm = (x * x).sum(-1, keepdims=True)
        squared = jnp.maximum(norm + norm.swapaxes(-1, -2) - 2 * x @ x.swapaxes(-1, -2), 0)
        kappa = jnp.exp(-0.5 * beta * squared)
        total = kappa.sum(-1, keepdims=True)
        k_score, k_x = kappa @ score, kappa @ x
        k_dot = kappa @ (x * score).sum(-1, keepdims=True)
        phi = (k_score + beta * (x * total - k_x)) / m
        r_z = beta * (kappa * squared).sum(-1, keepdims=True) + (x * k_score).sum(-1, keepdims=True) - k_dot
        return phi, (beta * (d * (total - 1) - r_z) / m)[..., 0]

    assert form is matmul
    arrays = [jnp.asarray(tensor.detach().numpy()) for tensor in inputs]
    if upstream is None:
        function = jax.jit(phi_trace)
    else:
        gradient = tuple(jnp.asarray(tensor.numpy()) for tensor in upstream)
        function = jax.jit(lambda *values: jax.vjp(phi_trace, *values)[1](gradient))
    return lambda: jax.block_until_ready(function(*arrays))


def calls_of(op: str, shape: Shape, backward: bool, peers: list[str]) -> dict[str, Callable[[], object]]:
    """svgdx's and the peers' calls, each run once and compared with svgdx's result."""
    generator = torch.Generator().manual_seed(sum(shape))
    x, score = torch.randn(2, *shape, generator=generator)
    inputs = [tensor.requires_grad_(backward) for tensor in (x, score, torch.full(shape[:1], shape[2] ** 0.5))]
    ours, form = OPS[op]
    upstream = [torch.randn(t.shape, generator=generator) for t in ours(*inputs)] if backward else None

    def call_of(function: Form) -> Callable[[], Any]:
        if upstream is None:
            return lambda: function(*inputs)
        return lambda: torch.autograd.grad(function(*inputs), inputs, upstream)

    calls: dict[str, Callable[[], object]] = {"svgdx": call_of(ours)}
    if "eager" in peers:
        calls["eager"] = call_of(form)
    if "compile" in peers:
        torch._dynamo.reset()
        calls["compile"] = call_of(torch.compile(form, fullgraph=True, dynamic=False))
    if "jax" in peers and form is matmul:
        calls["jax"] = jax_call(form, inputs, upstream)
    expected = calls["svgdx"]()
    for name, call in calls.items():
        if name in ("eager", "compile"):
            agree(f"{op} {shape} {name}", call(), expected)
        else:
            call()
    return calls


def agree(name: str, results: Any, expected: Any) -> None:
    for one, other in zip(results, expected, strict=True):
        norm = torch.linalg.vector_norm(other)
        if not torch.linalg.vector_norm(one - other) <= 1e-2 * norm + 1e-4:
            print(f"{name} differs from svgdx by {torch.linalg.vector_norm(one - other) / norm:.1e}", flush=True)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for shape in draw_shapes(options.shapes, options.seed):
        for op in options.ops:
            for backward in (False, True):
                if backward and op == "median":
                    continue
                times = in_turn(calls_of(op, shape, backward, options.peers), options.seconds)
                best = min((name for name in times if name != "svgdx"), key=times.__getitem__)
                ratio = times[best] / times["svgdx"]
                rows.append(
                    {"op": op, "shape": shape, "backward": backward, "times": times, "best": best, "ratio": ratio}
                )
                pass_name = "forward + backward" if backward else "forward"
                report = ", ".join(f"{name} {1e3 * value:.3f} ms" for name, value in times.items())
                print(f"{ratio:6.2f}  {op:<15} {pass_name:<18} {shape}: {report}", flush=True)
    return rows


def quantile(ratios: list[float], share: float) -> float:
    return sorted(ratios)[min(len(ratios) - 1, int(share * len(ratios)))]


def table(rows: list[dict[str, Any]], facts: dict[str, Any], command: str) -> str:
    lines = [
        f"# Speed-up of svgdx over the best peer, random shapes\n\n`{command}`\n",
        f"{facts['cpu']}, one thread, CPU time; torch {facts['torch']}, JAX {facts['jax']}.\n",
        "| op | pass | shapes | least | lowest decile | median | below 1.0 |",
        "|---|---|---|---|---|---|---|",
    ]
    for op in dict.fromkeys(row["op"] for row in rows):
        for backward in (False, True):
            ratios = [row["ratio"] for row in rows if row["op"] == op and row["backward"] == backward]
            if not ratios:
                continue
            numbers = " | ".join(f"{quantile(ratios, share):.2f}" for share in (0, 0.1, 0.5))
            below = sum(ratio < 1 for ratio in ratios)
            pass_name = "forward + backward" if backward else "forward"
            lines.append(f"| {op} | {pass_name} | {len(ratios)} | {numbers} | {below} |")
    worst = sorted(rows, key=lambda row: row["ratio"])[:8]
    lines += ["\nThe lowest:\n"]
    for row in worst:
        pass_name = "forward + backward" if row["backward"] else "forward"
        lines.append(f"- {row['ratio']:.2f} ({row['best']}): {row['op']}, {pass_name}, {tuple(row['shape'])}")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    colours = [math.log2(row["ratio"]) for row in rows]
    sizes = [20 + 12 * math.log2(row["shape"][0]) for row in rows]
    where = [[row["shape"][i] for row in rows] for i in (1, 2)]
    points = axes.scatter(
        *where, c=colours, s=sizes, cmap="RdYlGn", vmin=-3, vmax=3, edgecolors="black", linewidths=0.4
    )
    axes.set(xscale="log", yscale="log", xlabel="particles M", ylabel="dimensions D")
    axes.set_title("Speed-up of svgdx over the best peer; larger dots: larger batch")
    bar = figure.colorbar(points, label="speed-up")
    bar.set_ticks([-3, -2, -1, 0, 1, 2, 3], labels=["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def machine() -> dict[str, Any]:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    try:
        jax_version = importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        jax_version = "not installed"
    products = _library.product_facts()._asdict()
    cpu = names[0] if names else platform.processor()
    return {
        "cpu": cpu,
        "torch": torch.__version__,
        "jax": jax_version,
        "svgdx": svgdx.__version__,
        "products": products,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=200, help="number of shapes")
    parser.add_argument("--seed", type=int, default=18, help="seed of the shapes")
    parser.add_argument("--seconds", type=float, default=0.5, help="CPU seconds of calls per op, pass and shape")
    parser.add_argument("--ops", nargs="+", default=list(OPS), choices=OPS, help="ops to time")
    parser.add_argument("--peers", nargs="+", default=["eager", "compile", "jax"], choices=["eager", "compile", "jax"])
    parser.add_argument("--out", type=pathlib.Path, help="writes OUT.json, OUT.md and OUT.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts = machine()
    if facts["jax"] == "not installed" and "jax" in options.peers:
        options.peers.remove("jax")
        print("JAX is not installed: it is not among the peers", flush=True)
    rows = measure(options)
    command = f"python bench/map.py --shapes {options.shapes} --seed {options.seed} --ops {' '.join(options.ops)}"
    command += f" --peers {' '.join(options.peers)}"
    text = table(rows, facts, command)
    print(text)
    if options.out:
        options.out.with_suffix(".json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1))
        options.out.with_suffix(".md").write_text(text + f"\n![speed-ups]({options.out.name}.png)\n")
        draw(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
