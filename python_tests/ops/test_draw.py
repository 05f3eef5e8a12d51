"""Draws of the sample ops: bit-equal to the reference, with the right frequencies and next states."""

from __future__ import annotations

import itertools

import pytest
import torch
from ops.cases import TRAJECTORY_LEADS, Inputs, Variant, sample, sample_inputs
from torch import Tensor

from svgdx import ops
from svgdx.ops import draw, philox

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OPS = ["gfn_sample_forward", "gfn_sample_backward"]
OPTIONS = [
    {},
    {"temperature": 0.25},
    {"temperature": 3.0, "epsilon": 0.1},
    {"temperature": 1e-30},
    {"temperature": 1e30},
    {"epsilon": 0.5},
    {"epsilon": 1.0},
]
SIZES = [1, 2, 3, 7, 8, 16, 17, 33, 64, 100]
SEEDS = [(0, 0), (1, 2), (-1, -1), (2**40 + 7, 2**33), (2**63 - 1, -(2**63))]


def check(variant: Variant, inputs: Inputs) -> None:
    """Assert equal actions and states, and log-probabilities equal up to rounding."""
    (action, log_prob, next_state), expected = variant(inputs), variant.reference(inputs)
    assert torch.equal(action, expected[0])
    assert torch.equal(next_state, expected[2])
    assert (action.dtype, log_prob.dtype, next_state.dtype) == (torch.int64, expected[1].dtype, torch.int8)
    assert all(out.is_contiguous() for out in (action, log_prob, next_state))
    epsilon = torch.finfo(log_prob.dtype).eps
    torch.testing.assert_close(log_prob, expected[1], rtol=16 * epsilon, atol=128 * epsilon)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_draws_of_the_reference(op: str, dtype: torch.dtype, options: dict[str, float], device: str) -> None:
    leads, seeds = itertools.cycle([(20,), (4, 5), *TRAJECTORY_LEADS]), itertools.cycle(SEEDS)
    for dim in SIZES:
        variant = sample(op, *next(seeds), **options)
        check(variant, sample_inputs(variant, next(leads), dim, 0, dtype, device))


@pytest.mark.parametrize("op", OPS)
def test_many_rows_and_wide_rows(op: str, native_device: str) -> None:
    for lead, dim in [((5000,), 3), ((20,), 784)]:
        variant = sample(op, 11, 12, temperature=1.5)
        check(variant, sample_inputs(variant, lead, dim, 0, torch.float32, native_device))


@pytest.mark.parametrize("op", OPS)
def test_peaked_and_flat_logits(op: str, device: str) -> None:
    """Draws with weights at the ends of the integer range: ties, huge differences, -inf."""
    variant = sample(op)
    for change in (lambda x: x * 0, lambda x: x * 1e4, lambda x: x * 15, lambda x: x.masked_fill(x < 1, -torch.inf)):
        inputs = sample_inputs(variant, (200,), 9, 0, torch.float32, device)
        inputs["logits"] = change(inputs["logits"])
        inputs["logits"][..., [0, 5, 18, 22]] = 0.0
        inputs["state"][..., 0], inputs["state"][..., 4] = -1, 1
        check(variant, inputs)


def expected_probability(op: str, inputs: Inputs, temperature: float, epsilon: float) -> Tensor:
    """Probabilities of the actions in one row: a softmax over the valid ones, mixed with the uniform distribution."""
    state, dim = inputs["state"], inputs["state"].shape[-1]
    if op == "gfn_sample_forward":
        logits, valid = inputs["logits"][..., : 2 * dim], (state == -1).repeat_interleave(2, -1)
    else:
        logits, valid = inputs["logits"][..., 2 * dim :], state >= 0
    p = (logits.double() / temperature).masked_fill(~valid, -torch.inf).softmax(-1)
    return (1 - epsilon) * p + epsilon * valid / valid.sum(-1, keepdim=True)


def assert_frequencies(count: Tensor, probability: Tensor) -> None:
    """Assert that Pearson's chi-square is within six standard deviations and that impossible actions never occur."""
    expected = probability * count.sum()
    possible = expected > 0
    assert int(count[~possible].sum()) == 0
    statistic = float(((count - expected)[possible].square() / expected[possible]).sum())
    freedom = int(possible.sum()) - 1
    assert abs(statistic - freedom) < 6 * (2 * freedom) ** 0.5, (statistic, freedom)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"temperature": 2.0, "epsilon": 0.3}], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_frequencies_over_rows(op: str, options: dict[str, float], native_device: str) -> None:
    variant = sample(op, 17, 23, **options)
    one = sample_inputs(variant, (), 9, 0, torch.float32, native_device, seed=4)
    action, _, _ = variant({name: value.expand(100_000, -1) for name, value in one.items()})
    probability = expected_probability(op, one, options.get("temperature", 1.0), options.get("epsilon", 0.0))
    assert int((probability > 0).sum()) >= 4
    assert_frequencies(action.bincount(minlength=probability.numel()), probability)


@pytest.mark.parametrize("name", ["seed", "offset"])
@pytest.mark.parametrize("op", OPS)
def test_frequencies_over_seeds_and_offsets(op: str, name: str, native_device: str) -> None:
    """Rollouts use a new offset in each step; those draws are independent too."""
    one = sample_inputs(sample(op), (), 4, 0, torch.float32, native_device, seed=4)
    fixed = {"seed": 3, "offset": 3}
    draws = [getattr(ops, op)(**one, **{**fixed, name: i})[0] for i in range(3000)]
    probability = expected_probability(op, one, 1.0, 0.0)
    action = torch.stack(draws)
    assert_frequencies(action.bincount(minlength=probability.numel()), probability)
    pairs = action[:-1] * probability.numel() + action[1:]
    assert_frequencies(
        pairs.bincount(minlength=probability.numel() ** 2), (probability[:, None] * probability).flatten()
    )


@pytest.mark.parametrize("op", OPS)
def test_next_state_differs_in_one_entry(op: str, device: str) -> None:
    variant = sample(op)
    inputs = sample_inputs(variant, (500,), 12, 0, torch.float32, device)
    before = inputs["state"].clone()
    action, _, after = variant(inputs)
    assert torch.equal(inputs["state"], before)
    location, bit = (action // 2, action % 2) if op == "gfn_sample_forward" else (action, torch.full_like(action, -1))
    rows = torch.arange(500, device=device)
    void = torch.full_like(before[:, 0], -1)
    assert torch.equal(before[rows, location] == void, torch.full_like(rows, op == "gfn_sample_forward") == 1)
    expected = before.clone()
    expected[rows, location] = bit.to(torch.int8)
    assert torch.equal(after, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rollout_agrees_with_the_trajectory_op(dtype: torch.dtype, device: str) -> None:
    """Trajectories drawn step by step, forward and back, have the log-probabilities of the trajectory op."""
    batch, dim = 6, 10
    logits = (2 * torch.randn(batch, dim + 1, 3 * dim)).to(device, dtype)
    state = torch.full((batch, dim), -1, dtype=torch.int8, device=device)
    states, actions, log_probs = [state], [], []
    for t in range(dim):
        action, log_prob, state = ops.gfn_sample_forward(logits[:, t], state, 1, t, temperature=2.0, epsilon=0.2)
        states.append(state)
        actions.append(action)
        log_probs.append(log_prob)
    assert bool((state >= 0).all())
    log_pf, _ = ops.gfn_trajectory_log_prob(logits, torch.stack(actions, 1))
    epsilon = torch.finfo(log_pf.dtype).eps
    torch.testing.assert_close(torch.stack(log_probs).sum(0), log_pf, rtol=64 * epsilon, atol=64 * epsilon)

    erased, log_probs = [], []
    for t in range(dim, 0, -1):
        location, log_prob, before = ops.gfn_sample_backward(logits[:, t], state, 2, t)
        erased.append(2 * location + state.gather(-1, location[:, None])[:, 0])
        log_probs.append(log_prob)
        state = before
    assert bool((state == -1).all())
    _, log_pb = ops.gfn_trajectory_log_prob(logits, torch.stack(erased[::-1], 1))
    torch.testing.assert_close(torch.stack(log_probs).sum(0), log_pb, rtol=64 * epsilon, atol=64 * epsilon)


def test_log_prob_is_the_untempered_policys(device: str) -> None:
    inputs = sample_inputs(sample("gfn_sample_forward"), (300,), 6, 0, torch.float64, device)
    p = expected_probability("gfn_sample_forward", inputs, 1.0, 0.0)
    for options in OPTIONS:
        action, log_prob, _ = sample("gfn_sample_forward", **options)(inputs)
        torch.testing.assert_close(log_prob.exp(), p.gather(-1, action[:, None])[:, 0], rtol=1e-12, atol=1e-14)


def test_a_row_depends_on_its_index_alone(device: str) -> None:
    """A draw does not depend on the other rows or their number; leading dimensions are flattened."""
    variant = sample("gfn_sample_forward")
    inputs = sample_inputs(variant, (12,), 5, 0, torch.float32, device)
    whole = variant(inputs)
    for out, expected in zip(variant({name: value[:7] for name, value in inputs.items()}), whole, strict=True):
        assert torch.equal(out, expected[:7])
    for out, expected in zip(variant({n: v.view(3, 4, -1) for n, v in inputs.items()}), whole, strict=True):
        assert torch.equal(out.flatten(0, 1), expected)
    first = variant({name: value[0] for name, value in inputs.items()})
    for out, expected in zip(first, whole, strict=True):
        assert torch.equal(out, expected[0])


def test_philox_known_answers() -> None:
    """The Philox words equal the test vectors of the authors' Random123 library, kat_vectors."""
    pi_words = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
    low, high, seed = (pi_words[i] | pi_words[i + 1] << 32 for i in (0, 2, 4))
    cases = [
        (0, 0, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (-1, -1, -1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (seed, low - 2**64 * (low >> 63), high, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]
    for seed, low, high, words in cases:
        got = philox.philox(seed, torch.tensor(low), high)
        assert " ".join(f"{int(word):08x}" for word in got) == words


def test_weights_follow_the_exponential() -> None:
    below = -torch.linspace(0, 25, 2001)
    for temperature in (0.5, 1.0, 3.0):
        weight = draw.draw_weight(below, temperature)
        exact = 2.0**30 * (below.double() / temperature).exp()
        assert bool(((weight - exact).abs() <= 1 + 2e-6 * exact).all())
    assert draw.draw_weight(torch.tensor([0.0, -torch.inf]), 1e-45).tolist() == [2**30, 0]


def test_outputs_do_not_require_grad() -> None:
    inputs = sample_inputs(sample("gfn_sample_forward"), (4,), 5, 0)
    inputs["logits"].requires_grad_()
    for variant in (sample("gfn_sample_forward"), sample("gfn_sample_backward")):
        direct = getattr(torch.ops.svgdx, variant.op)(*inputs.values(), 3, 5)
        for out, other in zip(variant(inputs), direct, strict=True):
            assert not out.requires_grad
            assert not other.requires_grad
            assert torch.equal(out, other)
