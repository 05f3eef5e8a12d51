"""Data sets of binary vectors, with the energy, the measures and the pictures that belong to them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from svgdx.densities import DiscreteMLPEnergy, IsingEnergy
from svgdx.experiments.data import binary, ising, plane
from svgdx.experiments.eb_gfn import plots
from svgdx.experiments.eb_gfn.config import SYNTHETIC, EBGFNConfig
from svgdx.experiments.metrics.bits import neg_log_rmse
from svgdx.experiments.run.compute.device import torch_device
from svgdx.experiments.run.figures import sample_paths, write_sample_grid
from svgdx.streams import Stream

# Seeds of what is the same in all runs, so that their results can be compared.
_DATA_SEED, _HELD_OUT_SEED, _MEAN_SEED = 1, 2, 3


class Task(Protocol):
    """Data in {0, 1}^D, int8, on the device of the run, and how a model of it is built, measured and drawn.

    Attributes:
        dim: D.
        pictured: number of samples that `picture` takes.
        entropy: entropy of the data in nats; None if it is not known.
    """

    dim: int
    pictured: int
    entropy: float | None

    def batch(self, count: int, seed: int) -> Tensor:
        """Training data (count, D), int8."""

    def held_out(self, count: int, seed: int) -> Tensor:
        """At most `count` data points that the model has not seen, (count, D), int8."""

    def base(self) -> Tensor:
        """The mean of the data's bits, (D,), moved inside (0, 1), on the device of the run."""

    def energy(self, config: EBGFNConfig) -> nn.Module:
        """A new energy, on the CPU."""

    def penalty(self, energy: nn.Module, config: EBGFNConfig) -> Tensor | None:
        """A term of the energy's loss that belongs to the data; None if there is none."""

    def restrict(self, energy: nn.Module, config: EBGFNConfig) -> None:
        """Holds an energy that is refitted without penalty to what the penalty has left of it, after an update."""

    def measure(self, energy: nn.Module) -> dict[str, float]:
        """Quantities that can be read off the energy without samples."""

    def picture(self, folder: Path, step: int, samples: Tensor, energy: nn.Module) -> None:
        """Draws samples (pictured, D), int8, into samples-STEP.png and samples.png."""


class Synthetic2D:
    """Points of the plane as 32 bits, drawn anew for every batch."""

    dim = plane.BITS
    pictured = 4000

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.entropy: float | None = plane.ENTROPY[name]
        self.quantizer = plane.Quantizer(name)

    def batch(self, count: int, seed: int) -> Tensor:
        return self.quantizer.encode(plane.sample_2d(self.name, count, np.random.default_rng(seed))).to(self.device)

    def held_out(self, count: int, seed: int) -> Tensor:
        return self.batch(count, seed)

    def base(self) -> Tensor:
        return smoothed_mean(self.batch(10_000, _MEAN_SEED))

    def energy(self, config: EBGFNConfig) -> nn.Module:
        return DiscreteMLPEnergy(self.dim, config.energy_hidden, config.energy_depth, config.energy_activation)

    def penalty(self, energy: nn.Module, config: EBGFNConfig) -> Tensor | None:
        return None

    def restrict(self, energy: nn.Module, config: EBGFNConfig) -> None:
        pass

    def measure(self, energy: nn.Module) -> dict[str, float]:
        return {}

    def picture(self, folder: Path, step: int, samples: Tensor, energy: nn.Module) -> None:
        decode = self.quantizer.decode
        data = decode(self.batch(self.pictured, 0))
        side = np.linspace(-1, 1, 160) * min(np.abs(data).max() * 1.1, 0.999 * self.quantizer.limit)
        grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        with torch.no_grad():
            log_density = -energy(self.quantizer.encode(grid).to(self.device).float())
        density = log_density.reshape(len(side), len(side)).cpu().numpy()
        plots.planes(folder, step, data, decode(samples), density, side)


class Ising:
    """Samples of an Ising model on a periodic grid, from which its coupling J is to be learnt."""

    pictured = 2
    entropy: float | None = None

    def __init__(self, side: int, sigma: float, count: int, device: torch.device) -> None:
        self.dim, self.device = side * side, device
        self.true = ising.true_coupling(side, sigma)
        self.data = ising.sample_ising(self.true, count, _DATA_SEED).to(device)
        self._held_out: Tensor | None = None

    def batch(self, count: int, seed: int) -> Tensor:
        return self.data[Stream.of_seed(seed, self.device).integers(len(self.data), (count,))]

    def held_out(self, count: int, seed: int) -> Tensor:
        if self._held_out is None:
            self._held_out = ising.sample_ising(self.true, len(self.data), _HELD_OUT_SEED).to(self.device)
        return self._held_out[:count]

    def base(self) -> Tensor:
        return smoothed_mean(self.data)

    def energy(self, config: EBGFNConfig) -> nn.Module:
        return IsingEnergy(self.dim)

    def penalty(self, energy: nn.Module, config: EBGFNConfig) -> Tensor | None:
        if config.energy_l1 == 0:
            return None
        size, scale = coupling_of(energy).abs(), config.l1_scale
        return config.energy_l1 * (size if scale == 0 else scale * (size / scale).log1p()).sum()

    @torch.no_grad()
    def restrict(self, energy: nn.Module, config: EBGFNConfig) -> None:
        assert isinstance(energy, IsingEnergy)
        # A learning rate below the threshold never lets a coupling back in.
        energy.weight.mul_(coupling_of(energy).abs() > config.refit_threshold)

    def measure(self, energy: nn.Module) -> dict[str, float]:
        return {"neg_log_rmse": neg_log_rmse(coupling_of(energy).detach().cpu(), self.true)}

    def bound(self) -> float:
        """The largest -log RMSE of J that an unbiased estimate from the data with known edges can expect."""
        count = len(self.data)
        return ising.neg_log_rmse_bound(self.held_out(count, 0).cpu(), count)

    def picture(self, folder: Path, step: int, samples: Tensor, energy: nn.Module) -> None:
        plots.couplings(folder, step, coupling_of(energy).detach().cpu().numpy(), self.true.numpy())


class Images:
    """Binary images."""

    pictured = 100
    entropy: float | None = None

    def __init__(self, name: str, root: str | None, binarisation: str, device: torch.device) -> None:
        self.images = binary.load_binary_images(name, root).to(device)
        self.binarisation = binarisation
        self.dim = self.images.train.shape[1]

    def batch(self, count: int, seed: int) -> Tensor:
        stream = Stream.of_seed(seed, self.images.train.device)
        rows = stream.integers(len(self.images.train), (count,))
        return self.images.batch(rows, self.binarisation, stream)

    def held_out(self, count: int, seed: int) -> Tensor:
        return self.images.test[:count]

    def base(self) -> Tensor:
        return self.images.base()

    def energy(self, config: EBGFNConfig) -> nn.Module:
        widths = config.energy_hidden, config.energy_depth
        return DiscreteMLPEnergy(self.dim, *widths, config.energy_activation, self.base().cpu())

    def penalty(self, energy: nn.Module, config: EBGFNConfig) -> Tensor | None:
        return None

    def restrict(self, energy: nn.Module, config: EBGFNConfig) -> None:
        pass

    def measure(self, energy: nn.Module) -> dict[str, float]:
        return {}

    def picture(self, folder: Path, step: int, samples: Tensor, energy: nn.Module) -> None:
        shape = (1, self.images.side, self.images.side)
        write_sample_grid(2 * samples.float() - 1, shape, *sample_paths(folder, step), columns=10, scale=4)
        if not (folder / "data.png").exists():
            data = self.images.test[: self.pictured]
            write_sample_grid(2 * data.float() - 1, shape, folder / "data.png", columns=10, scale=4)


def smoothed_mean(bits: Tensor) -> Tensor:
    """0.98 mean + 0.01 of bits (N, D), which lies inside (0, 1): (D,)."""
    return 0.98 * bits.float().mean(0) + 0.01


def coupling_of(energy: nn.Module) -> Tensor:
    """J (D, D) of an Ising energy."""
    assert isinstance(energy, IsingEnergy)
    return energy.coupling()


def load_task(config: EBGFNConfig) -> Task:
    """The data set of a run. Raises UsageError if its files are missing or cannot be read."""
    device = torch_device(config.device)
    if config.data in SYNTHETIC:
        return Synthetic2D(config.data, device)
    if config.data == "ising":
        return Ising(config.side, config.sigma, config.samples, device)
    return Images(config.data, config.data_root, config.binarisation, device)
