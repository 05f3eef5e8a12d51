"""GFlowNets small enough to enumerate: tables over all 3^D states, and all trajectories of D bits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from svgdx.gflownets import Trajectories, void_states


def all_states(dim: int) -> Tensor:
    """Every complete state, (2^D, D) int8."""
    return torch.tensor(list(itertools.product((0, 1), repeat=dim)), dtype=torch.int8)


def all_trajectories(dim: int) -> Trajectories:
    """Every full trajectory: all orders of the locations combined with all states."""
    rows = [
        [2 * location + bits[location] for location in order]
        for order in itertools.permutations(range(dim))
        for bits in itertools.product((0, 1), repeat=dim)
    ]
    final = [bits for _ in itertools.permutations(range(dim)) for bits in itertools.product((0, 1), repeat=dim)]
    actions = torch.tensor(rows)
    return Trajectories(void_states(len(rows), dim), actions, torch.tensor(final, dtype=torch.int8))


def code(states: Tensor) -> Tensor:
    """The index of a state among the 3^D, with void as the lowest digit."""
    return ((states.long() + 1) * 3 ** torch.arange(states.shape[-1])).sum(-1)


def bits_code(states: Tensor) -> Tensor:
    """The index of a complete state in all_states."""
    dim = states.shape[-1]
    return (states.long() * 2 ** torch.arange(dim - 1, -1, -1)).sum(-1)


class Table(nn.Module):
    """A learnt number or vector per state, 3^D in all."""

    def __init__(self, dim: int, width: int | None, learnt_backward: bool = True, seed: int = 0) -> None:
        super().__init__()
        shape = (3**dim,) if width is None else (3**dim, width)
        generator = torch.Generator().manual_seed(seed)
        self.dim = dim
        self.learnt_backward = learnt_backward
        self.rows = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

    def forward(self, states: Tensor) -> Tensor:
        return self.rows[code(states)]


def balanced(dim: int, log_reward: Tensor, learnt_backward: bool = True) -> Table:
    """A table whose trajectories balance exactly: P_B is random, the flows follow from it, and P_F from the flows.

    log_reward (2^D) is that of all_states.
    """
    policy = Table(dim, 3 * dim, learnt_backward, seed=5)
    flow = torch.zeros(3**dim, dtype=torch.float64)
    states = torch.tensor(list(itertools.product((-1, 0, 1), repeat=dim)), dtype=torch.int8)
    by_void = sorted(states, key=lambda state: int((state < 0).sum()))
    with torch.no_grad():
        for state in by_void:
            parent = code(state)
            void = [d for d in range(dim) if state[d] < 0]
            if not void:
                flow[parent] = log_reward[bits_code(state)].exp()
            flow_of_action = {}
            for location, bit in itertools.product(void, (0, 1)):
                child = state.clone()
                child[location] = bit
                row = policy.rows[code(child), 2 * dim :] * float(learnt_backward)
                log_pb = row[location] - row[child >= 0].logsumexp(0)
                flow_of_action[2 * location + bit] = flow[code(child)] * log_pb.exp()
            if flow_of_action:
                flow[parent] = sum(flow_of_action.values())
            for action, action_flow in flow_of_action.items():
                policy.rows[parent, action] = (action_flow / flow[parent]).log()
    return policy


def marginal(log_pf: Tensor, trajectories: Trajectories) -> Tensor:
    """P(x) of all_states, from log_pf of all trajectories."""
    count = 2 ** trajectories.final.shape[-1]
    return log_pf.new_zeros(count).index_add(0, bits_code(trajectories.final), log_pf.detach().exp())


def minimise(loss: Callable[[], Tensor], parameters: list[Tensor], iterations: int = 500) -> float:
    """The loss after minimising it by L-BFGS."""
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=iterations, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    return float(loss().detach())


def assert_distributed(counts: Tensor, probability: Tensor) -> None:
    """Asserts that Pearson's chi-square is at most five standard deviations above its mean; pools rare outcomes."""
    total = counts.sum()
    expected = probability.double() * total
    rare = expected < 8
    counts, expected = counts.double(), expected.double()
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    if expected[-1] < 1e-9 * total:
        assert counts[-1] == 0
        counts, expected = counts[:-1], expected[:-1]
    freedom = len(counts) - 1
    statistic = float(((counts - expected).square() / expected).sum())
    assert statistic < freedom + 5 * math.sqrt(2 * freedom) + 5, (statistic, freedom)
