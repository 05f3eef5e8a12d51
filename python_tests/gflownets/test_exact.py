"""Enumeration for small D: probabilities, minima of the losses, proposals and likelihoods."""

from __future__ import annotations

import math

import pytest
import torch
from gflownets import tabular
from torch import Tensor, nn

from svgdx import gflownets as gfn

D = 3


def log_reward(dim: int = D) -> Tensor:
    return torch.randn(2**dim, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def policies(dim: int, scale: float) -> list[nn.Module]:
    torch.manual_seed(1)
    networks: list[nn.Module] = [gfn.MLPPolicy(dim, 16, 2, learnt_backward=learnt).double() for learnt in (True, False)]
    for policy in networks:
        for parameter in policy.parameters():
            parameter.data.mul_(scale)
    return [*networks, tabular.Table(dim, 3 * dim), tabular.Table(dim, 3 * dim, learnt_backward=False)]


@pytest.mark.parametrize("index", range(4))
def test_probabilities_sum_to_one(index: int) -> None:
    policy = policies(4, 4.0)[index]
    paths = tabular.all_trajectories(4)
    log_pf, log_pb = gfn.trajectory_log_prob(policy, paths)
    torch.testing.assert_close(log_pf.exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    back = tabular.marginal(log_pb, paths)
    torch.testing.assert_close(back, torch.ones(16, dtype=torch.float64))
    if not policy.learnt_backward:
        torch.testing.assert_close(log_pb.exp(), torch.full((384,), 1 / 24, dtype=torch.float64))


def losses(name: str, policy: nn.Module, flow: nn.Module, log_z: Tensor, paths: gfn.Trajectories) -> Tensor:
    reward = log_reward()[tabular.bits_code(paths.final)]
    if name in ("tb", "variance"):
        log_pf, log_pb = gfn.trajectory_log_prob(policy, paths)
        if name == "tb":
            return gfn.trajectory_balance(log_pf, log_pb, reward, log_z).mean()
        return gfn.log_partition_variance(log_pf, log_pb, reward).mean()
    log_pf, log_pb = gfn.transition_log_prob(policy, paths)
    log_flow = flow(paths.states()[:, :-1])
    if name == "db":
        return gfn.detailed_balance(log_pf, log_pb, log_flow, reward).mean()
    return gfn.sub_trajectory_balance(log_pf, log_pb, log_flow, reward, 0.9).mean()


@pytest.mark.parametrize("learnt_backward", [True, False])
@pytest.mark.parametrize("name", ["tb", "variance", "db", "subtb"])
def test_minimum_samples_in_proportion_to_the_reward(name: str, learnt_backward: bool) -> None:
    policy = tabular.Table(D, 3 * D, learnt_backward)
    flow = tabular.Table(D, None, seed=2)
    log_z = torch.zeros((), dtype=torch.float64, requires_grad=True)
    paths = tabular.all_trajectories(D)
    parameters = [policy.rows]
    parameters += {"tb": [log_z], "variance": [], "db": [flow.rows], "subtb": [flow.rows]}[name]
    minimum = tabular.minimise(lambda: losses(name, policy, flow, log_z, paths), parameters)
    assert minimum < 1e-8
    marginal = tabular.marginal(gfn.trajectory_log_prob(policy, paths)[0], paths)
    torch.testing.assert_close(marginal, log_reward().softmax(0), rtol=1e-3, atol=1e-4)
    log_partition = {"tb": log_z, "db": flow.rows[0], "subtb": flow.rows[0]}.get(name)
    if log_partition is not None:
        torch.testing.assert_close(log_partition.detach(), log_reward().logsumexp(0), rtol=0, atol=1e-3)


def test_minimum_of_a_network_trained_on_recorded_rollouts() -> None:
    """Trajectory balance on both kinds of trajectories, as in the trainer, converges to P proportional to R."""
    torch.manual_seed(0)
    policy = gfn.MLPPolicy(D, 32, 2).double()
    log_z = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": policy.parameters(), "lr": 2e-2}, {"params": [log_z], "lr": 1e-1}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    states = tabular.all_states(D)
    for step in range(400):
        data = states[torch.randint(2**D, (24,))]
        start = {"forward_from": gfn.void_states(40, D), "backward_from": data}
        paths = gfn.rollout(policy, D, step, epsilon=0.1, record=True, **start)
        reward = log_reward()[tabular.bits_code(paths.final)]
        loss = gfn.trajectory_balance(*gfn.trajectory_log_prob(policy, paths), reward, log_z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    paths = tabular.all_trajectories(D)
    marginal = tabular.marginal(gfn.trajectory_log_prob(policy, paths)[0], paths)
    torch.testing.assert_close(marginal, log_reward().softmax(0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("lam", [0.3, 0.9, 1.0, 2.0])
def test_sub_trajectory_balance_equals_its_double_sum(lam: float) -> None:
    steps = 5
    log_pf, log_pb, log_flow = torch.randn(3, 4, steps, dtype=torch.float64)
    reward = torch.randn(4, dtype=torch.float64)
    flow = torch.cat([log_flow, reward[:, None]], 1)
    total, weights = torch.zeros(4, dtype=torch.float64), 0.0
    for i in range(steps):
        for j in range(i + 1, steps + 1):
            balance = flow[:, i] + log_pf[:, i:j].sum(1) - flow[:, j] - log_pb[:, i:j].sum(1)
            total += lam ** (j - i) * balance.square()
            weights += lam ** (j - i)
    loss = gfn.sub_trajectory_balance(log_pf, log_pb, log_flow, reward, lam)
    torch.testing.assert_close(loss, total / weights)


@pytest.mark.parametrize("steps", range(D + 1))
@pytest.mark.parametrize("learnt_backward", [True, False])
def test_acceptance_is_one_if_trajectories_balance(steps: int, learnt_backward: bool) -> None:
    policy = tabular.balanced(D, log_reward(), learnt_backward)
    paths = tabular.all_trajectories(D)
    reward = log_reward()[tabular.bits_code(paths.final)]
    sums = gfn.trajectory_log_prob(policy, paths)
    balance = gfn.trajectory_balance(*sums, reward, log_reward().logsumexp(0))
    torch.testing.assert_close(balance, torch.zeros_like(balance), rtol=0, atol=1e-20)
    x = tabular.all_states(D).repeat(50, 1)
    proposal = gfn.back_and_forth(policy, x, steps, seed=3)
    log_p = [log_reward()[tabular.bits_code(state)] for state in (x, proposal.x_new)]
    x_next, accepted, probability = gfn.accept(proposal, *log_p, seed=1)
    torch.testing.assert_close(probability, torch.ones_like(probability))
    assert bool(accepted.all())
    assert torch.equal(x_next, proposal.x_new)
    if steps > 0:
        assert bool((proposal.x_new != x).any(1).any())
    torch.testing.assert_close(gfn.accept(proposal, *log_p, 1, "barker")[2], torch.full_like(probability, 0.5))


@pytest.mark.parametrize("rule", ["metropolis", "barker"])
@pytest.mark.parametrize(("index", "steps"), [(0, 2), (1, 1), (2, 3), (3, 2)])
def test_accepted_moves_leave_the_target_invariant(rule: str, index: int, steps: int) -> None:
    policy = policies(D, 4.0)[index]
    target = log_reward().softmax(0)
    start = torch.multinomial(target, 20000, replacement=True, generator=torch.Generator().manual_seed(4))
    x = tabular.all_states(D)[start]
    proposal = gfn.back_and_forth(policy, x, steps, seed=6)
    log_p = [log_reward()[tabular.bits_code(state)] for state in (x, proposal.x_new)]
    x_next, accepted, probability = gfn.accept(proposal, *log_p, seed=2, rule=rule)
    assert 0.05 < float(accepted.double().mean()) < 0.95
    assert abs(float(accepted.double().mean() - probability.mean())) < 0.02
    tabular.assert_distributed(torch.bincount(tabular.bits_code(x_next), minlength=2**D), target)
    # Chains that never move would pass the above; without rejections the target is lost.
    with pytest.raises(AssertionError):
        tabular.assert_distributed(torch.bincount(tabular.bits_code(proposal.x_new), minlength=2**D), target)


@pytest.mark.parametrize("index", range(4))
def test_importance_sampling_converges_to_the_enumerated_likelihood(index: int) -> None:
    dim, samples = 4, 2000
    policy = policies(dim, 1.5)[index]
    paths = tabular.all_trajectories(dim)
    log_pf, log_pb = gfn.trajectory_log_prob(policy, paths)
    exact = tabular.marginal(log_pf, paths)
    # The second moment of each weight under P_B, from all trajectories, gives the standard error.
    square = tabular.marginal(2 * log_pf - log_pb, paths)
    error = ((square - exact.square()).clamp(min=0) / samples).sqrt()
    paths_done: list[int] = []
    estimate = gfn.log_likelihood(
        policy, tabular.all_states(dim), samples, seed=8, batch=5000, progress=paths_done.append
    ).exp()
    assert sum(paths_done) == len(exact) * samples
    assert max(paths_done) == 5000
    assert bool(((estimate - exact).abs() < 6 * error + 1e-9).all())
    assert bool((error < 0.2 * exact).all())


def test_log_z_by_importance_sampling() -> None:
    dim, samples = 4, 20000
    policy = tabular.Table(dim, 3 * dim)
    reward = log_reward(dim)
    paths_done: list[int] = []
    weights = gfn.log_importance_weights(
        policy, lambda x: reward[tabular.bits_code(x)], samples, seed=2, progress=paths_done.append
    )
    assert sum(paths_done) == samples
    estimate = weights.logsumexp(0) - math.log(samples)
    paths = tabular.all_trajectories(dim)
    with torch.no_grad():
        log_pf, log_pb = gfn.trajectory_log_prob(policy, paths)
    ratio = reward[tabular.bits_code(paths.final)] + log_pb - log_pf
    variance = (log_pf + 2 * ratio).logsumexp(0).exp() - (2 * reward.logsumexp(0)).exp()
    error = float((variance / samples).sqrt() / reward.logsumexp(0).exp())
    assert error < 0.1
    assert abs(float(estimate - reward.logsumexp(0))) < 5 * error
    # With a balanced policy, the best possible proposal, every weight is Z.
    balanced = tabular.balanced(dim, reward)
    exact = gfn.log_importance_weights(balanced, lambda x: reward[tabular.bits_code(x)], 3, seed=2)
    torch.testing.assert_close(exact, reward.logsumexp(0).expand(3))
