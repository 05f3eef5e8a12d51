"""The baseline of EB-GFN: persistent contrastive divergence (PCD) with Gibbs sampling or Gibbs with gradients (GWG)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from svgdx.experiments.eb_gfn.base import EVALUATION, PROPOSAL, START, EnergyTrainer
from svgdx.experiments.run.compute.guard import Quantities
from svgdx.experiments.run.loop import stream
from svgdx.samplers import gibbs_sweep, gwg_step
from svgdx.streams import Stream


class PCDTrainer(EnergyTrainer):
    """Trains an energy against chains that are never restarted; an iteration moves each chain and updates the energy.

    Sources: Tieleman, ICML 2008; the sampler GWG of Grathwohl et al., ICML 2021, algorithm 1.
    """

    def build(self) -> None:
        start = stream(self.config.seed, 0, START, device=self.device)
        shape = (self.config.chains or self.config.batch, self.task.dim)
        self.chains = start.bernoulli(self.task.base(), shape).to(torch.int8)

    def kind(self) -> Hashable:
        return self.config.sampler

    def seeds(self) -> dict[str, Any]:
        return {"moves": self.stream(PROPOSAL)}

    def stream(self, purpose: int) -> Stream:
        """The random numbers of this step for a purpose, on the device of the run."""
        return stream(self.config.seed, self.step, purpose, device=self.device)

    def negatives(
        self, data: Tensor, chains: Tensor | None, seeds: dict[str, Any], quantities: Quantities
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        config = self.config
        assert chains is not None
        count = config.sweeps if config.sampler == "pcd-gibbs" else config.flips
        moved = self.moved(chains, count, seeds["moves"])
        quantities["changed"] = (moved != chains).float().mean()
        e_data, e_chains = self.energy(torch.cat([data, moved]).float()).split([len(data), len(moved)])
        return e_data, e_chains, moved

    def moved(self, chains: Tensor, count: int, generator: Stream) -> Tensor:
        """The chains (n, D) after `count` sweeps of Gibbs sampling, or flips proposed by GWG."""
        self.energy.requires_grad_(False)
        if self.config.sampler == "pcd-gibbs":
            moved = gibbs_sweep(self.energy, chains, generator, count)
        else:
            moved = gwg_step(self.energy, chains, generator, steps=count)
        self.energy.requires_grad_(True)
        return moved

    def samples(self, count: int, sweeps: int = 0) -> Tensor:
        """Chains, each repeated as often as needed for (count, D), after `sweeps` sweeps that set the copies apart.

        A sweep is one of Gibbs sampling, or D flips proposed by GWG; 0 leaves the chains as they are.
        """
        assert self.chains is not None
        copies = self.chains.repeat(-(-count // len(self.chains)), 1)[:count]
        moves = sweeps * (1 if self.config.sampler == "pcd-gibbs" else self.task.dim)
        return self.moved(copies, moves, self.stream(EVALUATION)) if moves else copies
