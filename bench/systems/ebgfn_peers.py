"""One iteration of EB-GFN training in three versions: with svgdx, step by step in plain PyTorch, and with torchgfn.

All have the same networks and settings (Zhang et al., ICML 2022, section 5.1): trajectory balance on equal numbers of
on-policy and data-backward trajectories, a Metropolis-Hastings proposal with K = D, and an energy step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svgdx import gflownets

RATE, LOG_Z_RATE = 1e-3, 1.0


class Iteration:
    """Networks, optimizers and the parts shared by the three versions."""

    def __init__(self, dim: int, hidden: int, batch: int) -> None:
        torch.manual_seed(0)
        self.dim, self.batch, self.hidden = dim, batch, hidden
        layers: list[nn.Module] = []
        for width in (dim, hidden, hidden):
            layers += [nn.Linear(width, hidden), nn.ELU()]
        self.energy = nn.Sequential(*layers, nn.Linear(hidden, 1))
        self.energy_optimizer = torch.optim.Adam(self.energy.parameters(), RATE)
        self.log_z = nn.Parameter(torch.zeros(()))
        self.data = torch.randint(0, 2, (batch, dim), dtype=torch.int8)
        self.seed = 0

    def optimize(self, policy: nn.Module) -> None:
        groups = [{"params": list(policy.parameters())}, {"params": [self.log_z], "lr": LOG_Z_RATE}]
        self.policy_optimizer = torch.optim.Adam(groups, RATE)

    def log_p(self, x: Tensor) -> Tensor:
        return -self.energy(x.float()).squeeze(-1)

    def policy_step(self) -> None:
        loss = self.policy_loss()
        self.policy_optimizer.zero_grad()
        loss.backward()
        self.policy_optimizer.step()

    def energy_step(self, negative: Tensor) -> None:
        value = self.log_p(torch.cat([negative, self.data]))
        loss = value[: self.batch].mean() - value[self.batch :].mean()
        self.energy_optimizer.zero_grad()
        loss.backward()
        self.energy_optimizer.step()

    def whole(self) -> None:
        self.policy_step()
        self.energy_step(self.proposal())

    def policy_loss(self) -> Tensor:
        raise NotImplementedError

    def proposal(self) -> Tensor:
        raise NotImplementedError


class Fused(Iteration):
    """svgdx: one recorded rollout of both kinds, and one backward pass over its activations."""

    def __init__(self, dim: int, hidden: int, batch: int, matmul_dtype: torch.dtype | None = None) -> None:
        super().__init__(dim, hidden, batch)
        self.policy = gflownets.MLPPolicy(dim, hidden, 3, matmul_dtype=matmul_dtype)
        self.optimize(self.policy)
        self.void = gflownets.void_states(batch, dim)

    def policy_loss(self) -> Tensor:
        self.seed += 1
        paths = gflownets.rollout(
            self.policy, self.dim, self.seed, forward_from=self.void, backward_from=self.data, record=True
        )
        with torch.no_grad():
            log_reward = self.log_p(paths.final)
        sums = gflownets.trajectory_log_prob(self.policy, paths)
        return gflownets.trajectory_balance(*sums, log_reward, self.log_z).mean()

    @torch.no_grad()
    def proposal(self) -> Tensor:
        self.seed += 1
        proposed = gflownets.back_and_forth(self.policy, self.data, self.dim, self.seed)
        log_p = self.log_p(torch.cat([proposed.x, proposed.x_new]))
        return gflownets.accept(proposed, log_p[: self.batch], log_p[self.batch :], self.seed)[0]


class Stepwise(Iteration):
    """Plain PyTorch: one network call with its autograd graph per step, shared by both kinds of rows."""

    def __init__(self, dim: int, hidden: int, batch: int) -> None:
        super().__init__(dim, hidden, batch)
        layers: list[nn.Module] = []
        for width in (dim, hidden, hidden):
            layers += [nn.Linear(width, hidden), nn.LeakyReLU()]
        self.policy = nn.Sequential(*layers, nn.Linear(hidden, 3 * dim))
        self.optimize(self.policy)

    def both(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """log P_F and log P_B of all actions at the states (B, D)."""
        logits = self.policy(state.float())
        void = state == -1
        forward = logits[:, : 2 * self.dim].masked_fill(~void.repeat_interleave(2, 1), -torch.inf)
        backward = logits[:, 2 * self.dim :].masked_fill(void, -torch.inf)
        return forward.log_softmax(1), backward.log_softmax(1)

    def walk(
        self, forward_rows: Tensor, backward_rows: Tensor, steps: int, actions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Final states and log-probabilities of trajectories.

        Args:
            actions: (B, steps) in forward order, to follow instead of drawing actions.
        """
        split, count = len(forward_rows), len(forward_rows) + len(backward_rows)
        state = torch.cat([forward_rows, backward_rows])
        log_pf, log_pb = torch.zeros(count), torch.zeros(count)
        log_forward, log_backward = self.both(state)
        for step in range(steps):
            if actions is not None:
                action = actions[:split, step]
                erased = actions[split:, steps - 1 - step] // 2
            else:
                draw = torch.multinomial
                action = draw(log_forward[:split].detach().exp(), 1)[:, 0] if split else state.new_empty(0).long()
                erased = draw(log_backward[split:].detach().exp(), 1)[:, 0] if split < count else action[:0]
            location = torch.cat([action // 2, erased])[:, None]
            bit = torch.cat([action % 2, torch.full_like(erased, -1)])[:, None].to(state.dtype)
            taken_back = 2 * erased + state[split:].gather(1, erased[:, None])[:, 0]
            state = state.scatter(1, location, bit)
            here = log_forward[:split].gather(1, action[:, None]), log_backward[split:].gather(1, erased[:, None])
            log_forward, log_backward = self.both(state)
            there = log_forward[split:].gather(1, taken_back[:, None]), log_backward[:split].gather(1, location[:split])
            log_pf = log_pf + torch.cat([here[0], there[0]])[:, 0]
            log_pb = log_pb + torch.cat([there[1], here[1]])[:, 0]
        return state, log_pf, log_pb

    def policy_loss(self, actions: Tensor | None = None) -> Tensor:
        void = torch.full_like(self.data, -1)
        state, log_pf, log_pb = self.walk(void, self.data, self.dim, actions)
        with torch.no_grad():
            log_reward = self.log_p(torch.cat([state[: self.batch], self.data]))
        return (self.log_z + log_pf - log_pb - log_reward).square().mean()

    @torch.no_grad()
    def proposal(self) -> Tensor:
        x = self.data
        s, pf_back, pb_back = self.walk(x[:0], x, self.dim)
        x_new, pf_forth, pb_forth = self.walk(s, x[:0], self.dim)
        delta = self.log_p(x_new) - self.log_p(x) + pb_forth + pf_back - pb_back - pf_forth
        return torch.where((torch.rand(self.batch) < delta.exp())[:, None], x_new, x)


class TorchGFN(Iteration):
    """torchgfn (Lahlou et al., arXiv 2305.14594): DiscreteEBM, TBGFlowNet, P_F and P_B on a shared trunk."""

    def __init__(self, dim: int, hidden: int, batch: int) -> None:
        super().__init__(dim, hidden, batch)
        from gfn.estimators import DiscretePolicyEstimator
        from gfn.gflownet import TBGFlowNet
        from gfn.gym import DiscreteEBM
        from gfn.gym.discrete_ebm import EnergyFunction
        from gfn.preprocessors import IdentityPreprocessor
        from gfn.samplers import Sampler
        from gfn.utils.modules import MLP

        shared = self

        class Energy(EnergyFunction):
            def forward(self, states: Tensor) -> Tensor:
                return -shared.log_p((states + 1) / 2)

        self.env = DiscreteEBM(dim, Energy())
        actions = self.env.n_actions
        shape = {"hidden_dim": hidden, "activation_fn": "leaky_relu"}
        pf = MLP(dim, actions, n_hidden_layers=3, **shape)
        pb = MLP(dim, actions - 1, trunk=pf.trunk, **shape)
        reader = IdentityPreprocessor(output_dim=dim, target_dtype=torch.float32)
        self.pf = DiscretePolicyEstimator(pf, actions, reader)
        self.pb = DiscretePolicyEstimator(pb, actions, reader, is_backward=True)
        self.gflownet = TBGFlowNet(self.pf, self.pb, logZ=self.log_z)
        self.forward, self.backward = Sampler(self.pf), Sampler(self.pb)
        self.policy = nn.ModuleList([pf, pb])
        self.optimize(self.policy)

    def from_data(self) -> object:
        states = self.env.states_from_tensor(self.data.long())
        return self.backward.sample_trajectories(self.env, states=states).reverse_backward_trajectories()

    def policy_loss(self) -> Tensor:
        with torch.no_grad():
            kinds = [self.forward.sample_trajectories(self.env, n=self.batch), self.from_data()]
        # The library takes each kind as a separate batch; the mean of the means is the overall mean.
        return sum(self.gflownet.loss(self.env, kind, recalculate_all_logprobs=True) for kind in kinds) / 2

    @torch.no_grad()
    def proposal(self) -> Tensor:
        back, forth = self.from_data(), self.forward.sample_trajectories(self.env, n=self.batch)
        ratios = []
        for paths in (back, forth):
            log_pf, log_pb = self.gflownet.get_pfs_and_pbs(paths)
            ratios.append(log_pf.sum(0) - log_pb.sum(0))
        x_new = forth.terminating_states.tensor.to(self.data.dtype)
        delta = self.log_p(x_new) - self.log_p(self.data) + ratios[0] - ratios[1]
        return torch.where((torch.rand(self.batch) < delta.exp())[:, None], x_new, self.data)


def large_step() -> None:
    """One training step of the policy at D = 784, hidden 256 x 3, 100 trajectories of each kind."""
    Fused(784, 256, 100).policy_step()
