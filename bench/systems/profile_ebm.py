"""Profiles the update of an energy-based model: python bench/systems/profile_ebm.py OUT.md [ROUNDS]

One thread. Every operator's own time is attributed to one of three parts: matrix products and convolutions; everything
else in the energy, i.e. its forward pass and derivatives by autograd; and the rest: SVGD, Adam, random numbers, Python.
"""

from __future__ import annotations

import platform
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from svgdx.experiments.data.images import load_images
from svgdx.experiments.ebm.config import EBMConfig
from svgdx.experiments.ebm.trainer import EBMTrainer

CASES = {
    "digits, mlp": {"data": "digits"},
    "digits, conv": {"data": "digits", "energy": "conv"},
    "patches, mlp": {"data": "patches"},
}
PRODUCTS = (
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::mkldnn_convolution",
    "aten::convolution_backward",
    "aten::mv",
)
ENERGY, UPDATE = "the energy's forward", "update"
PARTS = ("matrix products", "rest of the energy", "outside the energy")
BACKWARD = "autograd::engine::evaluate_function"


def part_of(event: Any) -> str:
    """The entry of PARTS to which an operator's own time is attributed."""
    if event.name in PRODUCTS:
        return PARTS[0]
    within = event
    while within is not None:
        if within.name in (ENERGY, "svgdx::mlp_score_hvp"):
            return PARTS[1]
        # Derivatives of svgdx's own ops do not belong to the energy.
        if within.name.startswith(BACKWARD):
            return PARTS[2] if "svgdx" in within.name.lower() else PARTS[1]
        within = within.cpu_parent
    return PARTS[2]


def measure(settings: dict[str, Any], rounds: int) -> tuple[dict[str, float], Counter[str], float, float]:
    """Shares of PARTS and of the operators outside, and the milliseconds of an update with and without the profiler."""
    # No distances, since evaluations are not part of an update.
    config = EBMConfig.from_options({"steps": 10_000, "threads": 1, **settings})
    trainer = EBMTrainer(config, load_images(config.data, None), distances=None)  # type: ignore[arg-type]
    forward = trainer.energy.forward

    def recorded(x: torch.Tensor) -> torch.Tensor:
        with record_function(ENERGY):
            return forward(x)

    trainer.energy.forward = recorded  # type: ignore[method-assign]
    for _ in range(config.sampler_every):
        trainer.update()
    started = time.perf_counter()
    for _ in range(rounds * config.sampler_every):
        trainer.update()
    alone = time.perf_counter() - started
    times = dict.fromkeys(PARTS, 0.0)
    outside: Counter[str] = Counter()
    whole = 0.0
    # One round of updates at a time, because the profiler stores every event.
    for _ in range(rounds):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(config.sampler_every):
                with record_function(UPDATE):
                    trainer.update()
        for event in profiler.events():
            if event.name == UPDATE:
                whole += event.cpu_time_total
            share = part_of(event)
            times[share] += event.self_cpu_time_total
            if share == PARTS[2]:
                outside[event.name if event.name != UPDATE else "Python between operators"] += event.self_cpu_time_total
    updates = rounds * config.sampler_every
    shares = {name: spent / whole for name, spent in times.items()}
    return (
        shares,
        Counter({name: spent / whole for name, spent in outside.items()}),
        whole / updates / 1e3,
        alone / updates * 1e3,
    )


def main(out: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    lines = [
        "# Where the time of an update goes",
        "",
        f"`python bench/systems/profile_ebm.py {out} {rounds}`: torch {torch.__version__}, {platform.machine()}, "
        f"one thread, configuration met-svgd, means of {rounds} rounds of five updates, one of which trains the "
        "sampler. Shares are those under the profiler, which makes small operators look slower than they are.",
        "",
        "| data, energy | update, ms | under the profiler, ms | " + " | ".join(PARTS) + " | longest outside |",
        "|" + " --- |" * 7,
    ]
    for case, settings in CASES.items():
        shares, outside, profiled, alone = measure(settings, rounds)
        longest = ", ".join(f"{op} {100 * share:.1f} %" for op, share in outside.most_common(4))
        cells = [case, f"{alone:.0f}", f"{profiled:.0f}", *(f"{100 * shares[name]:.1f} %" for name in PARTS), longest]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2)
