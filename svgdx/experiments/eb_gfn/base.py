"""What the trainers of energies of binary vectors share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svgdx.experiments.eb_gfn.config import EBGFNConfig
from svgdx.experiments.eb_gfn.tasks import Task
from svgdx.experiments.run import checkpoint, parallel
from svgdx.experiments.run.folder import RunFolder
from svgdx.experiments.run.loop import check_finite, stream_seed

# Purposes of random numbers: `loop.stream_seed` keeps those of one step apart.
START, DATA, ROLLOUT, LENGTH, PROPOSAL, ACCEPTANCE, EVALUATION = range(7)


class EnergyTrainer:
    """An energy E with p(x) ∝ exp(-E(x)) and its Adam. A sub-class draws the negatives x' and calls `descend_energy`.

    The energy's gradient is that of E(x) - E(x'), x being data: the likelihood's, where x' is a sample of p.
    """

    def __init__(self, config: EBGFNConfig, task: Task) -> None:
        self.config = self.options = config
        self.last_step = config.iterations
        self.seconds = 0.0
        self.step = 0
        self.task = task
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed(START, shared=True))
            self.energy = task.energy(config)
            self.energy_adam = torch.optim.Adam(self.energy.parameters(), config.energy_lr, fused=True)
            self.modules: dict[str, nn.Module] = {"energy": self.energy}
            self.optimisers: dict[str, torch.optim.Optimizer] = {"energy_adam": self.energy_adam}
            self.chains: Tensor | None = None
            self.build()
        self._rates = [(group, group["lr"]) for each in self.optimisers.values() for group in each.param_groups]

    def build(self) -> None:
        """Adds what the sub-class trains to `modules` and `optimisers`; runs under the seed of the start."""

    def negatives(self, data: Tensor, quantities: dict[str, float]) -> tuple[Tensor, Tensor]:
        """Energies of the data and of the negatives, both (n,), with their graph."""
        raise NotImplementedError

    def samples(self, count: int) -> Tensor:
        """Samples of the model for pictures, (count, D) int8."""
        raise NotImplementedError

    def measure(self) -> dict[str, float]:
        """Quantities of an evaluation beside those of the task."""
        return {}

    def seed(self, purpose: int, shared: bool = False) -> int:
        """A seed that fits the ops' signed 64 bits; each rank's own unless `shared`."""
        return stream_seed(self.config.seed, self.step, purpose, shared) >> 1

    def update(self) -> dict[str, float]:
        self.step += 1
        self._set_rates()
        quantities: dict[str, float] = {}
        data = self.task.batch(self.config.batch, self.seed(DATA))
        of_data, of_negatives = self.negatives(data, quantities)
        self.descend_energy(of_data, of_negatives, quantities)
        return quantities

    def descend_energy(self, of_data: Tensor, of_negatives: Tensor, quantities: dict[str, float]) -> None:
        config = self.config
        quantities |= {"energy_data": of_data.mean().item(), "energy_negatives": of_negatives.mean().item()}
        loss = of_data.mean() - of_negatives.mean()
        quantities["energy_loss"] = loss.item()
        if config.energy_penalty > 0:
            loss = loss + config.energy_penalty * (of_data.square().mean() + of_negatives.square().mean())
        penalty = self.task.penalty(self.energy, config)
        self.descend(self.energy_adam, loss if penalty is None else loss + penalty, "energy", quantities)

    def descend(
        self, adam: torch.optim.Adam, loss: Tensor, name: str, quantities: dict[str, float], clip: float = 0.0
    ) -> None:
        """One step of Adam. Raises DivergedError, before it, where the loss or its gradient is not finite."""
        check_finite(self.step, quantities)
        parameters = [each for group in adam.param_groups for each in group["params"]]
        loss = parallel.averaged(loss, adam)
        adam.zero_grad()
        loss.backward()
        gradients = [each.grad for each in parameters if each.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        quantities[f"{name}_gradient"] = norm.item()
        check_finite(self.step, {f"{name}_gradient": norm.item()})
        if clip > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        adam.step()

    def _set_rates(self) -> None:
        """The learning rates of this step: constant, then falling to zero over the run's end where it is asked for."""
        config = self.config
        left = (config.iterations - self.step + 1) / max(1.0, config.decay_share * config.iterations)
        factor = min(1.0, left)
        if config.lr_decay == "none":
            return
        if config.lr_decay == "cosine":
            factor = 0.5 - 0.5 * math.cos(math.pi * factor)
        for group, rate in self._rates:
            group["lr"] = rate * factor

    def record(self, quantities: dict[str, float], folder: RunFolder, evaluate: bool) -> tuple[dict[str, Any], str]:
        record: dict[str, Any] = {"seconds": round(self.seconds, 3)} | quantities
        if not evaluate:
            return record, ""
        found = self.measure() | self.task.measure(self.energy)
        check_finite(self.step, found)
        self.task.picture(folder.path, self.step, self.samples(self.task.pictured), self.energy)
        return record | found, ", ".join(f"{name}={value:.4g}" for name, value in found.items())

    def tensors(self) -> dict[str, Tensor]:
        tensors = checkpoint.flatten(self.modules, self.optimisers)
        return (
            tensors if self.chains is None else tensors | {"chains": parallel.gathered_rows(self.chains.contiguous())}
        )

    def restore(self, path: Path, saved: checkpoint.Checkpoint) -> None:
        checkpoint.restore(path, saved.tensors, self.modules, self.optimisers)
        # The optimiser's groups are new ones after a restore.
        rates = [rate for _, rate in self._rates]
        groups = [group for each in self.optimisers.values() for group in each.param_groups]
        self._rates = list(zip(groups, rates, strict=True))
        if self.chains is not None:
            self.chains = parallel.rows_of_rank(saved.tensors["chains"], len(self.chains))
        self.step, self.seconds = saved.step, saved.seconds
