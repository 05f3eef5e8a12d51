"""Data sets of binary vectors, each with its energy, its own measures and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from svgdx.energies import DiscreteMLPEnergy
from svgdx.experiments import binary_plots, synthetic2d
from svgdx.experiments.eb_gfn_config import SYNTHETIC, EBGFNConfig


class Task(Protocol):
    """Data in {0, 1}^D, int8, and what is said about a model of it.

    dim: D. pictured: how many samples `picture` wants.
    """

    dim: int
    pictured: int

    def batch(self, count: int, seed: int) -> Tensor:
        """Training data (count, D)."""

    def held_out(self, count: int, seed: int) -> Tensor:
        """Data the model has not seen, at most (count, D)."""

    def energy(self, config: EBGFNConfig) -> nn.Module:
        """A new energy."""

    def penalty(self, energy: nn.Module, config: EBGFNConfig) -> Tensor | None:
        """What is added to the energy's loss."""

    def measure(self, energy: nn.Module) -> dict[str, float]:
        """Quantities that are known of the energy without samples."""

    def picture(self, folder: Path, step: int, samples: Tensor, energy: nn.Module) -> None:
        """Draws samples (pictured, D) into samples.png and samples-STEP.png."""


class Synthetic2D:
    """Points of the plane as 32 bits, fresh for every batch."""

    dim = synthetic2d.BITS
    pictured = 4000

    def __init__(self, name: str) -> None:
        self.name = name
        self.entropy = synthetic2d.ENTROPY[name]
        self.quantizer = synthetic2d.Quantizer(name)

    def batch(self, count: int, seed: int) -> Tensor:
        return self.quantizer.encode(synthetic2d.sample_2d(self.name, count, np.random.default_rng(seed)))

    def held_out(self, count: int, seed: int) -> Tensor:
        return self.batch(count, seed)

    def energy(self, config: EBGFNConfig) -> nn.Module:
        return DiscreteMLPEnergy(self.dim, config.energy_hidden, config.energy_depth, config.energy_activation)

    def penalty(self, energy: nn.Module, config: EBGFNConfig) -> Tensor | None:
        return None

    def measure(self, energy: nn.Module) -> dict[str, float]:
        return {}

    def picture(self, folder: Path, step: int, samples: Tensor, energy: nn.Module) -> None:
        decode = self.quantizer.decode
        data = decode(self.batch(self.pictured, 0))
        side = np.linspace(-1, 1, 160) * min(np.abs(data).max() * 1.1, 0.999 * self.quantizer.limit)
        grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        with torch.no_grad():
            density = -energy(self.quantizer.encode(grid).float()).reshape(len(side), len(side)).numpy()
        binary_plots.planes(folder, step, data, decode(samples), density, side)


def load(config: EBGFNConfig) -> Task:
    """The task of a run. Raises UsageError when its data is missing or cannot be read."""
    if config.data in SYNTHETIC:
        return Synthetic2D(config.data)
    raise NotImplementedError(config.data)
