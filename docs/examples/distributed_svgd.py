"""SVGD with its particles on many processes.

Each process holds its share of the particles and moves them, and all learn one sampler. Start it by
`torchrun --nproc-per-node 2 distributed_svgd.py`, or plainly as one process. Mean and entropy must be the target's.
"""

import argparse
import functools
import math
import os

import matplotlib.pyplot as plt
import torch
import torch.distributed as dist

from svgdx import SVGD
from svgdx.samplers import RBF, Learnt, LearntGaussian

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="train less: a few seconds")
parser.add_argument("--out", default="distributed_svgd.png", help="picture")
options = parser.parse_args()
torch.manual_seed(0)
STEPS, PARTICLES, WIDTH, HEIGHT = 10, 400, 1.5, 0.6


def log_prob(x):
    """A Gaussian bent along a wave: x is N(0, WIDTH²), y - sin x is N(0, HEIGHT²); (..., 2) -> (...)."""
    across, along = x[..., 0], x[..., 1] - torch.sin(x[..., 0])
    return -0.5 * (across / WIDTH).square() - 0.5 * (along / HEIGHT).square()


if "RANK" in os.environ:
    dist.init_process_group("gloo")  # "nccl" on GPUs; torchrun tells each process its rank
else:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
start = LearntGaussian(torch.zeros(2), torch.ones(2))
kernel, step_size = RBF(Learnt(1.0, STEPS)), Learnt(0.5, STEPS)
sampler = SVGD(log_prob, start, kernel, step_size, bound="clamp", process_group=dist.group.WORLD)
adam = functools.partial(torch.optim.Adam, lr=0.05)
sampler.fit(100, STEPS, epochs=15 if options.quick else 200, optimizer=adam)
shards = [None] * dist.get_world_size()
with torch.no_grad():
    dist.all_gather_object(shards, sampler.sample_with_log_prob(PARTICLES, STEPS))
if dist.get_rank() == 0:
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    grid = torch.meshgrid(torch.linspace(-4.5, 4.5, 200), torch.linspace(-2.5, 2.5, 200), indexing="xy")
    axes.contourf(*grid, log_prob(torch.stack(grid, -1)).exp(), levels=12, cmap="Blues")
    for rank, (points, _) in enumerate(shards):
        axes.plot(*points.T.numpy(), ".", markersize=4, label=f"of process {rank}")
    axes.legend()
    figure.savefig(options.out, dpi=110)
    x, log_q = (torch.cat(values) for values in zip(*shards, strict=True))
    # Bending the Gaussian preserves area, and so the entropy.
    entropy = 1 + math.log(2 * math.pi * WIDTH * HEIGHT)
    print(
        f"{len(x)} particles of {len(shards)} processes: mean ({x[:, 0].mean():.2f}, {x[:, 1].mean():.2f}), "
        f"truth (0, 0); entropy {-log_q.mean():.2f} nats, truth {entropy:.2f}"
    )
dist.destroy_process_group()
