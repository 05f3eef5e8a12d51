"""Recorded rollouts of an MLPPolicy: their gradients, and when a record may be used."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from svgdx import gflownets as gfn
from svgdx import reference
from svgdx.gflownets.recorded import Weights, _record

D = 6


def network(dtype: torch.dtype = torch.float64, **arguments: object) -> gfn.MLPPolicy:
    torch.manual_seed(3)
    return gfn.MLPPolicy(D, 16, 3, **arguments).to(dtype)


def recorded(policy: gfn.MLPPolicy, seed: int = 1, steps: int = D) -> gfn.Trajectories:
    data = torch.randint(0, 2, (5, D), dtype=torch.int8, generator=torch.Generator().manual_seed(seed))
    start = data.clone()
    start[:, torch.randperm(D, generator=torch.Generator().manual_seed(2))[:steps]] = -1
    return gfn.rollout(policy, steps, seed, forward_from=start, backward_from=data, epsilon=0.3, record=True)


def plain(policy: gfn.MLPPolicy, paths: gfn.Trajectories) -> tuple[Tensor, Tensor]:
    return reference.gfn_trajectory_log_prob(policy(paths.states()), paths.actions, paths.initial)


def weighted(sums: tuple[Tensor, Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    log_pf, log_pb = sums
    weight = torch.randn(2, len(log_pf), generator=generator, dtype=torch.float64).to(log_pf.dtype)
    return (weight[0] * log_pf).sum() + (weight[1] * log_pb).sum()


def gradients(policy: gfn.MLPPolicy, sums: tuple[Tensor, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(weighted(sums), list(policy.parameters())))


@pytest.mark.parametrize("steps", [D, 2])
@pytest.mark.parametrize("bytes_of_logits", [2**26, 500])
@pytest.mark.parametrize("learnt_backward", [True, False])
@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "elu", "tanh"])
def test_gradient_is_that_of_autograd(
    monkeypatch: pytest.MonkeyPatch, activation: str, learnt_backward: bool, bytes_of_logits: int, steps: int
) -> None:
    """For recorded and replayed trajectories, with recorded logits or a recomputed last layer, in several chunks."""
    monkeypatch.setattr(_record, "LOGITS_BYTES", bytes_of_logits)
    monkeypatch.setattr(_record, "CHUNK_ROWS", 20)
    monkeypatch.setattr(_record, "LINEAR_ROWS", 20)
    policy = network(activation=activation, learnt_backward=learnt_backward)
    paths = recorded(policy, steps=steps)
    assert (paths.record.logits is None) == (bytes_of_logits == 500)
    expected = plain(policy, paths)
    expected_grads = gradients(policy, expected)
    replayed = gfn.Trajectories(paths.initial, paths.actions, paths.final)
    for source in (paths, replayed):
        sums = gfn.trajectory_log_prob(policy, source)
        torch.testing.assert_close(sums, expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(gradients(policy, sums), expected_grads, rtol=1e-10, atol=1e-11)
    assert all(float(grad.abs().max()) > 1e-3 for grad in expected_grads)


@pytest.mark.parametrize("width", [24, 37])
def test_gradient_of_products_in_several_blocks(width: int) -> None:
    """More rows and inner numbers than a packed product takes at once, and widths that are no whole vectors."""
    torch.manual_seed(3)
    policy = gfn.MLPPolicy(141, width, 2).double()
    data = torch.randint(0, 2, (3, 141), dtype=torch.int8)
    paths = gfn.rollout(policy, 141, 5, forward_from=gfn.void_states(2, 141), backward_from=data, record=True)
    assert paths.record.logits is not None
    expected = plain(policy, paths)
    sums = gfn.trajectory_log_prob(policy, paths)
    torch.testing.assert_close(sums, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(gradients(policy, sums), gradients(policy, expected), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("which", [0, 1])
def test_gradient_of_one_sum_alone(which: int) -> None:
    policy = network()
    paths = recorded(policy)
    grads = [
        torch.autograd.grad(sums[which].sum(), list(policy.parameters()))
        for sums in (gfn.trajectory_log_prob(policy, paths), plain(policy, paths))
    ]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("learnt_backward", [True, False])
def test_bfloat16_products_stay_close(learnt_backward: bool) -> None:
    policy = network(torch.float32, matmul_dtype=torch.bfloat16, learnt_backward=learnt_backward)
    paths = recorded(policy)
    assert paths.record.hidden[0].dtype == torch.bfloat16
    sums, expected = gfn.trajectory_log_prob(policy, paths), plain(policy, paths)
    torch.testing.assert_close(sums, expected, rtol=0, atol=0.05)
    assert sums[0].dtype == torch.float32
    for grad, value in zip(gradients(policy, sums), gradients(policy, expected), strict=True):
        assert grad.dtype == torch.float32
        assert torch.linalg.vector_norm(grad - value) < 0.05 * torch.linalg.vector_norm(value)


def rollout_and_gradients(policy: gfn.MLPPolicy, rows: tuple[int, int]) -> tuple[gfn.Trajectories, list[Tensor]]:
    """A recorded rollout with these numbers of forward and backward rows, and the gradients of its weighted sums."""
    generator = torch.Generator().manual_seed(4)
    data = torch.randint(0, 2, (rows[1], policy.dim), dtype=torch.int8, generator=generator)
    kinds = {"forward_from": gfn.void_states(rows[0], policy.dim), "backward_from": data}
    paths = gfn.rollout(policy, policy.dim, 9, epsilon=0.2, temperature=1.3, record=True, **kinds)
    return paths, gradients(policy, gfn.trajectory_log_prob(policy, paths))


@pytest.mark.parametrize("rows", [(5, 3), (70, 9), (0, 40), (130, 150), (33, 0)])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("learnt_backward", [True, False])
def test_compiled_rollout_equals_the_one_step_by_step(
    monkeypatch: pytest.MonkeyPatch, learnt_backward: bool, depth: int, rows: tuple[int, int]
) -> None:
    torch.manual_seed(1)
    policy = gfn.MLPPolicy(7, 24, depth, learnt_backward=learnt_backward).double()
    assert Weights(policy).compiled
    paths, grads = rollout_and_gradients(policy, rows)
    hidden = paths.record.hidden.clone()
    monkeypatch.setattr(Weights, "compiled", False)
    expected, expected_grads = rollout_and_gradients(policy, rows)
    assert torch.equal(paths.actions, expected.actions)
    assert torch.equal(paths.initial, expected.initial)
    assert torch.equal(paths.final, expected.final)
    torch.testing.assert_close(hidden, expected.record.hidden, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(paths.sums(), expected.sums(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_number_of_threads_changes_nothing(dtype: torch.dtype | None) -> None:
    torch.manual_seed(1)
    policy = gfn.MLPPolicy(12, 64, 3, matmul_dtype=dtype)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        paths, grads = rollout_and_gradients(policy, (130, 150))
        results.append([paths.actions, *paths.sums(), paths.record.hidden.clone(), *grads])
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


@pytest.mark.parametrize("compiled", [True, False])
def test_logits_that_are_not_finite_are_an_error(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    policy = network()
    policy.head.bias.data[3 * D - 1] = torch.nan
    if not compiled:
        monkeypatch.setattr(Weights, "compiled", False)
    gfn.rollout(policy, D, 1, forward_from=gfn.void_states(3, D))
    with pytest.raises(RuntimeError, match=r"svgdx::gfn_sample_backward: logits\[b=\d\] must be less than infinity"):
        gfn.rollout(policy, D, 1, backward_from=torch.ones(3, D, dtype=torch.int8))


def test_a_stale_record_is_not_used() -> None:
    policy = network()
    paths = recorded(policy)
    before = gfn.trajectory_log_prob(policy, paths)
    with torch.no_grad():
        policy.layers[0].weight.mul_(1.5)
    after = gfn.trajectory_log_prob(policy, paths)
    torch.testing.assert_close(after, plain(policy, paths))
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(gradients(policy, after), gradients(policy, plain(policy, paths)))
    with pytest.raises(RuntimeError, match="the backward pass comes too late"):
        gradients(policy, before)
    # Nor is the record of another policy, even with equal parameters.
    other = network()
    torch.testing.assert_close(gfn.trajectory_log_prob(other, paths), plain(other, paths))


def test_records_do_not_overwrite_each_other_before_their_backward() -> None:
    policy = network()
    first, second = recorded(policy, 1), recorded(policy, 2)
    sums = [gfn.trajectory_log_prob(policy, paths) for paths in (first, second)]
    for paths, pair in zip((first, second), sums, strict=True):
        torch.testing.assert_close(gradients(policy, pair), gradients(policy, plain(policy, paths)))


def test_activations_are_reused_after_the_backward() -> None:
    policy = network()
    first = recorded(policy)
    sums = gfn.trajectory_log_prob(policy, first)
    address = first.record.hidden[0].data_ptr()
    weighted(sums).backward(retain_graph=True)
    # No other rollout has used the memory yet.
    weighted(sums).backward(retain_graph=True)
    second = recorded(policy, 2)
    assert second.record.hidden[0].data_ptr() == address
    with pytest.raises(RuntimeError, match="a later rollout overwrote the activations"):
        weighted(sums).backward()
    torch.testing.assert_close(gfn.trajectory_log_prob(policy, first), plain(policy, first))
    del first, sums, second
    assert recorded(policy, 3).record.hidden[0].data_ptr() == address


def test_a_policy_with_a_record_can_be_copied_and_pickled() -> None:
    policy = network()
    paths = recorded(policy)
    for twin in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        twin_paths = recorded(twin)
        assert torch.equal(twin_paths.actions, paths.actions)
        assert twin_paths.record.hidden[0].data_ptr() != paths.record.hidden[0].data_ptr()
        torch.testing.assert_close(gfn.trajectory_log_prob(twin, twin_paths), plain(policy, paths))


def test_flow_is_one_number_per_state() -> None:
    flow = gfn.MLPFlow(D, 8, 2)
    states = recorded(network()).states()
    assert flow(states).shape == states.shape[:-1]
    flow(states).sum().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())
