"""What the trainers of energies of binary vectors share."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svgdx.experiments.eb_gfn.config import EBGFNConfig
from svgdx.experiments.eb_gfn.tasks import Task
from svgdx.experiments.run.checkpoint import Checkpoint
from svgdx.experiments.run.compute.adam import descend
from svgdx.experiments.run.compute.amp import lower
from svgdx.experiments.run.compute.generators import seeded
from svgdx.experiments.run.compute.graph import Graphs
from svgdx.experiments.run.compute.guard import Quantities
from svgdx.experiments.run.errors import require_finite
from svgdx.experiments.run.figures import warn_if_unwritten
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.loop import Trainer, stream_seed
from svgdx.experiments.run.parallel import check_finite
from svgdx.experiments.run.recorder import Record

# Purposes of random numbers: `svgdx.experiments.run.loop.stream_seed` keeps those of one step apart.
START, DATA, ROLLOUT, LENGTH, PROPOSAL, ACCEPTANCE, EVALUATION = range(7)


class EnergyTrainer(Trainer):
    """Trains an energy E with p(x) ∝ exp(-E(x)) by Adam; a subclass draws the negatives x'.

    The energy descends E(x) - E(x'), x being data. If x' is a sample of p, this is the gradient of the negative
    log-likelihood.

    Attributes:
        chains: persistent chains of this rank, (n, D) int8, if the negatives have them.
    """

    chains_name = "chains"

    def __init__(self, config: EBGFNConfig, task: Task) -> None:
        super().__init__(config, config.iterations, config.device)
        self.config, self.task = config, task
        self.chains: Tensor | None = None
        # Made on the CPU, so that the parameters are the same on every device.
        with seeded(self.seed(START, shared=True)):
            self.modules["energy"] = self.energy = task.energy(config)
            self.build()
        for module in self.modules.values():
            module.to(self.device)
        # The policy has a number format of its own.
        for name in ("energy", "flow"):
            if name in self.modules:
                lower(self.modules[name], config.amp)
        self.energy_adam = torch.optim.Adam(self.energy.parameters(), config.energy_lr, fused=True)
        self.optimisers["energy_adam"] = self.energy_adam
        self.add_optimisers()
        self.graphs = Graphs(self.device, [*self.optimisers.values()], config.captures(), config.graph == "on")
        self._rates = [group["lr"] for group in self._groups()]

    def build(self) -> None:
        """Adds what the subclass trains to `modules`, on the CPU; runs under the seed of the start."""

    def add_optimisers(self) -> None:
        """Adds the optimisers of the modules, which are on their device now, to `optimisers`."""

    def kind(self) -> Hashable:
        """What the update of this step does, see `svgdx.experiments.run.compute.graph.Graphs.run`."""
        raise NotImplementedError

    def seeds(self) -> dict[str, Any]:
        """The seeds of `negatives` at this step."""
        raise NotImplementedError

    def negatives(
        self, data: Tensor, chains: Tensor | None, seeds: dict[str, Any], quantities: Quantities
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draws the negatives of an update and adds to its quantities.

        Args:
            data: (batch, D) int8.
            chains: persistent chains, (n, D) int8, if there are any.
            seeds: those of `seeds`, or their keys.

        Returns:
            Energies of the data and of the negatives, both (n,), with their graph, and the next chains.
        """
        raise NotImplementedError

    def samples(self, count: int) -> Tensor:
        """Samples of the model for pictures, (count, D) int8."""
        raise NotImplementedError

    def measure(self) -> dict[str, float]:
        """The quantities of an evaluation beside those of the task."""
        return {}

    def seed(self, purpose: int, shared: bool = False) -> int:
        """A seed that fits the ops' signed 64 bits; each rank has its own unless `shared`."""
        return stream_seed(self.config.seed, self.step, purpose, shared) >> 1

    def update(self) -> Quantities:
        self.step += 1
        self._set_rates()
        data = self.task.batch(self.config.batch, self.seed(DATA))
        kind = self.kind()
        quantities, self.chains = self.graphs.run(
            None if kind is None else (kind, self.refits),
            self._update,
            data=data,
            chains=self.chains,
            seeds=self.seeds(),
        )
        return dict(quantities)

    def _update(self, data: Tensor, chains: Tensor | None, seeds: dict[str, Any]) -> tuple[Quantities, Tensor | None]:
        quantities: Quantities = {}
        e_data, e_negatives, chains = self.negatives(data, chains, seeds, quantities)
        self.descend_energy(e_data, e_negatives, quantities)
        return quantities, chains

    def descend_energy(self, e_data: Tensor, e_negatives: Tensor, quantities: Quantities) -> None:
        """Updates the energy, given the energies of data and negatives, (n,), and adds to the quantities."""
        config = self.config
        of_data, of_negatives = e_data.mean(), e_negatives.mean()
        loss = of_data - of_negatives
        quantities |= {"energy_data": of_data.detach(), "energy_negatives": of_negatives.detach()}
        quantities["energy_loss"] = loss.detach()
        if config.energy_penalty > 0:
            loss = loss + config.energy_penalty * (e_data.square().mean() + e_negatives.square().mean())
        penalty = None if self.refits else self.task.penalty(self.energy, config)
        check_finite(self.step, quantities)
        quantities |= descend(self.step, self.energy_adam, loss if penalty is None else loss + penalty, "energy")
        if self.refits:
            self.task.restrict(self.energy, config)

    @property
    def refits(self) -> bool:
        """Whether this step belongs to the part of the run without a penalty."""
        return self.step > (1 - self.config.refit) * self.config.iterations

    def _groups(self) -> list[dict[str, float]]:
        return [group for optimiser in self.optimisers.values() for group in optimiser.param_groups]

    def _set_rates(self) -> None:
        """Sets the learning rates of this step: constant, then falling to zero over the end of the run, if at all."""
        config = self.config
        if config.lr_decay == "none":
            return
        remaining = (config.iterations - self.step + 1) / max(1.0, config.decay_share * config.iterations)
        factor = min(1.0, remaining)
        if config.lr_decay == "cosine":
            factor = 0.5 - 0.5 * math.cos(math.pi * factor)
        for group, rate in zip(self._groups(), self._rates, strict=True):
            group["lr"] = rate * factor

    def record(self, quantities: dict[str, float]) -> Record:
        return {"seconds": round(self.seconds, 3)} | quantities

    def evaluate(self, record: Record, folder: RunFolder, check_stop: Callable[[], None]) -> tuple[Record, str]:
        quantities = self.measure()
        check_stop()
        quantities |= self.task.measure(self.energy)
        require_finite(self.step, quantities)
        samples = self.samples(self.task.pictured)
        check_stop()
        with warn_if_unwritten():
            self.task.picture(folder.path, self.step, samples, self.energy)
        return record | quantities, ", ".join(f"{name}={value:.4g}" for name, value in quantities.items())

    def tensors(self) -> dict[str, Tensor]:
        chains = {} if self.chains is None else {self.chains_name: self.chains.contiguous()}
        return super().tensors() | chains

    def restore(self, path: Path, saved: Checkpoint) -> dict[str, Tensor]:
        tensors = super().restore(path, saved)
        if self.chains is not None:
            self.chains = tensors[self.chains_name].to(self.device)
        return tensors
