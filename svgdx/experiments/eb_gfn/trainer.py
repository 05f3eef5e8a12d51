"""EB-GFN: an energy and a GFlowNet that samples from it, trained together."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svgdx import gflownets
from svgdx.experiments.eb_gfn.base import ACCEPTANCE, DATA, EVALUATION, LENGTH, PROPOSAL, ROLLOUT, EnergyTrainer
from svgdx.experiments.run.compute.adam import descend
from svgdx.experiments.run.compute.guard import Quantities, Quantity
from svgdx.experiments.run.parallel import check_finite
from svgdx.experiments.run.recorder import progress_bar
from svgdx.gflownets import Proposal, Trajectories, void_states


class LogZ(nn.Module):
    """log Z of the GFlowNet, learnt with its own learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


class EBGFNTrainer(EnergyTrainer):
    """Trains a GFlowNet and an energy together.

    An iteration updates the GFlowNet towards the reward R(x) = exp(-E(x)), draws negatives with it by K-step moves, and
    updates the energy.

    Source: Zhang et al., Generative Flow Networks for Discrete Probabilistic Modeling, ICML 2022 (arXiv 2202.01361),
    algorithm 1; the trajectory balance of Malkin et al., 2022, equation 14.
    """

    def build(self) -> None:
        config, dim = self.config, self.task.dim
        self.policy = gflownets.MLPPolicy(
            dim,
            config.hidden,
            config.depth,
            learnt_backward=config.backward_policy == "learnt",
            matmul_dtype=torch.bfloat16 if config.matmul == "bf16" else None,
        )
        self.log_z = LogZ()
        self.modules |= {"policy": self.policy, "log_z": self.log_z}
        self.flow: nn.Module | None = None
        if config.loss in ("db", "subtb"):
            self.flow = gflownets.MLPFlow(dim, config.hidden, config.depth)
            self.modules["flow"] = self.flow
        self.averaged = copy.deepcopy(self.policy) if config.ema > 0 else self.policy
        if config.ema > 0:
            self.modules["averaged"] = self.averaged.requires_grad_(False)
        if config.negatives == "persistent":
            self.chains = self.task.batch(config.chains or config.batch, self.seed(DATA))

    def add_optimisers(self) -> None:
        config = self.config
        groups = [{"params": list(self.policy.parameters()), "lr": config.policy_lr}]
        if self.flow is not None:
            groups.append({"params": list(self.flow.parameters()), "lr": config.policy_lr})
        if config.loss == "tb":
            groups.append({"params": [self.log_z.value], "lr": config.log_z_lr})
        self.optimisers["policy_adam"] = self.policy_adam = torch.optim.Adam(groups, fused=True)

    def kind(self) -> Hashable:
        return "scratch" if self.config.negatives == "scratch" else self._k()

    def seeds(self) -> dict[str, Any]:
        acceptance = self.seed(ACCEPTANCE)
        return {
            "rollout": self.seed(ROLLOUT),
            "proposal": self.seed(PROPOSAL),
            "acceptance": [acceptance + move for move in range(self.config.sweeps)],
        }

    def negatives(
        self, data: Tensor, chains: Tensor | None, seeds: dict[str, Any], quantities: Quantities
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        self._train_policy(data, seeds["rollout"], quantities)
        config = self.config
        if config.negatives == "scratch":
            void = void_states(len(data), self.task.dim, self.device)
            x = gflownets.rollout(self.policy, self.task.dim, seeds["proposal"], forward_from=void).final
            energies = self.energy(torch.cat([data, x]).float())
            return energies[: len(data)], energies[len(data) :], chains
        quantities["k"] = k = self._k()
        start = self._moved(data if chains is None else chains, k, seeds)
        proposal = gflownets.back_and_forth(self.policy, start, k, seeds["proposal"])
        # One forward pass; a rejected move keeps its start, whose energy is needed, too.
        batches = [data, proposal.x_new] if start is data else [data, proposal.x_new, start]
        e_data, e_new, *e_start = self.energy(torch.cat(batches).float()).split([len(batch) for batch in batches])
        e_old = e_start[0] if e_start else e_data
        x_next, accepted, quantities["acceptance"] = self._accepted(proposal, e_old, e_new, seeds["acceptance"][0])
        return e_data, torch.where(accepted, e_new, e_old), None if chains is None else x_next

    @torch.no_grad()
    def _moved(self, x: Tensor, k: int, seeds: dict[str, Any]) -> Tensor:
        """x after all moves of K steps but the last, without gradient."""
        if self.config.sweeps == 1:
            return x
        e_old = self.energy(x.float())
        for move in range(1, self.config.sweeps):
            proposal = gflownets.back_and_forth(self.policy, x, k, seeds["proposal"], stream=move)
            e_new = self.energy(proposal.x_new.float())
            x, accepted, _ = self._accepted(proposal, e_old, e_new, seeds["acceptance"][move])
            e_old = torch.where(accepted, e_new, e_old)
        return x

    def _accepted(
        self, proposal: Proposal, e_old: Tensor, e_new: Tensor, seed: int | Tensor
    ) -> tuple[Tensor, Tensor, Quantity]:
        """The next states, whether each was moved, and the mean acceptance probability."""
        if self.config.mh == "none":
            return proposal.x_new, torch.ones(len(proposal.x), dtype=torch.bool, device=self.device), 1.0
        x_next, accepted, probability = gflownets.accept(
            proposal, -e_old.detach(), -e_new.detach(), seed, self.config.mh
        )
        return x_next, accepted, probability.mean()

    def _k(self) -> int:
        """K of this iteration: the number of entries that a move erases and fills again."""
        config, dim = self.config, self.task.dim
        most = min(config.k or dim, dim)
        if config.k_schedule == "fixed":
            return most
        if config.k_schedule == "random":
            return int(np.random.default_rng(self.seed(LENGTH, shared=True)).integers(1, most + 1))
        return max(1, min(dim, dim * self.step // config.warmup))

    def _train_policy(self, data: Tensor, seed: int | Tensor, quantities: Quantities) -> None:
        config, dim = self.config, self.task.dim
        trajectories = gflownets.rollout(
            self.policy,
            dim,
            seed,
            forward_from=void_states(config.batch, dim, self.device) if config.back_ratio < 1 else None,
            backward_from=data if config.back_ratio > 0 else None,
            temperature=config.temperature,
            epsilon=config.epsilon,
            record=self.flow is None,
        )
        with torch.no_grad():
            log_reward = -self.energy(trajectories.final.float())
        check_finite(self.step, {"log_reward": log_reward.abs().amax()})
        losses = self._losses(trajectories, log_reward)
        forward = config.batch if config.back_ratio < 1 else 0
        weights = torch.full_like(losses, config.back_ratio / config.batch)
        weights[:forward] = (1 - config.back_ratio) / config.batch
        loss = (weights * losses).sum()
        quantities["policy_loss"] = loss.detach()
        check_finite(self.step, quantities)
        quantities |= descend(self.step, self.policy_adam, loss, "policy", config.clip)
        quantities["log_z"] = self.log_z.value.detach().clone()
        if config.ema > 0:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.averaged.parameters()), list(self.policy.parameters()), 1 - config.ema)

    def _losses(self, trajectories: Trajectories, log_reward: Tensor) -> Tensor:
        """The loss of each trajectory, (rows,)."""
        config = self.config
        if self.flow is None:
            log_pf, log_pb = gflownets.trajectory_log_prob(self.policy, trajectories)
            if config.loss == "tb":
                return gflownets.trajectory_balance(log_pf, log_pb, log_reward, self.log_z.value)
            losses = gflownets.log_partition_variance(log_pf, log_pb, log_reward)
            with torch.no_grad():
                self.log_z.value.copy_((log_reward + log_pb - log_pf).mean())
            return losses
        log_pf, log_pb = gflownets.transition_log_prob(self.policy, trajectories)
        log_flow = self.flow(trajectories.states()[:, :-1])
        with torch.no_grad():
            self.log_z.value.copy_(log_flow[:, 0].mean())
        if config.loss == "db":
            return gflownets.detailed_balance(log_pf, log_pb, log_flow, log_reward)
        return gflownets.sub_trajectory_balance(log_pf, log_pb, log_flow, log_reward, config.sub_lambda)

    def samples(self, count: int) -> Tensor:
        void = void_states(count, self.task.dim, self.device)
        return gflownets.rollout(self.averaged, self.task.dim, self.seed(EVALUATION), forward_from=void).final

    def measure(self) -> dict[str, float]:
        config = self.config
        points = self.task.held_out(config.eval_points, self.seed(EVALUATION))
        with progress_bar("evaluation", len(points) * config.eval_paths, "path", self.quiet) as progress:
            log_likelihood = gflownets.log_likelihood(
                self.averaged, points, config.eval_paths, self.seed(EVALUATION), progress=progress
            )
        return {"nll": -log_likelihood.mean().item()}
