"""Data sets of binary vectors, each with its energy, its own measures and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from svgdx.densities import DiscreteMLPEnergy, IsingEnergy
from svgdx.experiments.data import binary, ising, plane
from svgdx.experiments.eb_gfn import plots as binary_plots
from svgdx.experiments.eb_gfn.config import SYNTHETIC, EBGFNConfig
from svgdx.experiments.ebm import plots
from svgdx.experiments.metrics.bits import neg_log_rmse

# Seeds of what is the same in all runs, whatever their seed, so that their figures compare.
_DATA_SEED, _HELD_OUT_SEED, _MEAN_SEED = 1, 2, 3


class Task(Protocol):
    """Data in {0, 1}^D, int8, and what is said about a model of it.

    dim: D. pictured: how many samples `picture` wants. entropy: of the data where it is known, in nats.
    """

    dim: int
    pictured: int
    entropy: float | None

    def batch(self, count: int, seed: int) -> Tensor:
        """Training data (count, D)."""

    def held_out(self, count: int, seed: int) -> Tensor:
        """Data the model has not seen, at most (count, D)."""

    def base(self) -> Tensor:
        """Probabilities of the bits on average over the data, inside (0, 1): (D,)."""

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

    dim = plane.BITS
    pictured = 4000

    def __init__(self, name: str) -> None:
        self.name = name
        self.entropy: float | None = plane.ENTROPY[name]
        self.quantizer = plane.Quantizer(name)

    def batch(self, count: int, seed: int) -> Tensor:
        return self.quantizer.encode(plane.sample_2d(self.name, count, np.random.default_rng(seed)))

    def held_out(self, count: int, seed: int) -> Tensor:
        return self.batch(count, seed)

    def base(self) -> Tensor:
        return smoothed_mean(self.batch(10_000, _MEAN_SEED))

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


class Ising:
    """Samples of an Ising model on a periodic grid, whose coupling J is to be found again."""

    pictured = 2
    entropy: float | None = None

    def __init__(self, side: int, sigma: float, count: int) -> None:
        self.dim = side * side
        self.true = ising.true_coupling(side, sigma)
        self.data = ising.sample_ising(self.true, count, _DATA_SEED)
        self._held_out: Tensor | None = None

    def batch(self, count: int, seed: int) -> Tensor:
        return self.data[random_rows(len(self.data), count, torch.Generator().manual_seed(seed))]

    def held_out(self, count: int, seed: int) -> Tensor:
        if self._held_out is None:
            self._held_out = ising.sample_ising(self.true, len(self.data), _HELD_OUT_SEED)
        return self._held_out[:count]

    def base(self) -> Tensor:
        return smoothed_mean(self.data)

    def energy(self, config: EBGFNConfig) -> nn.Module:
        return IsingEnergy(self.dim)

    def penalty(self, energy: nn.Module, config: EBGFNConfig) -> Tensor | None:
        return config.energy_l1 * coupling_of(energy).abs().sum() if config.energy_l1 > 0 else None

    def measure(self, energy: nn.Module) -> dict[str, float]:
        return {"neg_log_rmse": neg_log_rmse(coupling_of(energy).detach(), self.true)}

    def picture(self, folder: Path, step: int, samples: Tensor, energy: nn.Module) -> None:
        binary_plots.couplings(folder, step, coupling_of(energy).detach().numpy(), self.true.numpy())


class Images:
    """Binary images."""

    pictured = 100
    entropy: float | None = None

    def __init__(self, name: str, root: str | None, binarisation: str) -> None:
        self.images = binary.load(name, root)
        self.binarisation = binarisation
        self.dim = self.images.train.shape[1]

    def batch(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        rows = random_rows(len(self.images.train), count, generator)
        return self.images.batch(rows, self.binarisation, generator)

    def held_out(self, count: int, seed: int) -> Tensor:
        return self.images.test[:count]

    def base(self) -> Tensor:
        return self.images.base()

    def energy(self, config: EBGFNConfig) -> nn.Module:
        widths = config.energy_hidden, config.energy_depth
        return DiscreteMLPEnergy(self.dim, *widths, config.energy_activation, self.base())

    def penalty(self, energy: nn.Module, config: EBGFNConfig) -> Tensor | None:
        return None

    def measure(self, energy: nn.Module) -> dict[str, float]:
        return {}

    def picture(self, folder: Path, step: int, samples: Tensor, energy: nn.Module) -> None:
        shape = (1, self.images.side, self.images.side)
        for name in (f"samples-{step:08d}.png", "samples.png"):
            plots.sample_grid(folder / name, 2 * samples.float() - 1, shape, columns=10, scale=4)
        if not (folder / "data.png").exists():
            data = self.images.test[: self.pictured]
            plots.sample_grid(folder / "data.png", 2 * data.float() - 1, shape, columns=10, scale=4)


def smoothed_mean(bits: Tensor) -> Tensor:
    """0.98 mean + 0.01 of the rows of bits (N, D)."""
    return 0.98 * bits.float().mean(0) + 0.01


def random_rows(rows: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(rows, (count,), generator=generator)


def coupling_of(energy: nn.Module) -> Tensor:
    assert isinstance(energy, IsingEnergy)
    return energy.coupling()


def load(config: EBGFNConfig) -> Task:
    """The task of a run. Raises UsageError when its data is missing or cannot be read."""
    if config.data in SYNTHETIC:
        return Synthetic2D(config.data)
    if config.data == "ising":
        return Ising(config.side, config.sigma, config.samples)
    return Images(config.data, config.data_root, config.binarisation)
