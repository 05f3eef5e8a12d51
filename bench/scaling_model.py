"""The cost model of docs/results/scaling.md and its predictions for H100 GPUs: python bench/scaling_model.py.

One round of the ring for M particles in D dimensions on P GPUs consists of P blocks. A block takes the longest of its
work, M^2 D / (P^2 rate), the travel of the next block, 8 M D / (P bandwidth) + latency, and the host's part.
"""

from __future__ import annotations

from typing import NamedTuple

# One subtraction and four multiply-adds per pair and dimension: as many issue slots as ten operations at peak.
OPERATIONS = 10
PEAK = 67e12  # operations per second; NVIDIA H100 Tensor Core GPU datasheet, H100 SXM: FP32
# Assumed share of the peak that svgd_field reaches, and the host's time per block, in seconds.
SHARE_OF_PEAK, HOST = 1 / 3, 100e-6
# A GPU's links in one direction, in bytes per second, and the assumed latency of a message, in seconds.
NVLINK = (450e9, 10e-6)  # NVIDIA H100 Tensor Core GPU datasheet: NVLink 900 GB/s, both directions together
INFINIBAND = (50e9, 20e-6)  # NVIDIA DGX H100 datasheet: eight ConnectX-7 of 400 Gb/s for eight GPUs
NODE = 8


class Round(NamedTuple):
    """Seconds of one round of the ring, and of each of its parts alone."""

    total: float
    work: float
    travel: float
    host: float


def predict(particles: int, dim: int, gpus: int) -> Round:
    bandwidth, latency = NVLINK if gpus <= NODE else INFINIBAND
    work = OPERATIONS * particles**2 * dim / gpus**2 / (SHARE_OF_PEAK * PEAK)
    travel = 8 * particles * dim / gpus / bandwidth + latency
    return Round(gpus * max(work, travel, HOST), gpus * work, (gpus - 1) * travel, gpus * HOST)


def main() -> None:
    print("| D | GPUs | work, s | travel, s | host, s | round, s | efficiency | longest |")
    print("|" + "---|" * 8)
    for dim in (16, 64, 1024):
        for gpus in (8, 64, 1024):
            round_ = predict(10**6, dim, gpus)
            longest = max(("work", "travel", "host"), key=lambda name, of=round_: getattr(of, name))
            cells = [f"{value:.3g}" for value in (round_.work, round_.travel, round_.host, round_.total)]
            print(f"| {dim} | {gpus:,} | {' | '.join(cells)} | {100 * round_.work / round_.total:.0f} % | {longest} |")


if __name__ == "__main__":
    main()
