"""Rollouts: distribution, both kinds together, exploration, windows and seeds."""

from __future__ import annotations

import pytest
import torch
from gflownets import tabular
from torch import Tensor, nn

from svgdx import gflownets as gfn
from svgdx import reference
from svgdx.gflownets.recorded import _record

D = 3


class Wrapped(nn.Module):
    """An MLPPolicy that rollouts do not recognise as one."""

    def __init__(self, policy: gfn.MLPPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.learnt_backward = policy.learnt_backward

    def forward(self, states: Tensor) -> Tensor:
        return self.policy(states)


def mlp(dim: int = D, learnt_backward: bool = True, **arguments: object) -> gfn.MLPPolicy:
    torch.manual_seed(2)
    policy = gfn.MLPPolicy(dim, 16, 3, learnt_backward=learnt_backward, **arguments).double()
    for parameter in policy.parameters():
        parameter.data.mul_(2)
    return policy


def bits(count: int, dim: int = D, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (count, dim), dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def code(actions: Tensor, dim: int) -> Tensor:
    """A number that identifies a trajectory by its actions."""
    return (actions * (2 * dim) ** torch.arange(actions.shape[1])).sum(1)


def assert_trajectories(paths: gfn.Trajectories, probability: Tensor) -> None:
    """Asserts that trajectories have this distribution over all_trajectories."""
    codes = code(tabular.all_trajectories(D).actions, D)
    index_of_code = torch.full((int(codes.max()) + 1,), -1)
    index_of_code[codes] = torch.arange(len(codes))
    counts = torch.bincount(index_of_code[code(paths.actions, D)], minlength=len(codes))
    tabular.assert_distributed(counts, probability)


@pytest.mark.parametrize("learnt_backward", [True, False])
@pytest.mark.parametrize("generic", [False, True])
def test_both_kinds_of_rows_have_their_distribution(generic: bool, learnt_backward: bool) -> None:
    count = 20000
    network = mlp(learnt_backward=learnt_backward)
    policy = Wrapped(network) if generic else network
    complete = tabular.all_trajectories(D)
    with torch.no_grad():
        log_pf, log_pb = gfn.trajectory_log_prob(policy, complete)
    data = bits(count, seed=1)
    share = torch.bincount(tabular.bits_code(data), minlength=2**D) / count
    paths = gfn.rollout(policy, D, 11, forward_from=gfn.void_states(count, D), backward_from=data)
    assert torch.equal(paths.final[count:], data)
    assert bool((paths.initial == -1).all())
    forward, backward = (
        gfn.Trajectories(paths.initial[rows], paths.actions[rows], paths.final[rows])
        for rows in (slice(count), slice(count, None))
    )
    assert_trajectories(forward, log_pf.exp())
    assert_trajectories(backward, log_pb.exp() * share[tabular.bits_code(complete.final)])
    # Rows of the two kinds are drawn independently.
    joint = 2 * (forward.actions[:, 0] // 2 == 0) + (backward.actions[:, -1] // 2 == 0)
    first_is_0 = [(kind.actions[:, i] // 2 == 0).double().mean() for kind, i in ((forward, 0), (backward, -1))]
    product = torch.outer(*[torch.stack([1 - p, p]) for p in first_is_0]).flatten()
    tabular.assert_distributed(torch.bincount(joint, minlength=4), product)


@pytest.mark.parametrize("learnt_backward", [True, False])
@pytest.mark.parametrize("states", [2, 3, 7])
def test_network_of_the_rollout_equals_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, learnt_backward: bool, states: int
) -> None:
    """The incremental first layer, recorded or not, in one window or several, against the module on all states."""
    dim, steps = 7, 5
    policy = mlp(dim, learnt_backward)
    start = gfn.void_states(6, dim)
    start[:, 4] = 1
    arguments = {"forward_from": start, "backward_from": bits(5, dim)}
    expected = gfn.rollout(Wrapped(policy), steps, 3, log_prob=True, **arguments)
    monkeypatch.setattr(_record, "LOGITS_BYTES", states * 11 * 3 * dim * 8)
    for options in ({"log_prob": True}, {"record": True}):
        paths = gfn.rollout(policy, steps, 3, **options, **arguments)
        assert torch.equal(paths.actions, expected.actions)
        assert torch.equal(paths.initial, expected.initial)
        assert torch.equal(paths.final, expected.final)
        torch.testing.assert_close(paths.sums(), expected.sums(), rtol=1e-11, atol=1e-11)
    kinds = [paths.record.forward_order(paths.record.hidden[0], rows) for rows in (slice(0, 6), slice(6, 11))]
    hidden = nn.functional.leaky_relu(policy.layers[0](paths.states().double()))
    torch.testing.assert_close(torch.cat(kinds), hidden, rtol=1e-11, atol=1e-11)
    plain = gfn.trajectory_log_prob(Wrapped(policy), expected)
    torch.testing.assert_close(expected.sums(), plain, rtol=1e-11, atol=1e-11)
    of_steps = gfn.transition_log_prob(policy, expected)
    torch.testing.assert_close(tuple(log_prob.sum(1) for log_prob in of_steps), plain, rtol=1e-11, atol=1e-11)


def test_states_of_a_trajectory() -> None:
    paths = gfn.Trajectories(
        torch.tensor([[-1, 1, -1], [-1, -1, -1]], dtype=torch.int8),
        torch.tensor([[5, 0], [2, 1]]),
        torch.tensor([[0, 1, 1], [1, 0, -1]], dtype=torch.int8),
    )
    expected = [[[-1, 1, -1], [-1, 1, 1], [0, 1, 1]], [[-1, -1, -1], [-1, 0, -1], [1, 0, -1]]]
    assert paths.states().tolist() == expected
    assert paths.states(torch.float64, slice(1, 2)).tolist() == expected[1:]


def test_exploration_does_not_enter_the_log_probability() -> None:
    policy = mlp()
    void, data = gfn.void_states(20000, D), bits(40)
    explored = gfn.rollout(policy, D, 5, forward_from=void, backward_from=data, epsilon=1.0, record=True)
    plain = reference.gfn_trajectory_log_prob(policy(explored.states()), explored.actions)
    torch.testing.assert_close(explored.sums(), plain)
    torch.testing.assert_close(gfn.trajectory_log_prob(policy, explored), plain)
    forward = gfn.Trajectories(void, explored.actions[:20000], explored.final[:20000])
    assert_trajectories(forward, torch.full((48,), 1 / 48, dtype=torch.float64))
    # Backward rows never explore.
    unexplored = gfn.rollout(policy, D, 5, backward_from=data)
    assert torch.equal(unexplored.actions, explored.actions[20000:])


def test_temperature_divides_the_logits() -> None:
    policy = tabular.Table(D, 3 * D)
    cooled = tabular.Table(D, 3 * D)
    cooled.rows.data.mul_(2)
    paths = gfn.rollout(policy, D, 5, forward_from=gfn.void_states(20000, D), temperature=0.5, log_prob=True)
    complete = tabular.all_trajectories(D)
    with torch.no_grad():
        assert_trajectories(paths, gfn.trajectory_log_prob(cooled, complete)[0].exp())
    torch.testing.assert_close(paths.sums(), gfn.trajectory_log_prob(policy, paths))


def test_seed_and_stream_determine_the_draws() -> None:
    policy = mlp(6)
    arguments = {"forward_from": gfn.void_states(64, 6), "backward_from": bits(64, 6)}
    first = gfn.rollout(policy, 6, 1, **arguments).actions
    assert torch.equal(first, gfn.rollout(policy, 6, 1, **arguments).actions)
    for other in (gfn.rollout(policy, 6, 2, **arguments), gfn.rollout(policy, 6, 1, stream=1, **arguments)):
        assert float((first != other.actions).double().mean()) > 0.5


def test_no_steps_and_one_kind_of_rows() -> None:
    policy, data = mlp(), bits(4)
    for options in ({"log_prob": True}, {"record": True}):
        paths = gfn.rollout(policy, 0, 1, backward_from=data, **options)
        assert torch.equal(paths.initial, data)
        torch.testing.assert_close(paths.sums(), (torch.zeros(4).double(),) * 2)
    assert gfn.rollout(policy, 2, 1, forward_from=gfn.void_states(0, D), log_prob=True).actions.shape == (0, 2)


def test_bad_arguments_are_refused() -> None:
    policy, void = mlp(), gfn.void_states(2, D)
    with pytest.raises(ValueError, match="pass forward_from, backward_from or both"):
        gfn.rollout(policy, D, 1)
    with pytest.raises(ValueError, match="must not be negative, but is -1"):
        gfn.rollout(policy, -1, 1, forward_from=void)
    with pytest.raises(ValueError, match="record needs an MLPPolicy, but the policy is a Wrapped"):
        gfn.rollout(Wrapped(policy), D, 1, forward_from=void, record=True)
    with pytest.raises(RuntimeError, match="has no void entry"):
        gfn.rollout(policy, D + 1, 1, forward_from=void)
    with pytest.raises(RuntimeError, match="has no set entry"):
        gfn.back_and_forth(policy, bits(2), D + 1, 1)
    with pytest.raises(ValueError, match="call rollout with log_prob=True"):
        gfn.rollout(policy, D, 1, forward_from=void).sums()
    with pytest.raises(ValueError, match="rule must be one of metropolis, barker, but is 'gibbs'"):
        gfn.accept(gfn.back_and_forth(policy, bits(2), 1, 1), torch.zeros(2), torch.zeros(2), 1, "gibbs")
    with pytest.raises(ValueError, match="samples and batch must be at least 1, but are 0 and 4096"):
        gfn.log_likelihood(policy, bits(2), 0, 1)
    with pytest.raises(ValueError, match="activation must be one of leaky_relu, relu, elu, tanh, but is 'sine'"):
        gfn.MLPPolicy(D, activation="sine")
    with pytest.raises(ValueError, match="must be at least 1, but are 3, 0, 3"):
        gfn.MLPFlow(D, hidden=0)
    with pytest.raises(ValueError, match="lam must be positive, but is 0"):
        gfn.sub_trajectory_balance(*torch.zeros(3, 1, 2), torch.zeros(1), 0)
