"""The baseline of EB-GFN: persistent contrastive divergence (PCD) with Gibbs sampling or Gibbs with gradients (GWG)."""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx.experiments.eb_gfn.base import EVALUATION, PROPOSAL, START, EnergyTrainer
from svgdx.experiments.run.compute.guard import Quantities
from svgdx.experiments.run.loop import stream
from svgdx.samplers import gibbs_sweep, gwg_step


class PCDTrainer(EnergyTrainer):
    """Trains an energy against chains that are never restarted; an iteration moves each chain and updates the energy.

    Sources: Tieleman, ICML 2008; the sampler GWG of Grathwohl et al., ICML 2021, algorithm 1.
    """

    def build(self) -> None:
        start = stream(self.config.seed, 0, START, device=self.device)
        shape = (self.config.chains or self.config.batch, self.task.dim)
        self.chains = start.bernoulli(self.task.base(), shape).to(torch.int8)

    def negatives(self, data: Tensor, quantities: Quantities) -> tuple[Tensor, Tensor]:
        config = self.config
        assert self.chains is not None
        before = self.chains
        self.chains = self.moved(before, config.sweeps if config.sampler == "pcd-gibbs" else config.flips, PROPOSAL)
        quantities["changed"] = (self.chains != before).float().mean()
        e_data, e_chains = self.energy(torch.cat([data, self.chains]).float()).split([len(data), len(before)])
        return e_data, e_chains

    def moved(self, chains: Tensor, count: int, purpose: int) -> Tensor:
        """The chains (n, D) after `count` sweeps of Gibbs sampling, or flips proposed by GWG."""
        generator = stream(self.config.seed, self.step, purpose, device=self.device)
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
        return self.moved(copies, moves, EVALUATION) if moves else copies
