"""Table of runs of `svgdx sample`: python docs/toys.py RUN... OUT.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from svgdx.experiments.toys.config import SampleConfig


def row(path: Path) -> list[str]:
    config = SampleConfig.from_yaml(path / "config.yaml")
    result = json.loads((path / "result.json").read_text())
    truth = result["truth"]
    known = f"{truth['entropy']:.3f}" + (f" ± {truth['error']:.3f}" if truth["error"] else "")
    off = result["entropy"] - truth["entropy"]
    found = f"{result['entropy']:.3f} ± {result['entropy_error']:.3f}"
    cells = [config.target, config.preset, f"{config.sigma:g}" if config.sigma else "heuristic", config.control]
    cells += [f"{config.particles}, {result['length']:.0f}", str(config.epochs), found, known, truth["method"]]
    kept = f"{result['kept']:.0%}" if config.control == "truncation" else "all"
    return [*cells, f"{off:+.3f}", kept, f"{result['largest_norm']:.2f}"]


def main(paths: list[str]) -> None:
    *runs, out = map(Path, paths)
    head = ["target", "preset", "σ at the start", "control", "M, steps", "epochs", "entropy, nats", "truth", "method"]
    head += ["error", "particles kept", "largest norm of a particle"]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *map(row, runs))]
    commands = [f"- `{SampleConfig.from_yaml(run / 'config.yaml').command()} --out {run.name}`" for run in runs]
    text = f"""# The sampler on targets with known answers

Made by the commands below and `python docs/toys.py RUN... docs/{out.name}`. Entropy: mean and
standard error over independent chains of M particles; the error is what the method leaves, not sampling noise alone.
Particles that truncation has masked are left out.
"""
    end = "\n\n## Commands\n\n" + "\n".join(commands) + "\n"
    out.write_text(text + "\n" + "\n".join(lines) + end)


if __name__ == "__main__":
    main(sys.argv[1:])
