"""Draws docs/results/demo.png, the picture of the README, from a run folder of `make demo`.

python docs/results/demo.py RUN OUT.png
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from svgdx.experiments.data.images import load_images
from svgdx.experiments.run.figures import write_figure, write_sample_grid


def main(run: Path, out: Path) -> None:
    """Draws samples before and after training, real digits, and the distance between them over the run."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    distances = [(record["step"], record["feature_distance"]) for record in metrics if "feature_distance" in record]
    last_step = distances[-1][0]
    digits = load_images("digits", None)
    with tempfile.TemporaryDirectory() as folder:
        held_out = Path(folder) / "held-out.png"
        write_sample_grid(digits.held_out, digits.shape, held_out)
        pictures = {
            "samples before training": run / "samples-00000000.png",
            f"samples after {last_step} updates": run / f"samples-{last_step:08d}.png",
            "real digits, held out": held_out,
        }
        figure, axes = plt.subplots(1, 4, figsize=(14, 3.7), layout="constrained")
        for axis, (title, path) in zip(axes, pictures.items(), strict=False):
            axis.imshow(plt.imread(path))
            axis.set_title(title, fontsize=10)
            axis.axis("off")
    axes[3].plot(*zip(*distances, strict=True), marker=".")
    axes[3].set(yscale="log", xlabel="energy updates")
    axes[3].set_title("Fréchet distance to held-out digits, features", fontsize=10)
    axes[3].grid(alpha=0.3)
    write_figure(figure, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
