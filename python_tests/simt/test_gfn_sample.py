"""The sampling kernel on the host: its draws are bit-equal to those of an independent Philox with integer weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from simt import gfn_oracle as oracle
from simt import harness
from simt.test_gfn_kernels import KINDS, TOLERANCE, assert_close

SEED, OFFSET = 0xFEDCBA9876543210 - 2**64, 5_000_000_007  # the seed as torch passes it, signed


class Case:
    """Random states with at least one valid action."""

    def __init__(self, kind: str, batch: int, dim: int, forward: bool, seed: int) -> None:
        self.kind, self.batch, self.dim, self.forward = kind, batch, dim, forward
        rng = np.random.default_rng(seed)
        self.state = rng.integers(-1, 2, (batch, dim)).astype(np.int8)
        self.state[np.arange(batch), rng.integers(0, dim, batch)] = -1 if forward else 1
        self.logits = oracle.store(kind, 3 * rng.standard_normal((batch, 3 * dim)))
        self.temperature, self.epsilon = 1.5, 0.3

    def row(self, b: int) -> tuple[np.ndarray, np.ndarray]:
        """The logits of the direction drawn from, and which are valid."""
        logits, void = oracle.load(self.kind, self.logits[b]), self.state[b] == -1
        if self.forward:
            return logits[: 2 * self.dim], np.repeat(void, 2)
        return logits[2 * self.dim :], ~void


def run(simt: harness.Simt, case: Case, skip: int = 0, **options: Any) -> tuple[np.ndarray, np.ndarray, harness.Result]:
    """Run a draw, check its three outputs, and return action and next state."""
    scale = float(np.float32(math.log2(math.e) / case.temperature))
    action, log_prob = np.zeros(case.batch, np.int64), np.zeros(case.batch, oracle.COMPUTE[case.kind])
    next_state = np.zeros_like(case.state)
    fields = {"batch": case.batch, "dim": case.dim, "state": case.state, "forward": int(case.forward), "seed": SEED}
    fields.update(offset=OFFSET, scale=scale, epsilon=case.epsilon, logits_skip=skip)
    fields["logits"] = np.concatenate([case.logits.reshape(-1)[:1].repeat(skip), case.logits.reshape(-1)])
    outputs = {"action": action, "log_prob": log_prob, "next_state": next_state}
    args = {**fields, **{name: harness.out(array) for name, array in outputs.items()}}
    result = simt.call(f"gfn_sample.{case.kind}", args, **options).check()
    for b in range(case.batch):
        logits, valid = case.row(b)
        bad = ((case.state[b] < -1) | (case.state[b] > 1)).any()
        due = -1 if bad else oracle.draw(logits, valid, SEED, OFFSET, b, scale, case.epsilon)
        assert action[b] == due
        expected = case.state[b].copy()
        if due < 0:
            assert np.isnan(log_prob[b])
        else:
            assert_close(log_prob[b], oracle.log_softmax(logits, valid)[0][due], TOLERANCE[case.kind])
            location, entry = (due // 2, due % 2) if case.forward else (due, -1)
            expected[location] = entry
        np.testing.assert_array_equal(next_state[b], expected)
    return action, next_state, result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
@pytest.mark.parametrize("shape", [(5, 1), (40, 5), (9, 32), (7, 101), (2, 700)], ids=str)
def test_draws(kind: str, forward: bool, shape: tuple[int, int]) -> None:
    run(harness.load("fast"), Case(kind, *shape, forward, 0))
    run(harness.load("fast"), Case(kind, *shape, forward, 1), skip=1, seed=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(19, 3), (2, 67), (2, 281)], ids=str)
def test_draws_checked(kind: str, shape: tuple[int, int]) -> None:
    for seed, preempt in ((0, 0.0), (1, 0.05)):
        for forward in (True, False):
            run(harness.load("checked"), Case(kind, *shape, forward, seed), seed=seed, preempt=preempt)


@pytest.mark.parametrize("kind", ["float", "double"])
def test_rows_longer_than_the_cache(kind: str) -> None:
    """Rows with more packs than shared memory holds read the rest again."""
    run(harness.load("checked"), Case(kind, 1, 5200, True, 0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
def test_rows_without_a_draw(kind: str, forward: bool) -> None:
    """Rows without a valid action, with a valid NaN or +inf, with only -inf, or an invalid state, then valid rows."""
    case = Case(kind, 8, 5, forward, 0)
    case.epsilon = 0.0
    case.state[0] = 1 if forward else -1
    logits = oracle.load(kind, case.logits).astype(np.float64)
    for b, value in ((1, np.nan), (2, np.inf), (3, -np.inf)):
        logits[b] = np.where(np.arange(15) % 2, value, logits[b]) if b < 3 else value
        case.state[b] = -1 if forward else 0
    case.state[4, 3], case.state[5, 0] = 2, -2
    masked = np.concatenate([np.repeat(case.state[6] != -1, 2), case.state[6] == -1])
    logits[6] = np.where(masked, np.nan, logits[6])
    logits[7, np.flatnonzero(np.concatenate([np.repeat(case.state[7] == -1, 2), case.state[7] != -1]))[0]] = -np.inf
    case.logits = oracle.store(kind, logits)
    action, next_state, _ = run(harness.load("checked"), case)
    assert (action >= 0).tolist() == 6 * [False] + 2 * [True]
    np.testing.assert_array_equal(next_state[:6], case.state[:6])


def test_no_rows_and_no_locations() -> None:
    run(harness.load("checked"), Case("float", 0, 3, True, 0))
    case = Case("float", 3, 1, True, 0)
    case.dim, case.state, case.logits = 0, np.zeros((3, 0), np.int8), np.zeros((3, 0), np.float32)
    action, _, _ = run(harness.load("checked"), case)
    assert (action == -1).all()


def test_same_draws_in_any_order() -> None:
    case = Case("float", 2, 281, True, 0)
    actions = [run(harness.load("checked"), case, seed=seed, preempt=0.1 * seed)[0] for seed in range(3)]
    np.testing.assert_array_equal(actions[0], actions[1])
    np.testing.assert_array_equal(actions[0], actions[2])


@pytest.mark.parametrize(("temperature", "epsilon"), [(1.0, 0.0), (0.5, 0.0), (2.0, 0.5), (1.0, 1.0)])
def test_frequencies(temperature: float, epsilon: float) -> None:
    """Chi-square of 1,500 draws against the probabilities of the tempered, mixed policy."""
    case = Case("float", 1500, 4, True, 0)
    case.temperature, case.epsilon = temperature, epsilon
    case.state[:] = [-1, 0, -1, -1]
    case.logits[:] = np.random.default_rng(1).standard_normal(12)
    logits, valid = case.row(0)
    p = (1 - epsilon) * np.exp(oracle.log_softmax(logits / temperature, valid)[0]) + epsilon * valid / valid.sum()
    action, _, _ = run(harness.load("fast"), case)
    counts = np.bincount(action, minlength=8)
    assert counts[~valid].sum() == 0
    expected = case.batch * p[valid]
    assert ((counts[valid] - expected) ** 2 / expected).sum() < 20.5  # quantile 0.999 of five degrees of freedom


def test_philox_known_answers() -> None:
    """The test's own Philox equals the test vectors of Random123 by Salmon et al. (kat_vectors, philox4x32 10)."""
    zeros, ones = oracle.philox(0, 0, 0), oracle.philox(2**64 - 1, 2**64 - 1, 2**64 - 1)
    assert zeros == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert ones == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
