"""Writes docs/results/toys.md, a table of run folders of `svgdx sample`.

python docs/results/toys.py RUN... OUT.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from svgdx.experiments.run.report import table
from svgdx.experiments.toys.config import SampleConfig

COLUMNS = (
    "target",
    "preset",
    "initial σ",
    "control",
    "M, steps",
    "epochs",
    "entropy, nats",
    "true entropy",
    "method",
    "error",
    "particles kept",
    "largest norm of a particle",
)


def row(run: Path) -> list[str]:
    """The cells of one run."""
    config = SampleConfig.from_yaml(run / "config.yaml")
    result = json.loads((run / "result.json").read_text())
    truth = result["truth"]
    return [
        config.target,
        config.preset,
        f"{config.sigma:g}" if config.sigma else "heuristic",
        config.control,
        f"{config.particles}, {result['length']:.0f}",
        str(config.epochs),
        f"{result['entropy']:.3f} ± {result['entropy_error']:.3f}",
        f"{truth['entropy']:.3f}" + (f" ± {truth['error']:.3f}" if truth["error"] else ""),
        truth["method"],
        f"{result['entropy'] - truth['entropy']:+.3f}",
        f"{result['kept']:.0%}" if config.control == "truncation" else "all",
        f"{result['largest_norm']:.2f}",
    ]


def main(arguments: list[str]) -> None:
    """Writes the table and the command of each run."""
    *runs, out = map(Path, arguments)
    lines = table(COLUMNS, [row(run) for run in runs])
    commands = [f"- `{SampleConfig.from_yaml(run / 'config.yaml').command()} --out {run.name}`" for run in runs]
    text = f"""# The sampler on targets with known answers

Made by the commands below and `python docs/results/toys.py RUN... docs/results/{out.name}`. Entropies are mean and
standard error over independent chains of M particles. The error is the entropy minus the true entropy: it is that of
the method, not only sampling noise. Particles masked by truncation are left out.
"""
    commands_text = "\n\n## Commands\n\n" + "\n".join(commands) + "\n"
    out.write_text(text + "\n" + "\n".join(lines) + commands_text)


if __name__ == "__main__":
    main(sys.argv[1:])
